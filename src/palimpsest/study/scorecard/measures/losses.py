"""Measures of the loss of language modelling: what the memory brings, against baselines, against long training."""

import math
from collections.abc import Collection, Mapping, Sequence

from pydantic import Field

from palimpsest.records import FigureRecord
from palimpsest.schema import Closed
from palimpsest.statistics import contrast_across_seeds
from palimpsest.study.scorecard.findings import ArmSeed, Findings
from palimpsest.study.scorecard.measures.base import (
    ArmName,
    AskName,
    DocumentsName,
    Measure,
    Measured,
    Missing,
    Quantity,
    always,
)
from palimpsest.study.scorecard.measures.loss_tables import (
    INTACT,
    Losses,
    Read,
    beyond_windows,
    by_position,
    combined,
    difference_of,
    losses,
    mean_of,
    ratio_of,
    seed_losses,
)
from palimpsest.study.scorecard.measures.quantities import LEVEL, count_of, facts_of, series


class FactorsGiven(Closed):
    """The arms that differ in whether they have a memory and were trained on long rows."""

    short_off: ArmName
    long_off: ArmName
    long_on: ArmName
    short_on: ArmName | None = None


class GainGiven(Closed):
    """What the memory of an arm is worth on these documents.

    Attributes:
        documents, arm, intervention: the losses that are compared with those of the intact arm.
        from_position: the first position that is predicted; beyond what exact attention reaches.
        factors: the arms that tell what long training alone brings; ``long_on`` is usually ``arm``.
        share: which share of the total gain the memory must bring.
    """

    documents: DocumentsName
    arm: ArmName
    intervention: str = "swap"
    from_position: int = Field(ge=1)
    factors: FactorsGiven
    share: float = Field(default=0.5, gt=0, lt=1)


class ShareGiven(Closed):
    """The losses of a two-by-two design, from this position on."""

    documents: DocumentsName
    from_position: int = Field(ge=1)
    factors: FactorsGiven


class MatchedGiven(Closed):
    """An arm and its baselines: same data, tokens and size.

    Attributes:
        documents, arm, baselines: whose losses.
        from_position: the first position that is predicted; beyond the windows of the arm and of all baselines.
        ask: items of which those that no bounded arm reaches must be answered worse under ``intervention``.
    """

    documents: DocumentsName
    arm: ArmName
    baselines: tuple[ArmName, ...] = Field(min_length=1)
    from_position: int = Field(ge=1)
    ask: AskName
    intervention: str = "swap"


def memory_gain(findings: Findings, given: GainGiven) -> Measured:
    """Measure what the content of the memory is worth in nats per token, and its share in what long training brings.

    Quantities: ``gain``, the loss under the intervention minus the intact loss; ``total``, ``memory_part`` and
    ``share`` as in ``memory_share``; ``beyond_share``, the part of the memory minus ``given.share`` of the total. Where
    the total is above 0, ``beyond_share`` is above 0 where the share is larger than ``given.share``, and it is a number
    also where the share is not defined.
    """
    beyond_windows(findings, [given.arm], given.from_position)
    intact = Read(given.documents, given.arm, given.from_position)
    other = intact._replace(intervention=given.intervention)
    gain = difference_of(losses(findings, other), losses(findings, intact))
    parts = _Parts(findings, ShareGiven(**given.model_dump(include={"documents", "from_position", "factors"})))
    beyond = combined((1.0, parts.memory), (-given.share, parts.total))
    quantities = {"gain": gain, **parts.quantities(), "beyond_share": mean_of(beyond)}
    figure = FigureRecord(
        title="Loss by position, with its own memory and with another document's",
        caption=f"Arm '{given.arm}' on the documents '{given.documents}': {_read_by(intact, findings)}.",
        x_label="position of the predicted token",
        y_label="nats per token",
        series=by_position(findings, [intact._replace(intervention=name) for name in (INTACT, given.intervention)]),
        log_x=True,
        marks={"counted from": float(given.from_position)},
    )
    return Measured(quantities, facts_of(quantities), figure, (f"documents/{given.documents}",))


def memory_share(findings: Findings, given: ShareGiven) -> Measured:
    """Divide the gain of long training with a memory into what position and what memory bring.

    Quantities, in nats per token: ``total``, loss(short, off) - loss(long, on); ``position_part``, loss(short, off) -
    loss(long, off); ``memory_part``, loss(long, off) - loss(long, on); ``interaction``, how much more the memory brings
    after long than after short training, if ``short_on`` is named. ``share`` is memory_part / total: not a number where
    the interval of the total includes 0.
    """
    parts = _Parts(findings, given)
    quantities = parts.quantities() | {"position_part": mean_of(parts.position)}
    if parts.interaction is not None:
        quantities["interaction"] = mean_of(parts.interaction)
    note = "" if parts.defined() else "The share is not defined: the interval of the total gain includes 0."
    sides = (("without memory", "off"), ("with memory", "on"))
    lines = []
    for name, side in sides:
        points = [
            (float(row_length(findings, arm)), mean_of(parts.read[f"{length}_{side}"])(LEVEL))
            for length in ("short", "long")
            if (arm := getattr(given.factors, f"{length}_{side}")) is not None
        ]
        lines.append(series(name, points))
    figure = FigureRecord(
        title="Loss after training on short and on long rows, without and with a memory",
        caption=f"Documents '{given.documents}', positions from {given.from_position} on.",
        x_label="tokens in a row of the training",
        y_label="nats per token",
        series=tuple(lines),
        log_x=True,
    )
    return Measured(quantities, facts_of(quantities), figure, (f"documents/{given.documents}",), note)


def _share_names(given: ShareGiven) -> Collection[str]:
    named = ("total", "memory_part", "share", "position_part")
    return named if given.factors.short_on is None else (*named, "interaction")


def matched_gain(findings: Findings, given: MatchedGiven) -> Measured:
    """Compare an arm with the best of its baselines, beyond the windows of all of them.

    Quantities: ``gain``, the loss of the baseline with the lowest mean loss minus that of the arm, paired by seed and
    document (picking the baseline on these very documents is to its advantage); ``retrieval``, the accuracy that the
    intervention costs the arm where no bounded arm reaches; ``parameters`` and ``tokens``, by which share the size and
    the training tokens of a baseline differ from those of the arm at most.
    """
    beyond_windows(findings, (given.arm, *given.baselines), given.from_position)
    own = Read(given.documents, given.arm, given.from_position)
    tables = {arm: losses(findings, own._replace(arm=arm)) for arm in (given.arm, *given.baselines)}
    best = min(given.baselines, key=lambda arm: _mean(tables[arm]))
    seeds = len({seed for seed, _ in tables[given.arm]})
    quantities: dict[str, Quantity] = {
        "gain": difference_of(tables[best], tables[given.arm]),
        "retrieval": _retrieval(findings, given),
        "parameters": count_of(_mismatch(_sizes(findings, tables)), seeds, seeds=seeds),
        "tokens": count_of(_mismatch(_tokens(findings, tables)), seeds, seeds=seeds),
    }
    facts = facts_of(quantities) | facts_of({f"loss of {arm}": mean_of(table) for arm, table in tables.items()})
    facts |= facts_of({f"gain over {arm}": difference_of(tables[arm], tables[given.arm]) for arm in given.baselines})
    figure = FigureRecord(
        title="Loss by position, of the memory and of its baselines",
        caption=f"Documents '{given.documents}': {_read_by(own, findings)}.",
        x_label="position of the predicted token",
        y_label="nats per token",
        series=by_position(findings, [own._replace(arm=arm) for arm in tables]),
        log_x=True,
        marks={"counted from": float(given.from_position)},
    )
    note = f"The best baseline is '{best}', by its mean loss over all seeds."
    return Measured(quantities, facts, figure, (f"documents/{given.documents}", f"items/{given.ask}"), note)


class _Parts:
    """The losses of a two-by-two design, and what they differ by."""

    def __init__(self, findings: Findings, given: ShareGiven) -> None:
        arms = {name: arm for name, arm in given.factors.model_dump().items() if arm is not None}
        beyond_windows(findings, arms.values(), given.from_position)
        self.read: Mapping[str, Losses] = {
            name: losses(findings, Read(given.documents, arm, given.from_position)) for name, arm in arms.items()
        }
        # one set of seeds for all parts, so that they add up
        shared = combined(*((1.0, table) for table in self.read.values()))
        table = {name: {unit: found[unit] for unit in shared} for name, found in self.read.items()}
        self.total = combined((1.0, table["short_off"]), (-1.0, table["long_on"]))
        self.position = combined((1.0, table["short_off"]), (-1.0, table["long_off"]))
        self.memory = combined((1.0, table["long_off"]), (-1.0, table["long_on"]))
        self.interaction: Losses | None = None
        if "short_on" in table:
            self.interaction = combined((1.0, self.memory), (-1.0, table["short_off"]), (1.0, table["short_on"]))

    def quantities(self) -> dict[str, Quantity]:
        """Return what a rule can ask for in any case."""
        return {
            "total": mean_of(self.total),
            "memory_part": mean_of(self.memory),
            "share": ratio_of(self.memory, self.total),
        }

    def defined(self) -> bool:
        """Whether the share is a number at 95 %."""
        return not math.isnan(ratio_of(self.memory, self.total)(LEVEL).mean)


def row_length(findings: Findings, arm: str) -> int:
    """Return how many tokens a row of the last phase of an arm's training has."""
    return findings.spec.phases[findings.spec.arms[arm].phases[-1]].row_length


def _retrieval(findings: Findings, given: MatchedGiven) -> Quantity:
    items = [item for item in findings.memory_only(findings.items.get(given.ask, ())) if item.arm == given.arm]
    changed = {(item.seed, item.item_id): item for item in items if item.intervention == given.intervention}
    intact = {(item.seed, item.item_id): item for item in items if item.intervention == INTACT}
    units = sorted(intact.keys() & changed.keys())
    if not units:
        raise Missing(
            f"No item of '{given.ask}' that only a memory can answer was put to '{given.arm}' both intact and under "
            f"'{given.intervention}'."
        )
    before, after = ([float(side[unit].exact) for unit in units] for side in (intact, changed))
    seeds = [seed for seed, _ in units]
    return lambda level: contrast_across_seeds(before, after, seeds, level=level)


def _mean(table: Losses) -> float:
    """Return the mean loss; infinite where one is not finite, so that such a baseline is never the best."""
    return math.fsum(table.values()) / len(table) if all(map(math.isfinite, table.values())) else math.inf


def _sizes(findings: Findings, tables: Mapping[str, Losses]) -> list[int]:
    """Return the parameters of every trained model."""
    return [findings.provenance[run].parameters for run in _runs(tables, findings.provenance, "provenance")]


def _tokens(findings: Findings, tables: Mapping[str, Losses]) -> list[int]:
    """Return the tokens that every trained model has read in all of its phases."""
    runs = _runs(tables, findings.steps, "metrics")
    return [sum(phase[-1].tokens for phase in findings.steps[run] if phase) for run in runs]


def _runs(tables: Mapping[str, Losses], there: Mapping[ArmSeed, object], what: str) -> list[ArmSeed]:
    runs = [(arm, seed) for arm, table in tables.items() for seed in seed_losses(table)]
    for arm, seed in runs:
        if (arm, seed) not in there:
            raise Missing(f"There is no {what} of the training of '{arm}' (seed {seed}) to tell whether it is matched.")
    return runs


def _mismatch(numbers: Sequence[int]) -> float:
    """Return by which share the largest number exceeds the smallest."""
    return max(numbers) / min(numbers) - 1.0


def _read_by(read: Read, findings: Findings) -> str:
    table = losses(findings, read)
    return f"{len({document for _, document in table})} documents, {len(seed_losses(table))} seeds"


MEASURES: dict[str, Measure] = {
    "memory_gain": Measure(GainGiven, memory_gain, always("gain", "total", "memory_part", "share", "beyond_share")),
    "memory_share": Measure(ShareGiven, memory_share, _share_names),
    "matched_gain": Measure(MatchedGiven, matched_gain, always("gain", "retrieval", "parameters", "tokens")),
}
