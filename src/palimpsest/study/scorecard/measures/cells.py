"""Maps of cells and named groups of answers: accuracies with the n and the interval of each."""

from collections.abc import Collection, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy import stats

from palimpsest.records import FigureRecord, ItemRecord, Series
from palimpsest.schema import Closed
from palimpsest.statistics import benjamini_hochberg
from palimpsest.study.naming import Name
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.answers import Cells, scored, select
from palimpsest.study.scorecard.measures.base import ArmName, AskName, Measure, Measured, always
from palimpsest.study.scorecard.measures.curves import LABELS
from palimpsest.study.scorecard.measures.numbers import accuracy
from palimpsest.study.scorecard.measures.quantities import count_of, facts_of, series


class MapGiven(Closed):
    """What ``smallest_cell`` maps.

    Attributes:
        ask: a name under ``ask``.
        arms: who answer; each has a map of its own.
        cells: which answers count.
        bins: ranges of depth, each with equally many items of a length.
        level: an accuracy; cells that are shown to lie below it are pointed out.
        rate: false discoveries allowed among them.
    """

    ask: AskName
    arms: tuple[ArmName, ...] = Field(min_length=1)
    cells: Cells = Cells(reach="any")
    bins: Annotated[int, Field(ge=1)] = 5
    level: Annotated[float, Field(gt=0, lt=1)] = 0.9
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.1


def smallest_cell(findings: Findings, given: MapGiven) -> Measured:
    """Map accuracy by length and depth, with intervals over seeds that are at least as wide as those over items.

    Quantities, counted over all cells of all arms: ``answers``, the smallest number behind a cell; ``items``, the
    smallest number of different items; ``half_width``, the largest half of a 95 % interval.
    """
    lines, cells = [], []
    for arm in given.arms:
        items = select(findings, given.ask, arm, given.cells)
        for length in sorted({item.length for item in items}):
            row = _by_depth([item for item in items if item.length == length], given.bins)
            shown = [accuracy(scored(cell))(0.95) for cell in row]
            cells += list(zip(row, shown, strict=True))
            depths = [float(np.mean([item.depth for item in cell])) for cell in row]
            lines.append(series(f"{arm}, {length} tokens", zip(depths, shown, strict=True), dots=True))
    # an item counts once, however many seeds have answered it
    different = [len({item.item_id for item in cell}) for cell, _ in cells]
    shares = zip((number.mean for _, number in cells), different, strict=True)
    pvalues = [float(stats.binom.cdf(round(share * count), count, given.level)) for share, count in shares]
    below = int(np.sum(benjamini_hochberg(pvalues) <= given.rate))
    numbers = {
        "answers": float(min(len(cell) for cell, _ in cells)),
        "items": float(min(different)),
        "half_width": max((number.high - number.low) / 2 for _, number in cells),
    }
    quantities = {name: count_of(value, len(cells)) for name, value in numbers.items()}
    pointed_out = f"cells shown below {given.level:g} at a false discovery rate of {given.rate:g}"
    return Measured(
        quantities=quantities,
        facts=facts_of(
            {**quantities, "cells": count_of(len(cells), len(cells)), pointed_out: count_of(below, len(cells))}
        ),
        figure=FigureRecord(
            title="Right answers by depth and length",
            caption=(
                f"Every point is a cell of at least {numbers['answers']:g} answers (all seeds) with its 95 % "
                "interval over seeds; depth 0 is furthest from the question. A map explores; claims rest on curves."
            ),
            x_label="depth of the needle",
            y_label="share of answers",
            series=tuple(lines),
            share=True,
        ),
        sources=(f"items/{given.ask}",),
    )


class GroupsGiven(Closed):
    """What ``accuracies`` is of.

    Attributes:
        ask: a name under ``ask``.
        arm: who answers.
        groups: by name, which answers make one number.
    """

    ask: AskName
    arm: ArmName
    groups: dict[Name, Cells] = Field(min_length=1)


def accuracies(findings: Findings, given: GroupsGiven) -> Measured:
    """Estimate the accuracy of named groups of answers; every group is a quantity."""
    groups = {name: select(findings, given.ask, given.arm, cells) for name, cells in given.groups.items()}
    quantities = {name: accuracy(scored(items)) for name, items in groups.items()}
    shown = {name: quantity(0.95) for name, quantity in quantities.items()}
    seeds = {
        f"seed {seed}": [float(np.mean([i.exact for i in items if i.seed == seed])) for items in groups.values()]
        for seed in sorted(set.intersection(*({item.seed for item in items} for items in groups.values())))
    }
    x = tuple(float(np.mean([item.distance for item in items])) for items in groups.values())
    return Measured(
        quantities=quantities,
        facts={name: number.record() for name, number in shown.items()},
        figure=FigureRecord(
            title=f"Right answers of {given.arm}: {', '.join(groups)}",
            caption="Intervals over seeds, at least as wide as Clopper-Pearson over answers.",
            x_label=LABELS["distance"],
            y_label="share of answers",
            series=(
                series(given.arm, zip(x, shown.values(), strict=True), dots=True),
                *(Series(name=name, x=x, y=tuple(means), points=True) for name, means in seeds.items()),
            ),
            log_x=True,
            share=True,
        ),
        sources=(f"items/{given.ask}",),
    )


def _group_names(given: GroupsGiven) -> Collection[str]:
    return given.groups


def _by_depth(items: Sequence[ItemRecord], bins: int) -> list[list[ItemRecord]]:
    """Return ranges of depth with equally many items each, over all seeds."""
    depths = {item.item_id: item.depth for item in items}
    order = sorted(depths, key=lambda item: (depths[item], item))
    parts = [set(part) for part in np.array_split(np.array(order), min(bins, len(order)))]
    return [[item for item in items if item.item_id in part] for part in parts]


CELLS = {
    "smallest_cell": Measure(MapGiven, smallest_cell, always("answers", "items", "half_width")),
    "accuracies": Measure(GroupsGiven, accuracies, _group_names),
}
