"""The measure of capacity in use: pairs that a trained model recalls against what its own keys should hold."""

import math
from typing import Literal

import numpy as np

from palimpsest.records import FigureRecord, ItemRecord, ProfileRecord, Series
from palimpsest.schema import Closed
from palimpsest.statistics import Estimate, Shape, distance_at, estimate_across_seeds, logistic_curve
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import ArmName, AskName, Measure, Measured, Missing, always
from palimpsest.study.scorecard.measures.quantities import LEVEL, needs_some

HALF = 0.5
LOAD = "needles"
"""The fact of an item that counts the pairs."""
INTACT = "none"


class PredictedGiven(Closed):
    """Which items, answered by which arm, against which prediction.

    Attributes:
        ask, arm: items that differ in how many pairs are told.
        law: ``n50``, the common mode of the keys does no harm; ``n50_common_mode``, it is noise as any other.
        pool: ``layer``, the heads of the best layer together; ``head``, the best head alone.
        knots: of the curve.
    """

    ask: AskName
    arm: ArmName
    law: Literal["n50", "n50_common_mode"] = "n50"
    pool: Literal["layer", "head"] = "layer"
    knots: int = 4


def predicted_capacity(findings: Findings, given: PredictedGiven) -> Measured:
    """Compare the pairs of which half are recalled with the prediction from the measured keys of the heads.

    ``estimate`` is measured over predicted n50. Each has an interval over seeds at a level that makes the interval of
    the ratio hold at the level that is asked for (Bonferroni): the lower end of one over the upper end of the other.
    A measured n50 that the tested loads do not reach is a bound, and so is the end of the ratio.
    """
    items = [
        item
        for item in findings.memory_only(findings.items.get(given.ask, ()))
        if item.arm == given.arm and item.intervention == INTACT
    ]
    needs_some(items, f"answers of '{given.arm}' to '{given.ask}' that only a memory can give")
    predictions = _predictions(findings, given)
    by_level: dict[float, tuple[Estimate, Estimate]] = {}

    def both(level: float) -> tuple[Estimate, Estimate]:
        if level not in by_level:
            by_level[level] = _measured(items, given.knots, level), _over_seeds(predictions, level)
        return by_level[level]

    def ratio(level: float) -> Estimate:
        return _ratio(*both(1 - (1 - level) / 2), level)

    measured, predicted = both(LEVEL)
    facts = {"measured n50": measured.record(), "predicted n50": predicted.record()}
    loads = sorted({_load(item) for item in items})
    right = {load: [float(item.exact) for item in items if _load(item) == load] for load in loads}
    seeds = {load: [item.seed for item in items if _load(item) == load] for load in loads}
    points = [estimate_across_seeds(right[load], seeds[load], level=LEVEL) for load in loads]
    figure = FigureRecord(
        title="Recall by the number of pairs in the context",
        caption=f"Arm '{given.arm}', items of '{given.ask}' that only a memory can answer, {len(predictions)} seeds; "
        "the mark is what the measured keys should hold.",
        x_label="pairs told",
        y_label="accuracy",
        series=(
            Series(
                name=given.arm,
                x=tuple(loads),
                y=tuple(point.mean for point in points),
                low=tuple(max(point.low, 0.0) for point in points),
                high=tuple(min(point.high, 1.0) for point in points),
                points=True,
            ),
        ),
        log_x=True,
        share=True,
        marks={"predicted n50": predicted.mean},
    )
    note = (
        "The prediction counts pairs that are written. Filler is written too, so that a model that does not learn to "
        "write it away from its pairs recalls fewer of them."
    )
    return Measured({"estimate": ratio}, facts, figure, (f"items/{given.ask}", "usage"), note)


def _load(item: ItemRecord) -> float:
    load = item.facts.get(LOAD)
    if not isinstance(load, (int, float)):
        raise Missing(f"Items of '{item.task}' do not say how many pairs they tell (the fact '{LOAD}').")
    return float(load)


def _measured(items: list[ItemRecord], knots: int, level: float) -> Estimate:
    loads = [_load(item) for item in items]
    if len(set(loads)) < knots:
        raise Missing(f"Pairs were told in {len(set(loads))} numbers; a curve of {knots} knots needs as many.")
    curve = logistic_curve(
        loads,
        [float(item.exact) for item in items],
        shape=Shape(knots),
        clusters=[(item.seed, item.cluster or item.item_id) for item in items],
        seeds=[item.seed for item in items],
        level=level,
    )
    return distance_at(curve, HALF).estimate


def _predictions(findings: Findings, given: PredictedGiven) -> dict[int, float]:
    """Return the predicted n50 of every trained model: the mean over documents of each head, pooled."""
    records = [
        record for record in findings.profiles if record.arm == given.arm and getattr(record, given.law) is not None
    ]
    needs_some(records, f"profiles of '{given.arm}' with statistics of keys")
    return {
        seed: _pooled([r for r in records if r.seed == seed], given) for seed in dict.fromkeys(r.seed for r in records)
    }


def _pooled(records: list[ProfileRecord], given: PredictedGiven) -> float:
    heads: dict[tuple[int, int], list[float]] = {}
    for record in records:
        heads.setdefault((record.layer, record.head), []).append(getattr(record, given.law))
    means = {where: float(np.mean(values)) for where, values in heads.items()}
    if given.pool == "head":
        return max(means.values())
    layers = {layer for layer, _ in means}
    return max(sum(n50 for (own, _), n50 in means.items() if own == layer) for layer in layers)


def _over_seeds(predictions: dict[int, float], level: float) -> Estimate:
    return estimate_across_seeds([*predictions.values()], [*predictions], within="t", level=level)


def _ratio(measured: Estimate, predicted: Estimate, level: float) -> Estimate:
    low = measured.low / predicted.high if predicted.bounded else 0.0
    high = measured.high / predicted.low if predicted.bounded and predicted.low > 0 else math.inf
    name = f"{measured.method}, over the prediction ({predicted.method}); both ends at once"
    seeds = min(each.seeds or 1 for each in (measured, predicted))
    return Estimate(measured.mean / predicted.mean, low, high, seeds, name, level, seeds)


MEASURES: dict[str, Measure] = {
    "predicted_capacity": Measure(PredictedGiven, predicted_capacity, always("estimate")),
}
