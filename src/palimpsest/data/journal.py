"""How far the preparation of a corpus has come, so that it can be gone on with after any interruption.

The journal is written when all that it speaks of is on the disk, and in one step. What is in the files behind that is
cut off when the preparation goes on, and made again.
"""

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from palimpsest.data.corpus import CorpusSpec, Document, Position
from palimpsest.data.shards import FileEntry
from palimpsest.data.tokenizer import TokenizerSpec
from palimpsest.data.writer import SCRATCH, SplitState, kept_files
from palimpsest.errors import InputError
from palimpsest.records import Record, write_json

JOURNAL = f"{SCRATCH}/journal.json"
ENCODING_PACKAGES = ("tokenizers", "transformers")


class Origin(Record):
    """What a preparation makes, and from what.

    Attributes:
        corpus: as it was asked for.
        tokenizer: as it was asked for.
        revision: the commit of a hub dataset that is read; None for local sources and in the hub's offline mode.
        source: identity of the source, as far as that is known.
        tokenizer_source: identity of the tokenizer's directory, if there is one.
        tokenizer_files: the tokenizer as it was saved.
        shard_tokens: tokens in one shard file.
        versions: of the packages that decide the tokens.
    """

    corpus: CorpusSpec
    tokenizer: TokenizerSpec
    revision: str | None
    source: str | None
    tokenizer_source: str | None
    tokenizer_files: dict[str, FileEntry]
    shard_tokens: int
    versions: dict[str, str]


class Reading(Record):
    """The last batch of documents that has been written.

    Attributes:
        start: where the reading of it began.
        documents: how many it has.
        sha256: of their identifiers and texts.
    """

    start: Position
    documents: int
    sha256: str


class Journal(Record):
    """How far a preparation has come."""

    format: Literal[1] = 1
    origin: Origin
    reading: Reading
    train: SplitState
    heldout: SplitState

    @property
    def documents(self) -> int:
        """Documents that have been written."""
        return self.train.documents + self.heldout.documents


def documents_digest(documents: Sequence[Document]) -> str:
    """Return the SHA-256 of identifiers and texts."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps(document).encode())
    return digest.hexdigest()


def encoding_versions() -> dict[str, str]:
    """Return the versions of the packages that decide the tokens."""
    return {name: importlib.metadata.version(name) for name in ENCODING_PACKAGES}


def write_journal(directory: Path, journal: Journal) -> None:
    """Replace the journal of a directory."""
    write_json(directory / JOURNAL, journal)


def has_journal(directory: Path) -> bool:
    """Tell whether a preparation can be gone on with."""
    return (directory / JOURNAL).exists()


def read_journal(directory: Path) -> Journal:
    """Read the journal of a directory.

    Raises:
        InputError: it is of another version.
    """
    try:
        return Journal.model_validate_json((directory / JOURNAL).read_bytes())
    except ValidationError as error:
        raise InputError(
            f"{directory} was left by another version of palimpsest ({error.errors()[0]['msg']}); delete it to begin "
            "again."
        ) from error


def require_same(directory: Path, made: BaseModel, asked: BaseModel, part: str) -> None:
    """Check that an interrupted preparation was of the same.

    Raises:
        InputError: it was not, with the first difference.
    """
    for field in type(asked).model_fields:
        old, new = getattr(made, field), getattr(asked, field)
        if old != new:
            raise InputError(
                f"The interrupted preparation in {directory} was made with {part}{field} {_shown(old)}, not "
                f"{_shown(new)}; delete that directory to begin again, or give another one to write to."
            )


def _shown(value: Any) -> str:
    return repr(value) if not isinstance(value, dict) else ", ".join(f"{key} {each}" for key, each in value.items())


def clear(directory: Path, journal: Journal | None) -> None:
    """Remove all files of a directory but those that a preparation goes on with."""
    kept: set[str] = set()
    if journal is not None:
        shard_tokens = journal.origin.shard_tokens
        kept |= kept_files("train", journal.train, shard_tokens) | kept_files("heldout", journal.heldout, shard_tokens)
        kept |= {JOURNAL, *journal.origin.tokenizer_files}
    for path in sorted(directory.rglob("*"), reverse=True):
        name = path.relative_to(directory).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(other.startswith(f"{name}/") for other in kept):
                shutil.rmtree(path)
        elif name not in kept:
            path.unlink()
