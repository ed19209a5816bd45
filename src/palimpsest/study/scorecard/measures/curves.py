"""Accuracy along an axis: distance, compressions, or how many pairs were told."""

import math
from collections.abc import Collection, Sequence
from functools import cache
from typing import Annotated

import numpy as np
from pydantic import Field

from palimpsest.records import FigureRecord, ItemRecord, Series
from palimpsest.schema import Closed
from palimpsest.statistics import LogisticCurve, Shape, distance_at, estimate, logistic_curve, steepest
from palimpsest.study.naming import Name
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.answers import Answers, Cells, scored, select
from palimpsest.study.scorecard.measures.base import ArmName, AskName, Measure, Measured, Missing, Quantity
from palimpsest.study.scorecard.measures.numbers import accuracy, ratio
from palimpsest.study.scorecard.measures.quantities import facts_of, series

BINS = 8
"""Groups of equally many answers that are drawn beside a curve where x takes more values."""

TAIL = 40
"""Bootstrap draws outside a band, at the least: a level corrected for many claims leaves few of a thousand."""

LABELS = {"distance": "tokens between the needle and the answer", "compressions": "writes since the needle"}

Share = Annotated[float, Field(gt=0, lt=1)]


class CurveGiven(Closed):
    """What ``accuracy_curve`` is of.

    Attributes:
        ask: names under ``ask``; their answers are taken together.
        arm: who answers.
        x: ``distance``, ``compressions``, or a fact of the items.
        cells: which answers count.
        start, end: the part of the axis that the claim names.
        knots: of the curve, at most as many as x has values.
        floor: what guessing scores.
        crossings: by name, the accuracies whose place on the axis is wanted.
        at: by name, values of x whose accuracy is wanted.
        ratios: by name, two values of x: the accuracy at the first over that at the second.
        resamples: of the bootstrap, more where the level leaves too few draws outside.
    """

    ask: tuple[AskName, ...] = Field(min_length=1)
    arm: ArmName
    x: str = "distance"
    cells: Cells = Cells()
    start: float = 0.0
    end: float | None = None
    knots: Annotated[int, Field(ge=2)] = 6
    floor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    crossings: dict[Name, Share] = Field(default_factory=dict)
    at: dict[Name, float] = Field(default_factory=dict)
    ratios: dict[Name, tuple[float, float]] = Field(default_factory=dict)
    resamples: Annotated[int, Field(ge=1)] = 1000


def accuracy_curve(findings: Findings, given: CurveGiven) -> Measured:
    """Fit accuracy as a curve with a simultaneous band.

    Quantities: ``lowest``, of the band over the part that is claimed; every crossing, a bound where the tested range
    does not reach it; every accuracy ``at`` a value; every ratio. Facts beside these: the point of saturation (where
    accuracy falls fastest), and the share of binding errors, right values of something else, among wrong answers.
    """
    items = [item for ask in given.ask for item in select(findings, ask, given.arm, given.cells)]
    places = [_x(item, given.x) for item in items]
    of, distinct = scored(items), len(set(places))
    if distinct < 2:
        raise Missing(f"{given.x} has {distinct} value among the answers of '{given.arm}'; a curve needs two or more.")

    @cache
    def curve(level: float) -> LogisticCurve:
        shape = Shape(min(given.knots, distinct), given.floor)
        clusters, seeds = of.haystacks(), list(of.seeds)
        draws = max(given.resamples, math.ceil(TAIL / (1 - level)))
        return logistic_curve(
            places, of.values, shape=shape, clusters=clusters, seeds=seeds, level=level, resamples=draws
        )

    def crossing(share: float) -> Quantity:
        return lambda level: distance_at(curve(level), share).estimate

    end = float("inf") if given.end is None else given.end
    crossings = {name: crossing(share) for name, share in given.crossings.items()}
    points = {name: accuracy(_where(of, places, [x])) for name, x in given.at.items()}
    ratios = {
        name: ratio(_where(of, places, [above]), _where(of, places, [below]))
        for name, (above, below) in given.ratios.items()
    }
    binding = _binding(items)
    facts = {**crossings, **points, **ratios, "saturation": lambda level: steepest(curve(level)).estimate}
    if binding is not None:
        facts["binding errors among wrong answers"] = accuracy(binding)
    return Measured(
        quantities={"lowest": lambda level: curve(level).lowest(given.start, end), **crossings, **points, **ratios},
        facts=facts_of(facts),
        figure=_figure(given, curve(0.95), places, of, items),
        sources=tuple(f"items/{ask}" for ask in given.ask),
    )


def _curve_names(given: CurveGiven) -> Collection[str]:
    return ("lowest", *given.crossings, *given.at, *given.ratios)


def _x(item: ItemRecord, name: str) -> float:
    if name in ("distance", "compressions"):
        return float(getattr(item, name))
    value = item.facts.get(name)
    if not isinstance(value, int | float):
        raise Missing(f"The items of '{item.task}' have no fact '{name}' that is a number.")
    return float(value)


def _where(of: Answers, places: Sequence[float], values: Sequence[float]) -> Answers:
    kept = [place for place, x in enumerate(places) if x in values]
    if not kept:
        raise Missing(f"No answer was given at {', '.join(f'{value:g}' for value in values)}.")
    return of.taken(kept)


def _binding(items: Sequence[ItemRecord]) -> Answers | None:
    """Return which wrong answers name what the haystack gives for something else."""
    wrong = [item for item in items if not item.exact]
    return scored(wrong, lambda item: float(item.error_class == "other_value")) if wrong else None


def _figure(
    given: CurveGiven, curve: LogisticCurve, places: Sequence[float], of: Answers, items: Sequence[ItemRecord]
) -> FigureRecord:
    groups = _groups(places)
    shown = [estimate([of.values[at] for at in group]) for group in groups]
    x = [float(np.exp(np.mean(np.log([places[at] for at in group])))) for group in groups]
    lines = [
        Series(
            name=given.arm,
            x=tuple(curve.x.tolist()),
            y=tuple(curve.mean.tolist()),
            low=tuple(curve.low.tolist()),
            high=tuple(curve.high.tolist()),
        ),
        series("groups of answers", zip(x, shown, strict=True), dots=True),
    ]
    if any(item.error_class == "other_value" for item in items):
        named = [np.mean([items[at].error_class == "other_value" for at in group]) for group in groups]
        lines.append(Series(name="binding errors", x=tuple(x), y=tuple(float(share) for share in named)))
    found = {name: distance_at(curve, share).estimate.mean for name, share in given.crossings.items()}
    return FigureRecord(
        title=f"Right answers of {given.arm}",
        caption=f"Curve with its {curve.method}; points with Wilson intervals over the answers of all seeds.",
        x_label=LABELS.get(given.x, given.x),
        y_label="share of answers",
        series=tuple(lines),
        log_x=True,
        share=True,
        marks={name: x for name, x in found.items() if 0 < x < float("inf")},
    )


def _groups(places: Sequence[float]) -> list[list[int]]:
    """Return the answers at each x, or groups of equally many where x has many values."""
    distinct = sorted(set(places))
    if len(distinct) <= BINS:
        return [[at for at, x in enumerate(places) if x == value] for value in distinct]
    order = np.argsort(np.asarray(places), kind="stable")
    return [part.tolist() for part in np.array_split(order, BINS)]


CURVES = {"accuracy_curve": Measure(CurveGiven, accuracy_curve, _curve_names)}
