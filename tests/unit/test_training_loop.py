"""A run from its first update to its last: what it leaves, what may stop it, and that it goes on to the same bits."""

import errno
import fcntl
import itertools
import json
import logging
import math
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from palimpsest.errors import InputError
from palimpsest.records import Provenance
from palimpsest.schema import parse
from palimpsest.training import (
    Checkpoints,
    Interrupted,
    Recipe,
    TrainingError,
    course,
    loop,
    model_config,
    new_model,
    train,
)
from palimpsest.training.state import pretrained_model
from training_case import assert_same_run, prepare_texts, recipe, recipe_values, records, stop_at


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_texts(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def data(prepared):
    return {"kind": "text", "sequence_length": 96, "directory": str(prepared.directory)}


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of six steps that nothing has interrupted."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    train(recipe(data), run_dir)
    return run_dir


def poison(monkeypatch, steps, *, loss=None):
    """Let gradients, or the loss itself, of these updates (from 1) be not finite."""
    original = loop.accumulate_gradients
    calls = iter(range(1, 10**6))

    def accumulate(model, batches, *, bfloat16=False, segments=None):
        value = original(model, batches, bfloat16=bfloat16, segments=segments)
        if next(calls) not in steps:
            return value
        if loss is not None:
            return loss
        next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = math.inf
        return value

    monkeypatch.setattr(loop, "accumulate_gradients", accumulate)


def test_a_finished_run_is_complete_and_left_as_it_is(finished, data):
    assert {path.name for path in finished.iterdir()} == {
        ".lock",
        "recipe.yaml",
        "provenance.json",
        "metrics.jsonl",
        "checkpoints",
    }
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["step-4", "step-6"]
    times = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    assert train(recipe(data), finished) == finished / "checkpoints" / "step-6"
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_the_checkpoint_is_an_ordinary_model_with_its_tokenizer(finished, prepared):
    directory = finished / "checkpoints" / "step-6"
    model = AutoModelForCausalLM.from_pretrained(directory)
    weights = load_file(directory / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
    assert AutoTokenizer.from_pretrained(directory).get_vocab() == prepared.tokenizer().get_vocab()
    assert not [path.name for path in directory.iterdir() if path.suffix in {".pt", ".bin", ".pth", ".pkl"}]


def test_metrics_and_provenance_say_what_was_done(finished, data, prepared):
    lines = records(finished)
    assert [line.step for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line.tokens for line in lines] == [step * 4 * 96 for step in range(1, 7)]
    assert lines[0].loss == pytest.approx(math.log(prepared.vocab_size), rel=0.02)
    assert lines[-1].loss < lines[0].loss
    assert lines[1].learning_rate == pytest.approx(3e-3)
    assert lines[1].gate_learning_rate == pytest.approx(1e-2)
    assert all(a.seconds < b.seconds for a, b in itertools.pairwise(lines))
    assert lines[0].layers[0].gates == (0.5, 0.5)
    # the layers share the gradient with the embedding and the last norm
    assert 0 < math.hypot(*(layer.grad_norm for layer in lines[2].layers)) < lines[2].grad_norm
    origin = Provenance.model_validate_json((finished / "provenance.json").read_text())
    assert origin.recipe_sha256 == recipe(data).digest()
    assert origin.data_fingerprint == prepared.fingerprint
    assert origin.parameters == sum(p.numel() for p in pretrained_model(finished / "checkpoints/step-6").parameters())


def test_gradient_norms_are_those_before_clipping(finished, data, tmp_path):
    train(recipe(data, clip_norm=1e-4), tmp_path)
    free, clipped = records(finished)[0], records(tmp_path)[0]  # before the first update all weights are equal
    assert clipped.grad_norm == free.grad_norm > 1e-3
    assert clipped.layers == free.layers
    assert free.layers[0].grad_norm > 1e-3
    assert free.row_length == 96


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_run_that_crashed_continues_to_the_same_bits(finished, data, tmp_path, monkeypatch, step):
    def crash():
        raise RuntimeError("crash")

    with monkeypatch.context() as patch:
        stop_at(patch, step, crash)
        with pytest.raises(RuntimeError, match="crash"):
            train(recipe(data), tmp_path)
    train(recipe(data), tmp_path)
    assert_same_run(finished, tmp_path)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_finish_the_step_save_and_exit(finished, data, tmp_path, monkeypatch, caplog, signum, code):
    before = signal.getsignal(signum)
    for step in (3, 5):  # interrupted twice
        with monkeypatch.context() as patch:
            stop_at(patch, step, lambda: signal.raise_signal(signum))
            with caplog.at_level(logging.WARNING), pytest.raises(Interrupted) as stopped:
                train(recipe(data), tmp_path)
        assert stopped.value.code == code
        assert stopped.value.sentence in caplog.text
        assert f"after step {step}, saved in {tmp_path}/checkpoints/step-{step}" in stopped.value.sentence
        assert (tmp_path / "checkpoints" / f"step-{step}").is_dir()
        assert signal.getsignal(signum) is before
    train(recipe(data), tmp_path)
    assert_same_run(finished, tmp_path)


def test_resuming_after_every_step_is_the_same_run(finished, data, tmp_path, monkeypatch):
    for step in range(1, 7):
        with monkeypatch.context() as patch:
            stop_at(patch, step, lambda: signal.raise_signal(signal.SIGINT))
            with pytest.raises(Interrupted):
                train(recipe(data), tmp_path)
    assert train(recipe(data), tmp_path) == tmp_path / "checkpoints" / "step-6"
    assert_same_run(finished, tmp_path)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(finished, data, tmp_path, caplog):
    shutil.copytree(finished, tmp_path / "run")
    weights = tmp_path / "run" / "checkpoints" / "step-6" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        train(recipe(data), tmp_path / "run")
    assert "model.safetensors has" in caplog.text
    assert (tmp_path / "run" / "checkpoints" / "step-6.damaged").is_dir()
    assert_same_run(finished, tmp_path / "run")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_full_disk_stops_with_one_sentence_and_loses_nothing(finished, data, tmp_path, monkeypatch, name):
    original = course.write_checkpoint

    def write(directory, learner, tokenizer, progress):
        original(directory, learner, tokenizer, progress)
        if progress.step == 4:
            (directory / name).write_bytes(b"")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(course, "write_checkpoint", write)
        with pytest.raises(InputError, match=r"The disk is full: .*step-4 could not be written"):
            train(recipe(data), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-2"]
    assert Checkpoints(tmp_path / "checkpoints", 2).newest_valid().step == 2
    train(recipe(data), tmp_path)
    assert_same_run(finished, tmp_path)


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_an_update_that_is_not_finite_is_skipped_and_counted(data, tmp_path, monkeypatch, loss, caplog):
    with monkeypatch.context() as patch:
        poison(patch, {3}, loss=loss)
        with caplog.at_level(logging.WARNING):
            train(recipe(data, checkpoint_every=1, keep_checkpoints=6), tmp_path)
    assert "Step 3 was skipped" in caplog.text
    assert [(line.step, line.skipped) for line in records(tmp_path)] == [(1, 0), (2, 0), (4, 1), (5, 1), (6, 1)]
    before, after, later = (load_file(tmp_path / f"checkpoints/step-{n}/model.safetensors") for n in (2, 3, 4))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(after[name], later[name]) for name in after)
    moments = [load_file(tmp_path / f"checkpoints/step-{n}/optimizer.safetensors") for n in (2, 3)]
    assert all(torch.equal(moments[0][name], moments[1][name]) for name in moments[0])


def test_too_many_in_a_row_stop_the_run_at_the_last_good_step(data, tmp_path, monkeypatch):
    bad = recipe(data, max_bad_steps=3, checkpoint_every=50)
    with monkeypatch.context() as patch:
        poison(patch, {1, 4, 5, 6})
        said = r"the 3 updates up to step 6 \(rows 12 to 23 of the data\).*unchanged since step 3"
        with pytest.raises(TrainingError, match=said):
            train(bad, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-3"]
    assert json.loads((tmp_path / "checkpoints/step-3/state.json").read_text())["skipped"] == 1
    with monkeypatch.context() as patch:
        poison(patch, {1, 2, 3})  # the same updates again, as the first of the process
        with pytest.raises(TrainingError, match="up to step 6"):
            train(bad, tmp_path)
    assert train(bad, tmp_path) == tmp_path / "checkpoints" / "step-6"


def test_a_run_directory_of_another_recipe_is_refused(finished, data):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"a different recipe: training\.learning_rate is 0\.003 there and 0\.1 here"):
        train(recipe(data, learning_rate=0.1), finished)
    assert before == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}


def test_a_directory_that_is_no_run_is_refused(data, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds other files and no run"):
        train(recipe(data), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="is a file"):
        train(recipe(data), tmp_path / "thesis.txt")


def test_two_processes_cannot_train_in_one_directory(finished, data):
    with open(finished / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="Another process is training in"):
            train(recipe(data), finished)


def test_data_that_changed_since_are_refused(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 3, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(Interrupted):
            train(recipe(data), tmp_path)
    origin = json.loads((tmp_path / "provenance.json").read_text())
    (tmp_path / "provenance.json").write_text(json.dumps({**origin, "data_fingerprint": "0" * 64}))
    with pytest.raises(InputError, match="have changed since the run began"):
        train(recipe(data), tmp_path)


def from_checkpoint(init, data, **training) -> Recipe:
    values = recipe_values(data, **training)
    return parse(Recipe, {**{k: v for k, v in values.items() if k != "model"}, "init": str(init)}, "recipe")


def test_fine_tuning_starts_from_the_newest_checkpoint_of_a_run(finished, tmp_path, monkeypatch):
    passkey = {"kind": "passkey", "needle": "short", "min_length": 96, "max_length": 120}
    tuned = from_checkpoint(finished, passkey, learning_rate=1e-9, gate_learning_rate=1e-9, weight_decay=0.0)
    train(tuned, tmp_path / "whole")
    start = load_file(finished / "checkpoints/step-6/model.safetensors")
    end = load_file(tmp_path / "whole/checkpoints/step-6/model.safetensors")
    assert start.keys() == end.keys()
    assert all(torch.allclose(start[name], end[name], atol=1e-7) for name in start)
    assert not all(torch.equal(start[name], end[name]) for name in start)
    with monkeypatch.context() as patch:
        stop_at(patch, 3, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(Interrupted):
            train(tuned, tmp_path / "parts")
    train(tuned, tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_checkpoint_that_cannot_be_read_is_one_sentence(finished, data, tmp_path):
    with pytest.raises(InputError, match=r"is no checkpoint: there is no config\.json"):
        train(from_checkpoint(tmp_path / "nowhere", data), tmp_path / "one")
    broken = tmp_path / "step-6"
    shutil.copytree(finished / "checkpoints" / "step-6", broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.safetensors has 1000 bytes instead of"):
        train(from_checkpoint(broken, data), tmp_path / "two")
    plain = tmp_path / "plain"
    broken.rename(plain)
    (plain / "manifest.json").unlink()  # as if another program had written it
    with pytest.raises(InputError, match="holds no palimpsest model that can be read"):
        train(from_checkpoint(plain, data), tmp_path / "three")


def test_a_checkpoint_that_lacks_weights_is_refused(finished, data, tmp_path):
    spec = recipe(data).model
    local = spec.model_copy(update={"attention": spec.attention.model_copy(update={"pattern": ["segment_local"]})})
    model = pretrained_model(finished / "checkpoints" / "step-6")
    other = new_model(model_config(local, model.config.vocab_size), seed=0)
    other.config.attention = model.config.attention
    other.save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match=r"lacks the weights .*self_attn\.gate\.bias"):
        pretrained_model(tmp_path / "plain")


def test_bfloat16_computes_close_by_and_keeps_float32_weights(finished, data, tmp_path):
    train(recipe(data, precision="bfloat16", gradient_checkpointing=True), tmp_path)
    tensors = [load_file(tmp_path / "checkpoints/step-6" / n) for n in ("model.safetensors", "optimizer.safetensors")]
    assert {tensor.dtype for part in tensors for tensor in part.values()} == {torch.float32}
    for exact, rounded in zip(records(finished), records(tmp_path), strict=True):
        assert rounded.loss == pytest.approx(exact.loss, rel=0.01)
        assert rounded.loss != exact.loss
