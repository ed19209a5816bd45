"""Reference answerers that need no training: they prove that the tasks measure what they should (evaluation E31).

``PerfectRecall`` must pass every task, ``LastSegment`` must be at the floor wherever no needle lies in the last
segment, ``RandomGuess`` everywhere, and ``NeedleRemoved`` never above it. All of them read tokens only: of a sample
they take the prompt and the candidates, whose order they ignore, never the answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.parsing import Excerpt, Parser
from palimpsest.tasks.symbolic.parsers import SYMBOLIC_PARSERS
from palimpsest.tasks.symbolic.vocabulary import spelled
from palimpsest.tasks.task import Output, Reference, Sample, Task
from palimpsest.tasks.text.parsers import TEXT_PARSERS

PARSERS: dict[str, Parser] = {**SYMBOLIC_PARSERS, **TEXT_PARSERS}
"""How each task is read, by its name."""

Decode = Callable[[NDArray[np.int32]], str]
"""Turns token ids into text; ``spelled`` for symbolic tasks, the tokenizer's ``decode`` for others."""

PATIENCE = 50
"""Items tried for each that is wanted, where some do not qualify."""


class Responder(Protocol):
    """Something that answers items."""

    name: ClassVar[str]

    def answer(self, sample: Sample) -> Output:
        """Return what it says, and a log-probability for each candidate."""
        ...


@dataclass(frozen=True)
class PerfectRecall:
    """Reads the whole prompt, and forgets nothing."""

    name: ClassVar[str] = "perfect_recall"
    decode: Decode = spelled

    def answer(self, sample: Sample) -> Output:
        """Return what the haystack says."""
        return _respond(self.name, sample, _excerpt(sample, self.decode), self.decode)


@dataclass(frozen=True)
class LastSegment:
    """Reads the segment in which the answer must be given; where that does not tell, it guesses."""

    name: ClassVar[str] = "last_segment"
    decode: Decode = spelled

    def answer(self, sample: Sample) -> Output:
        """Return what the last segment says, or a guess."""
        start = (sample.prompt_length - 1) // sample.segment_length * sample.segment_length
        return _respond(self.name, sample, _excerpt(sample, self.decode, start), self.decode)


@dataclass(frozen=True)
class NeedleRemoved:
    """Reads the whole prompt but the needles: what it still finds is evidence that no needle covers."""

    name: ClassVar[str] = "needle_removed"
    decode: Decode = spelled

    def answer(self, sample: Sample) -> Output:
        """Return what the rest of the haystack says, or a guess."""
        kept = np.ones(sample.question_start, dtype=bool)
        for needle in sample.needles:
            kept[needle.start : needle.end] = False
        context = self.decode(sample.prompt_ids[: sample.question_start][kept])
        return _respond(self.name, sample, _excerpt(sample, self.decode)._replace(context=context), self.decode)


@dataclass(frozen=True)
class RandomGuess:
    """Knows what the haystack offers, but not which of it is asked for."""

    name: ClassVar[str] = "random_guess"
    decode: Decode = spelled

    def answer(self, sample: Sample) -> Output:
        """Return one of the answers that the haystack offers."""
        draws = Draws(f"{self.name}|{sample.id}")
        text = PARSERS[sample.task].guess(_excerpt(sample, self.decode), draws)
        return Output(text, -1 - draws.fractions(len(sample.candidates)))


class Validity(NamedTuple):
    """How a responder did on a task.

    Attributes:
        n: items answered; for ``last_segment`` those with no needle in the last segment.
        exact: how many of them exactly.
        first: in how many the right answer was ranked first.
        floor, ceiling: of the task.
    """

    task: str
    responder: str
    n: int
    exact: int
    first: int
    floor: Reference
    ceiling: Reference


def responders(decode: Decode = spelled) -> tuple[Responder, ...]:
    """Return all reference answerers, for texts that ``decode`` reads."""
    return PerfectRecall(decode), LastSegment(decode), NeedleRemoved(decode), RandomGuess(decode)


def validity(tasks: Sequence[Task], n: int, *, length: int, seed: int = 0, decode: Decode = spelled) -> list[Validity]:
    """Let every reference answerer answer ``n`` evaluation items of every task.

    Args:
        tasks: built tasks; their names must have parsers.
        n: items per task and responder.
        length: tokens of every item, more than one segment.
        seed: of the items.
        decode: turns tokens into text.

    Raises:
        InputError: a task has too few items of this length without a needle in the last segment.
    """
    return [row for task in tasks for row in _validate(task, n, length, seed, responders(decode))]


def _validate(task: Task, n: int, length: int, seed: int, all_of: tuple[Responder, ...]) -> list[Validity]:
    counts = {responder.name: np.zeros(3, dtype=np.int64) for responder in all_of}
    for index in range(PATIENCE * n):
        wanted = [responder for responder in all_of if counts[responder.name][0] < n]
        if not wanted:
            break
        sample = task.sample(split="evaluation", seed=seed, index=index, length=length, depth=None)
        for responder in wanted:
            if responder.name != LastSegment.name or not sample.locally_reachable:
                score = task.score(sample, responder.answer(sample))
                counts[responder.name] += (1, score.exact, score.rank == 1)
    else:
        raise InputError(
            f"{task.name}: fewer than {n} of {PATIENCE * n} items of {length} tokens have all their needles before the "
            f"last segment of {task.segment_length}; ask for a longer context"
        )
    return [
        Validity(task.name, name, *map(int, count), floor=task.floor, ceiling=task.ceiling)
        for name, count in counts.items()
    ]


def _excerpt(sample: Sample, decode: Decode, start: int = 0) -> Excerpt:
    """Return the prompt from ``start`` on; the question is always whole."""
    context = sample.prompt_ids[start : sample.question_start]
    return Excerpt(decode(context), decode(sample.prompt_ids[sample.question_start :]), start == 0)


def _respond(name: str, sample: Sample, seen: Excerpt, decode: Decode) -> Output:
    """Say what the excerpt says, with most of the probability on it; guess where it leaves the question open."""
    parser = PARSERS[sample.task]
    draws = Draws(f"{name}|{sample.id}")
    logprobs = -1 - draws.fractions(len(sample.candidates))
    text = parser.answer(seen)
    if text is None:
        return Output(parser.guess(_excerpt(sample, decode), draws), logprobs)
    for place, candidate in enumerate(sample.candidates):
        if candidate.split() == text.split():
            logprobs[place] = 0.0
    return Output(text, logprobs)
