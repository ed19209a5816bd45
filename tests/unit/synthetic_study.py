"""Made-up records of a study, for tests of the report alone: no model was trained to make these numbers.

Everything is a pure function of its arguments. The shapes follow what real studies write; the curves are invented.
"""

import gzip
import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from palimpsest.records import (
    ArmRecord,
    CostRecord,
    ErrorClass,
    EstimateRecord,
    ItemRecord,
    LayerMetrics,
    PositionLossRecord,
    Provenance,
    Record,
    StepRecord,
    StudyRecord,
    VerdictRecord,
    write_json,
    write_jsonl,
)

INTERVENTIONS = ("swap", "zero", "gate_closed")


@dataclass(frozen=True)
class Plan:
    """What the made-up study looks like; ``half_life`` of an arm is the compressions at which half is forgotten."""

    name: str = "synthetic"
    question: str = "Do these made-up records look right on a page?"
    seeds: tuple[int, ...] = (0,)
    lengths: tuple[int, ...] = (64, 256, 1024)
    depths: tuple[float, ...] = (0.0, 0.5, 1.0)
    items_per_cell: int = 8
    steps: int = 30
    documents: int = 6
    segment: int = 32
    layers: int = 3
    heads: int = 2
    suffix: str = ".jsonl"
    half_life: tuple[tuple[str, float], ...] = (
        ("full", 3.0),
        ("segment_local", 0.0),
        ("linear", 4.0),
        ("delta", 1.0),
        ("ridge", 400.0),
    )

    @property
    def arms(self) -> list[ArmRecord]:
        local = {"full": None}
        return [
            ArmRecord(
                name=name,
                kinds=["full" if name == "full" else "segment_local" if name == "segment_local" else "memory"],
                memory=None if name in ("full", "segment_local") else name,
                reach=local.get(name, self.segment),
                learning_rate=0.003,
            )
            for name, _ in self.half_life
        ]

    @property
    def study(self) -> StudyRecord:
        return StudyRecord(
            name=self.name,
            question=self.question,
            sha256=hashlib.sha256(self.name.encode()).hexdigest(),
            arms=self.arms,
            seeds=list(self.seeds),
            segment_length=self.segment,
            layers=self.layers,
            heads=self.heads,
            lengths=list(self.lengths),
            depths=list(self.depths),
            trained_length=8 * self.segment,
            interventions=list(INTERVENTIONS),
            deviations=["These records are made up."],
        )


LARGE = Plan(
    seeds=(0, 1, 2),
    lengths=(256, 512, 1024, 2048, 4096, 8192),
    depths=(0.0, 0.25, 0.5, 0.75, 1.0),
    items_per_cell=50,
    steps=600,
    documents=24,
    suffix=".jsonl.gz",
)


def write_study(directory: Path, plan: Plan | None = None) -> Path:
    """Write the records of a complete study and return their directory."""
    plan = plan or Plan()
    write_json(directory / "study.json", plan.study)
    items: dict[str, list[ItemRecord]] = {}
    for index, (arm, half_life) in enumerate(plan.half_life):
        for seed in plan.seeds:
            rng = np.random.default_rng([index, seed])
            run = f"{arm}-s{seed}"
            items[run] = make_items(plan, arm, seed, half_life * math.exp(0.5 * rng.normal()), rng)
            write_lines(directory / "items" / f"{run}{plan.suffix}", items[run])
            write_lines(directory / "position_loss" / f"{run}{plan.suffix}", make_losses(plan, arm, seed, index, rng))
            for stage in ("pretrain", "finetune"):
                steps = make_steps(plan, arm, stage, rng)
                write_lines(directory / "metrics" / f"{run}-{stage}{plan.suffix}", steps)
                write_json(directory / "provenance" / f"{run}-{stage}.json", make_provenance(plan, seed))
            write_json(directory / "cost" / f"{run}.json", make_cost(plan, arm, seed, rng))
    write_json(directory / "verdicts.json", [json.loads(v.model_dump_json()) for v in make_verdicts(plan)])
    return directory


def write_lines(path: Path, records: Sequence[Record]) -> None:
    """Write JSON lines, compressed if the name says so."""
    if path.suffix != ".gz":
        return write_jsonl(path, records)
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as out:
        out.writelines(record.model_dump_json() + "\n" for record in records)


def make_items(plan: Plan, arm: str, seed: int, half_life: float, rng: np.random.Generator) -> list[ItemRecord]:
    """Make the answers of one model, for a memory arm under every intervention too."""
    has_memory = arm not in ("full", "segment_local")
    return [
        make_item(plan, arm, seed, name, (length, depth, index), half_life, rng)
        for name in ("none", *(INTERVENTIONS if has_memory else ()))
        for length in plan.lengths
        for depth in plan.depths
        for index in range(plan.items_per_cell)
    ]


def make_item(
    plan: Plan,
    arm: str,
    seed: int,
    intervention: str,
    place: tuple[int, float, int],
    half_life: float,
    rng: np.random.Generator,
) -> ItemRecord:
    length, depth, _ = place
    start = round(depth * (length - 28))
    segments = -(-length // plan.segment)
    compressions = segments - 1 - start // plan.segment
    reachable = compressions == 0
    recall = 2 ** -(compressions / half_life) if half_life else float(reachable)
    if intervention != "none" and not reachable:
        recall = 0.0
    exact = bool(rng.random() < recall)
    item_id = hashlib.sha256(repr(place).encode()).hexdigest()[:16]
    answer = str(10_000 + int(item_id[:6], 16) % 90_000)
    kind: ErrorClass = "correct" if exact else "other_number" if rng.random() < 0.7 else "no_number"
    output = {"correct": answer, "other_number": str(rng.integers(10_000, 99_999)), "no_number": " grass is"}[kind]
    return ItemRecord(
        task="passkey", version=1, item_id=item_id, arm=arm, seed=seed, checkpoint="0" * 64,
        intervention=intervention, length=length, depth=depth, segment_length=plan.segment, needle_start=start,
        needle_end=start + 14, question_start=length - 12, distance=length - 5 - start - 14,
        compressions=compressions, segments=segments, locally_reachable=reachable, answer=answer, output=output,
        exact=exact, error_class=kind, rank=1 if exact or rng.random() < 0.2 else int(rng.integers(2, 17)),
        candidates=16, answer_logprob=-0.1 if exact else -9.0,
    )  # fmt: skip


def make_losses(plan: Plan, arm: str, seed: int, index: int, rng: np.random.Generator) -> list[PositionLossRecord]:
    """Make held-out losses in buckets that double."""
    records = []
    has_memory = arm not in ("full", "segment_local")
    edges = [2**power for power in range(11)]
    for name in ("none", *(("swap",) if has_memory else ())):
        for document in range(plan.documents):
            own = np.random.default_rng(document).normal(0, 0.2)
            for start, end in itertools.pairwise(edges):
                memory = -0.01 * index * math.log2(start) if name == "none" and start > plan.segment else 0.0
                loss = 3.8 + 2 / start**0.7 + own + memory + rng.normal(0, 0.02)
                records.append(
                    PositionLossRecord(
                        arm=arm, seed=seed, checkpoint="0" * 64, intervention=name, document_id=f"document {document}",
                        position_start=start, position_end=end, nll=loss * (end - start), tokens=end - start,
                    )
                )  # fmt: skip
    return records


def make_steps(plan: Plan, arm: str, stage: str, rng: np.random.Generator) -> list[StepRecord]:
    """Make a training log in which two updates are skipped."""
    has_memory = arm not in ("full", "segment_local")
    gates = rng.normal(0, 0.05, (plan.layers, plan.heads)) + 0.5
    drift = rng.normal(0, 0.25, (plan.layers, plan.heads))
    records = []
    for step in range(1, plan.steps + 1):
        share = step / plan.steps
        loss = 3.9 + 3.4 * math.exp(-6 * share) if stage == "pretrain" else 2.3 / (1 + math.exp(14 * (share - 0.6)))
        moved = np.clip(gates + (share if stage == "finetune" else 0) * drift, 0, 1)
        layers = [
            LayerMetrics(
                layer=layer, kind="memory" if has_memory else "full", grad_norm=0.3,
                gates=tuple(moved[layer].tolist()) if has_memory else (),
            )
            for layer in range(plan.layers)
        ]  # fmt: skip
        records.append(
            StepRecord(
                step=step, tokens=step * 4096, loss=loss + 0.08 * abs(rng.normal()), learning_rate=0.003,
                gate_learning_rate=0.03, grad_norm=math.exp(rng.normal(-0.5, 0.3)),
                skipped=2 * int(step > plan.steps // 2), seconds=0.2 * step, layers=tuple(layers),
            )
        )  # fmt: skip
    return records


def make_cost(plan: Plan, arm: str, seed: int, rng: np.random.Generator) -> CostRecord:
    has_memory = arm not in ("full", "segment_local")
    return CostRecord(
        arm=arm, seed=seed, parameters=145_000 + 12 * has_memory, flops_per_token=9.1e5,
        training_tokens=8_000_000, training_seconds=300 + 40 * float(rng.random()), context=max(plan.lengths),
        memory_bytes=50_688 * has_memory, local_bytes=1_536 * (max(plan.lengths) if arm == "full" else plan.segment),
    )  # fmt: skip


def make_provenance(plan: Plan, seed: int) -> Provenance:
    return Provenance(
        versions={"python": "3.11.2", "torch": "2.9.0", "palimpsest": "0.1.0"}, hardware="a made-up processor", cores=2,
        git_commit="0123456789abcdef0123456789abcdef01234567", git_dirty=False, recipe_sha256="ab" * 32,
        data_fingerprint="cd" * 16, seeds={"model": seed, "data": seed}, parameters=145_000, flops=2.2e13,
        started="2025-01-01T00:00:00+00:00",
    )  # fmt: skip


def make_verdicts(plan: Plan) -> list[VerdictRecord]:
    """Make one verdict of each kind, the last with an interval that is not defined."""
    last = plan.half_life[-1][0]
    run = f"items/{last}-s{plan.seeds[0]}"
    found = EstimateRecord(mean=0.953, low=0.912, high=0.978, n=200, method="Clopper-Pearson")
    base = VerdictRecord(
        claim="retrieves", statement=f"{last} retrieves at least 90 % of whole keys at 64 compressions.",
        rule="PASS if the whole 95 % interval is at or above 0.9, FAIL if the whole of it is below, otherwise "
        "INCONCLUSIVE.", verdict="PASS", estimates={"estimate": found},
        sentence="The interval from 0.912 to 0.978 lies at or above 0.9.", items=[run],
    )  # fmt: skip
    effect = EstimateRecord(mean=-0.014, low=-0.031, high=0.0032, n=24, method="paired t over 24 units")
    wider = replace_estimate(effect, level=0.9, low=-0.028, high=0.0001)
    unknown = EstimateRecord(mean=0.81, low=-math.inf, high=math.inf, n=1, method="t over 1 seed: not defined")
    return [
        base,
        base.model_copy(
            update={
                "claim": "language", "verdict": "FAIL", "estimates": {"difference": effect, "difference_90": wider},
                "statement": "A memory lowers held-out loss by more than 0.05 nats per token beyond the first segment.",
                "sentence": "The 90 % interval of the difference lies below 0.05.",
                "items": [f"position_loss/{last}-s{plan.seeds[0]}"],
            }
        ),
        base.model_copy(
            update={
                "claim": "every_training", "verdict": "INCONCLUSIVE", "estimates": {"estimate": unknown},
                "statement": "Every training run of this recipe retrieves.",
                "sentence": "One seed gives no interval over seeds.", "items": [run, "items/no-such-run-s0"],
            }
        ),
    ]  # fmt: skip


def replace_estimate(found: EstimateRecord, *, level: float, low: float, high: float) -> EstimateRecord:
    return found.model_copy(update={"level": level, "low": low, "high": high})


def small(**changes: object) -> Plan:
    """Return the default plan with some fields changed."""
    return replace(Plan(), **changes)  # pyright: ignore[reportArgumentType]
