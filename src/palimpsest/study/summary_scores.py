"""Scores of summaries: the record of one summary, means over documents, and differences between arms."""

from collections.abc import Sequence
from typing import Literal, get_args

from palimpsest.errors import InputError
from palimpsest.records import Record
from palimpsest.statistics import Estimate, contrast, estimate
from palimpsest.statistics.seeds import contrast_of_models

Writer = Literal["model", "lead", "tail", "random"]
WRITERS: tuple[Writer, ...] = get_args(Writer)
INTACT = "none"
METRICS = (
    "rouge1",
    "rouge2",
    "rouge_l",
    "geometric_mean",
    "fact_recall",
    "salient_recall",
    "fact_precision",
    "far_recall",
    "embedding",
    "reference_loss",
)
"""Scores of ``SummaryRecord`` that have a mean."""


class SummaryRecord(Record):
    """One summary of one document (``summaries.jsonl``), with its scores; a score is None where it cannot be made.

    ``document_tokens`` were read, and ``segments`` counts the segments of the prompt. Facts are those of stories:
    ``far_recall`` is the recall of the ``far_facts`` that were last told before the segment in which the summary
    begins, which local attention cannot see there. ``reference_loss`` is what the reference costs the model after the
    document, in nats per token over ``reference_tokens``; ``finished`` says that the model ended the summary itself.
    """

    arm: str
    seed: int
    checkpoint: str
    intervention: str
    writer: Writer
    pair_id: str
    group: str
    document_tokens: int
    segments: int
    summary: str
    reference: str
    finished: bool
    rouge1: float
    rouge2: float
    rouge_l: float
    geometric_mean: float
    fact_recall: float | None = None
    salient_recall: float | None = None
    fact_precision: float | None = None
    contradictions: int | None = None
    far_facts: int | None = None
    far_recall: float | None = None
    embedding: float | None = None
    reference_tokens: int | None = None
    reference_loss: float | None = None


def mean_score(
    records: Sequence[SummaryRecord],
    metric: str,
    *,
    writer: Writer = "model",
    intervention: str = INTACT,
    against: tuple[Writer, str] | None = None,
    level: float = 0.95,
) -> Estimate | None:
    """Return the mean of a score over documents, clustered by group; None where no summary has it.

    Args:
        records: of one arm; those of several seeds share the cluster of their group.
        metric: one of ``METRICS``.
        writer: whose summaries.
        intervention: under which.
        against: another writer and intervention, whose score is subtracted document by document.
        level: confidence level of the t interval.

    Raises:
        InputError: several arms, an unknown metric, or documents that one side lacks.
    """
    if metric not in METRICS:
        raise InputError(f"There is no score '{metric}'; take one of {', '.join(METRICS)}.")
    arms = sorted({record.arm for record in records})
    if len(arms) > 1:
        raise InputError(f"The records are of the arms {', '.join(arms)}; give those of one.")
    mine = _values(records, metric, writer, intervention)
    if not mine:
        return None
    groups = {(record.seed, record.pair_id): record.group for record in records}
    if against is None:
        return estimate([*mine.values()], method="t", clusters=[groups[key] for key in mine], level=level)
    one_side = _summarised(records, writer, intervention) ^ _summarised(records, *against)
    if one_side:
        seed, name = min(one_side)
        raise InputError(
            f"The document '{name}' (seed {seed}) has a summary by one of {writer} ({intervention}) and {against[0]} "
            f"({against[1]}) only."
        )
    other = _values(records, metric, *against)
    keys = [key for key in mine if key in other]  # a score of one of the two may be None
    if not keys:
        return None
    a, b = [mine[key] for key in keys], [other[key] for key in keys]
    return contrast(a, b, method="paired_t", clusters=[groups[key] for key in keys], level=level)


def arm_difference(
    records: Sequence[SummaryRecord], arm: str, against: str, metric: str, *, level: float = 0.95
) -> Estimate | None:
    """Return the mean of what one arm's own summaries score above another's, paired by seed and document.

    With one seed the interval is over documents, clustered by group; with several it is over seeds, and never narrower
    than that. None where no document has the score on both sides.

    Raises:
        InputError: as ``contrast``.
    """
    a, b = (_values([each for each in records if each.arm == one], metric, "model", INTACT) for one in (arm, against))
    keys = [key for key in a if key in b]
    if not keys:
        return None
    groups = {(each.seed, each.pair_id): each.group for each in records}
    mine, other = [a[key] for key in keys], [b[key] for key in keys]
    clusters, seeds = [groups[key] for key in keys], [seed for seed, _ in keys]
    return contrast_of_models(mine, other, seeds, within="paired_t", clusters=clusters, level=level)


def _summarised(records: Sequence[SummaryRecord], writer: Writer, intervention: str) -> set[tuple[int, str]]:
    """Return the documents that there is a summary of, by seed and pair."""
    return {(each.seed, each.pair_id) for each in records if (each.writer, each.intervention) == (writer, intervention)}


def _values(
    records: Sequence[SummaryRecord], metric: str, writer: Writer, intervention: str
) -> dict[tuple[int, str], float]:
    """Return the scores that there are, by seed and pair."""
    found = {}
    for record in records:
        value = getattr(record, metric)
        if record.writer == writer and record.intervention == intervention and value is not None:
            found[record.seed, record.pair_id] = float(value)
    return found
