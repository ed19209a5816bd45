"""Decision rules: each verdict at its border, and what decides nothing."""

import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statistics_case import LANGUAGE_MODEL, RULES, at, difference, everything

from palimpsest.statistics import (
    FAIL,
    INCONCLUSIVE,
    PASS,
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
    contrast,
    contrast_across_seeds,
    counted,
    decide,
    estimate,
    estimate_across_seeds,
    explain,
    parse_rule,
    ratio_of_means,
)


@pytest.mark.parametrize(
    ("rule", "found", "verdict"),
    [
        (AtLeast(value=0.9), at(0.9, 0.99), PASS),
        (AtLeast(value=0.9), at(0.899, 0.99), INCONCLUSIVE),
        (AtLeast(value=0.9), at(0.8, 0.9), INCONCLUSIVE),
        (AtLeast(value=0.9), at(0.8, 0.899), FAIL),
        (AtMost(value=0.1), at(0.0, 0.1), PASS),
        (AtMost(value=0.1), at(0.0, 0.101), INCONCLUSIVE),
        (AtMost(value=0.1), at(0.1, 0.2), INCONCLUSIVE),
        (AtMost(value=0.1), at(0.101, 0.2), FAIL),
        (MeanAtLeast(value=0.9), at(0.5, 1.0, mean=0.9), PASS),
        (MeanAtLeast(value=0.9), at(0.5, 1.0, mean=0.899), FAIL),
        (MeanAtLeast(value=0.9), at(-math.inf, math.inf, mean=0.95), PASS),
        (Equivalent(margin=0.05), at(-0.049, 0.049, level=0.9), PASS),
        (Equivalent(margin=0.05), at(-0.05, 0.04, level=0.9), INCONCLUSIVE),
        (Equivalent(margin=0.05), at(0.05, 0.2, level=0.9), FAIL),
        (Equivalent(margin=0.05), at(-0.2, -0.05, level=0.9), FAIL),
        (Equivalent(margin=0.05), at(0.04, 0.2, level=0.9), INCONCLUSIVE),
        (NonInferior(margin=0.05), at(-0.049, 0.3, level=0.9), PASS),
        (NonInferior(margin=0.05), at(-0.05, 0.3, level=0.9), INCONCLUSIVE),
        (NonInferior(margin=0.05), at(-0.3, -0.049, level=0.9), INCONCLUSIVE),
        (NonInferior(margin=0.05), at(-0.3, -0.05, level=0.9), FAIL),
        (Within(low=0.5, high=1.25), at(0.5, 1.25), PASS),
        (Within(low=0.5, high=1.25), at(0.499, 1.25), INCONCLUSIVE),
        (Within(low=0.5, high=1.25), at(0.5, 1.251), INCONCLUSIVE),
        (Within(low=0.5, high=1.25), at(0.3, 0.499), FAIL),
        (Within(low=0.5, high=1.25), at(1.3, 1.5), INCONCLUSIVE),
        (Within(low=0.5, high=1.25, fail_below=0.25), at(0.3, 0.499), INCONCLUSIVE),
        (Within(low=0.5, high=1.25, fail_below=0.25), at(0.2, 0.25), INCONCLUSIVE),
        (Within(low=0.5, high=1.25, fail_below=0.25), at(0.2, 0.249), FAIL),
        (Within(low=0.5, high=1.25, fail_above=2.0), at(2.0, 2.5), INCONCLUSIVE),
        (Within(low=0.5, high=1.25, fail_above=2.0), at(2.001, 2.5), FAIL),
        (BandAtLeast(value=0.9, fail_below=0.5), at(0.9, 0.99), PASS),
        (BandAtLeast(value=0.9, fail_below=0.5), at(0.899, 0.99), INCONCLUSIVE),
        (BandAtLeast(value=0.9, fail_below=0.5), at(0.1, 0.5), INCONCLUSIVE),
        (BandAtLeast(value=0.9, fail_below=0.5), at(0.1, 0.499), FAIL),
        (BandAtLeast(value=0.9), at(0.1, 0.899), FAIL),
    ],
)
def test_verdict_at_the_border(rule: Rule, found: Estimate, verdict: str):
    assert decide(rule, found) == verdict
    named = dict.fromkeys(list(rule.requires), found)
    assert decide(rule, named) == verdict


@pytest.mark.parametrize(
    ("rule", "found", "verdict"),
    [
        (Greater(), difference(0.001, 0.2), PASS),
        (Greater(), difference(0.0, 0.2), INCONCLUSIVE),
        (Greater(), difference(0.0, 0.0), INCONCLUSIVE),
        (Greater(), difference(-0.3, 0.01, high_90=-0.01), FAIL),
        (Greater(), difference(-0.3, 0.01, high_90=0.0), INCONCLUSIVE),
        (Greater(margin=0.1), difference(0.11, 0.2), PASS),
        (Greater(margin=0.1), difference(0.01, 0.09), FAIL),
        (Greater(margin=0.1, negligible=0.02), difference(0.01, 0.09), INCONCLUSIVE),
        (Greater(negligible=0.005), difference(0.001, 0.004), FAIL),
        (Greater(negligible=0.005), difference(0.001, 0.006), PASS),
    ],
)
def test_greater(rule, found, verdict):
    assert decide(rule, found) == verdict


@pytest.mark.parametrize(
    ("found", "intervened", "verdict"),
    [
        (difference(0.2, 0.4), at(0.0, 0.06), PASS),
        (difference(0.199, 0.4), at(0.0, 0.06), INCONCLUSIVE),
        (difference(0.2, 0.4), at(0.0, 0.061), INCONCLUSIVE),
        (difference(-0.1, 0.06, high_90=0.049), at(0.5, 0.7), FAIL),
        (difference(-0.1, 0.06, high_90=0.05), at(0.5, 0.7), INCONCLUSIVE),
        (difference(0.5, 0.7), at(0.5, 0.7), INCONCLUSIVE),
    ],
)
def test_memory_effect_is_the_registered_decision_function(found, intervened, verdict):
    assert decide(MemoryEffect(floor=0.01), found | {"intervened": intervened}) == verdict


@pytest.mark.parametrize(
    ("right", "left", "verdict"),
    [(97, 0, PASS), (97, 30, INCONCLUSIVE), (97, 87, INCONCLUSIVE), (97, 96, FAIL), (0, 0, FAIL)],
)
def test_memory_effect_from_outcomes(right, left, verdict):
    rule = MemoryEffect(floor=1e-5)
    intact, swapped = ([1] * count + [0] * (100 - count) for count in (right, left))
    sources = {"difference": partial(contrast, intact, swapped), "intervened": partial(estimate, swapped)}
    found = {name: sources[need.quantity](level=need.level) for name, need in rule.requires.items()}
    assert decide(rule, found) == verdict


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.kind != "mean_at_least"])
def test_an_interval_that_holds_everything_decides_nothing(rule):
    assert decide(rule, everything(rule)) == INCONCLUSIVE


@pytest.mark.parametrize("rule", RULES)
def test_too_few_units_decide_nothing(rule):
    demanding = rule.model_copy(update={"min_n": 101})
    assert decide(demanding, everything(rule)) == INCONCLUSIVE
    assert "100 units are fewer than the 101 demanded" in explain(demanding, everything(rule))
    assert "fewer than 101 units" in demanding.sentence()
    assert "units" not in rule.sentence()


def test_the_fewest_units_count():
    rule = MemoryEffect(floor=0.0, min_n=50)
    found = difference(0.5, 0.6) | {"intervened": at(0.0, 0.01, n=49)}
    assert decide(rule, found) == INCONCLUSIVE
    assert decide(rule, found | {"intervened": at(0.0, 0.01, n=50)}) == PASS


@pytest.mark.parametrize(
    ("gain", "gain_90", "share", "verdict"),
    [
        ((0.006, 0.02), (0.007, 0.019), 0.5, PASS),
        ((0.005, 0.02), (0.007, 0.019), 0.5, INCONCLUSIVE),
        ((0.006, 0.02), (0.007, 0.019), 0.499, INCONCLUSIVE),
        ((-0.006, 0.006), (-0.004, 0.004), 0.9, FAIL),
        ((-0.006, 0.006), (-0.005, 0.004), 0.9, INCONCLUSIVE),
        ((-0.006, 0.006), (-0.004, 0.005), 0.9, INCONCLUSIVE),
    ],
)
def test_conditions_join_several_numbers(gain, gain_90, share, verdict):
    rule = parse_rule(LANGUAGE_MODEL)
    assert list(rule.requires) == ["gain", "share", "gain_90"]
    assert rule.requires["gain_90"] == ("gain", 0.9)
    found = {"gain": at(*gain), "gain_90": at(*gain_90, level=0.9), "share": at(0.0, 1.0, mean=share)}
    assert decide(rule, found) == verdict


@pytest.mark.parametrize(
    ("op", "value", "holds"),
    [(">=", 5.0, True), (">", 5.0, False), (">", 4.9, True), ("<=", 5.0, True), ("<", 5.0, False), ("<", 5.1, True)],
)
@pytest.mark.parametrize("bound", ["low", "high", "mean"])
def test_every_comparison_of_every_bound(op, value, holds, bound):
    condition = {"estimate": "x", "bound": bound, "op": op, "value": value}
    ends = {"low": -100.0, "mean": 0.0, "high": 100.0} | {bound: 5.0}
    found = Estimate(ends["mean"], ends["low"], ends["high"], 10, "given")
    assert decide(parse_rule({"kind": "conditions", "pass_when": {"all_of": [condition]}}), found) == (
        PASS if holds else INCONCLUSIVE
    )


def test_any_of_needs_one_and_all_of_needs_all():
    clause = [{"estimate": name, "bound": "mean", "op": ">", "value": 0.0} for name in ("x", "y")]
    either = parse_rule({"kind": "conditions", "pass_when": {"any_of": clause}})
    both = parse_rule({"kind": "conditions", "pass_when": {"all_of": clause}})
    found = {"x": counted(1, 1), "y": counted(-1, 1)}
    assert (decide(either, found), decide(both, found)) == (PASS, INCONCLUSIVE)
    assert decide(either, found | {"x": counted(0, 1)}) == INCONCLUSIVE


def test_exact_counts_are_estimates_too():
    clean = {"estimate": "dirty_documents", "bound": "mean", "op": "<=", "value": 0.0}
    rule = parse_rule(
        {"kind": "conditions", "pass_when": {"all_of": [clean]}, "fail_when": {"all_of": [clean | {"op": ">"}]}}
    )
    assert decide(rule, counted(0, 50)) == PASS
    assert decide(rule, counted(1, 50)) == FAIL
    assert counted(1, 50, level=0.9).level == 0.9


@pytest.mark.parametrize("rule", RULES)
def test_fewer_seeds_than_demanded_decide_nothing(rule):
    demanding = rule.model_copy(update={"min_seeds": 5})
    found = {name: Estimate(5.0, 5.0, 5.0, 1000, "given", need.level, 4) for name, need in rule.requires.items()}
    assert decide(demanding, found) == INCONCLUSIVE
    assert "4 seeds are fewer than the 5 demanded" in explain(demanding, found)
    assert "fewer than 5 seeds" in demanding.sentence()
    enough = {name: number.over_seeds(5) for name, number in found.items()}
    assert decide(demanding, enough) == decide(rule, found)
    assert "seeds" not in rule.sentence()
    assert "demanded" not in explain(demanding, enough)


def test_items_are_not_seeds():
    rule = AtLeast(value=0.5, min_seeds=3)
    right, seeds = [1] * 300, [item % 3 for item in range(300)]
    assert decide(rule, estimate(right)) == INCONCLUSIVE
    assert "1 seed is fewer than the 3 demanded" in explain(rule, estimate(right))
    assert decide(rule, estimate_across_seeds(right, seeds)) == PASS
    assert decide(AtLeast(value=0.5, min_seeds=4), estimate_across_seeds(right, seeds)) == INCONCLUSIVE
    assert decide(AtLeast(value=0.5, min_seeds=4), estimate_across_seeds([0] * 300, seeds)) == INCONCLUSIVE
    differing = estimate_across_seeds([1] * 270 + [0] * 30, [item // 100 for item in range(300)])
    one = estimate_across_seeds(right, [0] * 300)
    assert (differing.seeds, one.seeds, contrast_across_seeds(right, [0] * 300, seeds).seeds) == (3, 1, 3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("where", ["mean", "low", "high"])
def test_a_number_that_does_not_exist_decides_nothing_and_is_named(rule, where):
    ends = {"mean": 0.95, "low": 0.95, "high": 0.95} | {where: math.nan}
    found = {
        name: Estimate(ends["mean"], ends["low"], ends["high"], 100, "division by zero", need.level)
        for name, need in rule.requires.items()
    }
    assert decide(rule, found) == INCONCLUSIVE
    for name in rule.requires:
        assert f"estimate '{name}' is not a number (division by zero)" in explain(rule, found)


def test_an_undefined_share_is_inconclusive():
    share = ratio_of_means([0.1, -0.2, 0.3, 0.05] * 6, [0.1, -0.1, 0.2, -0.2] * 6)
    line = explain(AtLeast(value=0.5), share)
    assert line.startswith("INCONCLUSIVE: estimate not a number")
    assert "the denominator includes 0" in line


def test_the_target_of_the_main_job():
    rule = parse_rule({"kind": "mean_at_least", "value": 0.9, "min_n": 100})
    assert decide(rule, estimate([1] * 90 + [0] * 10)) == PASS
    assert decide(rule, estimate([1] * 89 + [0] * 11)) == FAIL
    assert decide(rule, estimate([1] * 99)) == INCONCLUSIVE


@given(
    st.floats(-1, 1),
    st.floats(0, 1),
    st.floats(0, 0.5),
    st.sampled_from([Greater(margin=0.1, negligible=0.05), Equivalent(margin=0.1), MemoryEffect(floor=0.0)]),
)
def test_more_data_never_turns_a_verdict_over(mean, wide, shrink, rule):
    """Shrinking all intervals about one mean can settle a question, never swap PASS and FAIL."""

    def found(half: float) -> dict[str, Estimate]:
        return {
            name: at(mean - half, mean + half, level=need.level)
            if need.quantity == "difference"
            else at(0.0, half / 10)
            for name, need in rule.requires.items()
        }

    before, after = decide(rule, found(wide)), decide(rule, found(wide * shrink))
    assert before in (INCONCLUSIVE, after)
