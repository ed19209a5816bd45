"""A small run that several tests train: text, a tokenizer, and recipes over them; how it is stopped and compared."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from palimpsest.data import CorpusSpec, PreparedCorpus, TokenizerSpec, prepare_corpus
from palimpsest.records import StepRecord, read_jsonl
from palimpsest.schema import parse
from palimpsest.tasks.filler import CLASSIC_SENTENCES
from palimpsest.tasks.templates import INTRODUCTION, NEEDLES, QUESTION
from palimpsest.training import Recipe, course

SEGMENT = 32


def write_texts(folder: Path) -> Path:
    """Write documents in which the sentences of the passkey task are common, so that few tokens spell them."""
    folder.mkdir(parents=True, exist_ok=True)
    classic = "".join(CLASSIC_SENTENCES)
    for number in range(12):
        key = (31 * number + 10_007) % 90_000 + 10_000
        told = "".join((INTRODUCTION, classic, *NEEDLES.values(), classic, QUESTION)).format(key=key)
        story = " ".join(f"Line {line} of {number} says {line * key}." for line in range(12))
        (folder / f"{number:02d}.txt").write_text(told + "\n" + story, encoding="utf-8")
    return folder


def text_data(folder: Path, *, sequence_length: int = 96) -> dict:
    return {
        "kind": "text",
        "sequence_length": sequence_length,
        "corpus": {"source": str(folder), "heldout_fraction": 0.1},
        "tokenizer": {"vocab_size": 480},
    }


def prepare_texts(folder: Path) -> PreparedCorpus:
    """Write the documents, and prepare them with the tokenizer of ``text_data``."""
    values = text_data(write_texts(folder / "texts"))
    return prepare_corpus(CorpusSpec(**values["corpus"]), TokenizerSpec(**values["tokenizer"]), folder / "corpus")


def recipe_values(data: dict, **training: object) -> dict:
    """Return the values of a small recipe; keywords replace those of its training block."""
    return {
        "name": "tiny",
        "seed": 3,
        "model": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "attention": {
                "pattern": ["memory", "full"],
                "segment_length": SEGMENT,
                "memory": {"kind": "ridge"},
            },
        },
        "data": data,
        "training": {
            "steps": 6,
            "batch_size": 4,
            "accumulation": 2,
            "learning_rate": 3e-3,
            "warmup_steps": 2,
            "checkpoint_every": 2,
            "log_every": 1,
            **training,
        },
    }


def recipe(data: dict, **training: object) -> Recipe:
    return parse(Recipe, recipe_values(data, **training), "recipe")


def records(run_dir: Path) -> list[StepRecord]:
    return list(read_jsonl(run_dir / "metrics.jsonl", StepRecord))


def assert_same_run(one: Path, other: Path, steps: int = 6) -> None:
    """Assert that two runs told the same, but for the seconds, ended in the same bits and left nothing half-written."""
    for name in ("model.safetensors", "optimizer.safetensors"):
        left, right = (load_file(run / "checkpoints" / f"step-{steps}" / name) for run in (one, other))
        assert left.keys() == right.keys()
        assert all(left[key].equal(right[key]) for key in left), name
    left, right = ([line.model_copy(update={"seconds": 0.0}) for line in records(run)] for run in (one, other))
    assert left == right
    assert not list((other / "checkpoints").glob("*.tmp"))


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Do something when the update with this number has been computed, before it is counted."""
    original = course.Course.count

    def count(run, tokens, *, taken):
        if run.progress.step + 1 == step:
            action()
        original(run, tokens, taken=taken)

    monkeypatch.setattr(course.Course, "count", count)
