"""What the records of the text probes say: memory spans, context gain, the sawtooth, effective context.

The document is the unit that was sampled: values of one document, also those of several seeds, make one cluster of a
t interval. What is not finite cannot be averaged; it is left out, in pairs, and named.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from palimpsest.errors import InputError
from palimpsest.records import ForgettingRecord, PerturbationRecord, PlaceLossRecord, PositionLossRecord
from palimpsest.statistics.contrasts import contrast
from palimpsest.statistics.intervals import Estimate, estimate

INTACT = "none"
MARGIN = 0.005
"""Nats per token by which a text must be predicted worse for its context to count."""
FINE = 0.99
"""Accuracy from which a text counts as copied."""

K = TypeVar("K", bound=Hashable)
Unit = tuple[int, str]
"""Seed of the model, and document."""
LossRecord = PositionLossRecord | PlaceLossRecord
TextRecord = LossRecord | ForgettingRecord | PerturbationRecord
R = TypeVar("R", bound=PositionLossRecord | PlaceLossRecord | PerturbationRecord)


class Range(NamedTuple):
    """Half-open range of positions or places."""

    start: int
    end: int


class Loss(NamedTuple):
    """A loss or a difference of losses, in nats per token; ``left_out`` names documents whose loss is not finite."""

    found: Estimate
    left_out: tuple[str, ...] = ()


class Forgetting(NamedTuple):
    """Accuracy for texts of one length.

    Attributes:
        length: tokens of the text.
        beyond: whether it is longer than a segment, so that only a memory can have kept its last half.
        copy: accuracy after the text itself.
        lm: accuracy after another text.
        gap: the paired difference.
        not_finite: scored tokens whose logits were not finite; they count as wrong.
    """

    length: int
    beyond: bool
    copy: Estimate
    lm: Estimate
    gap: Estimate
    not_finite: int


class Spans(NamedTuple):
    """The longest texts of which something, and of which all, is remembered; None where only a segment's are.

    Attributes:
        coarse: the longest beyond a segment that is said better after itself than after another text.
        fine: the longest beyond a segment of which ``FINE`` is said again.
    """

    coarse: int | None
    fine: int | None


class Perturbed(NamedTuple):
    """How much worse the end of a text is predicted when the text beyond ``distance`` is spoilt in this way."""

    condition: str
    distance: int
    rise: Loss


class EffectiveContext(NamedTuple):
    """The largest distance at which the model notices that the text beyond is another's (None: none), and all rises."""

    distance: int | None
    table: list[Perturbed]


def forgetting(records: Sequence[ForgettingRecord], *, level: float = 0.95) -> list[Forgetting]:
    """Return the forgetting curve of one arm, by length.

    Raises:
        InputError: no records, several arms, or a target that was asked under one condition only.
    """
    _one_arm(records)
    found = []
    for length in sorted({record.length for record in records}):
        here = [record for record in records if record.length == length]
        sides = [{(r.seed, r.repeat): r for r in here if r.condition == side} for side in ("copy", "lm")]
        copy, lm = sides
        if copy.keys() != lm.keys():
            raise InputError(
                f"Some targets of {length} tokens were asked under one of the conditions copy and lm only."
            )
        a, b = ([side[key].correct / side[key].tokens for key in copy] for side in sides)
        clusters = [record.target_id for record in copy.values()]
        found.append(
            Forgetting(
                length=length,
                beyond=length > here[0].segment_length,
                copy=estimate(a, method="t", clusters=clusters, level=level),
                lm=estimate(b, method="t", clusters=clusters, level=level),
                gap=contrast(a, b, method="paired_t", clusters=clusters, level=level),
                not_finite=sum(record.not_finite for record in here),
            )
        )
    return found


def memory_spans(curve: Iterable[Forgetting]) -> Spans:
    """Return how long texts can be for something, and for all, of them to be remembered."""
    beyond = [point for point in curve if point.beyond]
    return Spans(
        coarse=max((point.length for point in beyond if point.gap.low > 0), default=None),
        fine=max((point.length for point in beyond if point.copy.mean >= FINE), default=None),
    )


def mean_loss(records: Sequence[LossRecord], intervention: str = INTACT, *, level: float = 0.95) -> dict[Range, Loss]:
    """Return the loss of one arm by position in the document, or by place in the segment (the sawtooth).

    Raises:
        InputError: no records, or several arms.
    """
    _one_arm(records)
    return {where: _mean(_losses(each, intervention), level) for where, each in _grouped(records, _where).items()}


def context_gain(records: Sequence[LossRecord], intervention: str, *, level: float = 0.95) -> dict[Range, Loss]:
    """Return G of one arm: loss under an intervention minus loss of the intact model, by position or place.

    Above zero the model predicts better because of what its memory holds.

    Raises:
        InputError: no records, several arms, or a document that was read under one of the conditions only.
    """
    _one_arm(records)
    return {
        where: _rise(_losses(each, intervention), _losses(each, INTACT), level)
        for where, each in _grouped(records, _where).items()
    }


def effective_context(
    records: Sequence[PerturbationRecord], *, margin: float = MARGIN, level: float = 0.95
) -> EffectiveContext:
    """Return the effective context of one arm, and how much every spoiling costs at every distance.

    The effective context is the largest distance d such that the loss with another document's text beyond d is above
    that with the true text by more than ``margin`` nats per token, with its lower ``level`` bound.

    Raises:
        InputError: no records, several arms, or a document that was not scored with its true text.
    """
    _one_arm(records)
    true = {_unit(r): r.nll / r.tokens for r in records if r.condition == "true"}
    table = []
    for (condition, distance), each in _grouped(records, lambda r: (r.condition, r.distance)).items():
        if condition != "true":
            spoilt = {_unit(r): r.nll / r.tokens for r in each}
            table.append(Perturbed(condition, distance, _rise(spoilt, true, level)))
    noticed = [row.distance for row in table if row.condition == "other" and row.rise.found.low > margin]
    return EffectiveContext(max(noticed, default=None), table)


def _where(record: LossRecord) -> Range:
    if isinstance(record, PlaceLossRecord):
        return Range(record.place_start, record.place_end)
    return Range(record.position_start, record.position_end)


def _losses(records: Iterable[LossRecord], intervention: str) -> dict[Unit, float]:
    return {_unit(r): r.nll / r.tokens for r in records if r.intervention == intervention}


def _unit(record: LossRecord | PerturbationRecord) -> Unit:
    return record.seed, record.document_id


def _rise(a: Mapping[Unit, float], b: Mapping[Unit, float], level: float) -> Loss:
    """Estimate mean(a - b) over documents.

    Raises:
        InputError: a document with one of the two losses only.
    """
    if a.keys() != b.keys():
        seed, document = sorted(a.keys() ^ b.keys())[0]
        raise InputError(f"The document '{document}' (seed {seed}) was read under one of two conditions only.")
    return _mean({unit: loss - b[unit] for unit, loss in a.items()}, level)


def _mean(values: Mapping[Unit, float], level: float) -> Loss:
    finite = {unit: value for unit, value in values.items() if math.isfinite(value)}
    left_out = tuple(sorted({document for _, document in values.keys() - finite.keys()}))
    if not finite:
        return Loss(Estimate(math.nan, -math.inf, math.inf, 0, "not defined: no document has a finite loss"), left_out)
    documents = [document for _, document in finite]
    return Loss(estimate(list(finite.values()), method="t", clusters=documents, level=level), left_out)


def _grouped(records: Iterable[R], key: Callable[[R], K]) -> dict[K, list[R]]:
    groups: dict[K, list[R]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return dict(groups)


def _one_arm(records: Sequence[TextRecord]) -> None:
    arms = sorted({record.arm for record in records})
    if len(arms) != 1:
        what = f"are of the arms {', '.join(arms)}" if arms else "are none"
        raise InputError(f"The records {what}; give those of one arm.")
    checkpoints = {(record.seed, record.checkpoint) for record in records}
    if len(checkpoints) > len({seed for seed, _ in checkpoints}):
        raise InputError(f"The records of arm '{arms[0]}' are of several checkpoints of one seed; give those of one.")
