"""Rows of tables, each with its place: of local .jsonl and .parquet files, folders of them, and hub datasets."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from palimpsest.data.hub import INSTEAD_OF_DATASET, REPOSITORY_NAME, resolve_revision
from palimpsest.errors import InputError

if TYPE_CHECKING:
    from pyarrow import RecordBatch

PARQUET_BATCH_ROWS = 64
TABLES = (".jsonl", ".parquet")
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""JSON's way to write half a character beyond U+FFFF; two in a row are one character, one alone is none."""


class TableRow(NamedTuple):
    """A row: where it stands, for messages; a name of its own within its source; and its columns."""

    where: str
    name: str
    values: Mapping[str, Any]


def table_rows(
    source: str, *, config: str | None, split: str, revision: str | None, known: Collection[str] = ()
) -> Iterator[TableRow]:
    """Yield the rows of a source in a fixed order, one at a time.

    Args:
        source: a file, a folder, or ``owner/name`` on the hub.
        config: the configuration of a hub dataset.
        split: its split; local files have none but ``train``.
        revision: its branch, tag or commit.
        known: other names that the caller knows as sources, for the message when there is no such source.

    Raises:
        InputError: when reading begins: no such source, a file that is none of these kinds or damaged, an option that
            local files do not have, a hub that is out of reach; or, later, breaks off.
    """
    root = Path(source)
    if root.exists():
        for option, given in (
            ("config", config),
            ("split", split if split != "train" else None),
            ("revision", revision),
        ):
            if given is not None:
                raise InputError(f"The option {option} is for hub datasets only, but the source '{root}' is local.")
        yield from _local_rows(root)
    elif "/" in source and REPOSITORY_NAME.fullmatch(source):
        yield from _hub_rows(source, config, split, revision)
    else:
        names = "".join(f"{name}, " for name in known)
        raise InputError(
            f"The source '{source}' does not exist: give {names}a {' or '.join(TABLES)} file, a folder of them, or the "
            "name of a hub dataset as owner/name."
        )


def listed_files(root: Path, suffixes: Collection[str]) -> list[Path]:
    """List files in the order of their names: ``root`` itself, or those in it not hidden, of some kinds.

    Raises:
        InputError: there is none.
    """
    known = ", ".join(suffixes)
    if root.is_file():
        if root.suffix.lower() not in suffixes:
            raise InputError(f"{root} is of no kind that can be read here: give one of {known}.")
        return [root]
    found = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in suffixes
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not found:
        raise InputError(f"The folder {root} holds no file that can be read here: put {known} into it.")
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def relative_name(path: Path, root: Path) -> str:
    """Return the name of a file within its source."""
    return path.name if path == root else path.relative_to(root).as_posix()


def decoded(data: bytes, where: str) -> str:
    """Return bytes as text, without the mark of UTF-8.

    Raises:
        InputError: they are no text, with the place of the first byte that is wrong.
    """
    position = data.find(b"\0")
    if position >= 0:
        raise InputError(f"{where} is not text: there is a NUL byte at offset {position}.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where} is not UTF-8 text: there is a byte 0x{data[error.start]:02x} at offset {error.start}."
        ) from error


def line_values(line: bytes, where: str) -> dict[str, Any] | None:
    """Return the columns of a line of JSON, None if it is blank.

    Raises:
        InputError: it is not text, not JSON, or not an object.
    """
    text = decoded(line, where)
    if not text.strip():
        return None
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise InputError(f"{where} is not a JSON object; give one a line, with its columns as keys.")
    return values


def batch_values(batch: "RecordBatch", path: Path, before: int) -> list[dict[str, Any]]:
    """Return the rows of a batch; Parquet promises that its text is UTF-8, and holds whatever was written.

    Args:
        batch: some rows of a file.
        path: the file.
        before: how many of its rows came before.

    Raises:
        InputError: a text is not UTF-8, with its row.
    """
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows > 1:
            for number in range(batch.num_rows):
                batch_values(batch.slice(number, 1), path, before + number)
        raise InputError(f"{path}, row {before + 1} is not UTF-8 text: {error.reason}.") from error


def _local_rows(root: Path) -> Iterator[TableRow]:
    for path in listed_files(root, TABLES):
        name = relative_name(path, root)
        read = _jsonl_rows if path.suffix.lower() == ".jsonl" else _parquet_rows
        try:
            yield from read(path, name)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _jsonl_rows(path: Path, name: str) -> Iterator[TableRow]:
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path}, line {number}"
            values = line_values(line, where)
            if values is not None:
                if SURROGATE.search(line):
                    _require_characters(values, where)
                yield TableRow(where, f"{name}#{number}", values)


def _require_characters(values: dict[str, Any], where: str) -> None:
    """Check that no text has half a character, which no tokenizer can read."""
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where} is not valid Unicode: there is a lone surrogate.") from error


def _parquet_rows(path: Path, name: str) -> Iterator[TableRow]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as table:
            for batch in table.iter_batches(PARQUET_BATCH_ROWS):
                for values in batch_values(batch, path, number):
                    number += 1
                    yield TableRow(f"{path}, row {number}", f"{name}#{number}", values)
    except ArrowException as error:
        raise InputError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _hub_rows(source: str, config: str | None, split: str, revision: str | None) -> Iterator[TableRow]:
    """Stream the rows of a hub dataset at one commit, without downloading it first."""
    from datasets import load_dataset

    commit = resolve_revision(source, "dataset", revision, INSTEAD_OF_DATASET)
    number = 0
    try:
        for values in load_dataset(source, config, split=split, revision=commit or revision, streaming=True):
            number += 1
            yield TableRow(f"{source}, row {number}", f"{split}#{number}", dict(values))
    except Exception as error:  # whatever comes up here comes from reading remote files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"Reading the dataset '{source}' (config {config!r}, split {split!r}) broke off after {number} rows "
            f"({reason}); correct the names, run the same command again, or {INSTEAD_OF_DATASET}."
        ) from error
