"""The language of decision rules: how they are written and stored, what they say, and what is refused."""

import math
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from statistics_case import LANGUAGE_MODEL, RULES, at, everything

from palimpsest.errors import InputError
from palimpsest.records import VerdictRecord
from palimpsest.statistics import (
    PASS,
    AtLeast,
    AtMost,
    BandAtLeast,
    Equivalent,
    Greater,
    MeanAtLeast,
    MemoryEffect,
    NonInferior,
    Rule,
    Within,
    decide,
    estimate,
    explain,
    parse_rule,
)


def test_the_digest_of_a_study_that_never_named_seeds_stays():
    assert AtLeast(value=0.5).model_dump() == {"min_n": 1, "kind": "at_least", "value": 0.5}
    assert AtLeast(value=0.5, min_seeds=3).model_dump()["min_seeds"] == 3
    assert "min_seeds" not in AtLeast(value=0.5).model_dump_json()


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
