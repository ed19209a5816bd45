"""Bad input: one sentence that says what would be right, exit code 2, no traceback, nothing lost."""

import copy
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cli_case import refused, run
from palimpsest.tasks.filler import CLASSIC_SENTENCES
from palimpsest.tasks.templates import INTRODUCTION
from palimpsest.training import resolve_checkpoint

pytestmark = pytest.mark.e2e

SEGMENT = 64
NEEDLE = "The pass key is 1. Remember it. 2 is the pass key. What is the pass key?"
TEXT = f"{INTRODUCTION} {' '.join(CLASSIC_SENTENCES)} {NEEDLE}"


def write(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(8):
        (folder / f"{number}.txt").write_text(f"{TEXT} Text number {number}. " * 6)
    return folder


@pytest.fixture(scope="module")
def recipe(corpus) -> dict:
    return {
        "name": "tiny",
        "model": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "attention": {"pattern": ["memory"], "segment_length": SEGMENT},
        },
        "data": {
            "kind": "text",
            "sequence_length": 64,
            "corpus": {"source": str(corpus), "heldout_fraction": 0.0},
            "tokenizer": {"vocab_size": 400},
        },
        "training": {"steps": 4, "batch_size": 2, "learning_rate": 1e-3, "checkpoint_every": 2, "log_every": 1},
    }


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    result = run("train", write(folder / "recipe.yaml", recipe), "--out", folder / "run")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == f"Checkpoint: {folder / 'run' / 'checkpoints' / 'step-4'}"
    return folder / "run"


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """A copy of the run directory, to be damaged."""
    subprocess.run(["cp", "-r", trained, tmp_path / "run"], check=True)
    return tmp_path / "run"


def changed(recipe: dict, path: str, value: object) -> dict:
    """Return the recipe with another value under a dotted path of keys."""
    content = copy.deepcopy(recipe)
    place = content
    *keys, last = path.split(".")
    for key in keys:
        place = place[key]
    place[last] = value
    return content


# Recipes and studies


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model.hiden_size", 16, ["model.hiden_size", "Did you mean 'hidden_size'?"]),
        ("training.learning_rat", 1, ["training.learning_rat", "Did you mean 'learning_rate'?"]),
        ("model.attention.memory", {"kind": "rigde"}, ["model.attention.memory.kind", "Did you mean 'ridge'?"]),
        ("model.hidden_size", 15, ["hidden_size 15", "num_attention_heads 2"]),
        ("training.accumulation", 3, ["batch_size 2", "3 equal micro-batches"]),
        ("training.warmup_steps", 9, ["warmup_steps 9", "steps 4"]),
        ("training.steps", "many", ["training.steps", "whole number", "'many'"]),
    ],
)
@pytest.mark.parametrize("command", ["train", "info"])
def test_a_recipe_that_cannot_be(recipe, tmp_path, command, path, value, words):
    file = write(tmp_path / "recipe.yaml", changed(recipe, path, value))
    sentence = refused(command, file, *(["--out", tmp_path / "run"] if command == "train" else []))
    assert sentence.startswith(str(file))
    assert all(word in sentence for word in words), sentence
    assert not (tmp_path / "run").exists()


def test_a_misspelt_key_of_a_study(tmp_path):
    study = yaml.safe_load(Path("studies/smoke.yaml").read_text())
    study["arms"]["ridge"]["atention"] = study["arms"]["ridge"].pop("attention")
    file = write(tmp_path / "study.yaml", study)
    for command in ("run", "plan"):
        sentence = refused("study", command, file, "--out", tmp_path / "out")
        assert "arms.ridge.atention" in sentence
        assert "Did you mean 'attention'?" in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "rigde"], ["rigde", "ridge"]),
        (["--seeds", "0,x"], ["--seeds", "whole numbers"]),
        (["--seeds", "0,0"], ["--seeds", "different"]),
    ],
)
def test_options_of_a_study_that_cannot_be(tmp_path, options, words):
    for command in ("run", "plan"):
        sentence = refused("study", command, "studies/smoke.yaml", "--out", tmp_path / "out", *options)
        assert all(word in sentence for word in words), sentence
    assert not (tmp_path / "out").exists()


def test_a_directory_that_is_no_study(tmp_path):
    (tmp_path / "thesis.txt").write_text("keep me")
    assert "holds other files and no study" in refused("study", "run", "studies/smoke.yaml", "--out", tmp_path)
    assert "is a file" in refused("study", "run", "studies/smoke.yaml", "--out", tmp_path / "thesis.txt")
    assert "is not the directory of a study" in refused("study", "report", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# Corpora and tokenizers


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty"]),
        (b" \n\n", ["is empty"]),
        (b"text\0text", ["is not text", "NUL byte at offset 4"]),
        (b"\x89PNG\xff", ["is not UTF-8 text", "offset 0"]),
    ],
)
def test_an_empty_or_binary_corpus(recipe, tmp_path, content, words):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_bytes(content)
    sentence = refused("data", "prepare", folder, tmp_path / "out", "--vocab-size", 300)
    assert all(word in sentence for word in words), sentence
    assert not (tmp_path / "out").exists()
    file = write(tmp_path / "recipe.yaml", changed(recipe, "data.corpus.source", str(folder)))
    assert all(word in refused("train", file, "--out", tmp_path / "run") for word in words)


def test_a_corpus_that_is_not_there(tmp_path):
    sentence = refused("data", "prepare", tmp_path / "nowhere", tmp_path / "out", "--vocab-size", 300)
    assert "does not exist" in sentence
    (tmp_path / "empty").mkdir()
    assert ".parquet" in refused("data", "prepare", tmp_path / "empty", tmp_path / "out", "--vocab-size", 300)


def test_no_tokenizer_or_two(corpus, tmp_path):
    for options in ([], ["--tokenizer", corpus, "--vocab-size", 300]):
        assert "either path" in refused("data", "prepare", corpus, tmp_path / "out", *options)


def test_a_tokenizer_that_lacks_single_digits(recipe, trained, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    numbers = [f"The pass key is {number}." for number in range(10000, 10400)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(numbers, trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(tmp_path / "tokenizer")
    passkeys = {"kind": "passkey", "tokenizer": str(tmp_path / "tokenizer")}
    file = write(tmp_path / "recipe.yaml", changed(recipe, "data", passkeys))
    sentence = refused("train", file, "--out", tmp_path / "run")
    assert "digit" in sentence


def test_a_hub_out_of_reach(tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    program = "from palimpsest.cli import main; main()"
    words = ["data", "prepare", "HuggingFaceFW/fineweb", str(tmp_path / "out"), "--config", "sample-10BT"]
    shown = subprocess.run(
        [sys.executable, "-c", program, *words, "--vocab-size", "1024"], env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 2, shown.stderr
    assert shown.stderr.count("\n") == 1
    assert shown.stderr.startswith("palimpsest: ")
    assert "hub is out of reach" in shown.stderr
    assert "Parquet" in shown.stderr
    assert not (tmp_path / "out").exists()


# Checkpoints


def asked(checkpoint: Path, out: Path) -> list[list[object]]:
    """Return commands that load a checkpoint."""
    return [
        ["eval", checkpoint, "--items", 1, "--out", out],
        ["probe", checkpoint, "--items", 1, "--out", out],
        ["generate", checkpoint, "--prompt", "The pass key"],
        ["info", checkpoint],
    ]


def test_a_missing_checkpoint(tmp_path):
    for words in asked(tmp_path / "nowhere", tmp_path / "out"):
        assert str(tmp_path / "nowhere") in refused(*words)
    (tmp_path / "empty").mkdir()
    for words in asked(tmp_path / "empty", tmp_path / "out"):
        assert "is no checkpoint" in refused(*words)
    assert not (tmp_path / "out").exists()


def test_a_truncated_checkpoint(copied, tmp_path):
    for step in (2, 4):
        weights = copied / "checkpoints" / f"step-{step}" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    for words in asked(copied / "checkpoints" / "step-4", tmp_path / "out"):
        assert "model.safetensors has" in refused(*words)
    for words in asked(copied, tmp_path / "out"):
        assert "No checkpoint" in refused(*words)
    sentence = refused("train", copied / "recipe.yaml", "--out", copied)
    assert "No checkpoint" in sentence
    assert "whole" in sentence
    assert not (tmp_path / "out").exists()


def test_weights_that_are_no_weights(copied, tmp_path):
    checkpoint = tmp_path / "saved"
    (copied / "checkpoints" / "step-4").rename(checkpoint)
    (checkpoint / "manifest.json").unlink()
    (checkpoint / "model.safetensors").write_bytes(b"not a checkpoint")
    for words in asked(checkpoint, tmp_path / "out")[:3]:
        assert str(checkpoint) in refused(*words)


# Evaluation


def test_a_context_shorter_than_the_fixed_part_of_the_prompt(recipe, trained, tmp_path):
    sentence = refused("eval", trained, "--lengths", 30, "--out", tmp_path / "out")
    assert "a passkey context of 30 tokens is shorter than the task's fixed text" in sentence
    passkeys = {"kind": "passkey", "min_length": 10, "max_length": 20}
    content = {**recipe, "init": str(trained), "data": passkeys}
    del content["model"]
    sentence = refused("train", write(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run")
    assert "max_length 20 is shorter than the task's fixed text" in sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tasks", "paskey"], ["'paskey'", "Did you mean 'passkey'?"]),
        (["--lengths", "long"], ["--lengths", "whole numbers"]),
        (["--depths", "0,2"], ["depths", "from 0 to 1"]),
    ],
)
def test_an_evaluation_that_cannot_be(trained, tmp_path, options, words):
    sentence = refused("eval", trained, "--out", tmp_path / "out", *options)
    assert all(word in sentence for word in words), sentence


def test_an_unknown_intervention(trained, tmp_path):
    sentence = refused("probe", trained, "--interventions", "swop", "--out", tmp_path / "out")
    assert "'swop'" in sentence
    assert "swap" in sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["either --prompt or --prompt-file"]),
        (["--prompt", ""], ["empty"]),
        (["--prompt-file", "nowhere.txt"], ["nowhere.txt", "cannot be read"]),
    ],
)
def test_no_prompt(trained, options, words):
    sentence = refused("generate", trained, *options)
    assert all(word in sentence for word in words), sentence


# Run directories and disks


def test_a_run_directory_of_another_recipe(recipe, trained, tmp_path):
    file = write(tmp_path / "recipe.yaml", changed(recipe, "training.learning_rate", 5e-3))
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    sentence = refused("train", file, "--out", trained)
    assert "belongs to a different recipe" in sentence
    assert "training.learning_rate is 0.001 there and 0.005 here" in sentence
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_a_disk_that_fills_up_loses_nothing(recipe, trained, tmp_path, monkeypatch):
    from palimpsest.training import state

    file, out = write(tmp_path / "recipe.yaml", recipe), tmp_path / "run"
    save = state.save_file

    def fill_up(tensors, path):
        if "step-4" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path)

    with monkeypatch.context() as full:
        full.setattr(state, "save_file", fill_up)
        sentence = refused("train", file, "--out", out)
    assert "The disk is full" in sentence
    assert "run the same command again" in sentence
    assert resolve_checkpoint(out).name == "step-2"
    assert run("train", file, "--out", out).exit_code == 0
    weights = Path("checkpoints/step-4/model.safetensors")
    assert (out / weights).read_bytes() == (trained / weights).read_bytes()


def test_a_full_disk_while_the_corpus_is_prepared(corpus, tmp_path, monkeypatch):
    def fill_up(path, value):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("palimpsest.data.prepare.write_json", fill_up)
    options = ["--vocab-size", 300, "--heldout-fraction", 0]
    assert "The disk is full" in refused("data", "prepare", corpus, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


# What is right


def test_the_commands_on_a_checkpoint(trained, tmp_path):
    shown = run("eval", trained, "--items", 2, "--depths", "0,1", "--out", tmp_path)
    assert shown.exit_code == 0, shown.output
    (path,) = (tmp_path / "items").iterdir()
    assert shown.stdout.splitlines()[-1] == f"Items: {path}"
    items = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(items) == 3 * 2 * 2  # three lengths, two depths, two items
    shown = run("probe", trained, "--items", 2, "--interventions", "swap,zero", "--out", tmp_path)
    assert shown.exit_code == 0, shown.output
    (other,) = set((tmp_path / "items").iterdir()) - {path}
    interventions = [json.loads(line)["intervention"] for line in other.read_text().splitlines()]
    assert {name: interventions.count(name) for name in interventions} == {"none": 30, "swap": 30, "zero": 30}
    shown = run("generate", trained, "--prompt", TEXT, "--max-new-tokens", 5)
    assert shown.exit_code == 0, shown.output
    assert "bytes of state" in shown.stderr
    for source in (trained, trained / "recipe.yaml"):
        shown = run("info", source)
        assert shown.exit_code == 0, shown.output
        assert "1 memory (linear)" in shown.stdout


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_says_how_to_go_on_and_goes_on(tmp_path, signum):
    study = yaml.safe_load(Path("studies/smoke.yaml").read_text())
    study["arms"] = {"linear": study["arms"]["linear"]}
    study["claims"] = []
    study["pretrain"]["training"]["checkpoint_every"] = 1000
    study["pretrain"]["training"]["steps"] = 200
    file, out = write(tmp_path / "study.yaml", study), tmp_path / "out"
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from palimpsest.cli import main; main()"
    words = [sys.executable, "-c", program, "study", "run", str(file), "--out", str(out), "--jobs", "2"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not list(out.glob("stages/pretrain-*/metrics.jsonl")) and process.poll() is None:
            time.sleep(0.1)
        os.killpg(process.pid, signum)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signum, errors
    assert f"kept in {out}; the same command continues." in errors.splitlines()[-1]
    assert "Traceback" not in errors
    (checkpoint,) = out.glob("stages/pretrain-*/checkpoints/step-*")
    again = run("study", "run", file, "--out", out, "--jobs", 2)
    assert again.exit_code == 0, again.output
    assert "corpus: already done" in again.stderr
    assert Path(again.stdout.strip().splitlines()[-1].removeprefix("Report: ")).is_file()
    assert checkpoint.name != "step-200"
