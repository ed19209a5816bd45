"""Measures of losses and of trainings: known effects pass, null effects fail, too few seeds decide nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest
from findings_case import FACTORS, GAIN, MATCHED, SCHEDULE, SHARE, matched, perturbed, text
from rules import all_of, conditions
from scipy import stats
from synthetic_findings import SEEDS, losses, measured, spec, steps, verdict

from palimpsest.errors import InputError
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import Missing

GAIN_RULE = conditions(
    all_of("gain low > 0.005", "total low > 0", "beyond_share mean >= 0"),
    all_of("gain low > -0.005 @0.9", "gain high < 0.005 @0.9"),
    min_seeds=5,
)
SHARE_RULE = conditions(all_of("share low >= 0.5"), all_of("share high <= 0.2"), min_seeds=5)


@pytest.mark.parametrize(
    ("levels", "swapped", "seeds", "expected"),
    [
        ({"short": 3.0, "local": 2.8, "memory": 2.5}, 2.6, SEEDS, "PASS"),
        ({"short": 3.0, "local": 2.8, "memory": 2.8}, 2.8, SEEDS, "FAIL"),
        ({"short": 3.0, "local": 2.6, "memory": 2.5}, 2.6, SEEDS, "INCONCLUSIVE"),  # a share of a fifth
        ({"short": 3.0, "local": 2.8, "memory": 2.5}, 2.6, SEEDS[:3], "INCONCLUSIVE"),
    ],
)
def test_the_memory_must_be_worth_something_and_half_of_the_whole(levels, swapped, seeds, expected):
    assert verdict(text(levels, swapped, seeds), "memory_gain", GAIN, GAIN_RULE) == expected


def test_the_gain_is_the_t_interval_of_seed_means():
    findings = text({"short": 3.0, "local": 2.8, "memory": 2.5}, 2.6)
    found = measured(findings, "memory_gain", GAIN).quantities["gain"](0.95)
    mean = {}
    for record in findings.positions["text"]:
        if record.arm == "memory":
            mean.setdefault((record.intervention, record.seed), []).append(record.nll)
    tokens = 20 * (16 + 32 + 64 + 128)
    rises = [(math.fsum(mean["swap", s]) - math.fsum(mean["none", s])) / tokens for s in SEEDS]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(rises), scale=stats.sem(rises))
    assert found.mean == pytest.approx(np.mean(rises))
    assert (found.seeds, found.low <= low, found.high >= high) == (5, True, True)


def test_positions_before_the_first_one_do_not_count():
    findings = text({"short": 3.0, "local": 2.8, "memory": 2.5}, 2.6)
    near = [
        record.model_copy(update={"nll": 100.0})
        if record.position_start < 64 and record.intervention == "swap"
        else record
        for record in findings.positions["text"]
    ]
    found = measured(replace(findings, positions={"text": near}), "memory_gain", {**GAIN, "from_position": 64})
    assert found.quantities["gain"](0.95).mean == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize(
    ("levels", "expected", "share"),
    [
        ({"short": 3.0, "local": 2.9, "memory": 2.5}, "PASS", 0.8),
        ({"short": 3.0, "local": 2.55, "memory": 2.5}, "FAIL", 0.1),
        ({"short": 3.0, "local": 2.8, "memory": 2.7}, "INCONCLUSIVE", 1 / 3),
    ],
)
def test_the_share_of_the_memory(levels, expected, share):
    findings = text(levels)
    assert verdict(findings, "memory_share", SHARE, SHARE_RULE) == expected
    assert measured(findings, "memory_share", SHARE).quantities["share"](0.95).mean == pytest.approx(share, abs=0.01)


def test_a_share_of_nothing_is_not_defined():
    found = measured(text({"short": 3.0, "local": 3.1, "memory": 3.0}), "memory_share", SHARE)
    assert math.isnan(found.quantities["share"](0.95).mean)
    assert "not defined" in found.note
    assert (
        verdict(text({"short": 3.0, "local": 3.1, "memory": 3.0}), "memory_share", SHARE, SHARE_RULE) == "INCONCLUSIVE"
    )


def test_the_interaction_and_the_parts_add_up():
    levels = {"short": 3.0, "local": 2.8, "memory": 2.5, "window": 2.9}
    given = {**SHARE, "from_position": 64, "factors": {**FACTORS, "short_on": "window"}}
    found = {name: at(0.95).mean for name, at in measured(text(levels), "memory_share", given).quantities.items()}
    assert found["total"] == pytest.approx(found["position_part"] + found["memory_part"])
    assert found["interaction"] == pytest.approx(0.3 - 0.1, abs=0.005)


def test_a_loss_that_is_not_finite_is_named_and_decides_nothing():
    findings = text({"short": 3.0, "local": 2.8, "memory": 2.5}, 2.6)
    records = list(findings.positions["text"])
    spoilt = next(i for i, record in enumerate(records) if record.arm == "memory")
    records[spoilt] = records[spoilt].model_copy(update={"nll": math.inf})
    found = measured(replace(findings, positions={"text": records}), "memory_gain", GAIN).quantities["gain"](0.95)
    assert math.isnan(found.mean)
    assert "'d0' (seed 0)" in found.method


def test_positions_that_a_window_explains_are_refused():
    findings = matched({"local": 2.8, "window": 2.7, "memory": 2.5})
    with pytest.raises(InputError, match="'window' reaches 63 tokens"):
        measured(findings, "matched_gain", {**MATCHED, "from_position": 32})
    with pytest.raises(InputError, match="were summed from the positions 16, 32, 64, 128"):
        measured(findings, "matched_gain", {**MATCHED, "from_position": 100})


MATCHED_RULE = conditions(
    all_of("gain low > 0", "retrieval low >= 0.2", "parameters high <= 0.01", "tokens high <= 0"),
    all_of("gain high < 0.005"),
    min_seeds=5,
)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"levels": {"local": 2.8, "window": 2.7, "memory": 2.5}}, "PASS"),
        ({"levels": {"local": 2.8, "window": 2.5, "memory": 2.5}}, "FAIL"),  # the best baseline is as good
        ({"levels": {"local": 2.8, "window": 2.7, "memory": 2.5}, "right": 0.1}, "INCONCLUSIVE"),
        ({"levels": {"local": 2.8, "window": 2.7, "memory": 2.5}, "parameters": 1100}, "INCONCLUSIVE"),
        ({"levels": {"local": 2.8, "window": 2.7, "memory": 2.5}, "tokens": 1001}, "INCONCLUSIVE"),
    ],
)
def test_the_best_matched_baseline_must_be_beaten(changed, expected):
    assert verdict(matched(**changed), "matched_gain", MATCHED, MATCHED_RULE) == expected


def test_items_that_a_window_reaches_do_not_count():
    found = measured(matched({"local": 2.8, "window": 2.7, "memory": 2.5}), "matched_gain", MATCHED)
    assert found.quantities["retrieval"](0.95).mean == pytest.approx(0.9)


def test_the_baseline_is_credited_with_its_best_schedule():
    tuned = losses({"memory": 2.5, "full": 2.6, "local": 2.8, "short": 2.65, "window": 3.0}, seeds=(0,), spread=0.0)
    findings = text({"local": 2.8, "memory": 2.5})
    found = measured(replace(findings, positions={**findings.positions, "schedules": tuned}), "schedule", SCHEDULE)
    numbers = {name: at(0.95).mean for name, at in found.quantities.items()}
    assert numbers == pytest.approx({"gain": 0.3, "gain_over_best": 0.15, "range": 0.35}, abs=0.002)
    assert "smaller than the range R" in found.note


def test_a_collapsed_gradient_is_found():
    rule = conditions(all_of("estimate low > 0"), all_of("estimate high < 0.1"))
    sound = {(arm, seed): [steps()] for arm in spec().arms for seed in range(10)}
    assert verdict(Findings(spec(), steps=sound), "gradient_collapse", {}, rule) == "FAIL"
    collapsed = sound | {("local", 3): [steps((1.0,) * 9 + (0.05,))]}
    found = measured(Findings(spec(), steps=collapsed), "gradient_collapse", {})
    assert verdict(Findings(spec(), steps=collapsed), "gradient_collapse", {}, rule) == "PASS"
    assert found.note == "Collapsed: local (seed 3)."
    few = {("local", 0): [steps()]}
    assert verdict(Findings(spec(), steps=few), "gradient_collapse", {}, rule) == "INCONCLUSIVE"


def test_a_norm_that_was_small_in_the_warmup_only_has_not_collapsed():
    logs = {("local", 0): [steps((100.0, *(1.0,) * 9))]}
    assert measured(Findings(spec(), steps=logs), "gradient_collapse", {}).quantities["estimate"](0.95).mean == 0


def test_missing_and_infinite_losses_are_counted():
    given = {"documents": "text", "reference": "local", "from_position": 16}
    whole = text({"local": 2.8, "memory": 2.5})
    numbers = {name: at(0.95).mean for name, at in measured(whole, "complete_losses", given).quantities.items()}
    assert numbers == {"missing": 0, "not_finite": 0, "seeds": 5}
    records = [r for r in whole.positions["text"] if (r.arm, r.seed) != ("memory", 4)]
    records[0] = records[0].model_copy(update={"nll": math.nan})
    found = measured(replace(whole, positions={"text": records}), "complete_losses", given)
    assert {name: at(0.95).mean for name, at in found.quantities.items()} == {"missing": 1, "not_finite": 1, "seeds": 4}
    assert "Missing: memory (seed 4)." in found.note
    assert "not finite: local (seed 0)." in found.note


@pytest.mark.parametrize(
    ("rise", "expected"),
    [
        (lambda d: 0.05, "PASS"),
        (lambda d: 0.05 if d <= 64 else 0.0, "FAIL"),  # 4 segments and not more
        (lambda d: 0.005, "INCONCLUSIVE"),
    ],
)
def test_the_effective_context_must_be_longer_than_four_segments(rise, expected):
    findings = Findings(spec(), perturbations={"context": perturbed(rise)})
    given = {"documents": "context", "arm": "memory", "segments": 4}
    rule = {"kind": "greater", "margin": 0.005, "min_seeds": 5}
    assert verdict(findings, "effective_context", given, rule) == expected
    assert findings.spec.segment_length * 4 == measured(findings, "effective_context", given).figure.marks["4 segments"]


def test_records_that_are_not_there_are_named():
    with pytest.raises(Missing, match="no losses of 'memory' under 'swap' on the documents 'text'"):
        measured(text({"short": 3.0, "local": 2.8, "memory": 2.5}), "memory_gain", GAIN)
    findings = Findings(spec(), perturbations={"context": perturbed(lambda d: 0.0)})
    with pytest.raises(Missing, match="No tested distance is beyond 160 tokens"):
        measured(findings, "effective_context", {"documents": "context", "arm": "memory", "segments": 10})
