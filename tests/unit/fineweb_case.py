"""Parquet files as FineWeb has them: nine columns, several files, several row groups."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from palimpsest.data import Document, TokenizerSpec, train_tokenizer

COLUMNS = ["text", "id", "dump", "url", "date", "file_path", "language", "language_score", "token_count"]
WORDS = ("the", "river", "that", "carried", "old", "letters", "past", "a", "quiet", "mill", "while", "1904", "or", "27")


def page(number: int, words: int) -> str:
    return " ".join(WORDS[(number + step * step) % len(WORDS)] for step in range(words)) + f" {number}."


def pages(count: int, first: int = 0) -> list[Document]:
    return [Document(f"<urn:uuid:{n:08x}>", page(n, 3 + n * 7 % 40)) for n in range(first, first + count)]


def write_fineweb(path: Path, documents: Sequence[Document | tuple[str, str | None]], row_group: int = 7) -> None:
    """Write documents with FineWeb's columns; a text of None becomes a null."""
    count = len(documents)
    columns = {
        "text": pa.array([text for _, text in documents], pa.string()),
        "id": [name for name, _ in documents],
        "dump": ["CC-MAIN-2013-20"] * count,
        "url": [f"http://example.org/{n}" for n in range(count)],
        "date": ["2013-05-18T05:48:54Z"] * count,
        "file_path": ["s3://commoncrawl/crawl-data/x.warc.gz"] * count,
        "language": ["en"] * count,
        "language_score": [0.97] * count,
        "token_count": pa.array([12] * count, pa.int64()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group)


def save_tokenizer(directory: Path) -> TokenizerSpec:
    train_tokenizer([page(n, 60) for n in range(20)], 300).save_pretrained(directory)
    return TokenizerSpec(path=str(directory))


def listing(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
