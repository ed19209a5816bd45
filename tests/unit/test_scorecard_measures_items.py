"""Measures of answers: planted effects give the verdict that they should, and the numbers are those of closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from palimpsest.records import ItemRecord, ProfileRecord, Provenance
from palimpsest.statistics import decide, estimate, logistic_curve, parse_rule
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures import curves
from palimpsest.study.scorecard.measures.answers import Answers, paired
from palimpsest.study.scorecard.measures.base import Missing
from palimpsest.study.scorecard.measures.items import ITEM_MEASURES
from palimpsest.study.scorecard.measures.numbers import (
    changes_apart,
    difference,
    gap,
    ratio,
    ratio_of_estimates,
    share_of_loss,
)
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


@pytest.fixture(scope="module")
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


def measured(spec, name, items, given, **fields):
    measure = ITEM_MEASURES[name]
    findings = Findings(spec=spec, items={"asked": items} if isinstance(items, list) else items, **fields)
    return measure.measure(findings, measure.given.model_validate(given))


def verdict(rule, found):
    rule = parse_rule(rule)
    return decide(rule, {key: found.quantities[need.quantity](need.level) for key, need in rule.requires.items()})


def condition(estimate, bound, op, value, level=0.95):
    return {"estimate": estimate, "bound": bound, "op": op, "value": value, "level": level}


EFFECT = {
    "kind": "conditions",
    "min_seeds": 5,
    "pass_when": {"all_of": [condition("difference", "low", ">=", 0.2), condition("intervened", "high", "<=", 0.05)]},
    "fail_when": {
        "all_of": [
            condition("difference", "high", "<", 0.05, 0.9),
            condition("zero_difference", "high", "<", 0.05, 0.9),
        ]
    },
}


@pytest.mark.parametrize(
    ("intact", "swapped", "zeroed", "seeds", "expected"),
    [
        (0.9, 0.0, 0.1, 5, "PASS"),
        (0.9, 0.9, 0.9, 5, "FAIL"),
        (0.9, 0.9, 0.1, 5, "INCONCLUSIVE"),  # swapping costs nothing, but zeroing does
        (0.9, 0.4, 0.1, 5, "INCONCLUSIVE"),  # the effect is there, the floor is not reached
        (0.9, 0.0, 0.1, 4, "INCONCLUSIVE"),
    ],
)
def test_a_memory_that_is_used_passes_and_a_decorative_one_fails(spec, intact, swapped, zeroed, seeds, expected):
    shares = {"none": intact, "swap": swapped, "zero": zeroed}
    items = [each for name, share in shares.items() for each in many(share, seeds=range(seeds), intervention=name)]
    found = measured(spec, "memory_effect", items, {"ask": "asked", "arm": "ridge", "others": ["zero"]})
    assert verdict(EFFECT, found) == expected
    assert "difference at 256 tokens" in found.facts
    assert found.sources == ("items/asked",)


def test_only_items_that_no_bounded_arm_reaches_count(spec):
    items = many(1.0, n=20) + [
        item(f"near-{at}", False, seed=s, reachable_by=("local",)) for s in SEEDS for at in range(20)
    ]
    for reach, expected in (("memory_only", 1.0), ("any", 0.5), ("own", 0.5)):
        groups = {"all": {"reach": reach}}
        found = measured(spec, "accuracies", items, {"ask": "asked", "arm": "ridge", "groups": groups})
        assert found.quantities["all"](0.95).mean == pytest.approx(expected, abs=0.03)
    reached_by_full = [item(at, True, seed=s, reachable_by=("full",)) for s in SEEDS for at in range(20)]
    found = measured(spec, "accuracies", reached_by_full, {"ask": "asked", "arm": "ridge", "groups": {"all": {}}})
    assert found.quantities["all"](0.95).mean == 1.0, "full attention reaches everything and is no bounded arm"


def test_agreement_of_all_seeds_at_the_ceiling_is_no_more_certain_than_the_items(spec):
    found = measured(
        spec, "accuracies", many(1.0, n=40), {"ask": "asked", "arm": "ridge", "groups": {"all": {"depth": None}}}
    )
    number = found.quantities["all"](0.95)
    assert number.low == pytest.approx(0.025 ** (1 / 40))  # Clopper and Pearson, 40 of 40: five seeds, the same items
    assert number.high == 1.0
    assert number.seeds == 5


def test_missing_answers_are_named(spec):
    with pytest.raises(Missing, match="no answer of the arm 'ridge' under 'swap'"):
        measured(spec, "memory_effect", many(0.5), {"ask": "asked", "arm": "ridge"})


def test_a_difference_takes_the_items_and_seeds_that_both_sides_have():
    a = Answers([1, 0, 1, 1], [0, 0, 1, 2], ["x", "y", "x", "x"], ["x", "y", "x", "x"])
    b = Answers([0, 1], [1, 0], ["x", "y"], ["x", "y"])
    left, right = paired(a, b)
    assert list(zip(left.values, right.values, strict=True)) == [(0, 1), (1, 0)]
    assert left.seeds == right.seeds == [0, 1]
    assert difference(a, b)(0.9).mean == 0.0


def drawn(shares, n, rng, prefix=""):
    """Independent answers: n items under each seed with that seed's accuracy."""
    rows = [
        (float(rng.random() < share), seed, f"{prefix}{at}") for seed, share in enumerate(shares) for at in range(n)
    ]
    values, seeds, items = (list(column) for column in zip(*rows, strict=True))
    return Answers(values, seeds, items, items)


def test_over_seeds_the_interval_is_the_paired_t_of_seed_means_where_seeds_differ_most():
    rng = np.random.default_rng(0)
    a, b = drawn([0.1, 0.3, 0.6, 0.8, 0.95], 200, rng), drawn([0.1] * 5, 200, rng)
    means = [np.reshape(side.values, (5, -1)).mean(1) for side in (a, b)]
    expected = stats.ttest_rel(means[0], means[1]).confidence_interval(0.9)
    found = difference(a, b)(0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, min(1, expected.high)))
    assert found.seeds == 5
    unpaired = gap(a, drawn([0.1] * 5, 200, rng, "other"))(0.9)
    assert unpaired.mean == pytest.approx(found.mean, abs=0.05)


def test_a_ratio_of_nothing_does_not_exist_and_one_at_the_ceiling_has_a_width():
    names = [str(number) for number in range(50)]
    ones = Answers([1.0] * 50, [0, 1] * 25, names, names)
    zeros = ones._replace(values=[0.0] * 50)
    assert math.isnan(ratio(ones, zeros)(0.95).mean)
    whole = ratio(ones, ones)(0.95)
    assert whole.mean == 1.0
    assert 0.85 < whole.low < 1 < whole.high < 1.15
    assert ratio(zeros, ones)(0.95).mean == 0.0
    assert ratio(zeros, ones)(0.95).high < 0.2


def test_the_interval_of_a_ratio_of_proportions_covers():
    rng, hits, trials = np.random.default_rng(1), 0, 150
    for _ in range(trials):
        a, b = (estimate((rng.random(120) < share).astype(float)) for share in (0.3, 0.8))
        found = ratio_of_estimates(a, b)
        hits += found.low <= 0.3 / 0.8 <= found.high
    assert 0.90 <= hits / trials <= 0.99


def test_the_share_of_a_loss_is_that_of_the_means():
    rng = np.random.default_rng(2)
    intact = drawn([0.95] * 5, 100, rng)
    whole = intact._replace(values=[0.0] * 500)
    part = intact._replace(values=[value * (rng.random() < 0.25) for value in intact.values])
    found = share_of_loss(intact, part, whole)(0.95)
    assert found.mean == pytest.approx(1 - sum(part.values) / sum(intact.values))
    assert found.low < 0.75 < found.high
    assert math.isnan(share_of_loss(intact, part, intact)(0.95).mean), "a share of no loss does not exist"


def test_changes_apart_is_the_difference_of_two_differences():
    rng = np.random.default_rng(3)
    far = [drawn([share] * 5, 80, rng, "far") for share in (0.3, 0.9)]
    near = [drawn([share] * 5, 80, rng, "near") for share in (0.9, 0.95)]
    found = changes_apart((far[0], far[1]), (near[0], near[1]))(0.95)
    means = [np.mean(side.values) for side in (*far, *near)]
    assert found.mean == pytest.approx(means[0] - means[1] - (means[2] - means[3]))
    assert found.high < 0
    assert found.seeds == 5
    # seeds that change very differently, but alike on both sides, are no evidence for a difference
    after = [0.1, 0.3, 0.5, 0.7, 0.95]
    sides = [(drawn(after, 200, rng, name), drawn([0.95] * 5, 200, rng, name)) for name in ("far", "near")]
    found = changes_apart(*sides)(0.95)
    assert -0.15 < found.low < found.mean < found.high < 0.15


BAND = {"kind": "band_at_least", "value": 0.9, "fail_below": 0.5, "min_seeds": 5}


def along(share_at, n=300, seeds=SEEDS, rng=4):
    draws = np.random.default_rng(rng)
    places = np.linspace(64, 1000, n).astype(int).tolist()
    return [
        item(at, draws.random() < share_at(x), seed=seed, length=1024, distance=x)
        for seed in seeds
        for at, x in enumerate(places)
    ]


@pytest.mark.parametrize(
    ("share_at", "seeds", "expected"),
    [
        (lambda x: 1.0, 5, "PASS"),
        (lambda x: 0.98 if x < 400 else 0.05, 5, "FAIL"),
        (lambda x: 1.0, 3, "INCONCLUSIVE"),
    ],
)
def test_a_curve_is_judged_where_it_is_lowest(spec, share_at, seeds, expected):
    given = {"ask": ["asked"], "arm": "ridge", "end": 1024, "knots": 3, "crossings": {"d50": 0.5}, "resamples": 200}
    found = measured(spec, "accuracy_curve", along(share_at, seeds=range(seeds)), given)
    assert verdict(BAND, found) == expected
    d50 = found.facts["d50"]
    if expected == "FAIL":
        assert 300 < d50.mean < 520
        assert found.figure.marks["d50"] == d50.mean
    else:
        assert d50.mean == math.inf, "a distance that is not reached is a bound, not the longest that was tested"
        assert d50.low == pytest.approx(1000)
        assert "d50" not in found.figure.marks
    assert found.figure.log_x


NEEDLES = {
    "ask": ["asked"],
    "arm": "ridge",
    "x": "needles",
    "knots": 4,
    "crossings": {"k90": 0.9, "k50": 0.5},
    "at": {"supported": 64},
    "ratios": {"two_to_one": [2, 1]},
    "resamples": 200,
}


def loads(share_at, error="other_value"):
    draws = np.random.default_rng(5)
    return [
        item(f"{k}-{at}", draws.random() < share_at(k), seed=seed, facts={"needles": k}, error=error)
        for seed in SEEDS
        for k in (1, 2, 4, 8, 16, 32, 64, 128)
        for at in range(40)
    ]


def test_capacity_is_read_off_the_curve_over_pairs(spec):
    found = measured(spec, "accuracy_curve", loads(lambda k: 1 / (1 + (k / 32) ** 4)), NEEDLES)
    assert found.facts["k50"].low < 32 < found.facts["k50"].high
    assert found.quantities["k90"](0.95).low > 10
    assert found.facts["saturation"].low < 32 < found.facts["saturation"].high
    assert found.facts["binding errors among wrong answers"].mean == 1.0
    assert found.quantities["supported"](0.95).high < 0.2
    rule = {
        "kind": "conditions",
        "min_seeds": 5,
        "pass_when": {"all_of": [condition("k90", "low", ">=", 10)]},
        "fail_when": {"all_of": [condition("two_to_one", "high", "<", 0.75)]},
    }
    assert verdict(rule, found) == "PASS"
    one_only = measured(spec, "accuracy_curve", loads(lambda k: 0.95 if k == 1 else 0.2), NEEDLES)
    assert verdict(rule, one_only) == "FAIL"


def test_a_stricter_level_draws_more(spec, monkeypatch):
    asked = []

    def drawn(x, y, *, resamples, **rest):
        asked.append(resamples)
        return logistic_curve(x, y, resamples=50, **rest)

    monkeypatch.setattr(curves, "logistic_curve", drawn)
    found = measured(spec, "accuracy_curve", loads(lambda k: 1 / (1 + (k / 32) ** 4)), NEEDLES)
    found.quantities["lowest"](0.996)
    assert asked[-1] == 10_000, "40 draws must lie outside the band"


def test_a_map_counts_the_answers_of_its_smallest_cell(spec):
    items = [item(at, at % 2, seed=s, length=n, depth=at / 20) for n in (64, 256) for s in SEEDS for at in range(20)]
    found = measured(spec, "smallest_cell", items, {"ask": "asked", "arms": ["ridge"], "bins": 4})
    assert found.quantities["answers"](0.95).mean == 25
    assert found.quantities["items"](0.95).mean == 5
    # five seeds that answer five items alike know of five items: two or three right ones say nearly nothing
    assert found.quantities["half_width"](0.95).mean == pytest.approx(0.5)
    assert [line.name for line in found.figure.series] == ["ridge, 64 tokens", "ridge, 256 tokens"]
    assert [fact.mean for name, fact in found.facts.items() if "shown below 0.9" in name] == [8]
    right = [each.model_copy(update={"exact": True}) for each in items]
    found = measured(spec, "smallest_cell", right, {"ask": "asked", "arms": ["ridge"], "bins": 4})
    assert [fact.mean for name, fact in found.facts.items() if "shown below 0.9" in name] == [0]


def test_versions_of_a_task_are_compared_over_seeds(spec):
    items = many(0.9, length=512, facts={"distractors": 0}) + [
        each.model_copy(update={"item_id": f"hard-{each.item_id}"})
        for each in many(0.3, length=512, facts={"distractors": 64})
    ]
    given = {"ask": "asked", "arm": "ridge", "fact": "distractors", "easy": 0, "hard": 64}
    found = measured(spec, "versions", items, given)
    easy, hard = ((share * 100 + 0.4) / 100 for share in (0.9, 0.3))
    assert found.quantities["ratio"](0.95).mean == pytest.approx(hard / easy)
    assert found.quantities["gap"](0.95).mean == pytest.approx(easy - hard)
    assert found.quantities["ratio"](0.95).high < 0.5
    assert found.figure.series[0].x == (0.0, 64.0)


def test_the_newest_value_is_set_against_one_out_of_date(spec):
    facts = {"rewrites": 1, "gap": "different"}
    items = [item(at, at < 80, seed=s, error="other_value", facts=facts) for s in SEEDS for at in range(100)]
    items += [
        item(f"same-{at}", at < 30, seed=s, error="other_value", facts=facts | {"gap": "same"})
        for s in SEEDS
        for at in range(50)
    ]
    found = measured(spec, "newest_over_old", items, {"ask": "asked", "arm": "ridge", "cells": {"where": facts}})
    assert found.quantities["newest"](0.95).mean == 0.8
    assert found.quantities["difference"](0.95).mean == pytest.approx(0.6)
    assert found.facts["1 rewrites, same segment: newest minus old"].mean == pytest.approx(30 / 50 - 20 / 50)


EACH = 60


def drops(own, other):
    """Items whose needle is in segment 0, 1 or 2 of 4; ``own`` and ``other`` are right answers under a drop, of 60."""
    items = []
    for seed in SEEDS:
        for at in range(3 * EACH):
            segment = at % 3
            place = {"length": 64, "distance": 64 - 1 - (segment * 16 + 8), "needle_start": segment * 16 + 3}
            items.append(item(at, True, seed=seed, **place))
            for gone in range(3):
                right = at // 3 < (own if gone == segment else other)
                items.append(item(at, right, seed=seed, intervention=f"drop[{gone}]", **place))
    return items


LOCATED = {
    "kind": "conditions",
    "min_seeds": 5,
    "pass_when": {"all_of": [condition("removed", "low", ">=", 0.8), condition("largest_other", "high", "<", 0.05)]},
    "fail_when": {"any_of": [condition("removed", "high", "<", 0.8), condition("largest_other", "low", ">=", 0.05)]},
}


@pytest.mark.parametrize(
    ("own", "other", "expected"), [(0, 60, "PASS"), (30, 60, "FAIL"), (0, 40, "FAIL"), (2, 58, "INCONCLUSIVE")]
)
def test_the_segment_of_the_needle_and_no_other_carries_the_answer(spec, own, other, expected):
    given = {"ask": "asked", "arm": "ridge", "floor": 0.01}
    found = measured(spec, "segment_drops", drops(own, other), given)
    assert verdict(LOCATED, found) == expected
    assert found.quantities["removed"](0.95).mean == pytest.approx(1 - (own / EACH - 0.01) / 0.99)
    assert found.quantities["largest_other"](0.95).mean == pytest.approx(1 - other / EACH)


def test_all_other_segments_are_bounded_at_once(spec):
    found = measured(spec, "segment_drops", drops(0, EACH), {"ask": "asked", "arm": "ridge"})
    alone = stats.binomtest(120, 120).proportion_ci(1 - 0.05 / 3, method="wilson")  # 120 items, whatever the seeds
    assert found.quantities["largest_other"](0.95).high == pytest.approx(1 - alone.low, abs=0.005)


PROFILE = {
    "checkpoint": "sha",
    "document_id": "d",
    "tokens": 64,
    "segment_length": 16,
    "layers": 2,
    "kind": "memory",
    "memory": "ridge",
    "features": "elu1",
    "state_bytes": 1,
    "gate": 0.5,
    "gate_initial": 0.5,
    "gate_shift": 0.0,
    "memory_output": 1.0,
    "local_output": 1.0,
    "read_norm": 1.0,
}
HEADS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def halves(costs, rho):
    """Items of a model whose answers are lost in proportion to what heads are swapped, and what its heads say."""
    items, profiles = many(1.0), []
    for seed in SEEDS:
        for (layer, head), share in zip(HEADS, rho, strict=True):
            profiles.append(ProfileRecord(**PROFILE, arm="ridge", seed=seed, layer=layer, head=head, rho=share))

    def swapped(name, lost):
        return [item(at, at >= round(lost * 100), seed=seed, intervention=name) for seed in SEEDS for at in range(100)]

    items += swapped("swap", sum(costs))
    for a, (layer, head) in enumerate(HEADS):
        items += swapped(f"swap[layer={layer},head={head}]", costs[a])
        for b in range(a + 1, 4):
            first, second = (f"swap[layer={HEADS[i][0]},head={HEADS[i][1]}]" for i in (a, b))
            name = f"swap[layer={layer}]" if HEADS[b][0] == layer else f"{first}+{second}"
            items += swapped(name, costs[a] + costs[b])
    return items, profiles


SPECIALISED = {
    "kind": "conditions",
    "min_seeds": 5,
    "pass_when": {
        "all_of": [
            condition("top_share", "low", ">=", 0.5),
            condition("bottom_share", "high", "<", 0.1),
        ]
    },
    "fail_when": {"any_of": [condition("top_share", "high", "<", 0.5)]},
}


@pytest.mark.parametrize(("costs", "expected"), [((0.6, 0.0, 0.01, 0.35), "PASS"), ((0.01, 0.6, 0.35, 0.0), "FAIL")])
def test_the_heads_that_say_most_from_memory_carry_retrieval_or_do_not(spec, costs, expected):
    items, profiles = halves(costs, rho=(0.9, 0.1, 0.2, 0.7))
    found = measured(spec, "head_halves", items, {"ask": "asked", "arm": "ridge"}, profiles=profiles)
    assert verdict(SPECIALISED, found) == expected
    assert found.quantities["top_share"](0.95).mean == pytest.approx((costs[0] + costs[3]) / sum(costs))
    expected_rho = stats.spearmanr((0.9, 0.1, 0.2, 0.7), costs).statistic
    assert found.quantities["correlation"](0.95).mean == pytest.approx(expected_rho)


def test_families_keep_their_short_accuracy_up_to_their_effective_length(spec):
    shares = {64: 0.9, 256: 0.88, 1024: 0.3}
    items = [each for n, share in shares.items() for each in many(share, length=n, distance=n - 24)]
    family = {"ask": "asked", "base": 64, "length": 1024, "shortest": 256, "floor": 0.25}
    found = measured(spec, "families", items, {"arm": "ridge", "families": {"hops": family}})
    base, far = (share + 0.004 for share in (0.9, 0.3))
    assert found.quantities["hops"](0.95).mean == pytest.approx(far)
    assert found.quantities["hops_kept"](0.95).mean == pytest.approx(far / base)
    assert found.quantities["hops_lift"](0.95).mean == pytest.approx(0.884 - 0.25)
    assert found.facts["hops: effective length in tokens"].mean == 256
    assert found.figure.series[0].x == (64, 256, 1024)


def summary(number, told, seed, arm, length=256):
    """A summary of three facts, told at 20, 100 and near the end; ``told`` are those that are recalled."""
    names = ("n1 r1", "n2 r2", "n3 r3")
    starts = (20, 100, length - 16)
    said = " ".join(fact if right else f"{fact[:3]}r9" for fact, right in zip(names, told, strict=True))
    return item(
        number,
        all(told),
        seed=seed,
        arm=arm,
        length=length,
        distance=7,
        answer=" ".join(names),
        output=said,
        needle_end=starts[-1] + 3,
        facts={"starts": " ".join(map(str, starts)), "needles": 3},
    )


@pytest.mark.parametrize(("recalled", "expected"), [(0.6, "PASS"), (0.0, "FAIL")])
def test_only_facts_beyond_every_window_count(spec, recalled, expected):
    items = []
    for seed in SEEDS:
        for at in range(60):
            items.append(summary(at, (at < recalled * 60, at < recalled * 60, True), seed, "ridge"))
            items.append(summary(at, (False, False, at % 2 == 0), seed, "local"))
    given = {"ask": "asked", "arm": "ridge", "against": "local"}
    found = measured(spec, "fact_recall", items, given)
    rule = {
        "kind": "conditions",
        "min_seeds": 5,
        "pass_when": {"all_of": [condition("difference", "low", ">", 0.05)]},
        "fail_when": {
            "all_of": [
                condition("difference", "low", ">", -0.05, 0.9),
                condition("difference", "high", "<", 0.05, 0.9),
            ]
        },
    }
    assert verdict(rule, found) == expected
    assert found.quantities["recall"](0.95).mean == pytest.approx(recalled)
    assert found.facts["recall of local within reach"].mean == pytest.approx(0.5)


ROBUST = {
    "kind": "conditions",
    "min_seeds": 5,
    "pass_when": {"all_of": [condition("change", "low", ">", -0.05, 0.9)]},
    "fail_when": {
        "all_of": [
            condition("change", "high", "<", -0.05),
            condition("difference_in_differences", "high", "<", 0.0),
        ]
    },
}


@pytest.mark.parametrize(
    ("memory_after", "window_after", "expected"),
    [(0.9, 0.9, "PASS"), (0.3, 0.9, "FAIL"), (0.3, 0.3, "INCONCLUSIVE")],  # the last forgot the format, not the memory
)
def test_drift_of_memory_is_told_from_drift_of_the_format(spec, memory_after, window_after, expected):
    items = {
        "far": many(0.9) + many(memory_after, arm="after"),
        "near": [
            each
            for arm, share in (("ridge", 0.9), ("after", window_after))
            for each in many(share, arm=arm, length=16, distance=4, reachable_by=("ridge", "local"))
        ],
    }
    given = {"before": "ridge", "after": "after", "ask": "far", "window": "near"}
    found = measured(spec, "drift", items, given)
    assert verdict(ROBUST, found) == expected
    apart = (memory_after - 0.9) - (window_after - 0.9)
    assert found.quantities["difference_in_differences"](0.95).mean == pytest.approx(apart)


def test_the_effect_by_size_has_the_slope_of_least_squares(spec):
    sizes = {"small": 1e4, "ridge": 1e5, "large": 1e6}
    lost = {"small": 0.3, "ridge": 0.5, "large": 0.7}
    items, provenance = [], {}
    for name, parameters in sizes.items():
        for seed in SEEDS:
            common = {"versions": {}, "hardware": "", "cores": 1, "git_commit": "", "git_dirty": False}
            common |= {"recipe_sha256": "", "data_fingerprint": "", "seeds": {}, "flops": 1.0, "started": ""}
            provenance[name, seed] = Provenance(parameters=int(parameters), **common)
        items += many(1.0, arm=name)
        items += many(1 - lost[name], arm=name, intervention="swap")
    given = {"ask": "asked", "arms": list(sizes)}
    found = measured(spec, "effect_by_size", items, given, provenance=provenance)
    assert found.quantities["slope"](0.95).mean == pytest.approx(0.2)
    assert found.quantities["slope"](0.95).seeds == 5
    assert found.quantities["large"](0.95).mean == pytest.approx(0.7 - 0.004)


@pytest.mark.parametrize(("falls", "expected"), [(1.0, "PASS"), (-1.0, "FAIL")])
def test_the_slope_on_writes_is_told_from_that_on_length(spec, falls, expected):
    draws = np.random.default_rng(6)
    items = []
    for seed in SEEDS:
        for length in (256, 1024):
            for at, distance in enumerate(np.linspace(20, length - 10, 100).astype(int).tolist()):
                odds = 3.0 * falls - falls * 1.2 * math.log(distance // 16)
                right = draws.random() < 1 / (1 + math.exp(-odds))
                items.append(item(at, right, seed=seed, length=length, distance=distance))
    found = measured(spec, "slopes", items, {"ask": "asked", "arm": "ridge"})
    rule = {
        "kind": "conditions",
        "min_seeds": 5,
        "pass_when": {"all_of": [condition("compressions", "high", "<", 0.0)]},
        "fail_when": {"all_of": [condition("compressions", "low", ">=", 0.0)]},
    }
    assert verdict(rule, found) == expected
    number = found.quantities["compressions"](0.95)
    assert number.low < -1.2 * falls < number.high
    length = found.quantities["length"](0.95)
    assert length.low < 0 < length.high
