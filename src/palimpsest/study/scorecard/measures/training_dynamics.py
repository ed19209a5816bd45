"""Measures of what happens while models are trained: gradients layer by layer, and where gates go."""

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence

from pydantic import Field

from palimpsest.records import FigureRecord, LayerMetrics, StepRecord
from palimpsest.schema import Closed
from palimpsest.statistics import Estimate, estimate_across_seeds
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import ArmName, Measure, Measured, Missing, Quantity, always
from palimpsest.study.scorecard.measures.quantities import LEVEL, facts_of, needs_some, series

SOURCES = ("train",)
SMALLEST = 1e-38
"""A gradient norm that is smaller, or zero, counts as this: float32 has hardly a smaller number."""

Steps = Sequence[StepRecord]


class LayerGradientsGiven(Closed):
    """Whose gradients are compared with whose, and when.

    Attributes:
        arm, reference: the arm in question, and the one whose gradients are as they should be.
        late: the share of the updates, at the end of the training, over which norms are averaged.
        shown: the arms of the figure; the two if empty.
        layers: the layers of the figure, from 0; negative ones count from the last.
    """

    arm: ArmName
    reference: ArmName
    late: float = Field(default=0.25, gt=0, le=1)
    shown: tuple[ArmName, ...] = ()
    layers: tuple[int, ...] = (0, -1)


class GateDynamicsGiven(Closed):
    """Whose gates, against whose, and at which gate nothing has moved.

    Attributes:
        arm: whose gates.
        reference: the arm that ``difference`` and ``farther`` are taken from, paired by seed.
        start: the gate before training.
        shown: the arms of the figure; those named above if empty.
    """

    arm: ArmName
    reference: ArmName | None = None
    start: float = Field(default=0.5, ge=0, le=1)
    shown: tuple[ArmName, ...] = ()


def layer_gradients(findings: Findings, given: LayerGradientsGiven) -> Measured:
    """Compare the gradient norm of every layer, before clipping, with that of a reference late in the training.

    Quantities, over seeds, paired: ``weakest``, log10 of the norm's ratio to the reference, averaged over the late
    updates, in the layer where it is least: -1 is a tenth; ``first``, the same of layer 0; ``depth``, log10 of the
    norm of layer 0 over that of the last layer, of the arm alone; ``loss``, by how many nats per token the loss of
    the late updates lies above the reference's.
    """
    runs, others = _runs(findings, given.arm), _runs(findings, given.reference)
    paired = [seed for seed in runs if seed in others]
    needs_some(paired, f"trainings of '{given.arm}' and '{given.reference}' with the same seed")
    ratios = {seed: _late_ratios(runs[seed], others[seed], given.late) for seed in paired}
    own = {seed: _late_norms(runs[seed], given.late) for seed in runs}
    quantities = {
        "weakest": _over_seeds({seed: min(each) for seed, each in ratios.items()}),
        "first": _over_seeds({seed: each[0] for seed, each in ratios.items()}),
        "depth": _over_seeds({seed: each[0] - each[-1] for seed, each in own.items()}),
        "loss": _over_seeds({s: _late_loss(runs[s], given.late) - _late_loss(others[s], given.late) for s in paired}),
    }
    shown = given.shown or (given.arm, given.reference)
    figure = FigureRecord(
        title="Gradient norm of layers while they are trained",
        caption="log10 of the norm before clipping, with intervals over seeds. Layers "
        f"{', '.join(map(str, given.layers))} of every arm; negative ones count from the last.",
        x_label="update",
        y_label="log10 of the gradient norm",
        series=tuple(
            series(
                f"{arm}, layer {layer}", _curve(_runs(findings, arm), lambda step, at=layer: _log_norm(step.layers[at]))
            )
            for arm in shown
            for layer in given.layers
        ),
    )
    layers = {
        f"layer {n}: log10 of the ratio": {s: each[n] for s, each in ratios.items()} for n in range(_depth(ratios))
    }
    return Measured(quantities, facts_of(quantities | {k: _over_seeds(v) for k, v in layers.items()}), figure, SOURCES)


def gate_dynamics(findings: Findings, given: GateDynamicsGiven) -> Measured:
    """Say where the gates of an arm have gone by the end of its training.

    A gate is the mean over the tokens of a row. Quantities, over seeds: ``gate``, the mean over heads; ``distance``,
    how far heads are from where they began, on average; ``spread``, the standard deviation over heads; ``shut`` and
    ``open``, the shares of heads below 0.1 and above 0.9; with a reference, paired by seed, ``difference``, its mean
    gate less that of the reference, and ``farther``, its distance less that of the reference.
    """
    runs = _runs(findings, given.arm)
    final = {seed: _gates(steps[-1]) for seed, steps in runs.items()}
    for seed, found in final.items():
        needs_some(found, f"gates of '{given.arm}' (seed {seed})")
    mean = {seed: statistics.fmean(found) for seed, found in final.items()}
    distance = {seed: _distance(found, given.start) for seed, found in final.items()}
    quantities = {
        "gate": _over_seeds(mean),
        "distance": _over_seeds(distance),
        "spread": _over_seeds({seed: statistics.pstdev(found) for seed, found in final.items()}),
        "shut": _over_seeds({s: statistics.fmean(float(gate < 0.1) for gate in found) for s, found in final.items()}),
        "open": _over_seeds({s: statistics.fmean(float(gate > 0.9) for gate in found) for s, found in final.items()}),
    }
    if given.reference is not None:
        others = {seed: _gates(steps[-1]) for seed, steps in _runs(findings, given.reference).items()}
        paired = [seed for seed in final if others.get(seed)]
        needs_some(paired, f"gates of '{given.reference}' with the seeds of '{given.arm}'")
        quantities |= {
            "difference": _over_seeds({seed: mean[seed] - statistics.fmean(others[seed]) for seed in paired}),
            "farther": _over_seeds({seed: distance[seed] - _distance(others[seed], given.start) for seed in paired}),
        }
    shown = given.shown or (given.arm, *([] if given.reference is None else [given.reference]))
    figure = FigureRecord(
        title="Mean gate while it is trained",
        caption="Mean over heads, with intervals over seeds. 0 is local attention alone, 1 the memory alone.",
        x_label="update",
        y_label="gate",
        series=tuple(
            series(arm, _curve(_runs(findings, arm), lambda step: statistics.fmean(_gates(step)))) for arm in shown
        ),
        share=True,
    )
    return Measured(quantities, facts_of(quantities), figure, SOURCES)


def _gate_names(given: GateDynamicsGiven) -> Collection[str]:
    alone = ("gate", "distance", "spread", "shut", "open")
    return alone if given.reference is None else (*alone, "difference", "farther")


def _runs(findings: Findings, arm: str) -> Mapping[int, Steps]:
    """Return the metrics of the last phase of an arm, by seed."""
    found = {seed: phases[-1] for (name, seed), phases in sorted(findings.steps.items()) if name == arm and phases}
    needs_some([*found], f"metrics of trainings of '{arm}'")
    for seed, steps in found.items():
        needs_some([step for step in steps if step.layers], f"metrics of the layers of '{arm}' (seed {seed})")
    return found


def _late(steps: Steps, share: float) -> Steps:
    """Return the records of the last share of the updates, one at least."""
    return [step for step in steps if step.step > (1 - share) * steps[-1].step]


def _log_norm(layer: LayerMetrics) -> float:
    return math.log10(max(layer.grad_norm, SMALLEST))


def _late_norms(steps: Steps, share: float) -> list[float]:
    """Return log10 of the gradient norm of every layer, averaged over the late updates."""
    late = _late(steps, share)
    return [statistics.fmean(_log_norm(step.layers[n]) for step in late) for n in range(len(late[0].layers))]


def _late_ratios(steps: Steps, reference: Steps, share: float) -> list[float]:
    """Return log10 of the ratio of late norms, of every layer."""
    own, other = _late_norms(steps, share), _late_norms(reference, share)
    if len(own) != len(other):
        raise Missing(f"Layers cannot be compared: one arm has {len(own)} and the other {len(other)}.")
    return [a - b for a, b in zip(own, other, strict=True)]


def _late_loss(steps: Steps, share: float) -> float:
    return statistics.fmean(step.loss for step in _late(steps, share))


def _depth(ratios: Mapping[int, Sequence[float]]) -> int:
    return min(map(len, ratios.values()))


def _gates(step: StepRecord) -> list[float]:
    """Return the gates of all heads of all layers."""
    return [gate for layer in step.layers for gate in layer.gates]


def _distance(gates: Sequence[float], start: float) -> float:
    return statistics.fmean(abs(gate - start) for gate in gates)


def _over_seeds(values: Mapping[int, float]) -> Quantity:
    """Return the mean of one number per seed."""
    return lambda level: estimate_across_seeds([*values.values()], [*values], within="t", level=level)


def _curve(runs: Mapping[int, Steps], value: Callable[[StepRecord], float]) -> list[tuple[float, Estimate]]:
    """Return a number of every logged update that all seeds have, over seeds.

    Raises:
        Missing: the number cannot be had of a record.
    """
    by_step: dict[int, dict[int, float]] = {}
    for seed, steps in runs.items():
        for step in steps:
            try:
                by_step.setdefault(step.step, {})[seed] = value(step)
            except (IndexError, statistics.StatisticsError) as error:
                raise Missing(f"Update {step.step} (seed {seed}) has no such number of its layers.") from error
    whole = {step: values for step, values in by_step.items() if len(values) == len(runs)}
    return [(float(step), _over_seeds(values)(LEVEL)) for step, values in whole.items()]


MEASURES: dict[str, Measure] = {
    "layer_gradients": Measure(LayerGradientsGiven, layer_gradients, always("weakest", "first", "depth", "loss")),
    "gate_dynamics": Measure(GateDynamicsGiven, gate_dynamics, _gate_names),
}
