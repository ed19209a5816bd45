"""Options for long documents: truncated back-propagation, a curriculum of lengths, and decay of the gates."""

import math
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.data import IGNORED, TextSamples
from palimpsest.errors import InputError
from palimpsest.training import Interrupted, Recipe, TrainingSpec, model_config, new_model, train
from palimpsest.training.data import BatchSource
from palimpsest.training.optimizer import build_optimizer
from palimpsest.training.recipe import LengthStage, TextData
from palimpsest.training.rows import Row
from training_case import (
    SEGMENT,
    assert_same_run,
    prepare_texts,
    recipe,
    recipe_values,
    records,
    stop_at,
)

STAGES = [{"steps": 2, "sequence_length": 32}, {"steps": 1, "sequence_length": 64}]
ROW = 128


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_texts(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def data(prepared):
    return {"kind": "text", "sequence_length": ROW, "directory": str(prepared.directory)}


class Numbered:
    """Rows whose tokens say where they are, with a document of its own for every ``document`` tokens."""

    fingerprint, row_length = "numbered", ROW

    def __init__(self, document: int = 17) -> None:
        self.document = document

    def row(self, index: int) -> Row:
        ids = np.arange(index * ROW, (index + 1) * ROW)
        documents = (ids % ROW) // self.document
        labels = ids.copy()
        labels[np.flatnonzero(np.diff(documents, prepend=-1))] = IGNORED
        return Row(ids, labels, documents, weight=1.0)


def staged() -> BatchSource:
    return BatchSource(Numbered(), None, 4, 2, tuple(LengthStage(**stage) for stage in STAGES))


@pytest.mark.parametrize(("step", "length"), [(0, 32), (1, 32), (2, 64), (3, ROW), (1000, ROW)])
def test_a_stage_cuts_the_rows_of_its_updates_and_nothing_else(step, length):
    for micro in (0, 1):
        cut, uncut = staged().batch(step, micro), BatchSource(Numbered(), None, 4, 2).batch(step, micro)
        assert cut.input_ids.shape == (2 * ROW // length, length)
        assert torch.equal(cut.input_ids.flatten(), uncut.input_ids.flatten())
        assert cut.tokens == uncut.tokens
        assert (cut.labels[:, 0] == IGNORED).all()
        kept = uncut.labels.reshape(cut.labels.shape)[:, 1:]
        assert torch.equal(cut.labels[:, 1:], kept)


@given(step=st.integers(0, 5), world=st.sampled_from([1, 2]))
def test_the_update_of_a_stage_is_the_same_however_it_is_divided(step, world):
    parts = [staged().batch(step, micro, rank=rank, world=world) for rank in range(world) for micro in range(2)]
    tokens = torch.cat([part.input_ids.flatten() for part in parts])
    assert tokens.tolist() == list(range(4 * step * ROW, 4 * (step + 1) * ROW))


@given(document=st.integers(1, ROW), length=st.sampled_from([2, 16, 32, 64]))
def test_the_documents_of_a_part_are_numbered_from_0_and_begin_where_they_did(document, length):
    row = Numbered(document).row(3)
    begins = np.diff(row.document_ids, prepend=0) > 0
    for start, part in zip(range(0, ROW, length), row.cut(length), strict=True):
        assert part.document_ids[0] == 0
        assert (np.diff(part.document_ids) == begins[start + 1 : start + length]).all()
        expected = row.labels[start : start + length].copy()
        expected[0] = IGNORED
        assert part.labels.tolist() == expected.tolist()


def test_a_row_of_padding_alone_can_be_cut():
    nothing = Row(np.zeros(4, np.int64), np.full(4, IGNORED), np.full(4, -1), 1.0)
    assert [part.document_ids.tolist() for part in nothing.cut(2)] == [[-1, -1], [-1, -1]]


def test_an_epoch_of_short_rows_holds_every_token_that_an_epoch_of_long_ones_does(prepared):
    samples = TextSamples(prepared.train, ROW, seed=3)
    whole = [Row(*samples.sample(i), weight=1.0) for i in range(len(samples))]
    short = [part for row in whole for part in row.cut(16)]
    assert np.array_equal(np.concatenate([r.input_ids for r in whole]), np.concatenate([r.input_ids for r in short]))


@pytest.mark.parametrize("documents", ["carry", "reset"])
def test_a_run_with_stages_and_truncation_resumes_to_the_same_bits(data, tmp_path, monkeypatch, documents):
    values = recipe_values(data | {"curriculum": STAGES}, backpropagate_segments=1, gate_weight_decay=0.1)
    values["model"]["attention"]["documents"] = documents
    spec = Recipe.model_validate(values)
    train(spec, tmp_path / "whole")
    for step in (1, 2, 3, 5):
        with monkeypatch.context() as patch:
            stop_at(patch, step, lambda: signal.raise_signal(signal.SIGINT))
            with pytest.raises(Interrupted):
                train(spec, tmp_path / "stopped")
    train(spec, tmp_path / "stopped")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    lines = records(tmp_path / "whole")
    assert [line.row_length for line in lines] == [32, 32, 64, ROW, ROW, ROW]
    assert [line.tokens for line in lines] == [step * 4 * ROW for step in range(1, 7)]
    assert all(math.isfinite(line.loss) for line in lines)


def test_a_truncated_update_has_the_loss_of_a_whole_one_and_another_gradient(data, tmp_path):
    found = {}
    for segments in (None, 1):
        train(recipe(data, steps=1, warmup_steps=0, backpropagate_segments=segments), tmp_path / str(segments))
        (found[segments],) = records(tmp_path / str(segments))
    assert found[1].loss == pytest.approx(found[None].loss, rel=1e-6)
    assert found[1].layers[0].gates == found[None].layers[0].gates
    assert found[1].grad_norm != found[None].grad_norm


def test_gates_decay_where_that_is_asked_and_nothing_that_a_memory_learns_does():
    values = recipe({"kind": "text", "sequence_length": ROW, "directory": "d"}).model
    network = new_model(model_config(values, 50), seed=0)
    before = {name: p.detach().clone().fill_(1.0) for name, p in network.named_parameters()}
    spec = TrainingSpec(steps=9, batch_size=1, learning_rate=1e-2, gate_learning_rate=0.5, gate_weight_decay=0.2)
    optimizer = build_optimizer(network, spec)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {n: (p.detach() / before[n]).unique().tolist() for n, p in network.named_parameters()}
    assert moved["model.layers.0.self_attn.gate.bias"] == [pytest.approx(1 - 0.5 * 0.2)]
    assert moved["model.layers.0.self_attn.memory.ridge"] == [1.0]
    assert moved["model.norm.weight"] == [1.0]
    assert moved["model.layers.0.mlp.up_proj.weight"] == [pytest.approx(1 - 0.5 * spec.weight_decay)]
    assert {group["name"] for group in optimizer.param_groups} == {"matrices", "vectors", "gates"}


def test_options_that_are_not_used_leave_the_digest_of_a_recipe_as_it_was(data):
    dumped = recipe(data).model_dump(mode="json")
    assert not {"gate_weight_decay", "backpropagate_segments"} & dumped["training"].keys()
    assert "curriculum" not in dumped["data"]
    used = Recipe.model_validate(
        recipe_values(data | {"curriculum": STAGES}, gate_weight_decay=0.1, backpropagate_segments=2)
    )
    again = Recipe.model_validate(used.model_dump(mode="json"))
    assert again == used
    assert again.digest() == used.digest() != recipe(data).digest()


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        (
            [{"steps": 1, "sequence_length": 48}],
            "rows of 48 tokens; it must be a proper divisor of sequence_length 128",
        ),
        ([{"steps": 1, "sequence_length": ROW}], "it must be a proper divisor"),
        ([{"steps": 6, "sequence_length": 32}], "take 6 of 6 updates .* leave none for rows of sequence_length"),
        ([{"steps": 0, "sequence_length": 32}], "greater than or equal to 1"),
    ],
)
def test_stages_that_do_not_fit_are_refused(data, stages, sentence):
    with pytest.raises(ValueError, match=sentence):
        Recipe.model_validate(recipe_values(data | {"curriculum": stages}))


def test_a_mixture_has_no_stages():
    text = TextData(sequence_length=64, directory="d", curriculum=[{"steps": 1, "sequence_length": 32}])
    values = recipe_values(
        {
            "kind": "mixture",
            "text": text.model_dump(),
            "passkey": {"kind": "passkey", "needle": "short", "min_length": 90, "max_length": 120},
            "passkey_fraction": 0.5,
        }
    )
    with pytest.raises(ValueError, match=r"text\.curriculum is for rows of text alone"):
        Recipe.model_validate(values)


def test_truncation_goes_neither_with_recomputation_nor_with_a_loss_over_all_segments(data, tmp_path):
    with pytest.raises(ValueError, match="backpropagate_segments and gradient_checkpointing do not go together"):
        recipe(data, backpropagate_segments=1, gradient_checkpointing=True)
    values = recipe_values(data, steps=1, warmup_steps=0)
    values["model"]["attention"] = {"pattern": ["compressive"], "segment_length": SEGMENT}
    train(Recipe.model_validate(values), tmp_path / "compressive")
    truncated = values | {"training": values["training"] | {"backpropagate_segments": 1}}
    with pytest.raises(ValueError, match="cannot go with the reconstruction loss of compressive attention"):
        Recipe.model_validate(truncated)
    longer = {k: v for k, v in truncated.items() if k != "model"} | {"init": str(tmp_path / "compressive")}
    with pytest.raises(InputError, match=r"checkpoints/step-1: training\.backpropagate_segments cannot go with"):
        train(Recipe.model_validate(longer), tmp_path / "longer")
