"""What training and held-out text amount to: loss, gradients, gates, loss by position, cost."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from palimpsest.records import CostRecord, PositionLossRecord
from palimpsest.report.load import INTACT, STAGES, Condition, Stage, StudyResults
from palimpsest.statistics import Estimate, contrast, estimate

POINTS = 120
"""Points of a drawn curve: a longer log is averaged down to this many, so that the page stays small."""


class Point(NamedTuple):
    """One point of a curve over training tokens."""

    tokens: float
    value: float


@dataclass(frozen=True)
class TrainingCurve:
    """One stage of training of one model; ``skipped`` holds the tokens at which updates were skipped."""

    stage: Stage
    loss: Sequence[Point]
    grad_norm: Sequence[Point]
    skipped: Sequence[float]


class Head(NamedTuple):
    """One head of one trained model."""

    seed: int
    layer: int
    head: int


class Bucket(NamedTuple):
    """Positions from ``start`` up to but not including ``end``."""

    start: int
    end: int

    @property
    def middle(self) -> float:
        """Geometric middle."""
        return math.sqrt(max(self.start, 1) * max(self.end - 1, 1))


@dataclass(frozen=True)
class Loss:
    """Loss in nats per token (or a difference): mean over documents, pooled over seeds, and the mean of each seed."""

    found: Estimate
    by_seed: Mapping[int, float]


def training_curves(results: StudyResults, stage: str) -> list[TrainingCurve]:
    """Return the curves of one stage, arm by arm; values that are not finite leave a gap."""
    curves = []
    for key in _stages(results, stage):
        steps = results.metrics[key]
        skipped = [
            float(step.tokens)
            for before, step in zip((0, *(s.skipped for s in steps)), steps, strict=False)
            if step.skipped > before
        ]
        curves.append(
            TrainingCurve(
                key,
                thinned([Point(step.tokens, step.loss) for step in steps]),
                thinned([Point(step.tokens, step.grad_norm) for step in steps], POINTS // 2, max),
                skipped,
            )
        )
    return curves


def final_gates(results: StudyResults, arm: str) -> dict[Head, float]:
    """Return the last logged gate of every head of an arm, after the last stage that was logged."""
    last: dict[int, dict[Head, float]] = {}
    for stage in STAGES:
        for key in _stages(results, stage, arm):
            gates = _gates_of(results, key)
            if gates:
                last[key.seed] = {head: points[-1].value for head, points in gates.items()}
    return {head: value for seed in sorted(last) for head, value in sorted(last[seed].items())}


def gate_paths(results: StudyResults, arm: str) -> tuple[dict[Head, list[Point]], float | None]:
    """Return the gates of an arm over all stages' tokens, and the tokens at which fine-tuning began."""
    paths: dict[Head, list[Point]] = defaultdict(list)
    begin = None
    for seed in results.seeds:
        offset = 0.0
        for stage in STAGES:
            key = Stage(arm, seed, stage)
            steps = results.metrics.get(key, ())
            if stage == STAGES[1] and offset and steps:
                begin = offset
            for head, points in _gates_of(results, key).items():
                paths[head] += [Point(offset + point.tokens, point.value) for point in points]
            offset += steps[-1].tokens if steps else 0
    return {head: thinned(points) for head, points in sorted(paths.items())}, begin


def thinned(
    points: Sequence[Point], limit: int = POINTS, summary: Callable[[list[float]], float] = fmean
) -> list[Point]:
    """Return at most ``limit`` points, each the summary of equally many consecutive ones that are finite."""
    finite = [point for point in points if math.isfinite(point.value)]
    width = -(-len(finite) // limit) or 1
    chunks = (finite[i : i + width] for i in range(0, len(finite), width))
    return [Point(fmean(p.tokens for p in chunk), summary([p.value for p in chunk])) for chunk in chunks]


def loss_conditions(results: StudyResults) -> list[tuple[str, str]]:
    """Return (arm, intervention) of all held-out losses, arm by arm, the intact model first."""
    made = {(c.arm, c.intervention) for c in results.losses}
    return [
        (arm, name) for arm in results.arms for name in (INTACT, *results.interventions(arm)) if (arm, name) in made
    ]


def local_arm(results: StudyResults) -> str | None:
    """Return the arm that others' loss is compared with: local attention without a memory, None if there is none."""
    return next((a.name for a in results.study.arms if a.memory is None and a.reach is not None), None)


def loss_by_position(results: StudyResults, arm: str, intervention: str = INTACT) -> dict[Bucket, Loss]:
    """Return the held-out loss by position; the unit is the document, its loss averaged over seeds."""
    found = {}
    for bucket, documents in _losses(results, arm, intervention).items():
        means = [fmean(seeds.values()) for seeds in documents.values()]
        found[bucket] = Loss(estimate(means, method="t"), _by_seed(list(documents.values())))
    return found


def loss_difference(results: StudyResults, first: tuple[str, str], second: tuple[str, str]) -> dict[Bucket, Loss]:
    """Return loss of ``first`` minus loss of ``second``, both (arm, intervention), paired by document and seed."""
    ours, theirs = _losses(results, *first), _losses(results, *second)
    found = {}
    for bucket in (bucket for bucket in ours if bucket in theirs):
        pairs = [
            {seed: (loss, other[seed]) for seed, loss in seeds.items() if seed in other}
            for document, seeds in ours[bucket].items()
            if (other := theirs[bucket].get(document)) is not None
        ]
        pairs = [pair for pair in pairs if pair]
        if pairs:
            a, b = ([fmean(sides[i] for sides in pair.values()) for pair in pairs] for i in (0, 1))
            gaps = [{seed: x - y for seed, (x, y) in pair.items()} for pair in pairs]
            found[bucket] = Loss(contrast(a, b, method="paired_t"), _by_seed(gaps))
    return found


def costs(results: StudyResults, arm: str) -> list[CostRecord]:
    """Return the costs of an arm, one record per seed."""
    return [record for run, record in sorted(results.costs.items()) if run.arm == arm]


def _stages(results: StudyResults, stage: str, arm: str | None = None) -> list[Stage]:
    """Return the logged runs of a stage, in the order of the arms."""
    order = {name: index for index, name in enumerate(results.arms)}
    keys = [
        key
        for key in results.metrics
        if key.stage == stage and key.arm in order and arm in (None, key.arm) and results.metrics[key]
    ]
    return sorted(keys, key=lambda key: (order[key.arm], key.seed))


def _gates_of(results: StudyResults, key: Stage) -> dict[Head, list[Point]]:
    paths: dict[Head, list[Point]] = defaultdict(list)
    for step in results.metrics.get(key, ()):
        for layer in step.layers:
            for head, gate in enumerate(layer.gates):
                paths[Head(key.seed, layer.layer, head)].append(Point(step.tokens, gate))
    return paths


def _losses(results: StudyResults, arm: str, intervention: str) -> dict[Bucket, dict[str, dict[int, float]]]:
    """Return loss in nats per token by bucket, document and seed.

    A document that ends inside a bucket counts there only if it fills at least half of it.
    """
    found: dict[Bucket, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for key in sorted(key for key in results.losses if (key.arm, key.intervention) == (arm, intervention)):
        for record in results.losses[Condition(*key)]:
            if _counts(record):
                bucket = Bucket(record.position_start, record.position_end)
                found[bucket][record.document_id][record.seed] = record.nll / record.tokens
    return dict(sorted(found.items()))


def _counts(record: PositionLossRecord) -> bool:
    width = record.position_end - record.position_start
    return record.tokens > 0 and 2 * record.tokens >= width and math.isfinite(record.nll)


def _by_seed(documents: Sequence[Mapping[int, float]]) -> dict[int, float]:
    groups: dict[int, list[float]] = defaultdict(list)
    for seeds in documents:
        for seed, value in seeds.items():
            groups[seed].append(value)
    return {seed: fmean(values) for seed, values in sorted(groups.items())}
