"""Alignment inside a scorecard: what its file may say, what is planned, and a study of drift in miniature."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from palimpsest.errors import InputError
from palimpsest.models.restore import part_of
from palimpsest.records import ItemRecord, read_jsonl
from palimpsest.records.turns import TurnRecord
from palimpsest.schema import parse
from palimpsest.statistics import decide
from palimpsest.study.kinds import load_study
from palimpsest.study.scorecard.findings import Findings, load_findings
from palimpsest.study.scorecard.measures.base import Missing
from palimpsest.study.scorecard.measures.drift import DriftGiven, TurnsGiven, drift, weight_turns
from palimpsest.study.scorecard.plan import plan_scorecard
from palimpsest.study.scorecard.spec import ScorecardSpec
from palimpsest.study.stages import execute
from palimpsest.tasks import build_task
from palimpsest.tasks.draws import Draws
from palimpsest.training import resolve_checkpoint
from palimpsest.training.state import pretrained_model
from palimpsest.training.tasks import symbolic_tokenizer

STUDIES = Path(__file__).parents[2] / "studies"
STUDY = STUDIES / "drift-small.yaml"


def content() -> dict:
    return yaml.safe_load(STUDY.read_text(encoding="utf-8"))


def study(change=lambda c: None) -> ScorecardSpec:
    changed = copy.deepcopy(content())
    change(changed)
    return parse(ScorecardSpec, changed, "study.yaml")


def test_a_study_without_alignment_says_nothing_of_it():
    dumped = load_study(STUDIES / "scorecard-small.yaml").model_dump(mode="json")
    assert not [name for name, phase in dumped["phases"].items() if "method" in phase]
    assert not [name for name, arm in dumped["arms"].items() if "restore" in arm]


def test_what_a_study_says_of_alignment_survives_its_dump():
    spec = study()
    assert parse(ScorecardSpec, spec.model_dump(mode="json"), "again").sha256 == spec.sha256
    other = study(lambda c: c["phases"]["short_dpo"]["method"].update(beta=0.2))
    assert other.sha256 != spec.sha256
    digests = {stage.digest for stage in plan_scorecard(spec)}
    assert {stage.arm for stage in plan_scorecard(other) if stage.digest not in digests} == {
        "short_dpo",
        "short_dpo_old_qk",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["phases"]["short_sft"].update(method="ppo"), "unknown value 'ppo'"),
        (lambda c: c["phases"]["short_sft"]["data"].update(documents=0.1), "set documents and repeats to 0"),
        (lambda c: c["phases"]["short_sft"]["training"].update(backpropagate_segments=2), "leave out backpropagate"),
        (
            lambda c: c["phases"]["short_sft"].update(data={"kind": "text", "sequence_length": 64}),
            "learns from answers",
        ),
        (lambda c: c["arms"]["base"].update(phases=["short_sft"]), "an alignment needs a model"),
        (lambda c: c["arms"]["base"].update(restore=["gates"]), "restore needs after"),
        (lambda c: c["arms"]["short_sft_old_qk"].update(phases=["text", "short_sft"]), "and a single phase"),
        (lambda c: c["arms"]["short_sft_old_qk"].update(restore=["values"]), "query_key"),
        (lambda c: c.update(rerun="short_sft_old_qk"), "is not trained but restored"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(change, message):
    with pytest.raises(InputError, match=message) as caught:
        study(change)
    assert "\n" not in str(caught.value)


def test_an_arm_that_is_restored_shares_the_training_of_the_one_that_is_not():
    plan = [stage for stage in plan_scorecard(study(lambda c: c.update(seeds=[0]))) if stage.kind == "train"]
    by_name = {stage.name: stage for stage in plan}
    assert len(plan) == 2 + 5 + 1 + 4  # the base, five ways to go on, frozen gates, four restored
    for arm in ("qk", "gates", "both"):
        restored = by_name[f"short_sft_old_{arm}-s0-train-restore"]
        assert restored.inputs == ("short_sft-s0-train-short_sft",)
        assert restored.settings["base"] == by_name["base-s0-train-mixed"].directory
    asked = [stage for stage in plan_scorecard(study()) if stage.kind == "ask" and stage.arm == "short_sft_old_qk"]
    assert {name.split("-")[0] for stage in asked for name in stage.inputs} == {"short_sft_old_qk"}


def test_all_ways_to_go_on_read_as_many_tokens_at_the_same_rate():
    spec = study()
    tokens = {}
    for name in ("short_sft", "long_sft", "short_dpo", "long_dpo", "text"):
        phase = spec.phases[name]
        rows = 2 if phase.method is not None and phase.method.kind == "dpo" else 1
        tokens[name] = phase.training.steps * phase.training.batch_size * phase.row_length * rows
    assert set(tokens.values()) == {200 * 1536}
    assert {spec.arms[name].learning_rate for name in tokens} == {2e-3}


@pytest.mark.parametrize(("name", "least", "most"), [("short_sft", 0.0, 0.0), ("long_sft", 0.5, 1.0)])
def test_long_turns_need_the_memory_and_short_ones_do_not(name, least, most):
    spec, tokenizer = study(), symbolic_tokenizer()
    data = spec.phases[name].data
    assert data == spec.phases[name.replace("sft", "dpo")].data
    shares, draws = data.shares[2:], Draws(name)
    needed = 0.0
    for share, each in zip(shares, data.tasks, strict=True):
        task = build_task(each.task, tokenizer, segment_length=spec.segment_length)
        length = draws.integer(each.task.min_length, each.task.max_length)
        found = [task.sample(split="training", seed=0, index=i, length=length, depth=None) for i in range(50)]
        needed += share * sum(sample.compressions > 0 for sample in found) / 50
    assert least <= needed <= most


def miniature(content: dict) -> None:
    """Make the study so small that it runs in seconds, with every kind of arm."""
    content["model"] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.2}
    for phase in content["phases"].values():
        phase["training"] |= {"steps": 3, "batch_size": 4, "warmup_steps": 1, "log_every": 1}
    for part in content["ask"].values():
        part |= {"items": 4, "seed": 1, "batch_size": 4}
    content["seeds"] = [0]
    del content["usage"], content["ask"]["chains"]
    content["rows"] = content["rows"][:1]


def test_the_study_in_miniature(tmp_path):
    spec = study(miniature)
    plan = plan_scorecard(spec)
    by_name = {stage.name: stage for stage in plan}
    for stage in plan:
        execute(stage, tmp_path, {by_name[name].kind: by_name[name] for name in stage.inputs}, 1)
    train = {
        (stage.arm, stage.name.rpartition("-")[2]): tmp_path / stage.directory
        for stage in plan
        if stage.kind == "train"
    }
    base = weights(train["base", "mixed"])
    short = weights(train["short_sft", "short_sft"])
    # lambda stays: in a single segment no memory is read
    moved = {name for name in base if not torch.equal(short[name], base[name])}
    assert moved >= {name for name in base if part_of(name) is not None and ".memory." not in name}
    for arm, parts in (("qk", {"query_key"}), ("gates", {"gates"}), ("both", {"query_key", "gates"})):
        for name, weight in weights(train[f"short_sft_old_{arm}", "restore"]).items():
            assert torch.equal(weight, base[name] if part_of(name) in parts else short[name]), (arm, name)
    frozen = weights(train["short_sft_frozen_gates", "short_sft"])
    assert all(torch.equal(frozen[name], base[name]) for name in base if part_of(name) == "gates")
    named = {"short_sft": "short_sft", "text": "text", "short_sft_old_qk": "restore"}
    turned = {
        arm: {record.weight: record for record in read_jsonl(train[arm, label] / "turns.jsonl", TurnRecord)}
        for arm, label in named.items()
    }
    assert all(0 < record.distance < 1 for record in turned["text"].values())
    restored = turned["short_sft_old_qk"].values()
    still = {record.part for record in restored if record.distance == 0.0 and ".memory." not in record.weight}
    assert still == {"query_key"}
    assert not (train["base", "repeats"] / "turns.jsonl").exists()
    findings = load_findings(spec, plan, tmp_path)
    assert not findings.failures
    assert {arm: len(findings.steps[arm, 0]) for arm in spec.arms} == {
        arm: 2 if arm == "base" else 1 for arm in spec.arms
    }
    assert {item.arm for item in findings.items["memory"]} == set(spec.arms)
    assert (
        len({item.item_id for item in findings.items["memory"] if isinstance(item, ItemRecord)}) == 4
    )  # the same items
    turns = findings.turns["short_sft", 0]
    assert [record.weight for record in turns] == list(base)
    bent = weight_turns(findings, TurnsGiven(arm="short_sft", against="text"))
    cosines = [record.cosine for record in turns if record.part == "query_key"]
    assert bent.quantities["cosine"](0.95).mean == pytest.approx(sum(cosines) / len(cosines))
    measured = drift(findings, DriftGiven(before="base", after="short_dpo", ask="memory", window="window"))
    assert -1 <= measured.quantities["difference_in_differences"](0.95).mean <= 1


@pytest.mark.parametrize(("moved", "expected"), [(-0.1, "PASS"), (0.1, "FAIL"), (0.0, "INCONCLUSIVE")])
def test_weights_that_turn_further_are_told_from_those_that_do_not(moved, expected):
    spec, rng = study(), np.random.default_rng(0)
    turns = {
        (arm, seed): [
            TurnRecord(weight=f"{part}{layer}", part=part, cosine=0.8 + shift + rng.normal(0, 0.01), distance=0.1)
            for layer in range(2)
            for part, shift in (("query_key", moved if arm == "short_sft" else 0.0), ("gates", 0.0))
        ]
        for arm in ("short_sft", "text")
        for seed in range(5)
    }
    findings = Findings(spec=spec, turns=turns)
    (row,) = [row for row in spec.rows if row.id == "E24l"]
    found = weight_turns(findings, TurnsGiven(**row.given))
    assert found.quantities["difference"](0.95).mean == pytest.approx(moved, abs=0.02)
    assert found.quantities["difference"](0.95).seeds == 5
    verdict = decide(row.rule, {"difference": found.quantities["difference"](0.95)})
    assert verdict == expected
    with pytest.raises(Missing, match="is not recorded"):
        weight_turns(findings, TurnsGiven(arm="base", against="text"))


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return pretrained_model(resolve_checkpoint(run_dir)).state_dict()
