"""Measures of memories alone: known curves and records, known numbers, known verdicts."""

import pytest
from findings_case import cell, curve, pairs
from rules import all_of, conditions
from scipy import stats
from synthetic_findings import SEEDS, head, measured, spec, verdict

from palimpsest.errors import InputError
from palimpsest.statistics import Shape, distance_at, logistic_curve
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import Missing


@pytest.mark.parametrize(
    ("n50s", "expected"),
    [
        ({16: 10.0, 64: 11.0}, "PASS"),
        ({16: 10.0, 64: 40.0}, "INCONCLUSIVE"),  # theory holds at one size and not at the other
        ({16: 2.5, 64: 2.2}, "FAIL"),
    ],
)
def test_capacity_against_theory_at_every_size(n50s, expected):
    predicted = 10.0 if expected != "FAIL" else 20.0
    records = [record for size, n50 in n50s.items() for record in curve(n50, predicted, size=size)]
    rule = {"kind": "within", "low": 0.5, "high": 1.25, "fail_below": 0.25}
    findings = Findings(spec(), mechanism=records)
    assert verdict(findings, "mechanism_capacity", {"memory": "linear"}, rule) == expected
    found = measured(findings, "mechanism_capacity", {"memory": "linear"})
    assert found.facts["n50 at d = 64"].mean == pytest.approx(n50s[64], rel=0.1)
    ends = found.quantities["per_dimension"](0.95)
    shares = [n50 / size for size, n50 in n50s.items()]
    assert (ends.low <= 1.02 * min(shares), ends.high >= 0.98 * max(shares)) == (True, True)
    with pytest.raises(InputError, match="interval of 95 %, but the rule asks for 90 %"):
        found.quantities["estimate"](0.90)


def test_a_size_that_was_not_tested_is_missing():
    findings = Findings(spec(), mechanism=curve(10.0, 10.0))
    with pytest.raises(Missing, match="No capacity curve has keys of size 32; there are those of 64"):
        measured(findings, "mechanism_capacity", {"memory": "linear", "sizes": [32]})
    with pytest.raises(Missing, match="of delta has test capacity"):
        measured(findings, "mechanism_capacity", {"memory": "delta"})


@pytest.mark.parametrize(
    ("new", "old", "expected"), [(0.9, 0.05, "PASS"), (0.5, 0.45, "FAIL"), (0.6, 0.2, "INCONCLUSIVE")]
)
def test_overwriting(new, old, expected):
    rule = conditions(all_of("difference low >= 0.5"), all_of("difference high < 0.2"))
    shared = {"segment_length": 1, "decoding": "centred"}
    base = [cell("overwriting", "P(new)", new), cell("overwriting", "P(old)", old)]
    records = [record.model_copy(update=shared) for record in base]
    records += curve(12.0, 12.0, decoding="centred")
    findings = Findings(spec(), mechanism=records)
    assert verdict(findings, "mechanism_overwrite", {"memory": "linear"}, rule) == expected
    saturation = measured(findings, "mechanism_overwrite", {"memory": "linear"}).facts
    assert 8 < saturation["load where recall falls fastest, d = 64"].mean < 20


@pytest.mark.parametrize(("rounded", "expected"), [(0.8, "PASS"), (0.5, "FAIL")])
def test_a_state_in_bfloat16(rounded, expected):
    records = [
        cell("precision", "accuracy", share, updates=updates, state=state, draws=60, asked=200)
        for state, share in (("float32", 0.8), ("bfloat16", rounded))
        for updates in (64, 1000)
    ]
    rule = {"kind": "equivalent", "margin": 0.02}
    findings = Findings(spec(), mechanism=records)
    assert verdict(findings, "mechanism_precision", {"memory": "linear"}, rule) == expected
    recalled = measured(findings, "mechanism_precision", {"memory": "linear"}).quantities["float32"]
    assert recalled(0.95).mean == pytest.approx(0.8, abs=0.01)
    with pytest.raises(Missing, match="after 10 segments; it was after 64, 1000"):
        measured(findings, "mechanism_precision", {"memory": "linear", "updates": 10})


@pytest.mark.parametrize(("n50", "expected"), [(18.0, "PASS"), (2.0, "FAIL"), (10.0, "INCONCLUSIVE")])
def test_capacity_against_the_measured_keys(n50, expected):
    # layer 1 is the best one: two heads of about 10
    profiles = [
        head(seed, layer, number, gate=0.5, rho=0.5, shift=1.0, n50=(5.0, 10.0)[layer] + 0.1 * seed)
        for seed in SEEDS
        for layer in (0, 1)
        for number in (0, 1)
    ]
    findings = Findings(spec(), items={"pairs": pairs(n50)}, profiles=profiles)
    rule = {"kind": "within", "low": 0.5, "high": 1.25, "fail_below": 0.25, "min_seeds": 5}
    assert verdict(findings, "predicted_capacity", {"ask": "pairs", "arm": "memory"}, rule) == expected
    facts = measured(findings, "predicted_capacity", {"ask": "pairs", "arm": "memory"}).facts
    assert facts["predicted n50"].mean == pytest.approx(20.4)
    assert facts["measured n50"].mean == pytest.approx(n50, rel=0.2)


def test_the_interval_of_the_ratio_holds_that_of_both_sides_at_once():
    profiles = [head(seed, 0, 0, gate=0.5, rho=0.5, shift=1.0, n50=20.0 + seed) for seed in SEEDS]
    items = pairs(18.0)
    found = measured(
        Findings(spec(), items={"pairs": items}, profiles=profiles),
        "predicted_capacity",
        {"ask": "pairs", "arm": "memory"},
    ).quantities["estimate"](0.95)
    band = logistic_curve(
        [item.facts["needles"] for item in items],
        [item.exact for item in items],
        shape=Shape(4),
        clusters=[(item.seed, item.item_id) for item in items],
        seeds=[item.seed for item in items],
        level=0.975,
    )
    above = distance_at(band, 0.5).estimate
    below = stats.t.interval(0.975, 4, loc=22.0, scale=stats.sem([20.0, 21.0, 22.0, 23.0, 24.0]))
    assert (found.mean, found.low, found.high) == pytest.approx(
        (above.mean / 22.0, above.low / below[1], above.high / below[0])
    )


def test_an_arm_that_recalls_nothing_leaves_its_state_unused():
    profiles = [head(seed, 0, 0, gate=0.5, rho=0.5, shift=1.0, n50=20.0 + seed) for seed in SEEDS]
    findings = Findings(spec(), items={"pairs": pairs(0.01)}, profiles=profiles)
    found = measured(findings, "predicted_capacity", {"ask": "pairs", "arm": "memory"}).quantities["estimate"](0.95)
    assert found.mean == 0.0
    assert 0 < found.high < 0.25
