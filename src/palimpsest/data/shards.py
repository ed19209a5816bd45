"""A tokenised corpus on disk: memory-mapped shards of tokens, document boundaries, and a manifest."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from palimpsest.data.corpus import CorpusSpec
from palimpsest.data.tokenizer import TokenizerSpec, load_tokenizer
from palimpsest.errors import InputError
from palimpsest.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"

SplitName = Literal["train", "heldout"]


class FileEntry(Record):
    """Size and content of one file of a prepared corpus."""

    bytes: int
    sha256: str


class SplitEntry(Record):
    """One split: how much it holds (``text_bytes`` as UTF-8), and its shards in the order of the stream."""

    documents: int
    tokens: int
    text_bytes: int
    shards: list[str]


class Manifest(Record):
    """What a prepared corpus is made of (``manifest.json``).

    ``fingerprint`` identifies tokens, boundaries, identifiers and vocabulary; it is the same on every
    machine. ``source`` and ``tokenizer_source`` identify what was read, as far as that is known.
    """

    format: Literal[1] = 1
    corpus: CorpusSpec
    tokenizer: TokenizerSpec
    source: str | None
    tokenizer_source: str | None
    dtype: Literal["<u2", "<u4"]
    vocab_size: int
    end_of_text: int
    train: SplitEntry
    heldout: SplitEntry
    files: dict[str, FileEntry]
    fingerprint: str
    versions: dict[str, str]


def offsets_file(split: SplitName) -> str:
    """Return the name of the file with the first token of every document, and the number of tokens."""
    return f"{split}-offsets.npy"


def ids_file(split: SplitName) -> str:
    """Return the name of the file with the document identifiers, one JSON string a line."""
    return f"{split}-ids.jsonl"


@dataclass(frozen=True)
class TokenSplit:
    """The tokens of one split as one stream: all documents, each closed by the end-of-text token."""

    directory: Path
    name: SplitName
    entry: SplitEntry
    dtype: str

    def __len__(self) -> int:
        return self.entry.tokens

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """First token of every document, then the number of tokens: [documents + 1], increasing."""
        return np.load(self.directory / offsets_file(self.name), mmap_mode="r")

    @cached_property
    def _shards(self) -> list[NDArray[np.unsignedinteger]]:
        return [np.memmap(self.directory / name, dtype=self.dtype, mode="r") for name in self.entry.shards]

    @cached_property
    def _shard_starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(shard) for shard in self._shards)])

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Copy the tokens [start, stop) of the stream; 0 <= start < stop <= len(self)."""
        tokens = np.empty(stop - start, dtype=np.int64)
        shard = int(np.searchsorted(self._shard_starts, start, side="right")) - 1
        position = start
        while position < stop:
            first = int(self._shard_starts[shard])
            end = min(stop, int(self._shard_starts[shard + 1]))
            tokens[position - start : end - start] = self._shards[shard][position - first : end - first]
            position = end
            shard += 1
        return tokens

    def document_starts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the positions in [start, stop) at which a document begins."""
        first, last = np.searchsorted(self.offsets[:-1], (start, stop))
        return np.asarray(self.offsets[first:last])

    def documents(self, min_tokens: int = 0) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield (identifier, tokens) of documents of at least ``min_tokens`` tokens, end-of-text included."""
        with open(self.directory / ids_file(self.name), encoding="utf-8") as lines:
            for line, start, stop in zip(lines, self.offsets[:-1], self.offsets[1:], strict=True):
                if stop - start >= min_tokens:
                    yield json.loads(line), self.read(int(start), int(stop))


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus that :func:`palimpsest.data.prepare_corpus` has tokenised into ``directory``."""

    directory: Path
    manifest: Manifest

    @property
    def fingerprint(self) -> str:
        """Identity of the tokens, on whatever machine they were made."""
        return self.manifest.fingerprint

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding of these tokens needs."""
        return self.manifest.vocab_size

    @property
    def tokenizer_directory(self) -> Path:
        """Directory that transformers can load the tokenizer from."""
        return self.directory / TOKENIZER

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load the tokenizer the corpus was made with."""
        return load_tokenizer(self.tokenizer_directory)

    @cached_property
    def train(self) -> TokenSplit:
        """The documents to train on."""
        return TokenSplit(self.directory, "train", self.manifest.train, self.manifest.dtype)

    @cached_property
    def heldout(self) -> TokenSplit:
        """The documents never trained on."""
        return TokenSplit(self.directory, "heldout", self.manifest.heldout, self.manifest.dtype)

    def heldout_documents(self, min_tokens: int = 0) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield (identifier, tokens) of the held-out documents of at least ``min_tokens`` tokens.

        Raises:
            InputError: there is no such document.
        """
        longest = int(np.max(np.diff(self.heldout.offsets), initial=0))
        if longest < max(min_tokens, 1):
            raise InputError(
                f"{self.directory} has no held-out document of {min_tokens} tokens or more (the longest has "
                f"{longest}); ask for shorter ones or raise heldout_fraction."
            )
        return self.heldout.documents(min_tokens)


def open_corpus(directory: str | Path, *, verify: bool = False) -> PreparedCorpus:
    """Open a prepared corpus and check that all its files are there in full size.

    Args:
        directory: where :func:`palimpsest.data.prepare_corpus` wrote it.
        verify: also compare the SHA-256 of every file, which reads them all.

    Raises:
        InputError: no prepared corpus there, or a file is missing, truncated or altered.
    """
    directory = Path(directory)
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{directory} holds no prepared corpus: there is no {MANIFEST}; prepare one there first."
        ) from error
    except ValidationError as error:
        raise InputError(
            f"{directory / MANIFEST} is damaged or of another version of palimpsest "
            f"({error.errors()[0]['msg']}); delete the directory and prepare the corpus again."
        ) from error
    for name, entry in manifest.files.items():
        path = directory / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry.bytes:
            state = "is missing" if size is None else f"has {size} bytes instead of {entry.bytes}"
            raise InputError(f"{path} {state}; delete {directory} and prepare the corpus again.")
        if verify and sha256_of(path) != entry.sha256:
            raise InputError(f"{path} has been altered (its SHA-256 differs); delete {directory} and prepare it again.")
    return PreparedCorpus(directory, manifest)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
