"""Answers that were never given: items with known effects, and the measures and verdicts they lead to."""

from functools import cache

from palimpsest.records import ItemRecord
from palimpsest.statistics import decide, parse_rule
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.items import ITEM_MEASURES
from palimpsest.study.scorecard.spec import ScorecardSpec

SEEDS = range(5)


TRAINING = {"steps": 1, "batch_size": 2, "learning_rate": 1e-3}


PHASE = {
    "data": {"kind": "tasks", "row_length": 64, "tasks": [{"task": {"kind": "sym_passkey", "max_length": 64}}]},
    "training": TRAINING,
}


def arm(kind):
    memory = {"memory": {"kind": "ridge"}} if kind == "memory" else {}
    attention = {"pattern": [kind], "segment_length": 16, **memory}
    return {"attention": attention, "learning_rate": 1e-3, "phases": ["one"]}


@cache
def spec():
    return ScorecardSpec.model_validate(
        {
            "kind": "scorecard",
            "name": "synthetic",
            "question": "does it measure",
            "model": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16},
            "segment_length": 16,
            "phases": {"one": PHASE},
            "arms": {
                name: arm(kind)
                for name, kind in (
                    ("full", "full"),
                    ("local", "segment_local"),
                    ("ridge", "memory"),
                    ("after", "memory"),
                    ("small", "memory"),
                    ("large", "memory"),
                )
            },
            "seeds": list(SEEDS),
        }
    )


def item(number, right, *, seed=0, arm="ridge", intervention="none", length=256, distance=128, error=None, **more):
    """An item that is answered; ``more`` replaces fields, and ``facts`` are its facts."""
    end = length - 1 - distance
    fields = {
        "task": "sym_multikey",
        "version": 1,
        "item_id": f"{length}-{number}",
        "arm": arm,
        "seed": seed,
        "checkpoint": "sha",
        "intervention": intervention,
        "length": length,
        "depth": end / length,
        "segment_length": 16,
        "needle_start": end - 5,
        "needle_end": end,
        "question_start": length - 4,
        "distance": distance,
        "compressions": max(0, distance // 16),
        "segments": length // 16,
        "locally_reachable": distance < 16,
        "answer": "v1",
        "output": "v1",
        "exact": bool(right),
        "error_class": "correct" if right else error or "absent_value",
        "rank": 1,
        "candidates": 2,
        "answer_logprob": -1.0,
    }
    return ItemRecord(**(fields | more))


def many(share, n=100, seeds=SEEDS, **more):
    """n items under every seed, of which a share is right: the first ones, with some difference between seeds."""
    return [item(at, at < round(share * n) + seed % 2, seed=seed, **more) for seed in seeds for at in range(n)]


def measured(name, items, given, **fields):
    measure = ITEM_MEASURES[name]
    findings = Findings(spec=spec(), items={"asked": items} if isinstance(items, list) else items, **fields)
    return measure.measure(findings, measure.given.model_validate(given))


def verdict(rule, found):
    rule = parse_rule(rule)
    return decide(rule, {key: found.quantities[need.quantity](need.level) for key, need in rule.requires.items()})
