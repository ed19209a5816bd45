"""Documents with their summaries: what is read, how they are divided, and how they are packed into rows."""

import json
import sys
from collections import Counter
from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyarrow import parquet
from summary_case import CUE, booksum_spec, chapters, encoded, summaries_data

from palimpsest.data import IGNORED, tables
from palimpsest.data.summaries import SUMMARY_SETS, PairsSpec, SummaryPair, prepare_pairs, summary_pairs
from palimpsest.errors import InputError
from palimpsest.schema import parse
from palimpsest.study.summaries import asked_pairs
from palimpsest.tasks.stories import facts_of
from palimpsest.training import Recipe
from palimpsest.training.recipe import SummariesData
from palimpsest.training.summaries import SummaryRows
from text_case import decode, encode, tokenizer
from training_case import recipe_values


@pytest.fixture
def booksum(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    parquet.write_table(pa.Table.from_pylist(chapters()), folder / "train.parquet")
    return folder


# What is read


def test_rows_of_booksums_schema(booksum):
    found = list(summary_pairs(booksum_spec(booksum)))
    assert [pair.summary for pair in found] == [row["summary_text"] for row in chapters()]
    assert [pair.document for pair in found] == [row["chapter"].strip() for row in chapters()]
    assert [pair.group for pair in found] == [str(row["bid"]) for row in chapters()]


def test_a_book_is_never_on_both_sides(booksum):
    chosen = booksum_spec(booksum, heldout_fraction=0.5)
    parts = [[pair.group for pair in summary_pairs(chosen, part)] for part in ("train", "heldout")]
    assert not set(parts[0]) & set(parts[1])
    assert Counter(parts[0]) + Counter(parts[1]) == Counter(pair.group for pair in summary_pairs(chosen))
    assert all(parts)


def test_a_book_with_several_summaries_makes_several_pairs(tmp_path):
    summaries = [{"source": "a", "text": "One.", "analysis": None}, {"source": "b", "text": "Two.", "analysis": "x"}]
    rows = [{"bid": 7, "text": "Once upon a time.", "summary": summaries}, {"bid": 8, "text": " ", "summary": ["No."]}]
    (tmp_path / "books.jsonl").write_text("\n".join(map(json.dumps, rows)))
    named = SUMMARY_SETS["booksum"] | {"source": str(tmp_path / "books.jsonl"), "config": None}
    found = list(summary_pairs(parse(PairsSpec, named, "pairs")))
    assert found == [
        SummaryPair("books.jsonl#1.0", "7", "Once upon a time.", "One."),
        SummaryPair("books.jsonl#1.1", "7", "Once upon a time.", "Two."),
    ]


def test_papers_lose_their_abstract_and_come_once(tmp_path):
    text = "A Title\n\nWe study it.\n\nMethod\n\nWe study it.\n\nWe add.\n\nIt works."  # two of the 260 say it twice
    rows = [{"id": f"p_{n}", "paper": "p", "text": text, "question": "?", "label": n} for n in range(2)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "qasper_yesno-train.parquet")
    chosen = parse(PairsSpec, {"kind": "pairs", "source": str(tmp_path), "layout": "paper"}, "pairs")
    (pair,) = summary_pairs(chosen)
    assert pair.document == "A Title\n\nMethod\n\nWe add.\n\nIt works."
    assert pair.summary == "We study it."
    assert pair.group == "p"


def test_rows_without_a_group_are_groups_of_their_own(tmp_path):
    rows = [{"text": f"Title {n}\n\nAbstract {n}\n\nSection {n}", "paper": None} for n in range(5)]
    (tmp_path / "papers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    papers = PairsSpec(source=str(tmp_path / "papers.jsonl"), layout="paper")
    assert [pair.summary for pair in summary_pairs(papers)] == [f"Abstract {n}" for n in range(5)]


def test_half_a_character_is_refused_and_a_whole_one_is_not(tmp_path):
    source = PairsSpec(source=str(tmp_path / "a.jsonl"))
    (tmp_path / "a.jsonl").write_text(json.dumps({"document": "whole \U0001f600", "summary": "x"}))
    assert [pair.document for pair in summary_pairs(source)] == ["whole \U0001f600"]
    (tmp_path / "a.jsonl").write_text(json.dumps({"document": "half \ud800", "summary": "x"}))
    with pytest.raises(InputError, match="line 1 is not valid Unicode: there is a lone surrogate"):
        list(summary_pairs(source))


def test_a_named_set_fills_in_what_is_not_given():
    named = parse(PairsSpec, {"kind": "pairs", "source": "arxiv", "split": "validation"}, "pairs")
    assert (named.source, named.config, named.split) == ("ccdv/arxiv-summarization", "document", "validation")
    assert (named.document_column, named.summary_column) == ("article", "abstract")
    assert parse(PairsSpec, named.model_dump(), "pairs") == named


def test_a_set_on_the_hub_is_streamed_at_one_commit(monkeypatch):
    calls = []

    def load_dataset(*names, **options):
        calls.append((names, options))
        yield from chapters(2)
        raise ConnectionError("The line is dead.\nTry later.")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr(tables, "resolve_revision", lambda *each: "abc")
    found = summary_pairs(parse(PairsSpec, {"kind": "pairs", "source": "booksum-chapters", "split": "test"}, "pairs"))
    assert [next(found).id for _ in range(2)] == ["test#1", "test#2"]
    with pytest.raises(
        InputError, match=r"\(config None, split 'test'\) broke off after 2 rows \(The line is dead\.\)"
    ):
        next(found)
    assert calls == [(("kmfoda/booksum", None), {"split": "test", "revision": "abc", "streaming": True})]


@pytest.mark.parametrize(
    ("rows", "values", "sentence"),
    [
        ([{"text": "a", "y": "b"}], {}, "has no column 'document' (its columns: text, y); set document_column"),
        ([{"document": "a", "y": "b"}], {}, "has no column 'summary' (its columns: document, y); set summary_column"),
        ([{"document": "a", "summary": "b"}], {"group_column": "bid"}, "set group_column to the right one"),
        ([{"document": 3, "summary": "b"}], {}, "the column 'document' holds int, not text"),
        ([{"document": "a", "summary": [3]}], {}, "the column 'summary' holds int, not text"),
        ([{"document": "a", "summary": ""}], {}, "has no document with a summary"),
        ([{"text": "a", "paper": "b"}], {"layout": "paper"}, "is no paper of title, abstract and sections"),
        ([["a"]], {}, "line 1 is not a JSON object"),
    ],
)
def test_rows_that_do_not_fit(tmp_path, rows, values, sentence):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError) as refusal:
        list(summary_pairs(parse(PairsSpec, {"kind": "pairs", "source": str(tmp_path / "a.jsonl"), **values}, "pairs")))
    assert sentence in str(refusal.value)


def test_sources_that_are_none(tmp_path):
    (tmp_path / "a.txt").write_text("A text without a summary.")
    for source, sentence in (
        (tmp_path, "holds no file that can be read here: put .jsonl, .parquet"),
        ("nowhere", "does not exist: give booksum, booksum-chapters, arxiv, a .jsonl"),
    ):
        with pytest.raises(InputError, match=sentence):
            list(summary_pairs(PairsSpec(source=str(source))))
    with pytest.raises(InputError, match="The option config is for hub datasets only"):
        list(summary_pairs(PairsSpec(source=str(tmp_path), config="books")))


# Tokens and rows


def rows_of(pairs, tmp_path, seed: int = 0, **values) -> SummaryRows:
    return SummaryRows(summaries_data(pairs, **values), seed, tokenizer(), tmp_path / "data")


def test_tokens_on_disk_are_those_of_the_texts(booksum, tmp_path):
    chosen = booksum_spec(booksum, heldout_fraction=0.5)
    made = prepare_pairs(chosen, encoded, tokenizer().get_vocab(), tmp_path / "p")
    expected = list(summary_pairs(chosen, "train"))
    assert len(made) == len(expected)
    for number, pair in enumerate(expected):
        document, summary = made.pair(number)
        assert (document.tolist(), summary.tolist()) == (encode(pair.document), encode(pair.summary))
        assert made.lengths[number].tolist() == [len(document), len(summary)]
    with pytest.raises(InputError, match="holds pairs of another source or tokenizer"):
        prepare_pairs(booksum_spec(booksum), encoded, tokenizer().get_vocab(), tmp_path / "p")


def test_tokens_of_files_that_have_changed_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(chapters(1)[0]))
    chosen, vocabulary = booksum_spec(tmp_path / "a.jsonl", heldout_fraction=0.0), tokenizer().get_vocab()
    prepare_pairs(chosen, encoded, vocabulary, tmp_path / "p")
    prepare_pairs(chosen, encoded, vocabulary, tmp_path / "p")
    (tmp_path / "a.jsonl").write_text(json.dumps(chapters(2)[1]))
    with pytest.raises(InputError, match="had another content; delete it"):
        prepare_pairs(chosen, encoded, vocabulary, tmp_path / "p")


def test_a_row_is_document_cue_summary_and_end_with_labels_on_the_last_two(booksum, tmp_path):
    rows = rows_of(booksum_spec(booksum, heldout_fraction=0.3), tmp_path)
    pairs = list(summary_pairs(booksum_spec(booksum, heldout_fraction=0.3), "train"))
    written = set()
    for index in range(len(pairs)):
        row = rows.row(index)
        real = row.document_ids == 0
        text = decode(row.input_ids[real])
        written.add(text)
        said = decode(row.labels[row.labels != IGNORED])
        assert text.endswith(CUE + said)
        assert said.endswith("<|endoftext|>")
        assert len(row.input_ids) == 192
        assert (row.labels[~real] == IGNORED).all()
    assert written == {f"{pair.document}{CUE}{pair.summary}<|endoftext|>" for pair in pairs}  # each once an epoch


def test_rows_are_functions_of_seed_and_index(booksum, tmp_path):
    whole = booksum_spec(booksum, heldout_fraction=0.0)
    one, again, other = (rows_of(whole, tmp_path, seed=seed) for seed in (1, 1, 2))
    tokens = [[rows.row(index).input_ids.tobytes() for index in range(24)] for rows in (one, again, other)]
    assert tokens[0] == tokens[1] != tokens[2]
    assert sorted(tokens[0][:12]) == sorted(tokens[0][12:]) == sorted(tokens[2][:12])
    assert tokens[0][:12] != tokens[0][12:]
    assert one.fingerprint == other.fingerprint != rows_of(whole, tmp_path, cue="\n").fingerprint


def test_a_document_that_does_not_fit_is_refused_cut_or_dropped(booksum, tmp_path, caplog):
    whole = booksum_spec(booksum, heldout_fraction=0.0)
    with pytest.raises(InputError) as refusal:
        rows_of(whole, tmp_path, row_length=80)
    assert "documents do not fit into rows of 80 tokens with their summaries" in str(refusal.value)
    cut = rows_of(whole, tmp_path, row_length=80, long_documents="cut")
    drop = rows_of(whole, tmp_path, row_length=80, long_documents="drop")
    texts = {pair.summary: pair.document for pair in summary_pairs(whole)}
    kinds = Counter()
    for index in range(12):
        row = cut.row(index)
        document, said = decode(row.input_ids[row.document_ids == 0]).split(CUE)
        summary = said.removesuffix("<|endoftext|>")
        assert texts[summary].startswith(document)  # the end is cut, never the summary
        kinds[document == texts[summary]] += 1
    assert kinds[True]
    assert kinds[False]
    assert {decode(drop.row(i).labels[drop.row(i).labels != IGNORED]) for i in range(kinds[True])} == {
        f"{summary}<|endoftext|>"
        for summary, text in texts.items()
        if len(encode(text)) <= drop._room(len(encode(summary)))
    }
    assert f"{12 - kinds[True]} of 12 pairs do not fit and are left out" in caplog.text
    with pytest.raises(InputError, match="No document fits into rows of 12 tokens"):
        rows_of(whole, tmp_path, row_length=12, long_documents="drop")


def test_stories_come_without_end_and_never_from_the_evaluation_split(tmp_path):
    stories = {"kind": "stories", "words": 60, "people": 2, "rooms": 2, "objects": 2}
    rows = rows_of(stories, tmp_path, row_length=400)
    row = rows.row(3)
    document, said = decode(row.input_ids[row.document_ids == 0]).split(CUE)
    assert facts_of(document) == facts_of(said)
    asked = asked_pairs(summaries_data(stories, row_length=400), 5, seed=0)
    trained = {decode(rows.row(index).input_ids).split(CUE)[0] for index in range(5)}
    assert not trained & {each.pair.document for each in asked}
    with pytest.raises(InputError, match=r"Story 3 has \d+ tokens, but a row of 60 has room for"):
        rows_of(stories, tmp_path, row_length=60).row(3)


def test_the_recipe_names_what_is_wrong():
    values = recipe_values({"kind": "summaries", "row_length": 64, "pairs": {"kind": "stories", "words": 30}})
    with pytest.raises(InputError, match=r"data\.tokenizer is needed"):
        parse(Recipe, values, "recipe")
    values["data"]["tokenizer"] = "somewhere"
    assert parse(Recipe, values, "recipe").data == SummariesData.model_validate(values["data"])
    values["data"]["long_documents"] = "shorten"
    with pytest.raises(InputError, match="long_documents"):
        parse(Recipe, values, "recipe")
