"""A run of alignment: what it leaves, how it goes on, and what it refuses."""

import json
import os
import shutil
import signal

import pytest
import torch

from alignment_case import PREFERENCES, recipe, recipe_values, save_base, write_rows
from cli_case import refused, run
from palimpsest.errors import InputError
from palimpsest.records import Provenance, StepRecord, read_jsonl
from palimpsest.training import Interrupted, TrainingError, resolve_checkpoint
from palimpsest.training.alignment import PreferenceRecord, align
from palimpsest.training.alignment import run as running
from palimpsest.training.state import pretrained_model

METHODS = ("sft", "dpo")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base") / "model")


def weights(path):
    return pretrained_model(resolve_checkpoint(path)).state_dict()


def steps(run_dir):
    return [record.model_copy(update={"seconds": 0.0}) for record in read_jsonl(run_dir / "metrics.jsonl", StepRecord)]


def test_a_run_leaves_what_a_training_leaves(base, tmp_path):
    made = recipe(base, "dpo", checkpoint_every=2)
    final = align(made, tmp_path / "run")
    assert final == tmp_path / "run" / "checkpoints" / "step-3" == resolve_checkpoint(tmp_path / "run")
    found = steps(tmp_path / "run")
    assert [record.step for record in found] == [1, 2, 3]
    assert found[0].loss == pytest.approx(0.693147, abs=1e-5)  # ln 2: a model is its own reference at first
    assert found[2].loss != found[0].loss
    assert [record.gate_learning_rate / record.learning_rate for record in found] == pytest.approx([1e-2 / 3e-3] * 3)
    assert all(len(layer.gates) == len(layer.memory_norm) == 2 for record in found for layer in record.layers)
    pairs = list(read_jsonl(tmp_path / "run" / "preferences.jsonl", PreferenceRecord))
    assert [record.step for record in pairs] == [1, 2, 3]
    assert pairs[0].margin == pytest.approx(0.0, abs=1e-5)
    assert all(record.margin == pytest.approx(record.chosen - record.rejected, abs=1e-6) for record in pairs)
    origin = Provenance.model_validate_json((tmp_path / "run" / "provenance.json").read_bytes())
    assert origin.recipe_sha256 == made.digest()
    assert {"trl", "torch"} <= origin.versions.keys()
    assert found[-1].tokens == sum(
        2 * (len(row["prompt_ids"]) + 1) for row in (rows_of(made).row(index) for index in range(12))
    )
    assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".pt", ".pth", ".bin")]


def rows_of(made):
    from palimpsest.data import load_tokenizer
    from palimpsest.training.alignment.rows import alignment_rows

    return alignment_rows(made, load_tokenizer(made.init), segment_length=16)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_killed_ends_in_the_same_bits(base, tmp_path, monkeypatch, method):
    made = recipe(base, method, steps=5, checkpoint_every=2, accumulation=2)
    whole = align(made, tmp_path / "whole")
    seen, look = [], running.layer_metrics

    def look_until_killed(model, batch):
        seen.append(batch)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return look(model, batch)

    monkeypatch.setattr(running, "layer_metrics", look_until_killed)
    with pytest.raises(KeyboardInterrupt):
        align(made, tmp_path / "cut")
    assert resolve_checkpoint(tmp_path / "cut").name == "step-2"
    again = align(made, tmp_path / "cut")
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (again / "optimizer.safetensors").read_bytes() == (whole / "optimizer.safetensors").read_bytes()
    assert steps(tmp_path / "cut") == steps(tmp_path / "whole")
    if method == "dpo":
        one, other = ((tmp_path / name / "preferences.jsonl").read_text() for name in ("cut", "whole"))
        assert one == other
    files = [path for path in (tmp_path / "cut").rglob("*") if path.name != ".lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert align(made, tmp_path / "cut") == again
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_a_signal_finishes_the_update_and_saves(base, tmp_path, monkeypatch):
    made, look = recipe(base, steps=5), running.layer_metrics

    def look_and_stop(model, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return look(model, batch)

    monkeypatch.setattr(running, "layer_metrics", look_and_stop)
    with pytest.raises(Interrupted) as stopped:
        align(made, tmp_path / "run")
    assert stopped.value.code == 128 + signal.SIGTERM
    assert resolve_checkpoint(tmp_path / "run").name == "step-1"
    assert [record.step for record in steps(tmp_path / "run")] == [1]


def test_an_update_that_is_not_finite_changes_nothing(base, tmp_path, monkeypatch):
    made = recipe(base, steps=2, max_bad_steps=5)
    monkeypatch.setattr(running.nn.utils, "get_total_norm", lambda gradients: torch.tensor(float("nan")))
    final = align(made, tmp_path / "run")
    start = weights(base)
    assert all(torch.equal(weight, start[name]) for name, weight in weights(final).items())
    assert json.loads((final / "state.json").read_text())["skipped"] == 2
    with pytest.raises(TrainingError, match=r"the 1 updates up to step 1 \(rows 0 to 3 of the data\) all had a loss"):
        align(recipe(base, steps=2, max_bad_steps=1), tmp_path / "other")


@pytest.mark.parametrize("method", METHODS)
def test_gates_without_a_rate_stay_as_they_are(base, tmp_path, method):
    start, frozen = weights(base), weights(align(recipe(base, method, gate_learning_rate=0.0), tmp_path / "frozen"))
    moved = {name for name in start if not torch.equal(start[name], frozen[name])}
    assert not {name for name in moved if ".gate." in name or ".memory." in name}
    assert {name for name in moved if "q_proj" in name}


def test_activations_can_be_computed_twice(base, tmp_path):
    one, other = (
        weights(align(recipe(base, "dpo", gradient_checkpointing=again), tmp_path / str(again))) for again in (0, 1)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_half_precision_computes_in_bfloat16_and_learns_in_float32(base, tmp_path):
    losses = {}
    for precision in ("float32", "bfloat16"):
        final = align(recipe(base, precision=precision, steps=1, warmup_steps=0), tmp_path / precision)
        assert {weight.dtype for weight in weights(final).values()} == {torch.float32}
        losses[precision] = steps(tmp_path / precision)[0].loss
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=1e-2)


def test_nobody_is_told(base, tmp_path, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    told = []
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **given: told.append(given))
    align(recipe(base, steps=1, warmup_steps=0), tmp_path / "run")
    assert not told


def test_the_command_writes_a_run_that_others_open(base, tmp_path):
    values = recipe_values(base, "dpo", data={"kind": "preferences", "source": str(tmp_path / "pairs.jsonl")}, steps=1)
    write_rows(tmp_path / "pairs.jsonl", [{"prompt": "SEP k1 v2 QUERY k1", "chosen": " v2", "rejected": " v3"}])
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(values | {"training": values["training"] | {"warmup_steps": 0}}))
    done = run("align", file, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"Checkpoint: {tmp_path / 'run' / 'checkpoints' / 'step-1'}\n"
    asked = run(
        "eval", tmp_path / "run", "--tasks", "sym_multikey", "--lengths", "48", "--items", "4", "--out", tmp_path
    )
    assert asked.exit_code == 0, asked.output
    shown = run("info", tmp_path / "run")
    assert shown.exit_code == 0, shown.output
    assert "dpo on preferences, from" in shown.stdout


def test_what_cannot_be_aligned_is_refused(base, tmp_path, monkeypatch):
    values = recipe_values(base)
    file = tmp_path / "recipe.yaml"

    def sentence(**changed):
        file.write_text(json.dumps(values | changed))
        return refused("align", file, "--out", tmp_path / "run")

    assert "no checkpoint" in sentence(init=str(tmp_path / "nothing"))
    assert "unknown key 'beta'" in sentence(beta=0.1)
    assert "does not exist" in sentence(data={"kind": "chats", "source": "nowhere"})
    align(recipe(base, steps=1, warmup_steps=0), tmp_path / "taken")
    other = recipe(base, steps=2)
    with pytest.raises(InputError, match=r"belongs to a different recipe: training.steps is 1 there and 2 here"):
        align(other, tmp_path / "taken")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        align(other, tmp_path / "full")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process"):
        align(other, tmp_path / "new")
    monkeypatch.setattr(running.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"palimpsest-lm\[align\]"):
        align(other, tmp_path / "new")


def test_data_that_have_changed_since_are_refused(base, tmp_path):
    source = write_rows(
        tmp_path / "pairs.jsonl", [PREFERENCES[0] | {"prompt": "k1", "chosen": " v1", "rejected": " v2"}]
    )
    made = recipe(base, "dpo", data={"kind": "preferences", "source": str(source)}, steps=1, warmup_steps=0)
    align(made, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    write_rows(source, [{"prompt": "k1", "chosen": " v1", "rejected": " v3"}])
    with pytest.raises(InputError, match="have changed since the run began"):
        align(made, tmp_path / "run")


def test_layers_with_a_loss_of_their_own_are_refused(base, tmp_path):
    from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM

    config = PalimpsestConfig.from_pretrained(base)
    block = {"pattern": ["compressive"], "segment_length": 16}
    PalimpsestForCausalLM(
        PalimpsestConfig(**{**config.to_dict(), "attention": block, "architectures": None})
    ).save_pretrained(tmp_path / "own")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, tmp_path / "own" / name)
    with pytest.raises(InputError, match="loss of their own"):
        align(recipe(tmp_path / "own"), tmp_path / "run")


def stopped_after(monkeypatch, made, run_dir, step):
    """Align up to a step, at which a signal comes."""
    due = running.Course.save_if_due

    def save_and_stop(course):
        due(course)
        if course.progress.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(running.Course, "save_if_due", save_and_stop)
        with pytest.raises(Interrupted):
            align(made, run_dir)


@pytest.mark.parametrize("step", [1, 2])
def test_preferences_are_the_same_wherever_a_run_was_stopped(base, tmp_path, monkeypatch, step):
    made = recipe(base, "dpo", steps=3, log_every=2, batch_size=2)
    align(made, tmp_path / "whole")
    stopped_after(monkeypatch, made, tmp_path / "cut", step)
    align(made, tmp_path / "cut")
    cut, whole = (read_jsonl(tmp_path / name / "preferences.jsonl", PreferenceRecord) for name in ("cut", "whole"))
    lines = list(whole)
    assert list(cut) == lines
    assert [line.step for line in lines] == [1, 2, 3]  # those of metrics.jsonl


def test_another_reference_is_refused(tmp_path, monkeypatch):
    folder = save_base(tmp_path / "base")
    made = recipe(folder, "dpo", steps=2, batch_size=2)
    stopped_after(monkeypatch, made, tmp_path / "run", 1)
    save_base(folder, seed=7)
    with pytest.raises(InputError, match=r"the reference of .* has changed"):
        align(made, tmp_path / "run")
