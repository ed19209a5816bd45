"""Study files and plans: what is refused, what a digest depends on, what runs in which order."""

import hashlib
import sys
from pathlib import Path

import pytest
import yaml

from palimpsest.errors import InputError
from palimpsest.study import load_study, plan
from palimpsest.study.run import select
from palimpsest.study.spec import StudySpec

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture
def smoke():
    return yaml.safe_load((STUDIES / "smoke.yaml").read_text())


def published(study):
    """Let a study ask needles as they were published."""
    grid = study["passkey"]
    for key in ("interventions", "intervened_lengths"):
        grid.pop(key)
    grid["items"] = {"kind": "published"}
    return grid


def digests(spec):
    return {stage.name: stage.digest for stage in plan(spec)}


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_study_is_valid_and_its_plan_is_in_order(path):
    spec = load_study(path)
    done = set()
    for stage in plan(spec):
        assert done.issuperset(stage.inputs)
        done.add(stage.name)
    if isinstance(spec, StudySpec):
        evaluated = [(stage.arm, stage.seed) for stage in plan(spec) if stage.kind == "passkey"]
        times = sum(len(grid.trained) for grid in spec.named_grids.values())
        assert evaluated == [(arm, seed) for seed in spec.seeds for arm in spec.arms for _ in range(times)]
    else:
        trained = {(stage.arm, stage.seed) for stage in plan(spec) if stage.kind == "train"}
        assert trained == {(arm, seed) for arm in spec.arms for seed in spec.seeds_of(arm)}
    assert len({stage.name for stage in plan(spec)}) == len(done)
    assert len({stage.directory for stage in plan(spec)}) == len(done)


def test_arms_that_differ_in_fine_tuning_share_their_pretraining(smoke):
    smoke["arms"]["ridge-slow"] = smoke["arms"]["ridge"] | {"finetune_learning_rate": 1e-4}
    stages = {stage.name: stage for stage in plan(StudySpec.model_validate(smoke))}
    assert "ridge-slow-s0-pretrain" not in stages
    assert stages["ridge-slow-s0-finetune"].inputs == ("corpus", "ridge-s0-pretrain")


@pytest.mark.parametrize(
    ("name", "study", "stages"),
    [
        (
            "laptop",
            "9adb3d6b9e20030dfdaa6a73f50dacb3b768b359c9cc5c6f9ee4470ce0454062",
            "02b8166e1e0cc2fe57778ee1db1f1309f831158545c8ae031ae495c707f163d5",
        ),
        (
            "laptop-tune-finetune",
            "025d628a3001132209098c934f70d95c50fa25f67ca60c64a8af96d9dd0f7985",
            "a4c59696e39d6a7d2948fa18e66fe8d784d79d9f1d54b93765bb69d138c36bd1",
        ),
    ],
)
def test_studies_that_have_run_keep_their_digests(name, study, stages):
    """What the schema has learned since then is left out of them: their results are not asked for again."""
    spec = load_study(STUDIES / f"{name}.yaml")
    assert spec.sha256 == study
    said = "".join(stage.name + stage.digest for stage in plan(spec))
    assert hashlib.sha256(said.encode()).hexdigest() == stages


def test_a_plan_is_a_pure_function_of_the_file(smoke):
    assert plan(StudySpec.model_validate(smoke)) == plan(StudySpec.model_validate(smoke))


def test_a_changed_arm_changes_its_own_stages_only(smoke):
    before = digests(StudySpec.model_validate(smoke))
    smoke["arms"]["ridge"]["finetune_learning_rate"] = 1e-4
    after = digests(StudySpec.model_validate(smoke))
    assert {name for name in before if before[name] != after[name]} == {"ridge-s0-finetune", "ridge-s0-passkey"}


def test_more_items_redo_the_evaluation_only(smoke):
    before = digests(StudySpec.model_validate(smoke))
    smoke["passkey"]["items_per_cell"] += 1
    after = digests(StudySpec.model_validate(smoke))
    assert {name.split("-")[-1] for name in before if before[name] != after[name]} == {"passkey"}


def test_the_corpus_changes_everything(smoke):
    before = digests(StudySpec.model_validate(smoke))
    smoke["corpus"]["heldout_fraction"] = 0.2
    after = digests(StudySpec.model_validate(smoke))
    assert all(before[name] != after[name] for name in before)


def test_a_new_version_of_the_task_redoes_what_uses_it(smoke, monkeypatch):
    before = digests(StudySpec.model_validate(smoke))
    monkeypatch.setattr(sys.modules["palimpsest.study.plan"], "TASK", "passkey@next")
    after = digests(StudySpec.model_validate(smoke))
    assert {n.split("-")[-1] for n in before if before[n] != after[n]} == {"finetune", "passkey"}


def test_claims_and_seeds_change_no_stage(smoke):
    before = digests(StudySpec.model_validate(smoke))
    smoke["claims"] = []
    smoke["seeds"] = [0, 1]
    after = digests(StudySpec.model_validate(smoke))
    assert all(after[name] == before[name] for name in before)


def test_arms_without_memory_have_no_interventions(smoke):
    for stage in plan(StudySpec.model_validate(smoke)):
        if stage.kind == "passkey":
            assert bool(stage.settings["grid"]["interventions"]) == (stage.arm in ("linear", "delta", "ridge"))


def test_only_selects_arms_and_kinds_with_what_they_need(smoke):
    stages = plan(StudySpec.model_validate(smoke))
    assert [s.name for s in select(stages, ["ridge", "finetune"])] == [
        "corpus",
        "ridge-s0-pretrain",
        "ridge-s0-finetune",
    ]
    assert {s.arm for s in select(stages, ["full"])} == {None, "full"}
    assert select(stages, []) == stages
    with pytest.raises(InputError, match="no such arm or kind"):
        select(stages, ["rigde"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(seedz=[1]), "unknown key 'seedz'.*'seeds'"),
        (lambda s: s["arms"]["ridge"].update(learning_rate=1), "unknown key 'arms.ridge.learning_rate'"),
        (lambda s: s["arms"]["ridge"]["attention"]["memory"].update(kind="rigde"), "rigde"),
        (lambda s: s["arms"]["ridge"]["attention"].update(segment_length=64), "one segment_length"),
        (lambda s: s["claims"][0].update(arm="nobody"), "names the arm 'nobody'"),
        (lambda s: s["claims"][0].update(lengths=[999]), r"\[999\] that are not evaluated"),
        (lambda s: s["claims"][0]["rule"].update(kind="at_leest"), "at_leest"),
        (lambda s: s["passkey"].update(interventions=["swop"]), "unknown intervention 'swop'"),
        (lambda s: s["passkey"].update(depths=[50]), "fractions from 0 to 1"),
        (lambda s: s["passkey"].update(intervened_lengths=[1000]), r"\[1000\] are not among the lengths"),
        (lambda s: s.pop("position_loss"), "has no position_loss"),
        (lambda s: s.update(name="../evil"), "name"),
        (lambda s: s.update(finetunes={"a": s["finetune"]}), "either finetune .* or finetunes"),
        (lambda s: s.pop("passkey"), "either passkey .* or grids"),
        (lambda s: s["arms"]["ridge"].update(finetune="a"), "names the fine-tuning 'a'"),
        (lambda s: s.update(finetunes={"a": s.pop("finetune")}), "arm 'delta' must name one of the finetunes .a."),
        (lambda s: s["finetune"].pop("passkey"), "either passkey or needles"),
        (lambda s: s.update(grids={"passkey": s.pop("passkey")}), "grid cannot be called 'passkey'"),
        (lambda s: s.update(grids={"a-pretrained": s.pop("passkey")}), "grid cannot be called 'a-pretrained'"),
        (lambda s: s["claims"][0].update(depths=[0.3]), r"depths \[0.3\] that are not evaluated"),
        (lambda s: s["claims"][0].update(grid="words"), "about the grid 'words'; there are passkey"),
        (lambda s: s["claims"][0].update(trained="pretrained"), "about pretrained models"),
        (lambda s: s["passkey"].update(items={"kind": "published"}), "interventions need items of equal length"),
        (lambda s: published(s).update(lengths=[64]), "at least 90 characters of filler"),
        (lambda s: published(s).update(new_tokens=30), "new_tokens of their own"),
    ],
)
def test_a_wrong_study_is_refused_in_one_sentence(smoke, tmp_path, change, message):
    change(smoke)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(smoke))
    with pytest.raises(InputError, match=message) as caught:
        load_study(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
