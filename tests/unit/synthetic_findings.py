"""Findings that were never measured: a small scorecard with five seeds, and records with known effects."""

from collections.abc import Mapping

import numpy as np

from palimpsest.records import LayerMetrics, PositionLossRecord, ProfileRecord, Provenance, StepRecord
from palimpsest.schema import parse
from palimpsest.statistics import decide, parse_rule
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import Measured
from palimpsest.study.scorecard.measures.runs import RUN_MEASURES
from palimpsest.study.scorecard.spec import ScorecardSpec

SEEDS = (0, 1, 2, 3, 4)
SEGMENT = 16


def spec(seeds=SEEDS, **changed) -> ScorecardSpec:
    attention = {"pattern": ["segment_local"], "segment_length": SEGMENT}
    memory = {"pattern": ["memory"], "segment_length": SEGMENT, "memory": {"kind": "linear"}}
    window = {"pattern": ["sliding_window"], "segment_length": SEGMENT, "sliding_window": {"window": 32}}
    arm = {"learning_rate": 1e-3, "phases": ["long"]}
    task = {"kind": "sym_multikey", "needles": 2, "min_length": 64, "max_length": 64}
    phase = {
        "data": {"kind": "tasks", "row_length": 64, "tasks": [{"task": task}]},
        "training": {"steps": 100, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 10},
    }
    short = {**phase, "data": {**phase["data"], "row_length": 16, "tasks": [{"task": _short(task)}]}}
    given = {
        "kind": "scorecard",
        "name": "synthetic",
        "question": "does the measure measure",
        "model": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
        "segment_length": SEGMENT,
        "phases": {"long": phase, "short": short},
        "arms": {
            "full": {"attention": {**attention, "pattern": ["full"]}, **arm},
            "local": {"attention": attention, **arm},
            "window": {"attention": window, **arm},
            "memory": {"attention": memory, **arm},
            "short": {"attention": attention, **arm, "phases": ["short"]},
        },
        "documents": {"text": {"count": 20, "tokens": 256, "seed": 1, "arms": ["local", "memory"]}},
        "seeds": list(seeds),
    }
    return parse(ScorecardSpec, given | changed, "test")


def _short(task):
    return {**task, "needles": 1, "min_length": 16, "max_length": 16}


def losses(levels: Mapping[str, float], *, seeds=SEEDS, documents=20, intervention="none", spread=0.01, noise=0):
    """Losses of arms around these levels: seeds and documents shift all arms alike, noise each number apart."""
    shared, own = np.random.default_rng(0), np.random.default_rng(noise + 1)
    of_seed, of_document = shared.normal(0, spread, len(SEEDS)), shared.normal(0, spread, documents)
    return [
        PositionLossRecord(
            arm=arm,
            seed=seed,
            checkpoint="c",
            intervention=intervention,
            document_id=f"d{number}",
            position_start=start,
            position_end=2 * start,
            nll=start * (level + of_seed[i] + of_document[number] + own.normal(0, 0.001)),
            tokens=start,
        )
        for arm, level in levels.items()
        for i, seed in enumerate(seeds)
        for number in range(documents)
        for start in (16, 32, 64, 128)
    ]


def steps(norms=(1.0,) * 10, *, gate_rate=0.01, tokens=1000):
    return [
        StepRecord(
            step=10 * (i + 1),
            tokens=tokens * (i + 1),
            loss=1.0,
            learning_rate=1e-3,
            gate_learning_rate=gate_rate,
            grad_norm=norm,
            skipped=0,
            seconds=1.0,
            layers=(LayerMetrics(layer=0, kind="memory", grad_norm=norm),),
        )
        for i, norm in enumerate(norms)
    ]


def provenance(parameters=1000, **changed):
    made = {
        "versions": {"python": "3.11", "torch": "2", "transformers": "5", "numpy": "2"},
        "hardware": "cpu",
        "cores": 2,
        "git_commit": "abc",
        "git_dirty": False,
        "recipe_sha256": "r",
        "data_fingerprint": "d",
        "seeds": {"recipe": 0},
        "parameters": parameters,
        "flops": 1.0,
        "started": "2026-01-01T00:00:00+00:00",
    }
    return Provenance(**made | changed)


def head(seed, layer, number, *, gate, rho, shift, n50=10.0, document="d0"):
    return ProfileRecord(
        arm="memory",
        seed=seed,
        checkpoint="c",
        document_id=document,
        tokens=64,
        segment_length=SEGMENT,
        layer=layer,
        layers=2,
        head=number,
        kind="memory",
        memory="linear",
        features="elu1",
        state_bytes=1,
        gate=gate,
        gate_initial=0.5,
        gate_shift=shift,
        memory_output=rho,
        local_output=1 - rho,
        rho=rho,
        read_norm=1.0,
        n50=n50,
        n50_common_mode=1.0,
    )


def measured(findings: Findings, name: str, given: dict) -> Measured:
    """Measure with arguments as they stand in a study file."""
    measure = RUN_MEASURES[name]
    return measure.measure(findings, parse(measure.given, given, name))


def verdict(findings: Findings, name: str, given: dict, rule: dict) -> str:
    """Measure, and judge by a rule as it stands in a study file."""
    parsed, found = parse_rule(rule), measured(findings, name, given)
    return decide(parsed, {key: found.quantities[need.quantity](need.level) for key, need in parsed.requires.items()})
