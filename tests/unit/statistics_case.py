"""What several tests of statistics judge: paired tables, estimates with given ends, and a rule of every kind."""

import math

from palimpsest.statistics import (
    AtLeast,
    AtMost,
    BandAtLeast,
    Equivalent,
    Estimate,
    Greater,
    MeanAtLeast,
    MemoryEffect,
    NonInferior,
    Rule,
    Within,
    parse_rule,
)

LANGUAGE_MODEL = {
    "kind": "conditions",
    "pass_when": {
        "all_of": [
            {"estimate": "gain", "bound": "low", "op": ">", "value": 0.005},
            {"estimate": "share", "bound": "mean", "op": ">=", "value": 0.5},
        ]
    },
    "fail_when": {
        "all_of": [
            {"estimate": "gain", "bound": "low", "level": 0.9, "op": ">", "value": -0.005},
            {"estimate": "gain", "bound": "high", "level": 0.9, "op": "<", "value": 0.005},
        ]
    },
}

RULES = [
    AtLeast(value=0.9),
    AtMost(value=0.1),
    MeanAtLeast(value=0.9),
    Greater(),
    Equivalent(margin=0.05),
    MemoryEffect(floor=0.0),
    NonInferior(margin=0.05),
    Within(low=0.5, high=1.25, fail_below=0.25),
    BandAtLeast(value=0.9, fail_below=0.5),
    parse_rule(LANGUAGE_MODEL),
]


def at(low: float, high: float, *, level: float = 0.95, n: int = 100, mean: float | None = None) -> Estimate:
    return Estimate((low + high) / 2 if mean is None else mean, low, high, n, "given", level)


def difference(low: float, high: float, low_90: float | None = None, high_90: float | None = None):
    return {
        "difference": at(low, high),
        "difference_90": at(low if low_90 is None else low_90, high if high_90 is None else high_90, level=0.9),
    }


def everything(rule: Rule, *, n: int = 100) -> dict[str, Estimate]:
    return {
        name: Estimate(0.95, -math.inf, math.inf, n, "one seed", need.level) for name, need in rule.requires.items()
    }


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[int], list[int]]:
    """Return the two lists of outcomes of a paired 2 x 2 table."""
    a = [1] * (both + only_a) + [0] * (only_b + neither)
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return a, b
