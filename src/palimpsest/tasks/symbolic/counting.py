"""``sym_cwe`` and ``sym_fwe``: which words are told most often (RULER's common and frequent words extraction).

RULER's lists have the common words at fixed places and may have ties; here every haystack has its own order, and the
words that are right are told strictly more often than the others. All of them lie before the segment of the question.
"""

from abc import abstractmethod
from typing import Annotated, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.base import Haystack, OneQuestionSpec, Question, SymbolicTask
from palimpsest.tasks.symbolic.filler import Chain
from palimpsest.tasks.symbolic.haystack import before_question, spans_by_segment
from palimpsest.tasks.symbolic.multivalue import rank_sets, said_at_random
from palimpsest.tasks.symbolic.pairs import draw_content, draw_keys, in_split
from palimpsest.tasks.symbolic.vocabulary import COUNT, IS, KEYS, PAD, QUERY
from palimpsest.tasks.task import Reference, Split
from palimpsest.tasks.templates import Tokenizer


class CommonWordsSpec(OneQuestionSpec):
    """The knobs of ``sym_cwe``.

    Attributes:
        top: common words, all of them asked for.
        times: how often each of them is told.
        words: other words.
        other_times: how often each of those is told.
        candidates: sets to rank, the right one included; the others are made of words of the haystack first.
    """

    kind: Literal["sym_cwe"] = "sym_cwe"
    top: Literal[1, 3] = 1
    times: Annotated[int, Field(ge=2, le=1024)] = 6
    words: Annotated[int, Field(ge=1, le=125)] = 8
    other_times: Annotated[int, Field(ge=1, le=1023)] = 2
    candidates: Annotated[int, Field(ge=2, le=64)] = 8

    @model_validator(mode="after")
    def _gap(self) -> "CommonWordsSpec":
        if self.times <= self.other_times:
            raise ValueError(
                f"common words told {self.times} times are not more common than words told {self.other_times} times"
            )
        if self.words <= self.top:
            raise ValueError(f"{self.words} other words hide no {self.top} common ones; take more")
        return self


class FrequentWordsSpec(OneQuestionSpec):
    """The knobs of ``sym_fwe``.

    Attributes:
        top: how many of the most frequent words are asked for.
        words: words that may occur; rank r is told about in proportion to r^-skew, which must give it at least once.
        skew: exponent of the zeta law; RULER's is 2.
        candidates: sets to rank, the right one included; the others are made of words of the haystack first.
    """

    kind: Literal["sym_fwe"] = "sym_fwe"
    top: Literal[1, 3] = 3
    words: Annotated[int, Field(ge=4, le=128)] = 16
    skew: Annotated[float, Field(gt=0, le=8)] = 1.0
    candidates: Annotated[int, Field(ge=2, le=64)] = 8


class _Bag(NamedTuple):
    """How often each word is told, most frequent first, and coordinates of the items."""

    counts: NDArray[np.int64]
    facts: dict[str, float | str]


C = TypeVar("C", CommonWordsSpec, FrequentWordsSpec)


class _Counting(SymbolicTask[C]):
    """What both tasks share. ``depth`` plays no part: the evidence is everywhere."""

    def __init__(self, spec: C, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = PAD) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self.question_length = spec.top + 2
        self.answer_length = spec.top

    @abstractmethod
    def bag(self, room: int) -> _Bag:
        """Return how often words are told in ``room`` tokens."""

    def answers(self, answer: str) -> tuple[str, ...]:
        """Return the words one by one: their order does not matter."""
        return tuple(answer.split())

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a haystack in which words of a bag stand in random order."""
        top = self.spec.top
        room = before_question(length, self.segment_length)
        counts, facts = self.bag(room)
        told = counts.size

        def fits(words: NDArray[np.int32]) -> bool:
            return in_split(np.concatenate([np.sort(words[:top]), np.sort(words[top:])]), split)

        words = draw_content(lambda: draw_keys(draws, told, self.name), fits, self.name)
        bag = np.repeat(words, counts)
        places = np.sort(draws.subset(room, bag.size))
        ids = Chain(draws).speak(draws, length)
        ids[places] = bag[draws.permutation(bag.size)]
        right = places[np.isin(ids[places], words[:top])]
        answer = ids[right][np.sort(np.unique(ids[right], return_index=True)[1])]  # in the order of the text
        question = Question(
            ids=np.array([QUERY, *[COUNT] * top, IS], dtype=np.int32),
            candidates=rank_sets(draws, answer, words, KEYS.ids, self.spec.candidates),
            needles=spans_by_segment(right, self.segment_length),
            others=words[top:],
            facts={"needles": bag.size, "distractors": bag.size - right.size, "hops": 1, "words": told} | facts,
        )
        return Haystack(ids, [question])


class CommonWords(_Counting[CommonWordsSpec]):
    """Words told several times in filler; ``QUERY COUNT .. IS`` asks for the most common, one per ``COUNT``."""

    name = "sym_cwe"

    @property
    def floor(self) -> Reference:
        """What as many words at random of those told, and a random ranking, reach."""
        told = self.spec.top + self.spec.words
        return Reference(exact=said_at_random(self.spec.top, told, KEYS.size), rank_first=1 / self.spec.candidates)

    def bag(self, room: int) -> _Bag:
        """Return how often words are told, whatever the room.

        Raises:
            InputError: they do not fit into it.
        """
        spec = self.spec
        counts = np.repeat([spec.times, spec.other_times], [spec.top, spec.words])
        if counts.sum() > room:
            raise InputError(
                f"{self.name}: {counts.sum()} words do not fit into the {room} tokens before the segment of the "
                "question; ask for fewer or for a longer context"
            )
        return _Bag(counts, {"gap": spec.times - spec.other_times})


class FrequentWords(_Counting[FrequentWordsSpec]):
    """Nothing but words, by a zeta law; ``QUERY COUNT .. IS`` asks for the most frequent, one per ``COUNT``."""

    name = "sym_fwe"

    @property
    def floor(self) -> Reference:
        """What as many words at random of those told, and a random ranking, reach."""
        return Reference(
            exact=said_at_random(self.spec.top, self.spec.words, KEYS.size), rank_first=1 / self.spec.candidates
        )

    def bag(self, room: int) -> _Bag:
        """Return how often words are told: the zeta law, rounded down.

        Raises:
            InputError: the last word is never told, or the words that are asked for are not strictly more frequent.
        """
        weights = np.arange(1, self.spec.words + 1, dtype=np.float64) ** -self.spec.skew
        counts = np.floor(room * weights / weights.sum() + 1e-9).astype(np.int64)
        gap = int(counts[self.spec.top - 1] - counts[self.spec.top])
        if counts[-1] < 1 or gap < 1:
            raise InputError(
                f"{self.name}: {room} tokens before the segment of the question are too few to tell {self.spec.words} "
                f"words by a zeta law of {self.spec.skew}, the first {self.spec.top} strictly more often than the "
                "others; ask for fewer words or for a longer context"
            )
        return _Bag(counts, {"gap": gap, "skew": self.spec.skew})
