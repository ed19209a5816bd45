"""Every kind of attention is trained by the same loop: it learns, resumes to the same bits, and is loaded as saved."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from palimpsest.schema import parse
from palimpsest.training import Recipe, loop, train
from palimpsest.training.state import pretrained_model
from training_case import prepare_texts, recipe_values, records

from .model_cases import ATTENTION, SEGMENT, TABLE

STEPS = 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_texts(tmp_path_factory.mktemp("prepared")).directory


def recipe(name: str, corpus: Path) -> Recipe:
    """Return a recipe for packed documents that start anew, in rows of several segments."""
    data = {"kind": "text", "sequence_length": 5 * SEGMENT, "directory": str(corpus)}
    values = recipe_values(data, steps=STEPS, warmup_steps=1, gradient_checkpointing=True)
    values["model"]["attention"] = {"segment_length": SEGMENT, "documents": "reset"} | ATTENTION[name]
    return parse(Recipe, values, "recipe")


@pytest.mark.parametrize("name", TABLE)
def test_a_kind_is_trained_by_the_same_loop(
    name: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(recipe(name, corpus), tmp_path / "whole")
    losses = [record.loss for record in records(tmp_path / "whole")]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.01

    with monkeypatch.context() as patch:
        patch.setattr(loop.Checkpoints, "save", _crash_after(loop.Checkpoints.save))
        with pytest.raises(RuntimeError, match="crash"):
            train(recipe(name, corpus), tmp_path / "resumed")
    resumed = train(recipe(name, corpus), tmp_path / "resumed")
    for file in ("model.safetensors", "optimizer.safetensors"):
        left, right = load_file(whole / file), load_file(resumed / file)
        assert left.keys() == right.keys()
        assert all(left[key].equal(right[key]) for key in left), file
    model = pretrained_model(whole)
    assert model.config.attention_spec == recipe(name, corpus).model.attention


def _crash_after(save):
    """Return a method that saves the first checkpoint, and then dies."""

    def saved(self, *arguments, **named):
        save(self, *arguments, **named)
        raise RuntimeError("crash")

    return saved
