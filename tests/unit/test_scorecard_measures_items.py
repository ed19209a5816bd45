"""Measures of answers: planted effects give the verdict that they should."""

import math

import numpy as np
import pytest
from answers_case import EACH, drops, halves, summary
from rules import all_of, any_of, conditions
from scipy import stats
from synthetic_answers import SEEDS, item, many, measured, verdict

from palimpsest.records import Provenance
from palimpsest.study.scorecard.measures.base import Missing

EFFECT = conditions(
    all_of("difference low >= 0.2", "intervened high <= 0.05"),
    all_of("difference high < 0.05 @0.9", "zero_difference high < 0.05 @0.9"),
    min_seeds=5,
)


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
def test_a_memory_that_is_used_passes_and_a_decorative_one_fails(intact, swapped, zeroed, seeds, expected):
    shares = {"none": intact, "swap": swapped, "zero": zeroed}
    items = [each for name, share in shares.items() for each in many(share, seeds=range(seeds), intervention=name)]
    found = measured("memory_effect", items, {"ask": "asked", "arm": "ridge", "others": ["zero"]})
    assert verdict(EFFECT, found) == expected
    assert "difference at 256 tokens" in found.facts
    assert found.sources == ("items/asked",)


def test_only_items_that_no_bounded_arm_reaches_count():
    items = many(1.0, n=20) + [
        item(f"near-{at}", False, seed=s, reachable_by=("local",)) for s in SEEDS for at in range(20)
    ]
    for reach, expected in (("memory_only", 1.0), ("any", 0.5), ("own", 0.5)):
        groups = {"all": {"reach": reach}}
        found = measured("accuracies", items, {"ask": "asked", "arm": "ridge", "groups": groups})
        assert found.quantities["all"](0.95).mean == pytest.approx(expected, abs=0.03)
    reached_by_full = [item(at, True, seed=s, reachable_by=("full",)) for s in SEEDS for at in range(20)]
    found = measured("accuracies", reached_by_full, {"ask": "asked", "arm": "ridge", "groups": {"all": {}}})
    assert found.quantities["all"](0.95).mean == 1.0, "full attention reaches everything and is no bounded arm"


def test_agreement_of_all_seeds_at_the_ceiling_is_no_more_certain_than_the_items():
    found = measured(
        "accuracies", many(1.0, n=40), {"ask": "asked", "arm": "ridge", "groups": {"all": {"depth": None}}}
    )
    number = found.quantities["all"](0.95)
    assert number.low == pytest.approx(0.025 ** (1 / 40))  # Clopper and Pearson, 40 of 40: five seeds, the same items
    assert number.high == 1.0
    assert number.seeds == 5


def test_missing_answers_are_named():
    with pytest.raises(Missing, match="no answer of the arm 'ridge' under 'swap'"):
        measured("memory_effect", many(0.5), {"ask": "asked", "arm": "ridge"})


def test_versions_of_a_task_are_compared_over_seeds():
    items = many(0.9, length=512, facts={"distractors": 0}) + [
        each.model_copy(update={"item_id": f"hard-{each.item_id}"})
        for each in many(0.3, length=512, facts={"distractors": 64})
    ]
    given = {"ask": "asked", "arm": "ridge", "fact": "distractors", "easy": 0, "hard": 64}
    found = measured("versions", items, given)
    easy, hard = ((share * 100 + 0.4) / 100 for share in (0.9, 0.3))
    assert found.quantities["ratio"](0.95).mean == pytest.approx(hard / easy)
    assert found.quantities["gap"](0.95).mean == pytest.approx(easy - hard)
    assert found.quantities["ratio"](0.95).high < 0.5
    assert found.figure.series[0].x == (0.0, 64.0)


def test_the_newest_value_is_set_against_one_out_of_date():
    facts = {"rewrites": 1, "gap": "different"}
    items = [item(at, at < 80, seed=s, error="other_value", facts=facts) for s in SEEDS for at in range(100)]
    items += [
        item(f"same-{at}", at < 30, seed=s, error="other_value", facts=facts | {"gap": "same"})
        for s in SEEDS
        for at in range(50)
    ]
    found = measured("newest_over_old", items, {"ask": "asked", "arm": "ridge", "cells": {"where": facts}})
    assert found.quantities["newest"](0.95).mean == 0.8
    assert found.quantities["difference"](0.95).mean == pytest.approx(0.6)
    assert found.quantities["either"](0.95).mean == 1.0
    assert found.facts["1 rewrites, same segment: newest minus old"].mean == pytest.approx(30 / 50 - 20 / 50)


LOCATED = conditions(
    all_of("removed low >= 0.8", "largest_other high < 0.05"),
    any_of("removed high < 0.8", "largest_other low >= 0.05"),
    min_seeds=5,
)


@pytest.mark.parametrize(
    ("own", "other", "expected"), [(0, 60, "PASS"), (30, 60, "FAIL"), (0, 40, "FAIL"), (2, 58, "INCONCLUSIVE")]
)
def test_the_segment_of_the_needle_and_no_other_carries_the_answer(own, other, expected):
    given = {"ask": "asked", "arm": "ridge", "floor": 0.01}
    found = measured("segment_drops", drops(own, other), given)
    assert verdict(LOCATED, found) == expected
    assert found.quantities["removed"](0.95).mean == pytest.approx(1 - (own / EACH - 0.01) / 0.99)
    assert found.quantities["largest_other"](0.95).mean == pytest.approx(1 - other / EACH)


def test_all_other_segments_are_bounded_at_once():
    found = measured("segment_drops", drops(0, EACH), {"ask": "asked", "arm": "ridge"})
    alone = stats.binomtest(120, 120).proportion_ci(1 - 0.05 / 3, method="wilson")  # 120 items, whatever the seeds
    assert found.quantities["largest_other"](0.95).high == pytest.approx(1 - alone.low, abs=0.005)


SPECIALISED = conditions(
    all_of("top_share low >= 0.5", "bottom_share high < 0.1"), any_of("top_share high < 0.5"), min_seeds=5
)


@pytest.mark.parametrize(("costs", "expected"), [((0.6, 0.0, 0.01, 0.35), "PASS"), ((0.01, 0.6, 0.35, 0.0), "FAIL")])
def test_the_heads_that_say_most_from_memory_carry_retrieval_or_do_not(costs, expected):
    items, profiles = halves(costs, rho=(0.9, 0.1, 0.2, 0.7))
    found = measured("head_halves", items, {"ask": "asked", "arm": "ridge"}, profiles=profiles)
    assert verdict(SPECIALISED, found) == expected
    assert found.quantities["top_share"](0.95).mean == pytest.approx((costs[0] + costs[3]) / sum(costs))
    expected_rho = stats.spearmanr((0.9, 0.1, 0.2, 0.7), costs).statistic
    assert found.quantities["correlation"](0.95).mean == pytest.approx(expected_rho)


def test_families_keep_their_short_accuracy_up_to_their_effective_length():
    shares = {64: 0.9, 256: 0.88, 1024: 0.3}
    items = [each for n, share in shares.items() for each in many(share, length=n, distance=n - 24)]
    family = {"ask": "asked", "base": 64, "length": 1024, "shortest": 256, "floor": 0.25}
    found = measured("families", items, {"arm": "ridge", "families": {"hops": family}})
    base, far = (share + 0.004 for share in (0.9, 0.3))
    assert found.quantities["hops"](0.95).mean == pytest.approx(far)
    assert found.quantities["hops_kept"](0.95).mean == pytest.approx(far / base)
    assert found.quantities["hops_lift"](0.95).mean == pytest.approx(0.884 - 0.25)
    assert found.facts["hops: effective length in tokens"].mean == 256
    assert found.figure.series[0].x == (64, 256, 1024)


@pytest.mark.parametrize(("recalled", "expected"), [(0.6, "PASS"), (0.0, "FAIL")])
def test_only_facts_beyond_every_window_count(recalled, expected):
    items = []
    for seed in SEEDS:
        for at in range(60):
            items.append(summary(at, (at < recalled * 60, at < recalled * 60, True), seed, "ridge"))
            items.append(summary(at, (False, False, at % 2 == 0), seed, "local"))
    given = {"ask": "asked", "arm": "ridge", "against": "local"}
    found = measured("fact_recall", items, given)
    rule = conditions(
        all_of("difference low > 0.05"),
        all_of("difference low > -0.05 @0.9", "difference high < 0.05 @0.9"),
        min_seeds=5,
    )
    assert verdict(rule, found) == expected
    assert found.quantities["recall"](0.95).mean == pytest.approx(recalled)
    assert found.facts["recall of local within reach"].mean == pytest.approx(0.5)


ROBUST = conditions(
    all_of("change low > -0.05 @0.9"), all_of("change high < -0.05", "difference_in_differences high < 0"), min_seeds=5
)


@pytest.mark.parametrize(
    ("memory_after", "window_after", "expected"),
    [(0.9, 0.9, "PASS"), (0.3, 0.9, "FAIL"), (0.3, 0.3, "INCONCLUSIVE")],  # the last forgot the format, not the memory
)
def test_drift_of_memory_is_told_from_drift_of_the_format(memory_after, window_after, expected):
    items = {
        "far": many(0.9) + many(memory_after, arm="after"),
        "near": [
            each
            for arm, share in (("ridge", 0.9), ("after", window_after))
            for each in many(share, arm=arm, length=16, distance=4, reachable_by=("ridge", "local"))
        ],
    }
    given = {"before": "ridge", "after": "after", "ask": "far", "window": "near"}
    found = measured("drift", items, given)
    assert verdict(ROBUST, found) == expected
    apart = (memory_after - 0.9) - (window_after - 0.9)
    assert found.quantities["difference_in_differences"](0.95).mean == pytest.approx(apart)


def test_the_effect_by_size_has_the_slope_of_least_squares():
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
    found = measured("effect_by_size", items, given, provenance=provenance)
    assert found.quantities["slope"](0.95).mean == pytest.approx(0.2)
    assert found.quantities["slope"](0.95).seeds == 5
    assert found.quantities["large"](0.95).mean == pytest.approx(0.7 - 0.004)


@pytest.mark.parametrize(("falls", "expected"), [(1.0, "PASS"), (-1.0, "FAIL")])
def test_the_slope_on_writes_is_told_from_that_on_length(falls, expected):
    draws = np.random.default_rng(6)
    items = []
    for seed in SEEDS:
        for length in (256, 1024):
            for at, distance in enumerate(np.linspace(20, length - 10, 100).astype(int).tolist()):
                odds = 3.0 * falls - falls * 1.2 * math.log(distance // 16)
                right = draws.random() < 1 / (1 + math.exp(-odds))
                items.append(item(at, right, seed=seed, length=length, distance=distance))
    found = measured("slopes", items, {"ask": "asked", "arm": "ridge"})
    rule = conditions(all_of("compressions high < 0"), all_of("compressions low >= 0"), min_seeds=5)
    assert verdict(rule, found) == expected
    number = found.quantities["compressions"](0.95)
    assert number.low < -1.2 * falls < number.high
    length = found.quantities["length"](0.95)
    assert length.low < 0 < length.high
