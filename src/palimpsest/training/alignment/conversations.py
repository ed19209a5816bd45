"""Rows of chats and preferences: read from files or the hub, and checked, each with its place for messages."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from palimpsest.data.tables import TableRow, table_rows
from palimpsest.errors import InputError
from palimpsest.training.alignment.recipe import ChatsData, Conversations, PreferencesData

Message = dict[str, str]
Said = str | list[Message]
"""A text, or messages."""


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
            if not prompt:
                raise InputError(f"{row.where}: the two answers have no prompt in common.")
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


def _require(row: TableRow, columns: tuple[str, ...], right: str) -> None:
    for column in columns:
        if row.values.get(column) is None:
            there = ", ".join(row.values) or "none"
            raise InputError(f"{row.where}: there is no '{column}' (columns: {there}); {right}.")


def _require_alike(row: TableRow, said: Mapping[str, Said]) -> None:
    if len({isinstance(each, str) for each in said.values()}) > 1:
        kinds = ", ".join(f"{name}: {'text' if isinstance(each, str) else 'messages'}" for name, each in said.items())
        raise InputError(
            f"{row.where}: its parts are of different kinds ({kinds}); give all as text or all as messages."
        )


def _said(row: TableRow, column: str) -> Said:
    value = row.values[column]
    return value if isinstance(value, str) else _messages(row, column)


def _messages(row: TableRow, column: str) -> list[Message]:
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


def _rows(data: Conversations) -> Iterator[TableRow]:
    """Yield the rows of a source, and refuse one that has none."""
    found = table_rows(data.source, config=data.config, split=data.split, revision=data.revision)
    empty = True
    for row in islice(found, data.limit):
        empty = False
        yield row
    if empty:
        raise InputError(f"The source '{data.source}' has no rows.")
