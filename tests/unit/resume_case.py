"""A corpus of several kinds of files, and preparations of it that stop after some batches."""

import json
from pathlib import Path

import pytest
from fineweb_case import page, pages, write_fineweb

from palimpsest.data import CorpusSpec, PreparedCorpus, TokenizerSpec, prepare_corpus

SHARD = 700


def write_mixed(folder: Path) -> CorpusSpec:
    """Write three Parquet files, a file of lines and a text, of 76 documents with text in them."""
    write_fineweb(folder / "a.parquet", pages(20))
    write_fineweb(folder / "b" / "a.parquet", [*pages(9, 20), ("blank", " \n"), *pages(6, 29)])
    write_fineweb(folder / "b" / "b.parquet", pages(15, 35))
    lines = [json.dumps({"text": page(n, 30)}) for n in range(25)]
    (folder / "c.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    (folder / "d.txt").write_text(page(99, 200))
    return CorpusSpec(source=str(folder), heldout_fraction=0.2)


class Cut(Exception):
    """An interruption."""


def interrupted(corpus: CorpusSpec, tokenizer: TokenizerSpec, out: Path, batches: int) -> Path:
    """Prepare a corpus, but stop after some batches; return the directory that is left."""
    left = iter(range(batches - 1))

    def progress(documents: int, tokens: int) -> None:
        if next(left, None) is None:
            raise Cut

    with pytest.raises(Cut):
        prepare_corpus(corpus, tokenizer, out, shard_tokens=SHARD, progress=progress)
    return out.with_name(f".{out.name}.partial")


def batches_of(corpus: CorpusSpec, tokenizer: TokenizerSpec, out: Path) -> tuple[PreparedCorpus, int]:
    """Prepare a corpus in one go; return it and the number of its batches."""
    calls: list[tuple[int, int]] = []
    made = prepare_corpus(corpus, tokenizer, out, shard_tokens=SHARD, progress=lambda *now: calls.append(now))
    return made, len(calls)
