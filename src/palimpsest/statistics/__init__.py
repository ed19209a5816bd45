"""Intervals, paired contrasts, claims over seeds, and decision rules: numpy and scipy, no torch."""

from palimpsest.statistics.contrasts import ContrastMethod, align, contrast, holm, mcnemar
from palimpsest.statistics.decisions import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    AtLeast,
    AtMost,
    Equivalent,
    Greater,
    MeanAtLeast,
    MemoryEffect,
    Requirement,
    Rule,
    Verdict,
    decide,
    explain,
    parse_rule,
)
from palimpsest.statistics.intervals import Estimate, Method, estimate
from palimpsest.statistics.seeds import contrast_across_seeds, estimate_across_seeds, seed_means

__all__ = [
    "FAIL",
    "INCONCLUSIVE",
    "PASS",
    "AtLeast",
    "AtMost",
    "ContrastMethod",
    "Equivalent",
    "Estimate",
    "Greater",
    "MeanAtLeast",
    "MemoryEffect",
    "Method",
    "Requirement",
    "Rule",
    "Verdict",
    "align",
    "contrast",
    "contrast_across_seeds",
    "decide",
    "estimate",
    "estimate_across_seeds",
    "explain",
    "holm",
    "mcnemar",
    "parse_rule",
    "seed_means",
]
