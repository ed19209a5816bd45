"""``cwe`` and ``fwe``: the words that occur most often in a long list (RULER's aggregation, Hsieh et al. 2024).

Departures: the places of the words are drawn per item, so that none is to be learned; the gap between the words asked
for and all others is strict; the list ends before the segment of the question, where the length allows, so that nothing
of it is left to local attention.
"""

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from itertools import chain
from math import comb
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from palimpsest.tasks.draws import Draws
from palimpsest.tasks.task import Reference, Span, Split
from palimpsest.tasks.templates import Tokenizer
from palimpsest.tasks.text.base import Haystack, Question, TextSpec, TextTask
from palimpsest.tasks.text.haystack import NoRoom
from palimpsest.tasks.text.lexicon import Letters
from palimpsest.tasks.text.pairs import candidates_among

SYLLABLES = tuple(onset + vowel for onset in "bdfghjklmnprstvwz" for vowel in "aeiou")
COINED = Letters(3, SYLLABLES)
CODED = Letters(6, tuple("abcdefghijklmnopqrstuvwxyz"))


class CountingSpec(TextSpec):
    """The knobs that both tasks have.

    Attributes:
        apart: whether the list ends before the last segment begins.
        candidates: number of answers to rank, the right one included.
    """

    apart: bool = True
    candidates: Annotated[int, Field(ge=2, le=64)] = 16


class CommonWordsSpec(CountingSpec):
    """The knobs of ``cwe``.

    Attributes:
        common: words asked for.
        repeats: how often each of them occurs.
        rest: how often every other word occurs. RULER takes 30 and 3, below 4,096 tokens 6 and 1.
    """

    kind: Literal["cwe"] = "cwe"
    common: Annotated[int, Field(ge=1, le=32)] = 10
    repeats: Annotated[int, Field(ge=2, le=1_000)] = 30
    rest: Annotated[int, Field(ge=1, le=100)] = 3

    @model_validator(mode="after")
    def _strict(self) -> "CommonWordsSpec":
        if self.rest >= self.repeats:
            raise ValueError(
                f"common words must occur more often than others: repeats {self.repeats}, rest {self.rest}"
            )
        return self


class FrequentWordsSpec(CountingSpec):
    """The knobs of ``fwe``.

    Attributes:
        words: different coded words; their counts follow a zeta distribution, made strictly falling at the top.
        alpha: its exponent; the smaller, the nearer the counts.
        frequent: words asked for.
    """

    kind: Literal["fwe"] = "fwe"
    words: Annotated[int, Field(ge=2, le=2_000)] = 20
    alpha: Annotated[float, Field(ge=0.5, le=4.0)] = 2.0
    frequent: Annotated[int, Field(ge=1, le=16)] = 3

    @model_validator(mode="after")
    def _askable(self) -> "FrequentWordsSpec":
        if self.frequent >= self.words:
            raise ValueError(f"{self.frequent} frequent words need more than {self.words} words in all")
        return self


class Listing(NamedTuple):
    """A list of words as the haystack tells it.

    Attributes:
        words: the different words; the first ones are asked for.
        counts: how often each occurs.
        entries: the list in order, as numbers of words; -1 is none of them.
        tokens: the same as tokens, one entry each.
    """

    words: Sequence[str]
    counts: NDArray[np.int64]
    entries: NDArray[np.int64]
    tokens: Sequence[Sequence[int]]


S = TypeVar("S", bound=CountingSpec)


class CountingTask(TextTask[S]):
    """A list of words, then filler up to the exact length, then the question for the most frequent ones."""

    drawer: ClassVar[Letters]

    def __init__(self, spec: S, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = 0) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        introduction, self._question = self.worded()
        self._introduction = self.speller.opening(introduction)
        self._question_length = len(self.speller.spell(self._question))

    @property
    @abstractmethod
    def asked(self) -> int:
        """Number of words asked for."""

    @abstractmethod
    def worded(self) -> tuple[str, str]:
        """Return the introduction and the question."""

    @abstractmethod
    def in_order(self, words: list[str]) -> list[str]:
        """Return the words asked for in the order in which an answer names them."""

    @abstractmethod
    def listed(self, label: str, split: Split, answers: Sequence[str], room: int) -> Listing:
        """Return a list of at most ``room`` tokens whose most frequent words are ``answers``.

        Raises:
            NoRoom: none is so short.
        """

    def write(self, label: str, split: Split, length: int, depth: float | None, together: bool) -> Haystack:
        """Return a list and filler; ``depth`` has no meaning, since what must be remembered is everywhere."""
        answers = self.in_order(self.drawer.draw(Draws(f"{label}|answers"), split, self.asked))
        end = length - self.asked_length(self._question, ", ".join(answers))
        begin = len(self._introduction)
        last_segment = (end + self._question_length - 1) // self.segment_length * self.segment_length
        limit = min(last_segment if self.spec.apart and last_segment > begin else end, end - self.prose.settled)
        if limit <= begin:
            raise NoRoom
        told = self.listed(label, split, answers, limit - begin)
        starts = begin + np.cumsum([0, *(len(ids) for ids in told.tokens)])
        told_end = int(starts[-1])
        if not self.prose.reachable(end - told_end):
            raise NoRoom
        ids = np.empty(end, dtype=np.int32)
        ids[:told_end] = list(chain(self._introduction, *told.tokens))
        self.prose.write(ids[told_end:], Draws(f"{label}|filler").integer(0, self.prose.count - 1))
        where = np.flatnonzero((told.entries >= 0) & (told.entries < self.asked)).tolist()
        spans = [Span(int(starts[at]), int(starts[at + 1])) for at in where]
        others = told.words[self.asked :]
        spare = self.drawer.draw(Draws(f"{label}|spare"), split, 4 * self.asked + self.spec.candidates, told.words)
        rivals = candidates_among(Draws(f"{label}|candidates"), answers, others, spare, self.spec.candidates)
        needles = tuple(piece for span in spans for piece in split_at_segments(span, self.segment_length))
        question = Question(self._question, rivals, tuple(answers), needles, tuple(others), self._facts(told))
        return Haystack(ids, [question])

    def _facts(self, told: Listing) -> dict[str, float | str]:
        right, wrong = told.counts[: self.asked], told.counts[self.asked :]
        gap = int(right.min() - wrong.max(initial=0))
        return {"needles": int(right.sum()), "distractors": int(wrong.sum()), "hops": 1, "gap": gap}


class CommonWords(CountingTask[CommonWordsSpec]):
    """``1. bavoki 2. duleme ...``: some words occur 30 times, all others 3 times, in an order drawn per item."""

    name = "cwe"
    drawer = COINED

    def __init__(self, spec: CommonWordsSpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = 0) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self._numbers: list[list[int]] = []

    @property
    def asked(self) -> int:
        """Number of words asked for."""
        return self.spec.common

    @property
    def floor(self) -> Reference:
        """What words that do not come from the context, which has any number of them, and a random ranking reach."""
        return Reference(1 / comb(self.drawer.available("evaluation"), self.asked), 1 / self.spec.candidates)

    def worded(self) -> tuple[str, str]:
        """Return RULER's introduction and question."""
        words = f"{self.asked} most common words"
        return (
            "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones "
            "that appear most often.",
            f" Question: What are the {words} in the above list? Answer: The {words} in the list are:",
        )

    def in_order(self, words: list[str]) -> list[str]:
        """Return the words in the order of the alphabet, since their counts are equal."""
        return sorted(words)

    def listed(self, label: str, split: Split, answers: Sequence[str], room: int) -> Listing:
        """Return the common words and as many others as fit."""
        spec = self.spec
        numbers = self._numbered(room)
        numbered = np.cumsum([0, *map(len, numbers)])
        self.speller.learn(f" {word}" for word in answers)
        told = spec.common * spec.repeats
        common = sum(len(self.speller.spell(f" {word}")) for word in answers) * spec.repeats
        if told >= numbered.size or numbered[told] + common >= room:
            raise NoRoom
        # no entry is shorter than its number and one token, so no more words than these can fit
        entry = len(numbers[told]) + 1
        most = max(1, int(room - numbered[told] - common) // (entry * spec.rest))
        others = self.drawer.draw(Draws(f"{label}|others"), split, most, answers)
        self.speller.learn(f" {word}" for word in others)
        sizes = np.array([len(self.speller.spell(f" {word}")) for word in others])
        entries = told + spec.rest * np.arange(1, most + 1)
        entries = entries[entries < numbered.size]
        tokens = numbered[entries] + common + spec.rest * np.cumsum(sizes)[: entries.size]
        fitting = int(np.searchsorted(tokens, room, side="right"))
        if not fitting:
            raise NoRoom
        words = [*answers, *others[:fitting]]
        counts = np.array([spec.repeats] * spec.common + [spec.rest] * fitting)
        order = np.repeat(np.arange(len(words)), counts)
        order = order[Draws(f"{label}|order").permutation(order.size)]
        spelled = [self.speller.spell(f" {word}") for word in words]
        return Listing(
            words,
            counts,
            order,
            [[*number, *spelled[which]] for number, which in zip(numbers, order.tolist(), strict=False)],
        )

    def _numbered(self, room: int) -> list[list[int]]:
        """Return the tokens of `` 1.``, `` 2.`` and so on, as many as can be entries in ``room`` tokens."""
        known = self._numbers
        known += [self.speller.spell(f" {number}.") for number in range(len(known) + 1, room // 3 + 1)]
        return known


class FrequentWords(CountingTask[FrequentWordsSpec]):
    """Coded words, and dots between them, with the frequencies of a zeta distribution, in an order drawn per item."""

    name = "fwe"
    drawer = CODED

    @property
    def asked(self) -> int:
        """Number of words asked for."""
        return self.spec.frequent

    def worded(self) -> tuple[str, str]:
        """Return RULER's introduction and question."""
        words = f"{self.asked} most frequently appeared words"
        return (
            "Read the following coded text and track the frequency of each coded word. Find the "
            f"{self.asked} most frequently appeared coded words.",
            f" Question: Ignore the dots. What are the {words} in the above coded text? Answer: According to the coded "
            f"text above, the {words} are:",
        )

    @property
    def floor(self) -> Reference:
        """What a random set of the words told, and a random ranking, reach."""
        return Reference(1 / comb(self.spec.words, self.spec.frequent), 1 / self.spec.candidates)

    def in_order(self, words: list[str]) -> list[str]:
        """Return the words as they are: the first one will occur most often."""
        return words

    def listed(self, label: str, split: Split, answers: Sequence[str], room: int) -> Listing:
        """Return as many words as fit; the dots have the first rank, as in RULER, and are not asked for."""
        others = self.drawer.draw(Draws(f"{label}|others"), split, self.spec.words - self.asked, answers)
        words = [*answers, *others]
        self.speller.learn(f" {word}" for word in words)
        spelled = [self.speller.spell(f" {word}") for word in words]
        dots = self.speller.spell(" ...")
        sizes = np.array([*map(len, spelled), len(dots)])
        low, high = 0, 2 * room
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if int(self.counts(middle) @ sizes) <= room else (low, middle)
        if not low:
            raise NoRoom
        counts = self.counts(low)
        entries = np.repeat(np.append(np.arange(len(words)), -1), counts)
        entries = entries[Draws(f"{label}|order").permutation(entries.size)]
        spelled.append(dots)
        return Listing(words, counts[:-1], entries, [spelled[which] for which in entries.tolist()])

    def counts(self, scale: int) -> NDArray[np.int64]:
        """Return [words + 1] how often each word, and last the dots, occur; falling strictly down to the first not
        asked for, so that there are no ties.
        """
        ranks = np.arange(1, self.spec.words + 2, dtype=np.float64)
        dots, *counts = np.maximum(1, np.floor(scale * ranks**-self.spec.alpha)).astype(np.int64).tolist()
        for place in range(self.asked - 1, -1, -1):
            counts[place] = max(counts[place], counts[place + 1] + 1)
        return np.array([*counts, dots])


def split_at_segments(span: Span, segment_length: int) -> list[Span]:
    """Return a span as pieces that lie inside one segment each."""
    bounds = range((span.start // segment_length + 1) * segment_length, span.end, segment_length)
    edges = [span.start, *bounds, span.end]
    return [Span(start, end) for start, end in itertools.pairwise(edges)]
