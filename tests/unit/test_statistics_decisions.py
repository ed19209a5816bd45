"""Decision rules: each verdict at its border, and the language in which they are written and explained."""

import math
from functools import partial
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from palimpsest.errors import InputError
from palimpsest.records import VerdictRecord
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


def test_the_digest_of_a_study_that_never_named_seeds_stays():
    assert AtLeast(value=0.5).model_dump() == {"min_n": 1, "kind": "at_least", "value": 0.5}
    assert AtLeast(value=0.5, min_seeds=3).model_dump()["min_seeds"] == 3
    assert "min_seeds" not in AtLeast(value=0.5).model_dump_json()


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


@pytest.mark.parametrize("rule", RULES)
def test_rules_survive_yaml_and_schemas(rule):
    class Claim(BaseModel):
        rule: Rule

    text = yaml.safe_dump(rule.model_dump())
    assert parse_rule(yaml.safe_load(text)) == rule
    assert Claim.model_validate({"rule": yaml.safe_load(text)}).rule == rule


def test_every_kind_is_listed_here():
    kinds = {rule.model_fields["kind"].default for rule in get_args(get_args(Rule)[0])}
    assert kinds == {rule.kind for rule in RULES}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (AtLeast(value=0.875), ["95 %", "at or above 0.875", "INCONCLUSIVE"]),
        (AtMost(value=0.125), ["95 %", "at or below 0.125", "INCONCLUSIVE"]),
        (MeanAtLeast(value=0.875), ["mean is at least 0.875", "else FAIL"]),
        (Greater(margin=0.125), ["below 0.125", "above 0.125"]),
        (Greater(margin=0.125, negligible=0.03), ["below 0.03", "above 0.125", "90 %"]),
        (Equivalent(margin=0.02), ["(-0.02, 0.02)", "90 %"]),
        (
            MemoryEffect(floor=0.25, effect=0.3, tolerance=0.125, negligible=0.02),
            ["at least 0.3", "at most 0.375", "scores 0.25", "less than 0.02", "decorative"],
        ),
        (NonInferior(margin=0.02), ["above -0.02", "90 %"]),
        (Within(low=0.5, high=1.25), ["between 0.5 and 1.25", "below 0.5,", "95 %"]),
        (Within(low=0.5, high=1.25, fail_below=0.25, fail_above=3.0), ["below 0.25 or above 3,"]),
        (BandAtLeast(value=0.9, fail_below=0.5), ["simultaneous", "above 0.9 everywhere", "below 0.5 somewhere"]),
        (
            parse_rule(LANGUAGE_MODEL),
            [
                "FAIL if the low end of the 90 % interval of gain is above -0.005 and the high end",
                "PASS if the low end of the 95 % interval of gain is above 0.005 and the mean of share is at least 0.5",
                "otherwise INCONCLUSIVE",
            ],
        ),
    ],
)
def test_sentences_state_every_number(rule, says):
    sentence = rule.sentence()
    assert all(part in sentence for part in says), sentence
    assert "PASS" in sentence
    assert "FAIL" in sentence
    assert sentence.endswith(".")


def test_explain_gives_verdict_and_numbers():
    line = explain(AtLeast(value=0.9), estimate([1] * 50 + [0] * 50))
    assert line == "FAIL: estimate 0.5 [0.4038, 0.5962] (95 % interval, n = 100; Wilson)."
    assert "no interval" in explain(Greater(), everything(Greater()))


def test_verdicts_fit_their_record():
    rule, found = AtLeast(value=0.9), estimate([1] * 200)
    record = VerdictRecord(
        claim="reach",
        statement="The memory retrieves.",
        rule=rule.sentence(),
        verdict=decide(rule, found),
        estimates={"estimate": found.record()},
        sentence=explain(rule, found),
        items=[],
    )
    assert record.verdict == PASS


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"kind": "atleast", "value": 0.9}, "Did you mean 'at_least'"),
        ({"value": 0.9}, "unknown kind of rule None"),
        ({"kind": ["at_least"]}, "unknown kind"),
        ({"kind": "at_least", "valeu": 0.9}, "no key 'valeu'. Did you mean 'value'"),
        ({"kind": "at_least"}, "lacks the key 'value'"),
        ({"kind": "at_least", "value": "high"}, "key 'value'.*valid number.*'high'"),
        ({"kind": "at_least", "value": True}, "key 'value'"),
        ({"kind": "at_least", "value": math.inf}, "key 'value'.*finite"),
        ({"kind": "at_least", "value": 0.9, "min_n": 0}, "key 'min_n'.*greater than or equal to 1"),
        ({"kind": "equivalent", "margin": 0.0}, "key 'margin'.*greater than 0"),
        ({"kind": "memory_effect", "floor": 1.5}, "key 'floor'.*less than 1"),
        ({"kind": "memory_effect", "floor": math.nan}, "key 'floor'"),
        ({"kind": "memory_effect", "floor": 0.0, "effect": 0.05}, "must be below effect"),
        ({"kind": "at_least", "value": 0.9, "min_seeds": 0}, "key 'min_seeds'.*greater than or equal to 1"),
        ({"kind": "non_inferior", "margin": -0.1}, "key 'margin'.*greater than 0"),
        ({"kind": "within", "low": 1.0, "high": 0.5}, "must be below high"),
        ({"kind": "within", "low": 0.5, "high": 1.0, "fail_below": 0.6}, "fail_below .0.6. must not be above low"),
        ({"kind": "within", "low": 0.5, "high": 1.0, "fail_above": 0.9}, "fail_above .0.9. must not be below high"),
        ({"kind": "band_at_least", "value": 0.5, "fail_below": 0.6}, "must not be above value"),
        ({"kind": "conditions", "pass_when": {}}, "key 'pass_when'.*either all_of or any_of"),
        ({"kind": "conditions"}, "lacks the key 'pass_when'"),
        (
            {
                "kind": "conditions",
                "pass_when": {"all_of": [{"estimate": "x", "bound": "low", "op": "=>", "value": 1}]},
            },
            "key 'pass_when.all_of.0.op'.*'>='",
        ),
        (
            {
                "kind": "conditions",
                "pass_when": {"all_of": [{"estimate": "x y", "bound": "low", "op": ">", "value": 1}]},
            },
            "key 'pass_when.all_of.0.estimate'",
        ),
    ],
)
def test_bad_rules_are_named(spec, says):
    with pytest.raises(InputError, match=rf"^claim x: .*{says}"):
        parse_rule(spec, "claim x")


@pytest.mark.parametrize(
    ("rule", "found", "says"),
    [
        (AtLeast(value=0.9), at(0.1, 0.2, level=0.9), "has level 0.9, it must be 0.95"),
        (Greater(), at(0.1, 0.2), "needs the estimates difference, difference_90, got a single one"),
        (Greater(), {"difference": at(0.1, 0.2)}, "got difference"),
        (AtLeast(value=0.9), {}, "got none"),
        (AtLeast(value=0.9), {"estimate": at(0.1, 0.2), "other": at(0.1, 0.2)}, "got estimate, other"),
        (parse_rule(LANGUAGE_MODEL), {"gain": at(0.1, 0.2)}, "needs the estimates gain, share, gain_90, got gain"),
    ],
)
def test_bad_estimates_are_named(rule, found, says):
    for judge in (decide, explain):
        with pytest.raises(InputError, match=says):
            judge(rule, found)


def test_rules_are_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        AtLeast(value=0.9).value = 0.5  # pyright: ignore[reportAttributeAccessIssue]
