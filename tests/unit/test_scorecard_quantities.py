"""Names of quantities: a measure gives what it says that it gives, and a rule that asks for another is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from answers_case import NEEDLES, drops, halves, loads, summary
from findings_case import (
    FORMULA,
    GAIN,
    MATCHED,
    SCHEDULE,
    SHARE,
    answered,
    audited,
    cell,
    costs,
    curve,
    effects,
    gates,
    gradients,
    heads,
    matched,
    pairs,
    perturbed,
    text,
)
from rules import all_of, conditions
from synthetic_answers import SEEDS, item, many
from synthetic_answers import spec as spec_of_answers
from synthetic_findings import losses, provenance, spec, steps
from synthetic_scorecard_file import row, study
from typer.testing import CliRunner

from palimpsest.cli import app
from palimpsest.errors import InputError
from palimpsest.records import CanaryRecord
from palimpsest.records.turns import TurnRecord
from palimpsest.schema import parse
from palimpsest.study import load_study
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.judge import check_rows
from palimpsest.study.scorecard.measures import MEASURES

STUDIES = Path(__file__).parents[2] / "studies"
SCORECARDS = [path for path in sorted(STUDIES.glob("*.yaml")) if "\nkind: scorecard" in path.read_text("utf-8")]

ASKED = {"ask": "asked", "arm": "ridge"}


class Case(NamedTuple):
    """A measure, its arguments, findings with all that it needs, and what these do not give all the same."""

    measure: str
    given: dict
    findings: Callable[[], Findings]
    absent: frozenset[str] = frozenset()


def asked(items, **fields):
    return Findings(spec=spec_of_answers(), items=items if isinstance(items, dict) else {"asked": items}, **fields)


def under(*interventions, **more):
    """Answers intact and under interventions."""
    return [each for name in ("none", *interventions) for each in many(0.5, n=20, intervention=name, **more)]


def swapped_heads():
    items, profiles = halves((0.6, 0.0, 0.01, 0.35), rho=(0.9, 0.1, 0.2, 0.7))
    return asked(items, profiles=profiles)


def with_turns():
    turn = TurnRecord(weight="w", part="query_key", cosine=0.9, distance=0.5)
    return asked([], turns={(arm, seed): [turn] for arm in ("ridge", "after") for seed in SEEDS})


def of_sizes():
    sizes = {"small": 1e4, "ridge": 1e5, "large": 1e6}
    made = {(arm, seed): provenance(int(size)) for arm, size in sizes.items() for seed in SEEDS}
    return asked([each for arm in sizes for each in under("swap", arm=arm)], provenance=made)


def along():
    draws = np.random.default_rng(0)
    return [
        item(f"{seed}-{at}", draws.random() < 0.5, seed=seed, length=length, distance=distance)
        for seed in SEEDS
        for length in (256, 1024)
        for at, distance in enumerate(np.linspace(20, length - 10, 40).astype(int).tolist())
    ]


def without_theory():
    records = [record.model_copy(update={"theory": None}) for record in curve(10.0, 10.0)]
    return Findings(spec(), mechanism=records)


def overwritten():
    kept = [cell("overwriting", name, share) for name, share in (("P(new)", 0.9), ("P(old)", 0.05))]
    shared = {"segment_length": 1, "decoding": "centred"}
    return Findings(spec(), mechanism=[record.model_copy(update=shared) for record in kept])


def rounded():
    states = ("float32", "bfloat16")
    return Findings(spec(), mechanism=[cell("precision", "accuracy", 0.8, updates=64, state=state) for state in states])


def scheduled():
    tuned = losses(dict.fromkeys(("memory", "full", "local", "short", "window"), 2.5), seeds=(0,), spread=0.0)
    positions = {"text": losses({"local": 2.8, "memory": 2.5}), "schedules": tuned}
    return Findings(spec(), positions=positions)


def canaries():
    canary = {"document_id": "d", "host": "h", "perturbation": "none", "words": 20, "longest_words": 20}
    found = [CanaryRecord(**canary, longest_tokens=30, found=True)]
    return Findings(spec(), audited=[audited(0)], canaries=found)


FAMILY = {"ask": "asked", "base": 64, "length": 1024, "shortest": 256}
PARTS = {"short": 3.0, "local": 2.8, "memory": 2.5}
AGAINST_LOCAL = {"arm": "memory", "reference": "local"}
SHORT_ON = SHARE | {"from_position": 64, "factors": SHARE["factors"] | {"short_on": "window"}}

CASES = [
    Case("accuracy_curve", NEEDLES, lambda: asked(loads(lambda k: 1 / (1 + (k / 32) ** 4)))),
    Case("smallest_cell", {"ask": "asked", "arms": ["ridge"], "bins": 2}, lambda: asked(under())),
    Case("accuracies", ASKED | {"groups": {"far": {}, "middle": {"lengths": [256]}}}, lambda: asked(under())),
    Case("memory_effect", ASKED, lambda: asked(under("swap"))),
    Case("memory_effect", ASKED | {"others": ["zero", "freeze"]}, lambda: asked(under("swap", "zero", "freeze"))),
    Case("difference", ASKED | {"intervention": "swap"}, lambda: asked(under("swap"))),
    Case(
        "versions",
        ASKED | {"fact": "hops", "easy": 1, "hard": 2},
        lambda: asked(under(facts={"hops": 1}) + under(facts={"hops": 2})),
    ),
    Case("newest_over_old", ASKED, lambda: asked(under())),
    Case("segment_drops", ASKED, lambda: asked(drops(30, 60))),
    Case("head_halves", ASKED, swapped_heads),
    Case(
        "families",
        {"arm": "ridge", "families": {"hops": FAMILY, "places": FAMILY}},
        lambda: asked([each for n in (64, 256, 1024) for each in under(length=n, distance=n - 24)]),
    ),
    Case(
        "fact_recall",
        ASKED | {"against": "local"},
        lambda: asked(
            [
                summary(at, (at < 5, True, True), seed, arm)
                for arm in ("ridge", "local")
                for seed in SEEDS
                for at in (1, 9)
            ]
        ),
    ),
    Case(
        "drift",
        {"before": "ridge", "after": "after", "ask": "far", "window": "near"},
        lambda: asked(
            {
                "far": under() + under(arm="after"),
                "near": [
                    each
                    for arm in ("ridge", "after")
                    for each in under(arm=arm, length=16, distance=4, reachable_by=("ridge", "local"))
                ],
            }
        ),
    ),
    Case("weight_turns", {"arm": "ridge", "against": "after"}, with_turns),
    Case("effect_by_size", {"ask": "asked", "arms": ["small", "ridge", "large"]}, of_sizes),
    Case("slopes", ASKED, lambda: asked(along())),
    Case("mechanism_capacity", {"memory": "linear"}, lambda: Findings(spec(), mechanism=curve(10.0, 10.0))),
    Case("mechanism_capacity", {"memory": "linear"}, without_theory, frozenset({"estimate"})),
    Case("mechanism_overwrite", {"memory": "linear"}, overwritten),
    Case("mechanism_precision", {"memory": "linear"}, rounded),
    Case(
        "predicted_capacity",
        {"ask": "pairs", "arm": "memory"},
        lambda: Findings(spec(), items={"pairs": pairs(18.0)}, profiles=heads(gate=0.5, rho=0.5, shift=1.0)),
    ),
    Case("memory_gain", GAIN, lambda: text(PARTS, 2.6)),
    Case("memory_share", SHARE, lambda: text(PARTS)),
    Case("memory_share", SHORT_ON, lambda: text(PARTS | {"window": 2.9})),
    Case("matched_gain", MATCHED, lambda: matched({"local": 2.8, "window": 2.7, "memory": 2.5})),
    Case("schedule", SCHEDULE, scheduled),
    Case("gradient_collapse", {}, lambda: Findings(spec(), steps={("local", 0): [steps()]})),
    Case("complete_losses", {"documents": "text", "reference": "local", "from_position": 16}, lambda: text(PARTS)),
    Case("layer_gradients", AGAINST_LOCAL, lambda: gradients(-1.0)),
    Case("gate_dynamics", {"arm": "memory"}, lambda: gates(0.3)),
    Case("gate_dynamics", AGAINST_LOCAL, lambda: gates(0.3)),
    Case("gates", {"arm": "memory"}, lambda: Findings(spec(), profiles=heads(gate=0.4, rho=0.3, shift=1.5))),
    Case(
        "early_layers",
        {"arm": "memory", "early": 1},
        lambda: Findings(spec(), effects=effects(0.09, 0.01), profiles=heads(gate=0.5, rho=0.5, shift=1.0)),
    ),
    Case(
        "state_costs",
        {"arm": "memory", "cache": "full"},
        lambda: Findings(spec(), costs=costs((FORMULA,) * 4, (1.0, 1.01, 0.99, 1.0))),
    ),
    Case("published_ratio", {}, lambda: Findings(spec())),
    Case(
        "effective_context",
        {"documents": "context", "arm": "memory"},
        lambda: Findings(spec(), perturbations={"context": perturbed(lambda distance: 0.05)}),
    ),
    Case("contamination", {}, canaries),
    Case(
        "rerun", {}, lambda: Findings(spec(), reruns={"memory": ("a", "a")}, provenance={("memory", 0): provenance()})
    ),
    Case(
        "suite_validity",
        {},
        lambda: Findings(spec(), validity=[answered("perfect_recall", 1000), answered("random_guess", 245)]),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.measure)
def test_a_measure_gives_the_quantities_that_it_names(case):
    measure = MEASURES[case.measure]
    given = parse(measure.given, case.given, case.measure)
    found = measure.measure(case.findings(), given)
    assert sorted([*found.quantities, *case.absent]) == sorted(measure.quantities(given))


def test_every_measure_is_held_to_its_names_with_all_records():
    assert {case.measure for case in CASES if not case.absent} == MEASURES.keys()


def test_a_rule_may_ask_for_what_the_arguments_name_and_for_nothing_else():
    rule = conditions(all_of("zero_difference low > 0"))
    others = {"ask": "pairs", "arm": "memory", "others": ["zero"]}
    check_rows(study(rows=[row(rule=rule, given=others)]))
    with pytest.raises(InputError) as refused:
        check_rows(study(rows=[row(rule=rule)]))
    assert str(refused.value) == (
        "The rule of the row E08 asks for 'zero_difference', which the measure 'memory_effect' does not give with "
        "these arguments. Did you mean 'difference'?"
    )


def test_an_arm_that_does_not_exist_is_named_before_a_quantity_that_has_its_name():
    given = {"ask": "pairs", "arms": ["memroy", "local"]}
    wrong = row(measure="effect_by_size", given=given, rule=conditions(all_of("memory low > 0")))
    with pytest.raises(InputError, match=r"names 'memroy' under 'arms'.* Did you mean 'memory'"):
        check_rows(study(rows=[wrong]))


@pytest.mark.parametrize("path", SCORECARDS, ids=lambda path: path.stem)
def test_a_shipped_scorecard_asks_for_what_its_measures_give(path):
    check_rows(load_study(path))


@pytest.mark.parametrize(
    "name", ["drift-small", "gates-small", "gradients-small", "scorecard-small", "scorecard-smoke"]
)
def test_a_misspelt_quantity_ends_a_plan_in_one_sentence(name, tmp_path):
    shipped = STUDIES / f"{name}.yaml"
    assert shipped in SCORECARDS
    content = yaml.safe_load(shipped.read_text("utf-8"))
    asking = next(each for each in content["rows"] if each["rule"]["kind"] == "conditions")
    condition = asking["rule"]["pass_when"]["all_of"][0]
    right = condition["estimate"]
    condition["estimate"] += "s"
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    shown = CliRunner().invoke(app, ["study", "plan", str(path), "--no-timing"])
    assert shown.exit_code == 2
    assert shown.stderr == (
        f"palimpsest: The rule of the row {asking['id']} asks for '{right}s', which the measure '{asking['measure']}' "
        f"does not give with these arguments. Did you mean '{right}'?\n"
    )
    assert shown.stdout == ""
