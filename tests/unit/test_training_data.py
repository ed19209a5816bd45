import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.data import IGNORED, TokenizerSpec, load_tokenizer, prepare_corpus
from palimpsest.data.corpus import CorpusSpec
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.training.data import Batch, BatchSource, batch_source
from palimpsest.training.loop import passages_of, weighted_loss
from palimpsest.training.rows import MixedRows, Row
from palimpsest.training.state import model_config, new_model
from training_case import SEGMENT, recipe, text_data, write_texts


class Counted:
    """Rows that say only which they are."""

    fingerprint = "counted"

    def __init__(self, kind: int, row_length: int = 4) -> None:
        self.kind, self.row_length = kind, row_length

    def row(self, index: int) -> Row:
        ids = np.full(self.row_length, index, dtype=np.int64)
        return Row(ids, ids, np.zeros_like(ids), weight=float(self.kind))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def prepared(texts, tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared") / "corpus"
    values = text_data(texts)
    return prepare_corpus(CorpusSpec(**values["corpus"]), TokenizerSpec(**values["tokenizer"]), directory)


def opened(data: dict, tmp_path, **training) -> BatchSource:
    return batch_source(recipe(data, **training), tmp_path / "data", init=None, segment_length=SEGMENT)


def passkey(prepared, **changes) -> dict:
    return {
        "kind": "passkey",
        "tokenizer": str(prepared.tokenizer_directory),
        "needle": "short",
        "min_length": 90,
        "max_length": 120,
        **changes,
    }


@given(accumulation=st.integers(1, 4), world=st.integers(1, 4), size=st.integers(1, 3), step=st.integers(0, 10**6))
def test_an_update_is_made_of_the_same_rows_however_it_is_divided(accumulation, world, size, step):
    rows = accumulation * world * size
    source = BatchSource(Counted(1), None, rows, accumulation)
    parts = [
        source.batch(step, micro, rank=rank, world=world).input_ids[:, 0].tolist()
        for rank in range(world)
        for micro in range(accumulation)
    ]
    assert [len(part) for part in parts] == [size] * (accumulation * world)
    assert [index for part in parts for index in part] == list(range(step * rows, (step + 1) * rows))


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(InputError, match="batch_size 6 cannot be divided over 2 processes with 2 micro-batches"):
        BatchSource(Counted(1), None, 6, 2).batch(0, 0, rank=0, world=2)


@given(fraction=st.floats(0.01, 0.99), start=st.integers(0, 10**6))
def test_a_mixture_spreads_its_kinds_evenly_and_skips_no_row(fraction, start):
    rows = MixedRows(Counted(1), Counted(2), fraction, pad_id=0)
    drawn = [rows.row(index) for index in range(start, start + 200)]
    for kind in (1.0, 2.0):
        own = [int(row.input_ids[0]) for row in drawn if row.weight == kind]
        assert own == list(range(own[0], own[0] + len(own))) if own else True
    assert abs(sum(row.weight == 2.0 for row in drawn) - 200 * fraction) < 1.0 + 1e-6


def test_a_mixture_pads_the_shorter_kind():
    rows = MixedRows(Counted(1, row_length=6), Counted(2, row_length=4), 0.5, pad_id=9)
    short = next(row for row in map(rows.row, range(2)) if row.weight == 2.0)
    assert short.input_ids.tolist() == [0, 0, 0, 0, 9, 9]
    assert short.labels.tolist() == [0, 0, 0, 0, IGNORED, IGNORED]
    assert short.document_ids.tolist() == [0, 0, 0, 0, -1, -1]


def test_text_is_prepared_into_the_run_when_no_directory_is_named(texts, prepared, tmp_path):
    source = opened(text_data(texts), tmp_path)
    assert (tmp_path / "data" / "manifest.json").exists()
    assert source.rows.fingerprint == prepared.fingerprint
    assert source.vocab_size == prepared.vocab_size
    named = opened({"kind": "text", "sequence_length": 96, "directory": str(prepared.directory)}, tmp_path)
    for one, other in zip(source.batch(5), named.batch(5), strict=True):
        assert torch.equal(one, other)


def test_batches_are_pure_and_follow_the_seed(prepared, tmp_path):
    data = {"kind": "text", "sequence_length": 96, "directory": str(prepared.directory)}
    one, again = opened(data, tmp_path), opened(data, tmp_path)
    one.batch(0)  # what was drawn before must not matter
    assert torch.equal(one.batch(7, 1).input_ids, again.batch(7, 1).input_ids)
    other = batch_source(
        recipe(data).model_copy(update={"seed": 4}), tmp_path / "data", init=None, segment_length=SEGMENT
    )
    assert not torch.equal(one.batch(7, 1).input_ids, other.batch(7, 1).input_ids)


def test_passkey_rows_are_labelled_on_the_answer_alone(prepared, tmp_path):
    source = opened(passkey(prepared), tmp_path)
    batch = source.batch(3)
    assert batch.input_ids.shape == (2, 120)
    assert ((batch.labels != IGNORED).sum(1) == 5).all()
    tokenizer = load_tokenizer(prepared.tokenizer_directory)
    for ids, labels, documents in zip(batch.input_ids, batch.labels, batch.document_ids, strict=True):
        key = tokenizer.decode(labels[labels != IGNORED]).replace(" ", "")
        assert tokenizer.decode(ids[documents >= 0]).count(key) == 2  # told once, and answered


def test_a_mixture_weighs_the_tokens_of_answers(prepared, tmp_path):
    data = {
        "kind": "mixture",
        "text": {"directory": str(prepared.directory), "sequence_length": 96},
        "passkey": passkey(prepared),
        "passkey_fraction": 0.5,
        "answer_weight": 7.0,
    }
    source = opened(data, tmp_path, accumulation=1)
    batch = source.batch(0)
    assert sorted(batch.weights.tolist()) == [1.0, 1.0, 7.0, 7.0]
    assert source.rows.row_length == 120
    labelled = (batch.labels != IGNORED).sum(1)
    assert (labelled[batch.weights == 7.0] == 5).all()
    assert (labelled[batch.weights == 1.0] > 60).all()


def test_different_vocabularies_are_refused(texts, prepared, tmp_path):
    other = prepare_corpus(
        CorpusSpec(**text_data(texts)["corpus"]), TokenizerSpec(vocab_size=300), tmp_path / "other"
    ).tokenizer_directory
    data = {
        "kind": "mixture",
        "text": {"directory": str(prepared.directory), "sequence_length": 96},
        "passkey": passkey(prepared, tokenizer=str(other)),
        "passkey_fraction": 0.5,
    }
    with pytest.raises(InputError, match="different vocabularies"):
        opened(data, tmp_path)


def documents(*rows: list[int]) -> Batch:
    ids = torch.tensor(rows)
    return Batch(ids, ids, ids, torch.ones(len(rows)))


@pytest.mark.parametrize(
    ("rows", "needed"),
    [
        ([[0, 0, 0], [2, 2, 2]], False),
        ([[0, 0, -1], [0, -1, -1]], False),
        ([[0, 0, 1]], True),
        ([[-1, 0, 0]], True),
        ([[0, -1, 0]], True),
    ],
)
def test_only_documents_that_matter_to_a_causal_model_are_passed(rows, needed):
    batch = documents(*rows)
    assert (batch.model_documents() is not None) is needed
    assert batch.tokens == sum(document >= 0 for row in rows for document in row)


def loss_of(model, batch) -> torch.Tensor:
    (passage,) = passages_of(model, batch, None)
    nats, auxiliary = weighted_loss(model, passage)
    assert auxiliary is None
    return nats


@pytest.mark.parametrize("kind", ["linear", "delta", "ridge"])
def test_leaving_out_padding_on_the_right_changes_no_loss(prepared, tmp_path, kind, monkeypatch):
    source = opened(passkey(prepared), tmp_path, accumulation=1)
    values = recipe(passkey(prepared)).model
    attention = values.attention.model_copy(update={"memory": {"kind": kind}, "documents": "reset"})
    config = model_config(values, source.vocab_size, source.tokenizer)
    config = type(config)(**{**config.to_dict(), "attention": {**attention.model_dump(warnings=False)}})
    model = new_model(config, seed=0).double()
    batch = source.batch(0)
    assert batch.model_documents() is None
    short = loss_of(model, batch)
    monkeypatch.setattr(Batch, "model_documents", lambda self: self.document_ids)
    told = loss_of(model, batch)
    torch.testing.assert_close(short, told, rtol=1e-12, atol=0.0)


def test_the_loss_is_that_of_the_model_class(prepared, tmp_path):
    source = opened({"kind": "text", "sequence_length": 96, "directory": str(prepared.directory)}, tmp_path)
    spec = recipe(passkey(prepared)).model
    model: PalimpsestForCausalLM = new_model(model_config(spec, source.vocab_size), seed=0)
    batch = source.batch(0)
    expected = model(batch.input_ids, labels=batch.labels, document_ids=batch.document_ids).loss
    labelled = (batch.labels[:, 1:] != IGNORED).sum()
    torch.testing.assert_close(loss_of(model, batch) / labelled, expected, rtol=1e-5, atol=0.0)
