"""Corpora as large ones are: odd documents, several files, what they will come to, and how long their documents are."""

import json
import statistics
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fineweb_case import COLUMNS, page, pages, save_tokenizer, write_fineweb
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from palimpsest.cli import app
from palimpsest.cli.data import Lines, estimate_line
from palimpsest.data import CorpusSpec, Document, TokenizerSpec, documents, load_tokenizer, open_corpus, prepare_corpus
from palimpsest.data.documents import source_extent
from palimpsest.data.extent import Extent
from palimpsest.data.lengths import QUANTILES, STATISTICS, corpus_statistics, length_statistics
from palimpsest.data.tokenising import Estimate
from palimpsest.errors import InputError

ODD = {
    "one token": "a",
    "newline": "\n.",
    "long": page(7, 130_000),
    "german": "Überfluß äöü, „Straße“ und Größe.\n",
    "japanese": "吾輩は猫である。名前はまだ無い。",
    "arabic": "كان يا ما كان في قديم الزمان",
    "emoji": "family: \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "control": "bell \x07, escape \x1b[31m, delete \x7f, \u0085, tab\t, return\r\n",
    "nul": "before\x00after",
    "marks": "\ufeff e\u0301 \ufffd \u202e right to left",
    "boundary": "<|endoftext|><|pad|>",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> TokenizerSpec:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_odd_documents_come_back_to_the_character(tokenizer, tmp_path):
    odd = [Document(name, text) for name, text in ODD.items()]
    write_fineweb(tmp_path / "web" / "0.parquet", [Document("empty", ""), *odd[:6], Document("blank", " \t\n")], 3)
    write_fineweb(tmp_path / "web" / "1.parquet", odd[6:], 2)
    assert pq.read_schema(tmp_path / "web" / "0.parquet").names == COLUMNS
    made = prepare_corpus(CorpusSpec(source=str(tmp_path / "web"), heldout_fraction=0), tokenizer, tmp_path / "out")
    back = load_tokenizer(str(tokenizer.path))
    found = {name: back.decode(tokens[:-1]) for name, tokens in made.train.documents()}
    assert found == ODD
    lengths = np.diff(made.train.offsets) - 1
    assert lengths[0] == 1
    assert lengths[2] > 200_000
    assert made.manifest.train.text_bytes == sum(len(text.encode()) for text in ODD.values())


def write_invalid(path: Path, texts: list[bytes]) -> None:
    """Write a Parquet file whose column claims to be text, whatever the bytes are."""
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(texts))]
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), len(texts), buffers)}), path)


@pytest.mark.parametrize("bad", [b"lone \xed\xa0\x80 surrogate", b"latin \xe9"])
def test_text_that_is_not_unicode_is_refused_with_its_row(tmp_path, bad):
    write_invalid(tmp_path / "a.parquet", [b"good", b"also good", bad, b"good"])
    with pytest.raises(InputError, match=r"a\.parquet, row 3 is not UTF-8 text: "):
        list(documents(CorpusSpec(source=str(tmp_path / "a.parquet"))))


def test_a_null_text_is_refused_with_its_row(tmp_path):
    write_fineweb(tmp_path / "a.parquet", [("x", "good"), ("y", None)])
    with pytest.raises(InputError, match=r"a\.parquet, row 2: the column 'text' holds NoneType, not text"):
        list(documents(CorpusSpec(source=str(tmp_path / "a.parquet"))))


def test_a_file_with_other_columns_is_refused_before_anything_is_written(tokenizer, tmp_path, monkeypatch):
    write_fineweb(tmp_path / "web" / "0.parquet", pages(20))
    pq.write_table(pa.table({"body": ["x"], "title": ["y"]}), tmp_path / "web" / "7.parquet")
    monkeypatch.setattr("palimpsest.data.tokenising.BATCH_CHARACTERS", 100)
    calls = []
    with pytest.raises(InputError, match=r"7\.parquet has no column 'text' \(its columns: body, title\)"):
        prepare_corpus(
            CorpusSpec(source=str(tmp_path / "web")),
            tokenizer,
            tmp_path / "out",
            progress=lambda *now: calls.append(now),
        )
    assert not calls
    assert [path.name for path in tmp_path.iterdir()] == ["web"]


# Long documents: the columns of emozilla/pg19, ccdv/arxiv-summarization and kmfoda/booksum

LONG_DOCUMENTS = {
    "pg19": (
        {"short_book_title": "Moby", "publication_date": 1851, "url": "http://example.org/1", "text": page(1, 900)},
        {"id_column": "url"},
        Document("http://example.org/1", page(1, 900)),
    ),
    "arxiv": (
        {"article": page(2, 400), "abstract": "We read."},
        {"text_column": "article"},
        Document("rows.parquet#1", page(2, 400)),
    ),
    "booksum": (
        {"bid": 11, "source": "x", "chapter": page(3, 300), "summary_text": "A river.", "is_aggregate": False},
        {"text_column": "chapter", "id_column": "bid"},
        Document("11", page(3, 300)),
    ),
}


@pytest.mark.parametrize("name", LONG_DOCUMENTS)
def test_long_documents_are_read_by_naming_their_columns(tokenizer, tmp_path, name):
    row, columns, expected = LONG_DOCUMENTS[name]
    pq.write_table(pa.table({key: [value] for key, value in row.items()}), tmp_path / "rows.parquet")
    spec = CorpusSpec(source=str(tmp_path / "rows.parquet"), heldout_fraction=0, **columns)
    assert list(documents(spec)) == [expected]
    made = prepare_corpus(spec, tokenizer, tmp_path / "out")
    assert corpus_statistics(made, [100]).all.longer == {100: 1.0}


def test_the_chapters_of_a_book_are_held_out_together(tokenizer, tmp_path):
    chapters = [{"bid": book, "chapter": page(book + part, 20)} for book in range(30) for part in range(4)]
    pq.write_table(pa.Table.from_pylist(chapters), tmp_path / "rows.parquet")
    columns = {"text_column": "chapter", "id_column": "bid"}
    spec = CorpusSpec(source=str(tmp_path / "rows.parquet"), heldout_fraction=0.3, **columns)
    made = prepare_corpus(spec, tokenizer, tmp_path / "out")
    train, heldout = ({name for name, _ in split.documents()} for split in (made.train, made.heldout))
    assert train
    assert heldout
    assert not train & heldout


# What it will come to


def write_sources(folder: Path) -> CorpusSpec:
    folder.mkdir()
    for number in range(3):
        write_fineweb(folder / f"{number}.parquet", pages(40, 40 * number), 1000)
    rows = [{"text": page(n, 25), "other": ["not text"] * 30} for n in range(60)]
    (folder / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "one.txt").write_text(page(1, 80))
    return CorpusSpec(source=str(folder), heldout_fraction=0.1)


def test_the_estimate_is_near_what_it_comes_to(tokenizer, tmp_path, monkeypatch):
    spec = write_sources(tmp_path / "corpus")
    monkeypatch.setattr("palimpsest.data.tokenising.BATCH_CHARACTERS", 3000)
    told: list[Estimate] = []
    made = prepare_corpus(spec, tokenizer, tmp_path / "out", announce=told.append)
    (estimate,) = told
    both = made.manifest.train, made.manifest.heldout
    assert estimate.documents == sum(part.documents for part in both) == 181
    assert estimate.tokens == pytest.approx(sum(part.tokens for part in both), rel=0.1)
    names = [*made.manifest.train.shards, *made.manifest.heldout.shards, "train-ids.jsonl", "heldout-ids.jsonl"]
    written = sum(made.manifest.files[name].bytes for name in names) + 16 * 181
    assert estimate.bytes == pytest.approx(written, rel=0.1)
    assert estimate[4:] == (0, 0)
    limited = source_extent(spec.model_copy(update={"limit": 18}))
    assert limited.documents == 18
    assert limited.text_bytes == pytest.approx(18 / 181 * (source_extent(spec).text_bytes or 0), abs=1)


def test_the_extent_of_parquet_is_that_of_its_text(tmp_path):
    found = pages(100)
    write_fineweb(tmp_path / "a.parquet", found, 1000)  # as FineWeb: with small groups their headers count
    extent = source_extent(CorpusSpec(source=str(tmp_path / "a.parquet")))
    assert extent.documents == 100
    assert extent.text_bytes == pytest.approx(sum(len(d.text.encode()) for d in found), rel=0.1)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tokenizer, tmp_path, monkeypatch):
    spec = write_sources(tmp_path / "corpus")
    monkeypatch.setattr("palimpsest.data.tokenising.shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(InputError, match=r"would take about 0\.0 GB as tokens, but the disk of .* has 0\.0 GB free"):
        prepare_corpus(spec, tokenizer, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_the_extent_of_a_dataset_of_the_hub(tmp_path, monkeypatch):
    import datasets

    from palimpsest.data.hub import hub_extent

    for number in range(9):
        write_fineweb(tmp_path / f"{number}.parquet", pages(30, 30 * number))
    files = [str(tmp_path / f"{number}.parquet") for number in range(9)]
    split = SimpleNamespace(num_examples=14_900_000, num_bytes=47_000_000_000)

    def builder(splits: dict | None, urls: list[str]) -> object:
        return lambda *_, **__: SimpleNamespace(
            info=SimpleNamespace(splits=splits), config=SimpleNamespace(data_files={"train": urls})
        )

    spec = CorpusSpec(source="HuggingFaceFW/fineweb", config="sample-10BT")
    monkeypatch.setattr(datasets, "load_dataset_builder", builder({"train": split}, []))
    assert hub_extent(spec) == Extent(14_900_000, 47_000_000_000)
    monkeypatch.setattr(datasets, "load_dataset_builder", builder(None, files))
    found, whole = hub_extent(spec), source_extent(CorpusSpec(source=str(tmp_path)))
    assert found.documents == pytest.approx(270, rel=0.05)
    assert found.text_bytes == pytest.approx(whole.text_bytes, rel=0.05)
    for unknown in (builder(None, ["a.jsonl"]), builder(None, []), builder(None, [str(tmp_path / "none.parquet")])):
        monkeypatch.setattr(datasets, "load_dataset_builder", unknown)
        assert hub_extent(spec) == Extent(None, None)


# How long the documents are


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=60))
def test_the_statistics_are_those_of_the_standard_library(lengths):
    found = length_statistics(np.array(lengths, dtype=np.int64), [8192])
    assert (found.documents, found.tokens) == (len(lengths), sum(lengths))
    assert found.median == statistics.median(lengths)
    assert found.mean == pytest.approx(statistics.fmean(lengths))
    assert (found.shortest, found.longest) == (min(lengths), max(lengths))
    assert found.longer[8192] == sum(length > 8192 for length in lengths) / len(lengths)
    if len(lengths) > 1:
        cuts = statistics.quantiles(lengths, n=100, method="inclusive")
        expected = [cuts[round(share * 100) - 1] for share in QUANTILES]
        assert list(found.quantiles.values()) == pytest.approx(expected)


def test_the_statistics_are_kept_beside_the_tokens_and_shown_later(tokenizer, tmp_path):
    spec = write_sources(tmp_path / "corpus")
    made = prepare_corpus(spec, tokenizer, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / STATISTICS).read_text())
    lengths = [len(tokens) - 1 for split in (made.train, made.heldout) for _, tokens in split.documents()]
    assert kept["all"]["documents"] == len(lengths) == 181
    assert kept["all"]["median"] == statistics.median(lengths)
    assert kept["train"]["tokens"] + kept["heldout"]["tokens"] == kept["all"]["tokens"] == sum(lengths)
    assert open_corpus(tmp_path / "out", verify=True).manifest.files[STATISTICS].bytes > 100

    shown = CliRunner().invoke(app, ["data", "stats", str(tmp_path / "out"), "--longer", "20,100"])
    assert shown.exit_code == 0, shown.output
    (row,) = (line for line in shown.stdout.splitlines() if "documents" in line)
    assert str(len(lengths)) in row
    over = sum(length > 20 for length in lengths) / len(lengths)
    (row,) = (line for line in shown.stdout.splitlines() if "longer than 20 " in line)
    assert f"{over:.2%}" in row
    printed = CliRunner().invoke(app, ["data", "stats", str(tmp_path / "out"), "--json"])
    assert json.loads(printed.stdout) == kept


def test_a_corpus_prepared_before_there_were_statistics_has_them_too(tokenizer, tmp_path):
    made = prepare_corpus(write_sources(tmp_path / "corpus"), tokenizer, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    del manifest["files"][STATISTICS]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "out" / STATISTICS).unlink()
    assert corpus_statistics(open_corpus(tmp_path / "out", verify=True)) == corpus_statistics(made)


# The command


def test_the_command_says_what_it_will_come_to_and_what_it_came_to(tokenizer, tmp_path):
    spec = write_sources(tmp_path / "corpus")
    words = ["data", "prepare", spec.source, str(tmp_path / "out"), "--tokenizer", str(tokenizer.path)]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("Estimated: 181 documents, ")
    assert "GB of tokens; free: " in shown.stdout
    assert "fingerprint" in shown.stdout
    assert "median" in shown.stdout


def test_the_estimate_and_the_progress_are_sentences(capsys):
    estimate = Estimate(14_900_000, 10_300_000_000, 21_800_000_000, 43_100_000_000, 0, 0)
    assert estimate_line(estimate) == (
        "Estimated: 14,900,000 documents, 10,300,000,000 tokens, 21.8 GB of tokens; free: 43.1 GB."
    )
    unknown = Estimate(None, None, None, 43_100_000_000, 5, 1000)
    assert estimate_line(unknown) == (
        "Estimated: unknown, the source does not tell its size; free: 43.1 GB. "
        "Going on after 5 documents, 1,000 tokens."
    )
    now = iter([0.0, 10.0, 20.0, 70.0, 90.0])
    lines = Lines(lambda: next(now))
    lines.announce(Estimate(1000, 4_000_000, 8_000_000, 10**9, 10, 1_000_000))
    lines.advance(20, 1_100_000)  # 10 s after it began: nothing yet
    lines.advance(500, 2_200_000)
    lines.advance(600, 2_300_000)
    told = capsys.readouterr().err.splitlines()
    assert told == ["500 documents, 2,200,000 tokens, 20,000 tokens/s, about 2 min left"]


def test_a_number_of_workers_that_is_none_is_refused(tokenizer, tmp_path):
    with pytest.raises(InputError, match="workers is 0"):
        prepare_corpus(CorpusSpec(), tokenizer, tmp_path / "out", workers=0)
