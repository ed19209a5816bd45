"""Measures of what heads do: which gates are open and used, and in which layers the memory matters."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from pydantic import Field

from palimpsest.records import EffectRecord, FigureRecord, ProfileRecord, Series
from palimpsest.schema import Closed
from palimpsest.statistics import Estimate, estimate_across_seeds
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import ArmName, Measure, Measured, Missing, always
from palimpsest.study.scorecard.measures.loss_tables import Losses, mean_of, ratio_of
from palimpsest.study.scorecard.measures.quantities import LEVEL, count_of, facts_of, needs_some, series

SOURCES = ("usage",)
MOVED, REACHABLE = 1.0, 4.0
"""A gate has moved if its logit did by 1; it could have if the sum of its learning rates is 4 (sigmoid(4) = 0.98)."""


class GatesGiven(Closed):
    """When a head counts as using the memory: gate and share rho at least these; and as not using it at all.

    Attributes:
        arm: whose heads.
        gate, rho: a head with less does not use the memory.
        decorative: a head with a smaller rho than this says nothing that comes from the memory.
    """

    arm: ArmName
    gate: float = Field(default=0.1, gt=0, lt=1)
    rho: float = Field(default=0.1, gt=0, lt=1)
    decorative: float = Field(default=0.05, gt=0, lt=1)


class LayersGiven(Closed):
    """Whose layers; those below ``early`` (counted from 0) are the early ones."""

    arm: ArmName
    early: int = Field(ge=1)


class _Head(NamedTuple):
    """Means over documents of one head of one trained model."""

    seed: int
    layer: int
    head: int
    gate: float
    rho: float
    shift: float


def gates(findings: Findings, given: GatesGiven) -> Measured:
    """Count the heads that use the memory: gate and rho are large enough, and the gate has moved, or could have.

    Quantities, shares of heads: ``lowest``, of those that use it, in the seed where there are fewest; ``decorative``,
    of those with next to no share of memory, in the seed where there are fewest; ``used``, of those that use it, over
    seeds. A gate has moved if its logit did by 1 or more; it could have if its learning rates add up to 4 or more.
    """
    heads = _heads(findings, given.arm)
    reach = {seed: reachable(findings, given.arm, seed) for seed in dict.fromkeys(head.seed for head in heads)}
    used = [
        head.gate >= given.gate
        and head.rho >= given.rho
        and (head.shift >= MOVED or reach.get(head.seed, 0.0) >= REACHABLE)
        for head in heads
    ]
    seeds = [head.seed for head in heads]
    shares = _by_seed(seeds, [float(use) for use in used])
    decorative = _by_seed(seeds, [float(head.rho < given.decorative) for head in heads])
    count = len(shares)
    quantities = {
        "lowest": count_of(min(shares.values()), count, seeds=count),
        "decorative": count_of(min(decorative.values()), count, seeds=count),
        "used": lambda level: estimate_across_seeds([float(use) for use in used], seeds, level=level),
    }
    moved = {seed: max(head.shift for head in heads if head.seed == seed) for seed in shares}
    facts = facts_of(quantities) | {
        "mean gate": _over_seeds([head.gate for head in heads], seeds).record(),
        "mean rho": _over_seeds([head.rho for head in heads], seeds).record(),
        "farthest move of a gate's logit, over seeds": count_of(max(moved.values()), count)(LEVEL).record(),
        "reachable move of a gate's logit, least over seeds": count_of(min(reach.values()), count)(LEVEL).record(),
    }
    figure = FigureRecord(
        title="What the gate of a head lets through, and what share of the head that is",
        caption=f"Arm '{given.arm}', every head of every seed; {len(heads)} heads of {count} seeds.",
        x_label="gate",
        y_label="share of the memory in what the head says, rho",
        series=tuple(
            Series(
                name=f"seed {seed}",
                x=tuple(head.gate for head in heads if head.seed == seed),
                y=tuple(head.rho for head in heads if head.seed == seed),
                points=True,
            )
            for seed in shares
        ),
        share=True,
        marks={"least gate": given.gate},
    )
    return Measured(quantities, facts, figure, SOURCES)


def layers(findings: Findings, given: LayersGiven) -> Measured:
    """Say how much of the memory's effect is in the early layers.

    Quantities: ``effect``, the share of early layers in what it costs, in nats per token, to swap the memory of one
    head after the other; not a number where the interval of the whole includes 0. ``usage``, their share in the length
    of what memories add to the residual stream. ``fair``, the share of early layers in all layers.
    """
    found = [record for record in findings.effects if record.arm == given.arm]
    needs_some(found, f"effects of heads of '{given.arm}'")
    depth = 1 + max(record.layer for record in found)
    if given.early >= depth:
        raise Missing(f"Of {depth} layers, {given.early} cannot be the early ones; '{given.arm}' has too few layers.")
    profiles = [record for record in findings.profiles if record.arm == given.arm]
    needs_some(profiles, f"profiles of '{given.arm}'")
    effect = ratio_of(_summed(found, given.early), _summed(found, depth))
    usage = ratio_of(_said(profiles, given.early), _said(profiles, depth))
    seeds = len({record.seed for record in found})
    quantities = {
        "effect": effect,
        "usage": usage,
        "fair": count_of(given.early / depth, seeds, seeds=seeds),
    }
    by_layer = {layer: [record for record in found if record.layer == layer] for layer in range(depth)}
    points = [(float(layer), mean_of(_summed(records, depth))(LEVEL)) for layer, records in by_layer.items() if records]
    whole = mean_of(_summed(found, depth))
    facts = facts_of(quantities | {"nats per token, all heads": whole})
    figure = FigureRecord(
        title="What the memory of each layer is worth",
        caption=f"Arm '{given.arm}': rise of the loss where a head reads the memory of another document, summed over "
        f"the heads of a layer; {seeds} seeds.",
        x_label="layer",
        y_label="nats per token",
        series=(series("swap", points, dots=True),),
    )
    note = "The share is not defined: the interval of the effect of all heads includes 0."
    return Measured(quantities, facts, figure, SOURCES, note if math.isnan(effect(LEVEL).mean) else "")


def reachable(findings: Findings, arm: str, seed: int) -> float:
    """Return the sum of the learning rates of the gates over all updates, of the arms it goes on after too.

    Rates between two logged updates are interpolated.
    """
    total, name = 0.0, arm
    while True:
        for phase in findings.steps.get((name, seed), ()):
            steps = [record.step for record in phase]
            if steps:
                rates = np.interp(np.arange(1, steps[-1] + 1), steps, [record.gate_learning_rate for record in phase])
                total += float(rates.sum())
        before = findings.spec.arms[name].after
        if before is None:
            return total
        name = before


def _heads(findings: Findings, arm: str) -> list[_Head]:
    found: dict[tuple[int, int, int], list[ProfileRecord]] = {}
    for record in findings.profiles:
        if record.arm == arm:
            found.setdefault((record.seed, record.layer, record.head), []).append(record)
    needs_some([*found], f"profiles of '{arm}'")
    return [
        _Head(*where, *(math.fsum(x) / len(x) for x in _columns(records))) for where, records in sorted(found.items())
    ]


def _columns(records: list[ProfileRecord]) -> tuple[list[float], list[float], list[float]]:
    return [r.gate for r in records], [r.rho for r in records], [r.gate_shift for r in records]


def _summed(records: list[EffectRecord], below: int) -> Losses:
    """Return the effect of all heads in layers below this, by seed and document."""
    found: Losses = {}
    for record in records:
        for number, effect in enumerate(record.effect):
            unit = (record.seed, str(number))
            found[unit] = found.get(unit, 0.0) + (effect if record.layer < below else 0.0)
    return found


def _said(records: list[ProfileRecord], below: int) -> Losses:
    """Return the length of what the memories in layers below this add, by seed and document."""
    found: Losses = {}
    for record in records:
        unit = (record.seed, record.document_id)
        found[unit] = found.get(unit, 0.0) + (record.memory_output if record.layer < below else 0.0)
    return found


def _by_seed(seeds: list[int], values: list[float]) -> Mapping[int, float]:
    return {
        seed: float(np.mean([value for own, value in zip(seeds, values, strict=True) if own == seed]))
        for seed in dict.fromkeys(seeds)
    }


def _over_seeds(values: list[float], seeds: list[int]) -> Estimate:
    return estimate_across_seeds(values, seeds, within="t", level=LEVEL)


MEASURES: dict[str, Measure] = {
    "gates": Measure(GatesGiven, gates, always("lowest", "decorative", "used")),
    "early_layers": Measure(LayersGiven, layers, always("effect", "usage", "fair")),
}
