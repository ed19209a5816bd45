"""Rows of chats and preferences: read from files or the hub, and checked, each with its place for messages."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from palimpsest.data.hub import REPOSITORY_NAME, resolve_revision
from palimpsest.errors import InputError
from palimpsest.training.alignment.recipe import ChatsData, Conversations, PreferencesData

Message = dict[str, str]
Said = str | list[Message]
"""A text, or messages."""

PARQUET_BATCH_ROWS = 256
SUFFIXES = (".jsonl", ".parquet")


class Chat(NamedTuple):
    """Messages of which the assistant's have labels, or a prompt and its completion; ``where`` it was found."""

    where: str
    messages: list[Message] | None
    prompt: Said | None = None
    completion: Said | None = None


class Preference(NamedTuple):
    """A prompt with an answer that was chosen and one that was rejected, all texts or all messages."""

    where: str
    prompt: Said
    chosen: Said
    rejected: Said


class _Row(NamedTuple):
    """A row as it stands in its file."""

    where: str
    values: Mapping[str, Any]


def chats(data: ChatsData) -> Iterator[Chat]:
    """Yield the chats of a source.

    Raises:
        InputError: the source is not there, or a row is no chat.
    """
    for row in _rows(data):
        if row.values.get("messages") is not None:
            messages = _messages(row, "messages")
            if not any(message["role"] == "assistant" for message in messages):
                raise InputError(f"{row.where}: in 'messages' the assistant says nothing; there is nothing to learn.")
            yield Chat(row.where, messages)
            continue
        _require(row, ("prompt", "completion"), "give messages, or prompt and completion")
        prompt, completion = (_said(row, column) for column in ("prompt", "completion"))
        _require_alike(row, {"prompt": prompt, "completion": completion})
        yield Chat(row.where, None, prompt, completion)


def preferences(data: PreferencesData) -> Iterator[Preference]:
    """Yield the preferences of a source.

    Raises:
        InputError: the source is not there, or a row is no preference.
    """
    for row in _rows(data):
        _require(row, ("chosen", "rejected"), "give prompt, chosen and rejected")
        chosen, rejected = (_said(row, column) for column in ("chosen", "rejected"))
        if row.values.get("prompt") is not None:
            prompt = _said(row, "prompt")
        elif isinstance(chosen, list) and isinstance(rejected, list):
            prompt, chosen, rejected = _apart(chosen, rejected)
        else:
            raise InputError(f"{row.where}: there is no 'prompt', and texts do not tell where their prompt ends.")
        _require_alike(row, {"prompt": prompt, "chosen": chosen, "rejected": rejected})
        if not chosen or not rejected or chosen == rejected:
            raise InputError(f"{row.where}: 'chosen' and 'rejected' must be two different answers.")
        yield Preference(row.where, prompt, chosen, rejected)


def _apart(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], list[Message], list[Message]]:
    """Return the messages that two conversations begin with in common, and the rest of each."""
    pairs = zip(chosen, rejected, strict=False)
    shared = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _require(row: _Row, columns: tuple[str, ...], right: str) -> None:
    for column in columns:
        if row.values.get(column) is None:
            there = ", ".join(row.values) or "none"
            raise InputError(f"{row.where}: there is no '{column}' (columns: {there}); {right}.")


def _require_alike(row: _Row, said: Mapping[str, Said]) -> None:
    if len({isinstance(each, str) for each in said.values()}) > 1:
        kinds = ", ".join(f"{name}: {'text' if isinstance(each, str) else 'messages'}" for name, each in said.items())
        raise InputError(
            f"{row.where}: its parts are of different kinds ({kinds}); give all as text or all as messages."
        )


def _said(row: _Row, column: str) -> Said:
    value = row.values[column]
    return value if isinstance(value, str) else _messages(row, column)


def _messages(row: _Row, column: str) -> list[Message]:
    """Return the messages of a column, each with its role and content alone."""
    value = row.values[column]
    if not isinstance(value, list) or not value:
        raise InputError(f"{row.where}: '{column}' should be a list of messages, each with role and content.")
    found = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise InputError(f"{row.where}: message {number} of '{column}' should have role and content.")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise InputError(f"{row.where}: '{key}' of message {number} of '{column}' should be text.")
        found.append({"role": message["role"], "content": message["content"]})
    return found


# Rows, wherever they are


def _rows(data: Conversations) -> Iterator[_Row]:
    """Yield the rows of a source, and refuse one that has none."""
    source = Path(data.source)
    if source.exists():
        chosen = ("config", data.config is not None), ("split", data.split != "train"), ("revision", data.revision)
        for option, given in chosen:
            if given:
                raise InputError(f"data.{option} applies to hub datasets only, but the source '{source}' is local.")
        found = _file_rows(source)
    elif "/" in data.source and REPOSITORY_NAME.fullmatch(data.source):
        found = _hub_rows(data)
    else:
        raise InputError(
            f"The source '{data.source}' does not exist: give a .jsonl or .parquet file, a folder of them, or the name "
            "of a hub dataset as owner/name."
        )
    empty = True
    for row in islice(found, data.limit):
        empty = False
        yield row
    if empty:
        raise InputError(f"The source '{data.source}' has no rows.")


def _file_rows(source: Path) -> Iterator[_Row]:
    for path in _files(source):
        try:
            yield from _jsonl_rows(path) if path.suffix == ".jsonl" else _parquet_rows(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _files(source: Path) -> Iterable[Path]:
    if source.is_file():
        if source.suffix not in SUFFIXES:
            raise InputError(f"{source} is of no kind that can be read: give one of {', '.join(SUFFIXES)}.")
        return [source]
    found = sorted(path for path in source.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    if not found:
        raise InputError(f"The folder {source} holds no {' or '.join(SUFFIXES)} file.")
    return found


def _jsonl_rows(path: Path) -> Iterator[_Row]:
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except ValueError as error:
                raise InputError(f"{where} is not JSON: {error}.") from error
            if not isinstance(values, dict):
                raise InputError(f"{where} is not a JSON object.")
            yield _Row(where, values)


def _parquet_rows(path: Path) -> Iterator[_Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as table:
            for batch in table.iter_batches(PARQUET_BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield _Row(f"{path}, row {number}", values)
    except ArrowException as error:
        raise InputError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _hub_rows(data: Conversations) -> Iterator[_Row]:
    """Stream the rows of a hub dataset, without downloading it first."""
    from datasets import load_dataset

    instead = "give a local .jsonl or .parquet file as data.source"
    commit = resolve_revision(data.source, "dataset", data.revision, instead)
    number = 0
    try:
        rows = load_dataset(
            data.source, data.config, split=data.split, revision=commit or data.revision, streaming=True
        )
        for values in rows:
            number += 1
            yield _Row(f"{data.source}, row {number}", dict(values))
    except InputError:
        raise
    except Exception as error:  # whatever comes up here comes from reading remote files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"Reading the dataset '{data.source}' broke off after {number} rows ({reason}); run the same command "
            f"again, or {instead}."
        ) from error
