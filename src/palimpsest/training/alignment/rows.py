"""Rows of an alignment as tokens, each a pure function of (seed, index): what TRL's collators take."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from palimpsest.data import IGNORED
from palimpsest.errors import InputError
from palimpsest.tasks import Sample, Trainable
from palimpsest.tasks.draws import Draws
from palimpsest.training.alignment.conversations import Chat, Message, Preference, Said, chats, preferences
from palimpsest.training.alignment.recipe import (
    AlignmentRecipe,
    ChatsData,
    Conversations,
    DpoSpec,
    PreferencesData,
)
from palimpsest.training.alignment.templates import give_template
from palimpsest.training.recipe import TasksData
from palimpsest.training.tasks import TaskRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = dict[str, list[int]]
"""One row, by the names that TRL's collators look for.

A chat has ``input_ids`` and ``labels`` (not shifted, -100: none), a pair ``prompt_ids``, ``chosen_ids`` and
``rejected_ids``.
"""

SHOWN = 16
"""Rows of a fixed seed that stand for all rows of tasks in a fingerprint."""

logger = logging.getLogger(__name__)


class AlignmentRows(Protocol):
    """An endless, seeded sequence of rows.

    Attributes:
        fingerprint: identity of what the rows are made from, whatever the seed.
        row_length: tokens of the longest row.
        mean_tokens: tokens of the mean row; a pair has both its sequences.
    """

    fingerprint: str
    row_length: int
    mean_tokens: float

    def row(self, index: int) -> Tokens:
        """Return row ``index`` >= 0, a pure function of it."""
        ...


def alignment_rows(
    recipe: AlignmentRecipe, tokenizer: "PreTrainedTokenizerBase", *, segment_length: int
) -> AlignmentRows:
    """Open the data of a recipe. A tokenizer that renders messages is given the template to do so.

    Raises:
        InputError: no such data, or rows that cannot be learned from.
    """
    data = recipe.data
    if isinstance(data, TasksData):
        make = PairsOfTasks if isinstance(recipe.method, DpoSpec) else ChatsOfTasks
        return make(data, recipe.seed, tokenizer, segment_length=segment_length)
    give_template(tokenizer, data.template)
    if isinstance(data, ChatsData):
        found = ((chat.where, chat_tokens(tokenizer, chat)) for chat in chats(data))
    else:
        assert isinstance(data, PreferencesData)  # the schema sees to it
        found = ((pair.where, preference_tokens(tokenizer, pair)) for pair in preferences(data))
    return ShuffledRows(_of_length(found, data), recipe.seed)


# Conversations


class ShuffledRows:
    """Finitely many rows, every epoch in an order of its own."""

    def __init__(self, rows: Sequence[Tokens], seed: int) -> None:
        self.rows, self.seed = rows, seed
        self.row_length = max(map(_longest, rows))
        self.mean_tokens = sum(map(_tokens, rows)) / len(rows)
        self.fingerprint = _fingerprint("conversations", rows)
        self._epoch, self._order = -1, np.arange(len(rows))

    def row(self, index: int) -> Tokens:
        """Return row ``index``."""
        epoch, place = divmod(index, len(self.rows))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        return self.rows[self._order[place]]


def chat_tokens(tokenizer: "PreTrainedTokenizerBase", chat: Chat) -> Tokens:
    """Return the tokens of a chat, labelled where the assistant speaks.

    Raises:
        InputError: the assistant speaks no token.
    """
    if chat.messages is not None:
        said = _rendered(tokenizer, chat.messages, marked=True)
        input_ids, speaks = said["input_ids"], said["assistant_masks"]
    else:
        assert chat.prompt is not None  # a chat has messages or these two
        assert chat.completion is not None
        prompt, completion = _answer(tokenizer, chat.prompt, [chat.completion])
        input_ids, speaks = prompt + completion, [0] * len(prompt) + [1] * len(completion)
        if isinstance(chat.prompt, list):
            assert isinstance(chat.completion, list)  # both are of one kind
            said = _rendered(tokenizer, chat.prompt + chat.completion, marked=True)["assistant_masks"]
            speaks[len(prompt) :] = said[len(prompt) :]
    labels = [token if own else IGNORED for token, own in zip(input_ids, speaks, strict=True)]
    if all(label == IGNORED for label in labels[1:]):  # the first token follows nothing
        raise InputError(f"{chat.where}: the assistant says nothing that could be learned.")
    return {"input_ids": input_ids, "labels": labels}


def preference_tokens(tokenizer: "PreTrainedTokenizerBase", pair: Preference) -> Tokens:
    """Return the tokens of a prompt and of its two answers.

    Raises:
        InputError: the prompt is empty, or the answers are the same tokens.
    """
    prompt, chosen, rejected = _answer(tokenizer, pair.prompt, [pair.chosen, pair.rejected])
    if not prompt:
        raise InputError(f"{pair.where}: the two answers have no prompt in common.")
    if chosen == rejected:
        raise InputError(f"{pair.where}: 'chosen' and 'rejected' must be two different answers.")
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def _answer(tokenizer: "PreTrainedTokenizerBase", prompt: Said, answers: Sequence[Said]) -> list[list[int]]:
    """Return the tokens of a prompt and of each answer to it.

    A prompt ends where rendering it with an answer gives other tokens than rendering it alone, because two characters
    may be one token across the boundary.
    """
    alone = _prompt_ids(tokenizer, prompt)
    whole = [_prompt_ids(tokenizer, prompt, answer) for answer in answers]
    end = min(_in_common(alone, ids) for ids in whole)
    return [alone[:end], *(ids[end:] for ids in whole)]


def _prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: Said, answer: Said | None = None) -> list[int]:
    """Return the tokens of a prompt, ready for an answer or with one; a text ends with the end of text."""
    if isinstance(prompt, list):
        assert answer is None or isinstance(answer, list)
        return _rendered(tokenizer, prompt + (answer or []), open_for_answer=answer is None)["input_ids"]
    if answer is None:
        return list(tokenizer(prompt)["input_ids"])  # type: ignore[arg-type]
    assert isinstance(answer, str)
    end = str(tokenizer.eos_token)
    return list(tokenizer(prompt + answer.removesuffix(end) + end)["input_ids"])  # type: ignore[arg-type]


def _rendered(
    tokenizer: "PreTrainedTokenizerBase",
    messages: list[Message],
    *,
    marked: bool = False,
    open_for_answer: bool = False,
) -> dict[str, list[int]]:
    """Return the tokens of messages and, if ``marked``, which of them the assistant says.

    Raises:
        InputError: the template refuses such messages.
    """
    from jinja2 import TemplateError

    try:
        found = tokenizer.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=marked,
            add_generation_prompt=open_for_answer,
        )
    except TemplateError as error:
        raise InputError(f"The chat template cannot render a conversation: {error}.") from error
    columns = cast(Mapping[str, list[int]], found)  # of one conversation, since tokens are asked for as a dictionary
    return {name: list(columns[name]) for name in ("input_ids", "assistant_masks") if name in columns}


def _in_common(one: list[int], other: list[int]) -> int:
    """Return how many tokens two sequences begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _of_length(rows: Iterable[tuple[str, Tokens]], data: Conversations) -> list[Tokens]:
    """Return the rows that are not too long, as the recipe wants it.

    Raises:
        InputError: a row is too long and must not be, or no row is left.
    """
    kept, dropped = [], 0
    for where, row in rows:
        length = _longest(row)
        if data.max_length is not None and length > data.max_length:
            if data.too_long == "refuse":
                raise InputError(
                    f"{where} has {length:,} tokens, and max_length is {data.max_length:,}; raise it, or say what "
                    "is to be done with such rows (too_long: drop or cut)."
                )
            shorter = _cut(row, data.max_length) if data.too_long == "cut" else None
            if shorter is None:
                dropped += 1
                continue
            row = shorter
        kept.append(row)
    if not kept:
        raise InputError(f"All {dropped:,} rows of '{data.source}' are longer than max_length ({data.max_length:,}).")
    if dropped:
        logger.warning("%s: %d of %d rows are too long and were dropped.", data.source, dropped, dropped + len(kept))
    return kept


def _cut(row: Tokens, length: int) -> Tokens | None:
    """Return the beginning of a row, None if nothing would be left to learn."""
    if "labels" in row:
        short = {name: values[:length] for name, values in row.items()}
        return short if any(label != IGNORED for label in short["labels"][1:]) else None
    room = length - len(row["prompt_ids"])
    if room < 1:
        return None
    short = row | {name: row[name][:room] for name in ("chosen_ids", "rejected_ids")}
    return short if short["chosen_ids"] != short["rejected_ids"] else None


# Tasks


class ChatsOfTasks:
    """Haystacks with all their questions in a row; the answers have labels."""

    def __init__(
        self, data: TasksData, seed: int, tokenizer: "PreTrainedTokenizerBase", *, segment_length: int
    ) -> None:
        self.source = TaskRows(data, seed, tokenizer, segment_length=segment_length)
        self.fingerprint, self.row_length = self.source.fingerprint, self.source.row_length
        self.mean_tokens = _mean_tokens(self.row)

    def row(self, index: int) -> Tokens:
        """Return row ``index``."""
        row = self.source.row(index)
        real = row.document_ids >= 0
        return {"input_ids": row.input_ids[real].tolist(), "labels": row.labels[real].tolist()}


class PairsOfTasks:
    """Haystacks with one question; chosen is the answer, rejected another value of the haystack, if it has one."""

    def __init__(
        self, data: TasksData, seed: int, tokenizer: "PreTrainedTokenizerBase", *, segment_length: int
    ) -> None:
        self.tasks: Sequence[Trainable] = TaskRows(data, seed, tokenizer, segment_length=segment_length).tasks
        self.data, self.seed, self.row_length = data, seed, data.row_length
        self._upper = np.cumsum(data.shares[2:])[:-1]
        names = "|".join(f"{task.name}@{task.version}" for task in self.tasks)
        self.fingerprint = _fingerprint(f"pairs|{names}", [self._row(0, index) for index in range(SHOWN)])
        self.mean_tokens = _mean_tokens(self.row)

    def row(self, index: int) -> Tokens:
        """Return row ``index``."""
        return self._row(self.seed, index)

    def _row(self, seed: int, index: int) -> Tokens:
        draws = Draws(f"pairs|{seed}|{index}")
        number = int(np.searchsorted(self._upper, float(draws.fractions(1)[0]), side="right"))
        spec = self.data.tasks[number].task
        length = draws.integer(spec.min_length, spec.max_length)
        sample = self.tasks[number].sample(split="training", seed=seed, index=index, length=length, depth=None)
        wrong = _wrong_answers(sample)
        return {
            "prompt_ids": sample.prompt_ids.tolist(),
            "chosen_ids": _candidate(sample, 0),
            "rejected_ids": _candidate(sample, wrong[draws.integer(0, len(wrong) - 1)]),
        }


def _wrong_answers(sample: Sample) -> list[int]:
    """Return the candidates that the haystack gives for something else, or all wrong ones if it gives none."""
    wrong = range(1, len(sample.candidates))
    return [place for place in wrong if sample.candidates[place] in sample.others] or list(wrong)


def _candidate(sample: Sample, place: int) -> list[int]:
    return [token for token in sample.candidate_ids[place].tolist() if token >= 0]


# What all rows have


def _longest(row: Tokens) -> int:
    """Return the tokens of a row, of the longer one of its two sequences if it is a pair."""
    if "labels" in row:
        return len(row["input_ids"])
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def _tokens(row: Tokens) -> int:
    """Return the tokens of a row, of both its sequences if it is a pair."""
    if "labels" in row:
        return len(row["input_ids"])
    return 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])


def _mean_tokens(row: Callable[[int], Tokens]) -> float:
    return sum(_tokens(row(index)) for index in range(SHOWN)) / SHOWN


def _fingerprint(what: str, rows: Iterable[Tokens]) -> str:
    found = hashlib.sha256(what.encode())
    for row in rows:
        found.update(json.dumps(row, sort_keys=True).encode())
    return found.hexdigest()
