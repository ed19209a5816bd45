"""Documents from local .txt, .jsonl and .parquet files."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from palimpsest.data.corpus import CorpusSpec, Document, document_from_row, missing_column
from palimpsest.errors import InputError

PARQUET_BATCH_ROWS = 256


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


def file_documents(root: Path, spec: CorpusSpec) -> Iterator[Document]:
    """Yield the documents of a file or folder, one file after the other.

    Raises:
        InputError: a file is not what its name says, with the file and the place in it.
    """
    for path in corpus_files(root):
        try:
            yield from READERS[path.suffix.lower()](path, _relative_name(path, root), spec)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def files_signature(root: Path) -> str:
    """Return a digest of the names and sizes of the files of a corpus (not of content, nor of times)."""
    listing = [(_relative_name(path, root), path.stat().st_size) for path in corpus_files(root)]
    return "files " + hashlib.sha256(json.dumps(listing).encode()).hexdigest()


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


def _read_txt(path: Path, name: str, spec: CorpusSpec) -> Iterator[Document]:
    yield Document(name, _decode(path.read_bytes(), str(path)))


def _read_jsonl(path: Path, name: str, spec: CorpusSpec) -> Iterator[Document]:
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
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
            yield document_from_row(row, spec, where, f"{name}#{number}")


def _read_parquet(path: Path, name: str, spec: CorpusSpec) -> Iterator[Document]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            columns = table.schema_arrow.names
            if spec.text_column not in columns:
                raise missing_column(spec.text_column, columns, str(path))
            wanted = [column for column in columns if column in (spec.text_column, spec.id_column)]
            number = 0
            for batch in table.iter_batches(PARQUET_BATCH_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    where = f"{path}, row {number}"
                    yield document_from_row(row, spec, where, f"{name}#{number}")
    except ArrowException as error:
        raise InputError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


READERS = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
