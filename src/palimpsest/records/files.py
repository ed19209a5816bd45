"""Records, JSON values and texts on disk: read with clear errors, written so that a part is never seen."""

import gzip
import json
import lzma
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from palimpsest.errors import InputError
from palimpsest.records.base import Record

R = TypeVar("R", bound=Record)

LINES = (".jsonl", ".jsonl.gz", ".jsonl.xz")
"""How files of JSON lines end: as text, compressed fast, and compressed well, for records that are kept for good."""


def read_jsonl(path: Path, kind: type[R]) -> Iterator[R]:
    """Yield the records of a JSON-lines file, compressed or not (see ``LINES``).

    Raises:
        InputError: a line that is not a record of this kind, with file and line number, or a damaged file.
    """
    opened = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield kind.model_validate_json(line)
                except ValueError as error:
                    raise InputError(f"{path}, line {number}: not a {kind.__name__}: {error}") from error
    except (EOFError, OSError, lzma.LZMAError) as error:
        raise InputError(f"{path} is damaged or cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """Read a JSON value.

    Raises:
        InputError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error}).") from error


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines, compressed as the name says (``LINES``), atomically; same records, same bytes."""
    text = "".join(record.model_dump_json() + "\n" for record in records)
    if path.suffix == ".gz":
        _write_bytes(path, gzip.compress(text.encode(), mtime=0))
    elif path.suffix == ".xz":
        _write_bytes(path, lzma.compress(text.encode()))
    else:
        write_atomic(path, text)


def line_files(directory: Path) -> dict[str, Path]:
    """Return the files of JSON lines in a directory by their names without the ending, in order of names.

    Raises:
        InputError: two files of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(path for suffix in LINES for path in directory.glob(f"*{suffix}")):
        name = path.name.partition(".jsonl")[0]
        if name in found:
            raise InputError(f"{path} and {found[name].name} hold the same records: remove one of them.")
        found[name] = path
    return found


def write_json(path: Path, value: object) -> None:
    """Write a JSON value (or a record) with sorted keys, atomically."""
    plain = json.loads(value.model_dump_json()) if isinstance(value, BaseModel) else value
    write_atomic(path, json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that at any moment either the old or the new content is there, never a part."""
    _write_bytes(path, text.encode())


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file, or the entries of a directory, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
