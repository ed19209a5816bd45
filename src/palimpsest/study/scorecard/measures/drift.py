"""What training goes on to change, what size changes, and what a write costs: trends over models and over items."""

import math
from collections.abc import Collection, Sequence

import numpy as np
from pydantic import Field

from palimpsest.models.restore import Part
from palimpsest.records import FigureRecord, Series
from palimpsest.schema import Closed
from palimpsest.statistics import Estimate, estimate, logistic_slopes, slope
from palimpsest.statistics.seeds import wider
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.answers import Answers, Cells, answers, paired, scored, select
from palimpsest.study.scorecard.measures.base import ArmName, AskName, Measure, Measured, Missing, Quantity, always
from palimpsest.study.scorecard.measures.numbers import accuracy, changes_apart, difference, over_seeds
from palimpsest.study.scorecard.measures.quantities import facts_of, series


class DriftGiven(Closed):
    """What ``drift`` compares.

    Attributes:
        before, after: arms; the second went on after the first.
        ask: a name under ``ask`` whose items need the memory.
        cells: which of these count.
        window: a name under ``ask`` whose items the last segment answers.
    """

    before: ArmName
    after: ArmName
    ask: AskName
    cells: Cells = Cells()
    window: AskName


def drift(findings: Findings, given: DriftGiven) -> Measured:
    """Estimate how retrieval from memory changed, and how much more than retrieval inside the window did.

    Quantities: ``before``, the accuracy that there was to lose, on items that need the memory; ``change``, that after
    minus that before; ``window_change``, the same on items of the last segment; ``difference_in_differences``, the
    change minus that in the window.
    """
    inside = Cells(reach="inside")
    far = [answers(findings, given.ask, arm, given.cells) for arm in (given.after, given.before)]
    near = [answers(findings, given.window, arm, inside) for arm in (given.after, given.before)]
    quantities = {
        "before": accuracy(far[1]),
        "change": difference(far[0], far[1]),
        "window_change": difference(near[0], near[1]),
        "difference_in_differences": changes_apart((far[0], far[1]), (near[0], near[1])),
    }
    shown = {
        "memory": [accuracy(far[1])(0.95), accuracy(far[0])(0.95)],
        "window": [accuracy(near[1])(0.95), accuracy(near[0])(0.95)],
    }
    levels = {
        f"{name} {when}": number.record()
        for name, pair in shown.items()
        for when, number in zip(("before", "after"), pair, strict=True)
    }
    return Measured(
        quantities=quantities,
        facts=facts_of(quantities) | levels,
        figure=FigureRecord(
            title=f"Retrieval before ({given.before}) and after ({given.after})",
            caption="95 % intervals over seeds, at least as wide as those over items.",
            x_label="0: before, 1: after",
            y_label="share of answers",
            series=tuple(series(name, zip((0.0, 1.0), pair, strict=True)) for name, pair in shown.items()),
            share=True,
        ),
        sources=(f"items/{given.ask}", f"items/{given.window}"),
    )


class TurnsGiven(Closed):
    """Whose weights have turned: of ``arm``, and of ``against``, which went on from the same model; and which part."""

    arm: ArmName
    against: ArmName
    part: Part = "query_key"


def weight_turns(findings: Findings, given: TurnsGiven) -> Measured:
    """Estimate how far the weights of a part have turned from those of the model that both arms went on from.

    Quantities, means over the weights of the part, with t intervals over seeds: ``cosine``, of the arm with that model;
    ``against``, of the other arm; ``difference``, the first minus the second, paired by seed.
    """
    mine, theirs = (_cosines(findings, arm, given.part) for arm in (given.arm, given.against))
    both = [seed for seed in mine if seed in theirs]
    if not both:
        raise Missing(f"The turns of the weights of '{given.arm}' and '{given.against}' have no seed in common.")
    quantities = {
        "cosine": over_seeds([*mine.values()]),
        "against": over_seeds([*theirs.values()]),
        "difference": over_seeds([mine[seed] - theirs[seed] for seed in both]),
    }
    return Measured(
        quantities=quantities,
        facts=facts_of(quantities),
        figure=FigureRecord(
            title=f"Cosine of weights with what they were, by seed ({given.part})",
            caption="Every point is the mean over the weights of the part of a trained model.",
            x_label="seed",
            y_label="cosine",
            series=tuple(
                Series(name=arm, x=tuple(map(float, found)), y=tuple(found.values()), points=True)
                for arm, found in ((given.arm, mine), (given.against, theirs))
            ),
        ),
        sources=("turns",),
    )


def _cosines(findings: Findings, arm: str, part: Part) -> dict[int, float]:
    """Return the mean cosine of a part, by seed."""
    found = {
        seed: [turn.cosine for turn in turns if turn.part == part]
        for (who, seed), turns in sorted(findings.turns.items())
        if who == arm
    }
    if not found or not all(found.values()):
        raise Missing(f"How far the weights of '{arm}' have turned ({part}) is not recorded.")
    return {seed: math.fsum(cosines) / len(cosines) for seed, cosines in found.items()}


class SizesGiven(Closed):
    """What ``effect_by_size`` compares.

    Attributes:
        ask: a name under ``ask``.
        arms: models of different sizes.
        intervention: what is done to their memories.
        cells: which answers count.
    """

    ask: AskName
    arms: tuple[ArmName, ...] = Field(min_length=2)
    intervention: str = "swap"
    cells: Cells = Cells()


def effect_by_size(findings: Findings, given: SizesGiven) -> Measured:
    """Estimate what an intervention costs models of different sizes.

    Quantities: ``<arm>``, what it costs each; ``slope``, by how much that grows when parameters become ten times as
    many: least squares over models, every seed of every size being one.
    """
    quantities: dict[str, Quantity] = {}
    sizes: list[float] = []
    costs: list[float] = []
    labels: list[int] = []
    models = []
    for arm in given.arms:
        intact, under = paired(
            answers(findings, given.ask, arm, given.cells),
            answers(findings, given.ask, arm, given.cells, given.intervention),
        )
        quantities[arm] = difference(intact, under)
        seeds = sorted(set(intact.seeds))
        mine = [_mean(intact.of_seeds({seed})) - _mean(under.of_seeds({seed})) for seed in seeds]
        parameters = [_parameters(findings, arm, seed) for seed in seeds]
        models.append(Series(name=arm, x=tuple(parameters), y=tuple(mine), points=True))
        sizes += [math.log10(each) for each in parameters]
        costs += mine
        labels += seeds

    def growth(level: float) -> Estimate:
        return slope(sizes, costs, level=level).over_seeds(len(set(labels)))

    quantities["slope"] = growth
    return Measured(
        quantities=quantities,
        facts=facts_of(quantities),
        figure=FigureRecord(
            title=f"What '{given.intervention}' costs, by size",
            caption="Every point is a trained model.",
            x_label="parameters",
            y_label="lost share of right answers",
            series=tuple(models),
            log_x=True,
        ),
        sources=(f"items/{given.ask}", "provenance"),
    )


def _size_names(given: SizesGiven) -> Collection[str]:
    return (*given.arms, "slope")


class WritesGiven(Closed):
    """What ``slopes`` is of.

    Attributes:
        ask: a name under ``ask`` with several lengths.
        arm: who answers.
        cells: which answers count.
    """

    ask: AskName
    arm: ArmName
    cells: Cells = Cells()


def slopes(findings: Findings, given: WritesGiven) -> Measured:
    """Estimate how the log odds of a right answer move with the writes since the needle, and with the length.

    Quantities: ``compressions`` and ``length``, slopes on natural logarithms, each with the other held fixed: one
    logistic regression for each seed, the t interval over seeds, at least as wide as that over items of all seeds
    together. With a single segment length, writes and distance in tokens are the same thing, so that their shares in
    the slope cannot be told apart.
    """
    items = select(findings, given.ask, given.arm, given.cells)
    if min(item.compressions for item in items) < 1:
        raise Missing("The slope on writes is of answers from memory; let 'cells' leave out those of the last segment.")
    of = scored(items)
    logs = {
        "compressions": [math.log(item.compressions) for item in items],
        "length": [math.log(item.length) for item in items],
    }
    each = [
        logistic_slopes(
            {name: [values[at] for at in chosen] for name, values in logs.items()}, [of.values[at] for at in chosen]
        )
        for chosen in ([at for at, s in enumerate(of.seeds) if s == seed] for seed in sorted(set(of.seeds)))
    ]

    def quantity(name: str) -> Quantity:
        def at(level: float) -> Estimate:
            between = estimate([found[name].mean for found in each], method="t", level=level)
            pooled = logistic_slopes(logs, of.values, clusters=of.clusters, level=level)[name]
            found = wider(between, pooled)
            return Estimate(between.mean, found.low, found.high, found.n, found.method, level, found.seeds)

        return at

    quantities = {name: quantity(name) for name in logs}
    return Measured(
        quantities=quantities,
        facts=facts_of(quantities),
        figure=FigureRecord(
            title=f"Right answers of {given.arm} by writes since the needle, length by length",
            caption="Groups of equally many answers of all seeds, with Wilson intervals.",
            x_label="writes since the needle",
            y_label="share of answers",
            series=tuple(
                _by_writes(
                    f"{length} tokens", [(item.compressions, item.exact) for item in items if item.length == length]
                )
                for length in sorted({item.length for item in items})
            ),
            log_x=True,
            share=True,
        ),
        sources=(f"items/{given.ask}",),
        note="With one segment length, writes and tokens of distance cannot be told apart from each other.",
    )


GROUPS = 5
"""Groups of answers that are drawn for each length."""


def _by_writes(name: str, pairs: Sequence[tuple[int, bool]]) -> Series:
    groups = [group for group in np.array_split(np.array(sorted(pairs), dtype=float), GROUPS) if len(group)]
    shown = [estimate(group[:, 1]) for group in groups]
    return series(name, zip([float(group[:, 0].mean()) for group in groups], shown, strict=True))


def _mean(of: Answers) -> float:
    return float(np.mean(of.values))


def _parameters(findings: Findings, arm: str, seed: int) -> float:
    found = findings.provenance.get((arm, seed))
    if found is None:
        raise Missing(f"The size of '{arm}' with seed {seed} is not recorded.")
    return float(found.parameters)


DRIFT = {
    "drift": Measure(DriftGiven, drift, always("before", "change", "window_change", "difference_in_differences")),
    "weight_turns": Measure(TurnsGiven, weight_turns, always("cosine", "against", "difference")),
    "effect_by_size": Measure(SizesGiven, effect_by_size, _size_names),
    "slopes": Measure(WritesGiven, slopes, always("compressions", "length")),
}
