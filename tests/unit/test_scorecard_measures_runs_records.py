"""Measures of memories alone, of heads, of costs and of the evidence: known records, known numbers, known verdicts."""

import numpy as np
import pytest
from scipy import stats
from synthetic_findings import SEEDS, head, measured, provenance, spec, steps, verdict

from palimpsest.errors import InputError
from palimpsest.records import (
    AuditRecord,
    CanaryRecord,
    EffectRecord,
    ItemRecord,
    MechanismRecord,
    StateCostRecord,
    ValidityRecord,
)
from palimpsest.statistics import Shape, distance_at, logistic_curve
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import Missing
from palimpsest.study.scorecard.measures.runs import RUN_MEASURES


def cell(test, measure, share, *, load=16, theory=None, draws=24, asked=64, **changed):
    rng = np.random.default_rng(load)
    shares = tuple((rng.binomial(asked, share, draws) / asked).tolist())
    return MechanismRecord(
        test=test,
        kind="linear",
        memory="linear",
        features="elu1",
        keys="N(0,1)",
        segment_length=32,
        load=load,
        codes=1024,
        measure=measure,
        mean=float(np.mean(shares)),
        low=max(share - 0.05, 0.0),
        high=min(share + 0.05, 1.0),
        n=draws * asked,
        draws=shares,
        method="m",
        theory=theory,
        **{"size": 64, "decoding": "raw"} | changed,
    )


def recall(load, n50):
    return 1 / (1 + (load / n50) ** 3)


def curve(n50, predicted, *, size=64, decoding="raw"):
    return [
        cell(
            "capacity",
            "accuracy",
            recall(load, n50),
            load=load,
            theory=recall(load, predicted),
            size=size,
            decoding=decoding,
        )
        for load in (2, 4, 8, 16, 32, 64, 128)
    ]


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
    rule = {
        "kind": "conditions",
        "pass_when": {"all_of": [{"estimate": "difference", "bound": "low", "op": ">=", "value": 0.5}]},
        "fail_when": {"all_of": [{"estimate": "difference", "bound": "high", "op": "<", "value": 0.2}]},
    }
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


def pairs(n50, seeds=SEEDS, per_load=30):
    rng = np.random.default_rng(5)
    return [
        ItemRecord(
            task="sym_multikey", version=1, item_id=f"{load}-{i}", arm="memory", seed=seed, checkpoint="c",
            intervention="none", length=512, depth=0.0, segment_length=16, needle_start=0, needle_end=3,
            question_start=500, distance=500, compressions=30, segments=32, locally_reachable=False, answer="1",
            output="1", exact=bool(rng.random() < recall(load, n50)), error_class="correct", rank=1, candidates=16,
            answer_logprob=-1.0, facts={"needles": load},
        )
        for seed in seeds
        for load in (1, 2, 4, 8, 16, 32, 64, 128)
        for i in range(per_load)
    ]  # fmt: skip


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


GATES_RULE = {
    "kind": "conditions",
    "pass_when": {"all_of": [{"estimate": "lowest", "bound": "low", "op": ">=", "value": 0.5}]},
    "fail_when": {"all_of": [{"estimate": "decorative", "bound": "low", "op": ">=", "value": 0.9}]},
    "min_seeds": 5,
}


def heads(seeds=SEEDS, **values):
    return [head(seed, layer, number, **values) for seed in seeds for layer in (0, 1) for number in (0, 1)]


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


def effects(early, late):
    rng = np.random.default_rng(2)
    return [
        EffectRecord(
            arm="memory", seed=seed, checkpoint="c", layer=layer, head=number, gate=0.5, rho=0.5,
            effect=tuple((mean / 2 + rng.normal(0, 0.002, 20)).tolist()),
        )
        for seed in SEEDS
        for layer, mean in ((0, early), (1, late))
        for number in (0, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("early", "late", "expected"), [(0.09, 0.01, "PASS"), (0.02, 0.08, "FAIL"), (0.0, 0.0, "INCONCLUSIVE")]
)
def test_the_share_of_early_layers(early, late, expected):
    rule = {
        "kind": "conditions",
        "pass_when": {"all_of": [{"estimate": "effect", "bound": "low", "op": ">", "value": 0.5}]},
        "fail_when": {"all_of": [{"estimate": "effect", "bound": "high", "op": "<", "value": 0.5}]},
        "min_seeds": 5,
    }
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


FORMULA = 4 * 2 * 2 * (32 * 32 + 32)
COST_RULE = {
    "kind": "conditions",
    "pass_when": {
        "all_of": [
            {"estimate": "growth", "bound": "high", "op": "<=", "value": 0},
            {"estimate": "formula", "bound": "high", "op": "<=", "value": 0},
            {"estimate": "slowdown", "bound": "high", "op": "<=", "value": 0.1},
        ]
    },
    "fail_when": {
        "any_of": [
            {"estimate": "growth", "bound": "low", "op": ">", "value": 0},
            {"estimate": "formula", "bound": "low", "op": ">", "value": 0},
            {"estimate": "slowdown", "bound": "low", "op": ">", "value": 0.1},
        ]
    },
}


def costs(sizes, seconds):
    def cost(arm, context, memory, local, time):
        return StateCostRecord(
            arm=arm, seed=0, context=context, memory_bytes=memory, local_bytes=local, seconds_per_token=time,
            flops_per_token=1.0, parameters=1,
        )  # fmt: skip

    lengths = (1024, 4096, 16384, 65536)
    own = [cost("memory", *each) for each in zip(lengths, sizes, (9,) * 4, seconds, strict=True)]
    return own + [cost("full", length, 0, 1024 * length, 1.0) for length in lengths]


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


AUDIT_RULE = {
    "kind": "conditions",
    "pass_when": {
        "all_of": [
            {"estimate": "long_matches", "bound": "high", "op": "<=", "value": 0},
            {"estimate": "ngram_share", "bound": "high", "op": "<", "value": 0.01},
            {"estimate": "canaries", "bound": "low", "op": ">=", "value": 0.95},
        ]
    },
    "fail_when": {
        "any_of": [
            {"estimate": "long_matches", "bound": "low", "op": ">", "value": 0},
            {"estimate": "ngram_share", "bound": "low", "op": ">=", "value": 0.01},
            {"estimate": "canaries", "bound": "high", "op": "<", "value": 0.95},
        ]
    },
}


def audited(hits, reasons=()):
    return AuditRecord(
        document_id="d", source="s", words=100, tokens=150, ngrams=88, hits=hits, covered=0.0, eightgrams_seen=0.0,
        longest_words=3, longest_tokens=60 if reasons else 4, same_id=False, boilerplate_cuts=0, reasons=reasons,
        offending=(), passages=(),
    )  # fmt: skip


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


VALIDITY_RULE = {
    "kind": "conditions",
    "pass_when": {
        "all_of": [
            {"estimate": "perfect", "bound": "low", "op": ">=", "value": 1.0},
            {"estimate": "astray", "bound": "high", "op": "<=", "value": 0},
        ]
    },
    "fail_when": {
        "any_of": [
            {"estimate": "perfect", "bound": "high", "op": "<", "value": 1.0},
            {"estimate": "astray", "bound": "low", "op": ">", "value": 0},
        ]
    },
    "min_n": 1000,
}


def answered(responder, exact, n=1000, floor=0.25):
    return ValidityRecord(
        task="t", knobs="{}", responder=responder, n=n, exact=exact, first=exact, floor=floor, ceiling=1.0
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
