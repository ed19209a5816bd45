"""Measures of heads, of costs and of the evidence: known records, known numbers, known verdicts."""

import numpy as np
import pytest
from findings_case import FORMULA, answered, audited, costs, effects, heads
from rules import all_of, any_of, conditions
from scipy import stats
from synthetic_findings import SEEDS, head, measured, provenance, spec, steps, verdict

from palimpsest.records import CanaryRecord
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import Missing
from palimpsest.study.scorecard.measures.runs import RUN_MEASURES

GATES_RULE = conditions(all_of("lowest low >= 0.5"), all_of("decorative low >= 0.9"), min_seeds=5)


@pytest.mark.parametrize(
    ("profiles", "rate", "expected"),
    [
        (heads(gate=0.4, rho=0.3, shift=1.5), 0.0, "PASS"),
        (heads(gate=0.5, rho=0.3, shift=0.01), 0.0, "INCONCLUSIVE"),  # near one half, never moved, nor could it
        (heads(gate=0.5, rho=0.3, shift=0.01), 0.05, "PASS"),  # it could have: 100 updates of 0.05
        (heads(gate=0.5, rho=0.01, shift=2.0), 0.05, "FAIL"),
        (heads(SEEDS[:3], gate=0.4, rho=0.3, shift=1.5), 0.0, "INCONCLUSIVE"),
        (
            heads(SEEDS[:4], gate=0.4, rho=0.3, shift=1.5) + heads((4,), gate=0.4, rho=0.07, shift=1.5),
            0.0,
            "INCONCLUSIVE",
        ),
    ],
)
def test_gates_must_be_open_used_and_moved_in_every_seed(profiles, rate, expected):
    logs = {("memory", seed): [steps(gate_rate=rate)] for seed in SEEDS}
    findings = Findings(spec(), profiles=profiles, steps=logs)
    assert verdict(findings, "gates", {"arm": "memory"}, GATES_RULE) == expected


def test_what_a_gate_could_reach_is_the_sum_of_its_rates():
    logs = {("memory", seed): [steps(gate_rate=0.02), steps(gate_rate=0.01)] for seed in SEEDS}
    findings = Findings(spec(), profiles=heads(gate=0.4, rho=0.3, shift=1.5), steps=logs)
    facts = measured(findings, "gates", {"arm": "memory"}).facts
    assert facts["reachable move of a gate's logit, least over seeds"].mean == pytest.approx(100 * 0.03)


@pytest.mark.parametrize(
    ("early", "late", "expected"), [(0.09, 0.01, "PASS"), (0.02, 0.08, "FAIL"), (0.0, 0.0, "INCONCLUSIVE")]
)
def test_the_share_of_early_layers(early, late, expected):
    rule = conditions(all_of("effect low > 0.5"), all_of("effect high < 0.5"), min_seeds=5)
    profiles = [
        head(seed, layer, 0, gate=0.5, rho=(0.6, 0.2)[layer], shift=1.0, document=document)
        for seed in SEEDS
        for layer in (0, 1)
        for document in ("d0", "d1")
    ]
    findings = Findings(spec(), effects=effects(early, late), profiles=profiles)
    given = {"arm": "memory", "early": 1}
    assert verdict(findings, "early_layers", given, rule) == expected
    if early:
        found = measured(findings, "early_layers", given).quantities
        assert found["effect"](0.95).mean == pytest.approx(early / (early + late), abs=0.02)
        assert (found["usage"](0.95).mean, found["fair"](0.95).mean) == (pytest.approx(0.75), 0.5)


COST_RULE = conditions(
    all_of("growth high <= 0", "formula high <= 0", "slowdown high <= 0.1"),
    any_of("growth low > 0", "formula low > 0", "slowdown low > 0.1"),
)


@pytest.mark.parametrize(
    ("sizes", "seconds", "expected"),
    [
        ((FORMULA,) * 4, (1.0, 1.01, 0.99, 1.0), "PASS"),
        ((FORMULA, FORMULA, FORMULA, FORMULA + 4), (1.0, 1.01, 0.99, 1.0), "FAIL"),
        ((FORMULA + 4,) * 4, (1.0, 1.01, 0.99, 1.0), "FAIL"),
        ((FORMULA,) * 4, (1.0, 4.1, 8.0, 12.0), "FAIL"),
        ((FORMULA,) * 4, (1.0, 2.0, 0.5, 1.0), "INCONCLUSIVE"),
    ],
)
def test_the_state_must_not_grow_in_bytes_or_time(sizes, seconds, expected):
    findings = Findings(spec(), costs=costs(sizes, seconds))
    assert verdict(findings, "state_costs", {"arm": "memory", "cache": "full"}, COST_RULE) == expected


def test_the_slowdown_is_least_squares_on_doublings():
    seconds = (1.0, 1.2, 1.1, 1.5)
    found = measured(
        Findings(spec(), costs=costs((FORMULA,) * 4, seconds)), "state_costs", {"arm": "memory", "cache": "full"}
    )
    oracle = stats.linregress([10, 12, 14, 16], np.array(seconds) / np.mean(seconds))
    slowdown = found.quantities["slowdown"](0.95)
    half = stats.t.ppf(0.975, 2) * oracle.stderr
    assert (slowdown.mean, slowdown.high) == pytest.approx((oracle.slope, oracle.slope + half))
    ratio = found.facts["bytes of 'full' over bytes of the state, at N = 65,536"]
    assert ratio.mean == pytest.approx(1024 * 65536 / FORMULA)


def test_the_factor_of_114_is_against_a_store_not_a_cache():
    found = {name: at(0.95).mean for name, at in measured(Findings(spec()), "published_ratio", {}).quantities.items()}
    assert found["against_store"] == pytest.approx(115.74, abs=0.05)
    assert found["equal_at"] == 7353
    assert found["against_cache"] == pytest.approx(2 * 65_000 / 129)


AUDIT_RULE = conditions(
    all_of("long_matches high <= 0", "ngram_share high < 0.01", "canaries low >= 0.95"),
    any_of("long_matches low > 0", "ngram_share low >= 0.01", "canaries high < 0.95"),
)


@pytest.mark.parametrize(
    ("records", "found", "expected"),
    [
        ([audited(0)] * 200, 19, "PASS"),
        ([audited(0)] * 199 + [audited(1, ("ngram", "longest_match"))], 20, "FAIL"),
        ([audited(0)] * 98 + [audited(1, ("ngram",))] * 2, 20, "FAIL"),
        ([audited(0)] * 200, 18, "FAIL"),
    ],
)
def test_contamination(records, found, expected):
    canaries = [
        CanaryRecord(
            document_id="d", host="h", perturbation="none", words=20, longest_words=20, longest_tokens=30,
            found=i < found,
        )
        for i in range(20)
    ]  # fmt: skip
    findings = Findings(spec(), audited=records, canaries=canaries)
    assert verdict(findings, "contamination", {}, AUDIT_RULE) == expected


def test_a_rerun_and_the_manifest():
    runs = {("memory", 0): provenance(), ("local", 0): provenance(git_commit="", versions={"python": "3.11"})}
    findings = Findings(spec(), reruns={"memory": ("a", "a"), "local": ("a", "b")}, provenance=runs)
    found = measured(findings, "rerun", {})
    assert {name: at(0.95).mean for name, at in found.quantities.items()} == {"different": 1, "gaps": 4, "reruns": 2}
    assert "The weights differ for local." in found.note
    assert "'local' (seed 0) lacks the version of torch" in found.note
    with pytest.raises(Missing, match="no trainings that were made again"):
        measured(Findings(spec(), provenance=runs), "rerun", {})


VALIDITY_RULE = conditions(
    all_of("perfect low >= 1", "astray high <= 0"), any_of("perfect high < 1", "astray low > 0"), min_n=1000
)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([("perfect_recall", 1000), ("last_segment", 260), ("random_guess", 245), ("needle_removed", 0)], "PASS"),
        ([("perfect_recall", 999), ("last_segment", 260), ("random_guess", 245)], "FAIL"),
        ([("perfect_recall", 1000), ("last_segment", 330), ("random_guess", 245)], "FAIL"),
        ([("perfect_recall", 1000), ("last_segment", 170), ("random_guess", 245)], "FAIL"),  # below the floor, too
        ([("perfect_recall", 1000), ("needle_removed", 330)], "FAIL"),
    ],
)
def test_tasks_must_measure(records, expected):
    findings = Findings(spec(), validity=[answered(*record) for record in records])
    assert verdict(findings, "suite_validity", {}, VALIDITY_RULE) == expected


def test_few_items_decide_nothing_about_a_task():
    few = [answered("perfect_recall", 20, 20), answered("random_guess", 5, 20)]
    assert verdict(Findings(spec(), validity=few), "suite_validity", {}, VALIDITY_RULE) == "INCONCLUSIVE"


def test_many_answerers_raise_no_false_alarm():
    rng = np.random.default_rng(0)
    records = [answered("perfect_recall", 1000)]
    records += [answered("random_guess", int(count)) for count in rng.binomial(1000, 0.25, 100)]
    alone = [stats.binomtest(r.exact, r.n).proportion_ci(0.95, "exact") for r in records[1:]]
    assert any(each.low > 0.25 or each.high < 0.25 for each in alone)  # without the correction there are some
    assert verdict(Findings(spec(), validity=records), "suite_validity", {}, VALIDITY_RULE) == "PASS"


def test_every_measure_says_what_it_lacks():
    empty = Findings(spec())
    whom = {"arm": "memory", "documents": "text", "from_position": 64}
    factors = {"factors": {"short_off": "short", "long_off": "local", "long_on": "memory"}}
    given = {
        "mechanism_capacity": {"memory": "linear"},
        "mechanism_overwrite": {"memory": "linear"},
        "mechanism_precision": {"memory": "linear"},
        "predicted_capacity": {"ask": "pairs", "arm": "memory"},
        "memory_gain": whom | factors,
        "memory_share": {"documents": "text", "from_position": 64} | factors,
        "matched_gain": whom | {"baselines": ["local"], "ask": "passkey"},
        "schedule": whom
        | {"baseline": "local", "design": "d", "arm_schedules": ["a", "b"], "baseline_schedules": ["c", "d"]},
        "gradient_collapse": {},
        "layer_gradients": {"arm": "memory", "reference": "local"},
        "gate_dynamics": {"arm": "memory"},
        "complete_losses": {"documents": "text", "reference": "local", "from_position": 64},
        "gates": {"arm": "memory"},
        "early_layers": {"arm": "memory", "early": 1},
        "state_costs": {"arm": "memory", "cache": "full"},
        "effective_context": {"documents": "text", "arm": "memory"},
        "contamination": {},
        "rerun": {},
        "suite_validity": {},
    }
    assert given.keys() | {"published_ratio"} == RUN_MEASURES.keys()
    for name, arguments in given.items():
        with pytest.raises(Missing) as error:
            measured(empty, name, arguments)
        assert str(error.value).endswith((".", "?"))
