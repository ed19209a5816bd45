"""Documents from local .txt, .jsonl and .parquet files."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from palimpsest.data.corpus import CorpusSpec, Document, Position, document_from_row, missing_column
from palimpsest.data.extent import Extent, lines_extent, parquet_extent, total_extent
from palimpsest.data.tables import batch_values, decoded, line_values, listed_files, relative_name
from palimpsest.errors import InputError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

PARQUET_BATCH_ROWS = 256

Placed: TypeAlias = tuple[Document, int, int]
"""A document, and how many rows and bytes of its file have been read with it."""


def corpus_files(root: Path) -> list[Path]:
    """List the files of a corpus in the order of their names: ``root`` itself, or those in it not hidden.

    Raises:
        InputError: nothing of a known kind is there.
    """
    return listed_files(root, READERS)


class FileReader:
    """The documents of a file or folder, one file after the other, from any place on.

    Attributes:
        position: where reading goes on after the last document.
    """

    def __init__(self, root: Path, spec: CorpusSpec, start: Position) -> None:
        self.position = start
        self._root = root
        self._spec = spec

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents.

        Raises:
            InputError: a file is not what its name says, with the file and the place in it.
        """
        begin = self.position
        for number, path in enumerate(corpus_files(self._root)):
            if number < begin.file:
                continue
            start = begin if number == begin.file else Position(number)
            read = READERS[path.suffix.lower()]
            try:
                for document, row, offset in read(path, relative_name(path, self._root), self._spec, start):
                    self.position = Position(number, row, offset)
                    yield document
            except OSError as error:
                raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def files_signature(root: Path) -> str:
    """Return a digest of the names and sizes of the files of a corpus (not of content, nor of times)."""
    listing = [(relative_name(path, root), path.stat().st_size) for path in corpus_files(root)]
    return "files " + hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def files_extent(root: Path, spec: CorpusSpec) -> Extent:
    """Tell how much text the files of a corpus hold: by their sizes, by the footers of Parquet, by first lines.

    Raises:
        InputError: a Parquet file is none, or has no column for the text; so the seventh file is refused at once.
    """

    def extent(path: Path) -> Extent:
        kind = path.suffix.lower()
        try:
            if kind == ".txt":
                return Extent(1, path.stat().st_size)
            if kind == ".jsonl":
                return lines_extent(path, spec.text_column)
            with open_parquet(path, spec) as table:
                return parquet_extent(table, spec.text_column)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error

    return total_extent(map(extent, corpus_files(root)))


def _read_txt(path: Path, name: str, spec: CorpusSpec, start: Position) -> Iterator[Placed]:
    if start.row == 0:
        data = path.read_bytes()
        yield Document(name, decoded(data, str(path))), 1, len(data)


def _read_jsonl(path: Path, name: str, spec: CorpusSpec, start: Position) -> Iterator[Placed]:
    offset = start.offset
    with open(path, "rb") as lines:
        lines.seek(offset)
        for number, line in enumerate(lines, start.row + 1):
            offset += len(line)
            where = f"{path}, line {number}"
            row = line_values(line, where)
            if row is not None:
                yield document_from_row(row, spec, where, f"{name}#{number}"), number, offset


def _read_parquet(path: Path, name: str, spec: CorpusSpec, start: Position) -> Iterator[Placed]:
    with open_parquet(path, spec) as table:
        wanted = [column for column in table.schema_arrow.names if column in (spec.text_column, spec.id_column)]
        group, number = 0, 0
        while group < table.num_row_groups and number + table.metadata.row_group(group).num_rows <= start.row:
            number += table.metadata.row_group(group).num_rows
            group += 1
        groups = range(group, table.num_row_groups)
        for batch in table.iter_batches(PARQUET_BATCH_ROWS, row_groups=groups, columns=wanted) if groups else ():
            skipped = min(max(start.row - number, 0), batch.num_rows)
            number += skipped
            for row in batch_values(batch.slice(skipped), path, number):
                number += 1
                document = document_from_row(row, spec, f"{path}, row {number}", f"{name}#{number}")
                yield document, number, 0


@contextmanager
def open_parquet(path: Path, spec: CorpusSpec) -> "Iterator[ParquetFile]":
    """Open a Parquet file that has the column of the text.

    Raises:
        InputError: it has no such column, or what is read from it is no Parquet.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            columns = table.schema_arrow.names
            if spec.text_column not in columns:
                raise missing_column(spec.text_column, columns, str(path))
            yield table
    except ArrowException as error:
        raise InputError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


READERS = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
