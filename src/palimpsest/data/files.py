"""Documents from local .txt, .jsonl and .parquet files."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from palimpsest.data.corpus import CorpusSpec, Document, Position, document_from_row, missing_column
from palimpsest.data.extent import Extent, lines_extent, parquet_extent, total_extent
from palimpsest.errors import InputError

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

PARQUET_BATCH_ROWS = 256

Placed: TypeAlias = tuple[Document, int, int]
"""A document, and how many rows and bytes of its file have been read with it."""


def corpus_files(root: Path) -> list[Path]:
    """List the files of a corpus in the order of their names: ``root`` itself, or those in it not hidden.

    Raises:
        InputError: nothing of a known kind is there.
    """
    known = ", ".join(READERS)
    if root.is_file():
        if root.suffix.lower() not in READERS:
            raise InputError(f"{root} is of no kind that can be read as a corpus: give one of {known}.")
        return [root]
    found = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in READERS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not found:
        raise InputError(f"The folder {root} holds no file that can be read as a corpus: put {known} into it.")
    return sorted(found, key=lambda path: path.relative_to(root).parts)


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
                for document, row, offset in read(path, _relative_name(path, self._root), self._spec, start):
                    self.position = Position(number, row, offset)
                    yield document
            except OSError as error:
                raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def files_signature(root: Path) -> str:
    """Return a digest of the names and sizes of the files of a corpus (not of content, nor of times)."""
    listing = [(_relative_name(path, root), path.stat().st_size) for path in corpus_files(root)]
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


def _relative_name(path: Path, root: Path) -> str:
    return path.name if path == root else path.relative_to(root).as_posix()


def _decode(data: bytes, where: str) -> str:
    position = data.find(b"\0")
    if position >= 0:
        raise InputError(f"{where} is not text: there is a NUL byte at offset {position}.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where} is not UTF-8 text: there is a byte 0x{data[error.start]:02x} at offset {error.start}."
        ) from error


def _read_txt(path: Path, name: str, spec: CorpusSpec, start: Position) -> Iterator[Placed]:
    if start.row == 0:
        data = path.read_bytes()
        yield Document(name, _decode(data, str(path))), 1, len(data)


def _read_jsonl(path: Path, name: str, spec: CorpusSpec, start: Position) -> Iterator[Placed]:
    offset = start.offset
    with open(path, "rb") as lines:
        lines.seek(offset)
        for number, line in enumerate(lines, start.row + 1):
            offset += len(line)
            where = f"{path}, line {number}"
            text = _decode(line, where)
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise InputError(f"{where} is not JSON: {error}.") from error
            if not isinstance(row, dict):
                raise InputError(f"{where} is not a JSON object with a column '{spec.text_column}'.")
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
            for row in _rows(batch.slice(skipped), path, number):
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


def _rows(batch: "RecordBatch", path: Path, before: int) -> list[dict[str, Any]]:
    """Return the rows of a batch; Parquet promises that its text is UTF-8, and holds whatever was written."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows > 1:
            for number in range(batch.num_rows):
                _rows(batch.slice(number, 1), path, before + number)
        raise InputError(f"{path}, row {before + 1} is not UTF-8 text: {error.reason}.") from error


READERS = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
