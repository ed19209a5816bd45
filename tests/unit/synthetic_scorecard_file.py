"""A small scorecard as it stands in a file."""

from rules import all_of, conditions
from synthetic_findings import spec as small_spec

from palimpsest.schema import parse
from palimpsest.study.scorecard.spec import ScorecardSpec

SEGMENT = 16


ABOVE_ZERO = conditions(all_of("difference low > 0"))


PAIRS = {"task": {"kind": "sym_multikey", "needles": 4}, "lengths": [96], "items": 8, "seed": 10_001}


FOUND = {"measure": "memory_effect", "given": {"ask": "pairs", "arm": "memory"}}


def row(number=8, **changed):
    return {"id": f"E{number:02}", "demand": "d", "claim": "c", "rule": ABOVE_ZERO, **FOUND, **changed}


def content(**changed) -> dict:
    """A study as it stands in a file."""
    return small_spec(ask={"pairs": {**PAIRS, "interventions": ["swap"]}}).model_dump(mode="json") | changed


def study(**changed) -> ScorecardSpec:
    return parse(ScorecardSpec, content(**changed), "study.yaml")
