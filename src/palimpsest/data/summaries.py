"""Documents with their summaries: read from the hub or from files, divided by book or paper, tokenised once."""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from palimpsest.data.corpus import is_heldout
from palimpsest.data.files import files_signature
from palimpsest.data.tables import table_rows
from palimpsest.errors import InputError
from palimpsest.records import Record, sync, write_json

Part = Literal["train", "heldout", "all"]
Row = Mapping[str, Any]
Encode = Callable[[Sequence[str]], list[list[int]]]

SUMMARY_SETS: dict[str, dict[str, Any]] = {
    "booksum": {
        "source": "ubaada/booksum-complete-cleaned",
        "config": "books",
        "document_column": "text",
        "summary_column": "summary",
        "group_column": "bid",
    },
    "booksum-chapters": {
        "source": "kmfoda/booksum",
        "document_column": "chapter",
        "summary_column": "summary_text",
        "group_column": "bid",
    },
    "arxiv": {
        "source": "ccdv/arxiv-summarization",
        "config": "document",
        "document_column": "article",
        "summary_column": "abstract",
    },
}
"""Sets on the hub by short names: whole books and single chapters of BookSum (Kryscinski et al. 2021, arXiv
2105.08209), and papers with their abstracts (Cohan et al. 2018). Their own splits share no book or paper."""

PAPER_COLUMNS = {"document_column": "text", "group_column": "paper"}
"""Columns of ``qasper_yesno-train.parquet``, which ``palimpsest data benchmarks`` writes."""

MANIFEST, TOKENS, BOUNDS = "pairs.json", "tokens.bin", "bounds.npy"


class SummaryPair(NamedTuple):
    """A document and a summary of it; pairs of one ``group`` (a book, a paper) stay on one side of a division."""

    id: str
    group: str
    document: str
    summary: str


class PairsSpec(Record):
    """Where pairs come from, and how they are divided.

    ``source`` is the name of a set (booksum, booksum-chapters, arxiv), which fills in what is not given, a file or
    folder of .jsonl and .parquet, or a hub dataset as ``OWNER/NAME``. A ``layout`` of ``columns`` has the document and
    its summary in a column each; a summary that is a list (of texts, or of objects with a ``text``) makes a pair of
    each. ``paper`` has a title, an abstract and sections in one text, apart by blank lines: the abstract is taken out
    and is the summary, and a paper that comes again is read once. ``heldout_fraction`` is the share of groups, chosen
    by a hash, that is never trained on; a set with splits of its own needs none (0).
    """

    kind: Literal["pairs"] = "pairs"
    source: str = Field(min_length=1)
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    layout: Literal["columns", "paper"] = "columns"
    document_column: str = "document"
    summary_column: str = "summary"
    group_column: str | None = None
    limit: int | None = Field(default=None, ge=1)
    heldout_fraction: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_is_known(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        source = value.get("source")
        known = SUMMARY_SETS.get(source, {}) if isinstance(source, str) else {}
        layout = PAPER_COLUMNS if value.get("layout") == "paper" else {}
        return {**known, **layout, **value, **({"source": known["source"]} if known else {})}


def summary_pairs(spec: PairsSpec, part: Part = "all") -> Iterator[SummaryPair]:
    """Yield the pairs of one part in a fixed order; those without a document or a summary are left out.

    Raises:
        InputError: when reading begins: the source is not there, cannot be read, lacks a column, or holds no pair.
    """
    empty = True
    for pair in itertools.islice(_pairs(spec), spec.limit):
        if part == "all" or is_heldout(pair.group, spec.heldout_fraction) == (part == "heldout"):
            empty = False
            yield pair
    if empty:
        which = "" if part == "all" else f" in its part '{part}' (heldout_fraction {spec.heldout_fraction:g})"
        raise InputError(f"The set '{spec.source}' has no document with a summary{which}; give more, or another part.")


def _pairs(spec: PairsSpec) -> Iterator[SummaryPair]:
    seen: set[str] = set()
    rows = table_rows(spec.source, config=spec.config, split=spec.split, revision=spec.revision, known=SUMMARY_SETS)
    for where, fallback, row in rows:
        document = _text(row, spec.document_column, "document_column", where)
        group = fallback
        if spec.group_column is not None:
            named = _value(row, spec.group_column, "group_column", where)
            group = fallback if named is None else str(named)
        if spec.layout == "paper":
            if group in seen:
                continue
            seen.add(group)
            document, summaries = _taken_apart(document, where)
        else:
            summaries = _summaries(_value(row, spec.summary_column, "summary_column", where), where, spec)
        for number, summary in enumerate(summaries):
            if document.strip() and summary.strip():
                name = fallback if len(summaries) == 1 else f"{fallback}.{number}"
                yield SummaryPair(name, group, document.strip(), summary.strip())


def _taken_apart(text: str, where: str) -> tuple[str, list[str]]:
    """Return a paper without its abstract, also where a paragraph repeats it, and the abstract."""
    title, *rest = text.split("\n\n")
    if len(rest) < 2:
        raise InputError(
            f"{where} is no paper of title, abstract and sections with blank lines between them; with a column for the "
            "summary, set layout to columns."
        )
    abstract, *sections = rest
    sections = [part for part in sections if part.strip() != abstract.strip()]
    return "\n\n".join((title, *sections)), [abstract]


def _summaries(value: object, where: str, spec: PairsSpec) -> list[str]:
    """Return the summaries of a cell: a text, or a list of texts or of objects with a text."""
    texts: list[str] = []
    for cell in value if isinstance(value, list) else [value]:
        text = cell.get("text") if isinstance(cell, Mapping) else cell
        if isinstance(text, str):
            texts.append(text)
        elif text is not None:
            raise InputError(f"{where}: the column '{spec.summary_column}' holds {type(text).__name__}, not text.")
    return texts


def _text(row: Row, column: str, option: str, where: str) -> str:
    value = _value(row, column, option, where)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{where}: the column '{column}' holds {type(value).__name__}, not text.")
    return value


def _value(row: Row, column: str, option: str, where: str) -> object:
    if column not in row:
        columns = ", ".join(row) or "none"
        raise InputError(f"{where} has no column '{column}' (its columns: {columns}); set {option} to the right one.")
    return row[column]


# Tokens on disk


class PairsManifest(Record):
    """What tokenised pairs are made of (``pairs.json``); the fingerprint is of tokens and boundaries.

    ``source`` identifies the files of a local source by their names and sizes; None: of the hub, or not known.
    """

    format: Literal[1] = 1
    pairs: PairsSpec
    source: str | None = None
    vocabulary: str
    count: int
    fingerprint: str


class TokenPairs:
    """Tokenised pairs on disk, memory-mapped.

    Attributes:
        manifest: what they are made of.
        lengths: tokens of every document and of its summary, ``[pairs, 2]``.
    """

    def __init__(self, directory: Path) -> None:
        try:
            self.manifest = PairsManifest.model_validate_json((directory / MANIFEST).read_bytes())
        except (OSError, ValidationError) as error:
            raise InputError(f"{directory} holds no tokenised pairs, or damaged ones; delete it.") from error
        ends = np.load(directory / BOUNDS)
        self._starts = np.concatenate([[0], ends.reshape(-1)])
        self._tokens = np.memmap(directory / TOKENS, dtype="<u4", mode="r")
        self.lengths: NDArray[np.int64] = np.diff(self._starts).reshape(-1, 2)

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.lengths)

    def pair(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the tokens of a document and of its summary."""
        begin, middle, end = self._starts[2 * index : 2 * index + 3]
        return self._tokens[begin:middle].astype(np.int64), self._tokens[middle:end].astype(np.int64)


def prepare_pairs(spec: PairsSpec, encode: Encode, vocabulary: Mapping[str, int], directory: Path) -> TokenPairs:
    """Tokenise the training part into a directory, one pair at a time, unless that has been done.

    Args:
        spec: where the pairs come from.
        encode: texts to tokens, such as ``document_encoder`` gives.
        vocabulary: that of the tokenizer, which identifies it.
        directory: where the tokens go; it appears only when it is complete.

    Raises:
        InputError: as ``summary_pairs``, or the directory holds other pairs, or those of files that have changed since.
    """
    digest = hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest()
    if not directory.exists():
        partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _write_tokens(spec, encode, digest, partial)
            os.replace(partial, directory)
        except OSError:
            if not (directory / MANIFEST).exists():  # else another process has just made the same
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    made = TokenPairs(directory)
    if made.manifest.pairs != spec or made.manifest.vocabulary != digest:
        raise InputError(f"{directory} holds pairs of another source or tokenizer; choose another directory.")
    if made.manifest.source not in (None, _signature(spec)):
        raise InputError(f"{directory} was made when the source '{spec.source}' had another content; delete it.")
    return made


def _signature(spec: PairsSpec) -> str | None:
    root = Path(spec.source)
    return files_signature(root) if root.exists() else None


def _write_tokens(spec: PairsSpec, encode: Encode, vocabulary: str, directory: Path) -> None:
    bounds: list[tuple[int, int]] = []
    content, position = hashlib.sha256(), 0
    source = _signature(spec)  # before the first row is read
    with open(directory / TOKENS, "wb") as out:
        for pair in summary_pairs(spec, "train"):
            document, summary = (np.array(ids, dtype="<u4") for ids in encode([pair.document, pair.summary]))
            for ids in (document, summary):
                out.write(ids.tobytes())
                content.update(ids.tobytes())
            bounds.append((position + len(document), position + len(document) + len(summary)))
            position += len(document) + len(summary)
    ends = np.array(bounds, dtype="<i8")
    content.update(ends.tobytes())
    np.save(directory / BOUNDS, ends)
    sync(directory / TOKENS)
    manifest = PairsManifest(
        pairs=spec,
        source=source,
        vocabulary=vocabulary,
        count=len(bounds),
        fingerprint=content.hexdigest(),
    )
    write_json(directory / MANIFEST, manifest)
