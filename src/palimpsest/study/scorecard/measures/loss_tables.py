"""Losses of documents as numbers that can be paired: by trained model and document, beyond a position."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from palimpsest.attention.kinds import exact_reach
from palimpsest.errors import InputError
from palimpsest.records import PositionLossRecord, Series
from palimpsest.statistics import Estimate, contrast_across_seeds, estimate_across_seeds, ratio_of_means
from palimpsest.statistics.seeds import wider
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import Missing, Quantity
from palimpsest.study.scorecard.measures.quantities import LEVEL, series

INTACT = "none"

Unit = tuple[int, str]
"""Seed of the model, and document."""

Losses = dict[Unit, float]
"""Nats per token."""


class Read(NamedTuple):
    """Which losses: of an arm, on the documents of this name, predicted at this position or later."""

    documents: str
    arm: str
    from_position: int
    intervention: str = INTACT


def losses(findings: Findings, read: Read) -> Losses:
    """Return the loss in nats per token of every trained model on every document.

    Raises:
        Missing: no such records.
        InputError: a position that lies inside a range of positions whose losses were summed.
    """
    records = _records(findings, read)
    starts = sorted({record.position_start for record in records})
    if read.from_position not in starts:
        near = ", ".join(str(start) for start in starts)
        raise InputError(
            f"from_position is {read.from_position}, but the losses under '{read.documents}' were summed from the "
            f"positions {near}."
        )
    sums: dict[Unit, list[tuple[float, int]]] = {}
    for record in records:
        if record.position_start >= read.from_position:
            sums.setdefault((record.seed, record.document_id), []).append((record.nll, record.tokens))
    return {unit: sum(nll for nll, _ in parts) / sum(n for _, n in parts) for unit, parts in sums.items()}


def beyond_windows(findings: Findings, arms: Iterable[str], from_position: int) -> None:
    """Refuse a position that the exact attention of one of these arms still explains; arms that see all are no bound.

    Raises:
        InputError: the arm, how far it reaches, and where losses may be counted from.
    """
    for arm in arms:
        reach = exact_reach(findings.spec.attention(arm), findings.spec.model_of(arm).num_hidden_layers)
        if reach is not None and from_position < reach:
            raise InputError(
                f"from_position is {from_position}, but exact attention of the arm '{arm}' reaches {reach} tokens; "
                "count losses from that position or a later one."
            )


def combined(*weighted: tuple[float, Losses]) -> Losses:
    """Return the weighted sum of losses, over the trained models and documents that all of them have.

    Only whole seeds are left out: those with which some arm was not trained.

    Raises:
        Missing: no seed that all have.
        InputError: a document that only some of them have read.
    """
    tables = [table for _, table in weighted]
    seeds = set.intersection(*({seed for seed, _ in table} for table in tables))
    if not seeds:
        raise Missing("The arms that are compared have no training seed in common.")
    units = [{unit for unit in table if unit[0] in seeds} for table in tables]
    if odd := set.union(*units) - set.intersection(*units):
        seed, document = min(odd)
        raise InputError(f"The document '{document}' (seed {seed}) was not read by all that are compared.")
    return {unit: sum(weight * table[unit] for weight, table in weighted) for unit in sorted(units[0])}


def mean_of(values: Losses) -> Quantity:
    """Return the mean over trained models: t over seeds, never narrower than that over documents.

    Not a number where a loss is not finite: it cannot be averaged, and leaving it out would flatter the model.
    """

    def at(level: float) -> Estimate:
        if odd := _not_finite(values, level):
            return odd
        seeds, documents = _labels(values)
        return estimate_across_seeds([*values.values()], seeds, within="t", clusters=documents, level=level)

    return at


def difference_of(worse: Losses, better: Losses) -> Quantity:
    """Return the mean of worse - better, paired by seed and document, as ``mean_of``."""
    paired = combined((1.0, worse), (-1.0, better))

    def at(level: float) -> Estimate:
        if odd := _not_finite(paired, level):
            return odd
        seeds, documents = _labels(paired)
        a, b = ([side[unit] for unit in paired] for side in (worse, better))
        return contrast_across_seeds(a, b, seeds, within="paired_t", clusters=documents, level=level)

    return at


def ratio_of(above: Losses, below: Losses) -> Quantity:
    """Return mean(above) / mean(below) over trained models: Fieller's interval over seeds, or over documents if wider.

    Not a number where the interval of the denominator includes 0.
    """

    def at(level: float) -> Estimate:
        if odd := _not_finite(above, level) or _not_finite(below, level):
            return odd
        seeds, documents = _labels(above)
        sides = [above[unit] for unit in above], [below[unit] for unit in above]
        over_seeds, over_documents = (
            ratio_of_means(*sides, method="fieller", clusters=labels, level=level) for labels in (seeds, documents)
        )
        if math.isnan(over_seeds.mean) or math.isnan(over_documents.mean):
            undefined = over_seeds if math.isnan(over_seeds.mean) else over_documents
            return undefined.over_seeds(len(set(seeds)))
        return wider(over_seeds, over_documents)

    return at


def by_position(findings: Findings, reads: Sequence[Read]) -> tuple[Series, ...]:
    """Return the loss of each arm (under its intervention) by position, as lines of a figure."""
    lines = []
    for read in reads:
        records = _records(findings, read)
        starts = sorted({record.position_start for record in records})
        points = []
        for start in starts:
            here = {(r.seed, r.document_id): r.nll / r.tokens for r in records if r.position_start == start}
            if all(math.isfinite(loss) for loss in here.values()):
                points.append((float(start), mean_of(here)(LEVEL)))
        name = read.arm if read.intervention == INTACT else f"{read.arm}, {read.intervention}"
        lines.append(series(name, points))
    return tuple(lines)


def seed_losses(values: Losses) -> dict[int, float]:
    """Return the mean loss of every trained model, by seed."""
    found: dict[int, list[float]] = {}
    for (seed, _), loss in values.items():
        found.setdefault(seed, []).append(loss)
    return {seed: math.fsum(each) / len(each) for seed, each in sorted(found.items())}


def _records(findings: Findings, read: Read) -> list[PositionLossRecord]:
    found = [
        record
        for record in findings.positions.get(read.documents, ())
        if record.arm == read.arm and record.intervention == read.intervention
    ]
    if not found:
        under = "" if read.intervention == INTACT else f" under '{read.intervention}'"
        raise Missing(f"There are no losses of '{read.arm}'{under} on the documents '{read.documents}'.")
    return found


def _labels(values: Losses) -> tuple[list[int], list[str]]:
    return [seed for seed, _ in values], [document for _, document in values]


def _not_finite(values: Losses, level: float) -> Estimate | None:
    odd = [unit for unit, loss in values.items() if not math.isfinite(loss)]
    if not odd:
        return None
    seed, document = odd[0]
    why = f"not defined: {len(odd)} losses are not finite, first that of '{document}' (seed {seed})"
    return Estimate(math.nan, -math.inf, math.inf, len({seed for seed, _ in values}), why, level)
