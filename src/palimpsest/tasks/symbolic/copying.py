"""``sym_copy``, ``sym_selective_copy`` and ``sym_induction``: say again what was said.

Copying follows Jelassi et al. 2024 (arXiv 2402.01032), selective copying and induction heads Gu & Dao 2023
(arXiv 2312.00752).
"""

from itertools import chain, islice
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.base import Haystack, OneQuestionSpec, Question, SymbolicSpec, SymbolicTask
from palimpsest.tasks.symbolic.filler import Chain
from palimpsest.tasks.symbolic.haystack import before_question, ordered_slots, slots, spans_by_segment
from palimpsest.tasks.symbolic.pairs import (
    candidate_rows,
    candidates_for,
    draw_content,
    draw_pairs,
    in_split,
    strings,
    subsets,
)
from palimpsest.tasks.symbolic.vocabulary import COPY, PAD, QUERY, SEP, VALUES
from palimpsest.tasks.task import Reference, Span, Split
from palimpsest.tasks.templates import Tokenizer


class CopySpec(OneQuestionSpec):
    """The knobs of ``sym_copy``.

    Attributes:
        symbols: length of the string.
        candidates: strings to rank, the right one included; the others are the same symbols in another order first.
    """

    kind: Literal["sym_copy"] = "sym_copy"
    symbols: Annotated[int, Field(ge=1, le=4096)] = 8
    candidates: Annotated[int, Field(ge=2, le=64)] = 8


class SelectiveCopySpec(OneQuestionSpec):
    """The knobs of ``sym_selective_copy``.

    Attributes:
        symbols: symbols hidden in the filler.
        candidates: strings to rank, the right one included; the others are the same symbols in another order first.
    """

    kind: Literal["sym_selective_copy"] = "sym_selective_copy"
    symbols: Annotated[int, Field(ge=1, le=4096)] = 8
    candidates: Annotated[int, Field(ge=2, le=64)] = 8


class InductionSpec(SymbolicSpec):
    """The knobs of ``sym_induction``.

    Attributes:
        triggers: keys in the noise, each with a value after it.
        candidates: answers to rank, the right one included; the others are values of other triggers first.
    """

    kind: Literal["sym_induction"] = "sym_induction"
    triggers: Annotated[int, Field(ge=1, le=128)] = 1
    candidates: Annotated[int, Field(ge=2, le=128)] = 16

    @model_validator(mode="after")
    def _askable(self) -> "InductionSpec":
        if self.questions > self.triggers:
            raise ValueError(f"{self.questions} questions cannot be asked about {self.triggers} triggers")
        return self


C = TypeVar("C", CopySpec, SelectiveCopySpec)


class _Copying(SymbolicTask[C]):
    """What both kinds of copying share. Everything to be copied lies before the segment of the question."""

    question_length = 2

    def __init__(self, spec: C, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = PAD) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self.answer_length = spec.symbols

    @property
    def floor(self) -> Reference:
        """What a string of random symbols, and a random ranking, reach."""
        return Reference(exact=float(VALUES.size) ** -self.spec.symbols, rank_first=1 / self.spec.candidates)

    def _string(self, draws: Draws, split: Split) -> NDArray[np.int32]:
        """Return the symbols, perhaps with repetitions."""
        return draw_content(
            strings(draws, VALUES, self.spec.symbols).__next__, lambda string: in_split(string, split), self.name
        )

    def _question(self, draws: Draws, string: NDArray[np.int32], needles: tuple[Span, ...]) -> Question:
        count = self.spec.candidates
        reordered = islice(subsets(draws, string, string.size), count // 2)
        return Question(
            ids=np.array([QUERY, COPY], dtype=np.int32),
            candidates=candidate_rows(string, chain(reordered, strings(draws, VALUES, string.size)), count),
            needles=needles,
            others=np.empty(0, dtype=np.int32),
            facts={"needles": len(needles), "distractors": 0, "hops": 1, "symbols": string.size},
        )


class Copy(_Copying[CopySpec]):
    """``SEP COPY v v .. SEP`` in filler; ``QUERY COPY`` asks for the string. It may cross segment boundaries."""

    name = "sym_copy"

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a haystack with a string, the beginning of which is near ``depth``."""
        room = before_question(length, self.segment_length)
        string = self._string(draws, split)
        needle = np.concatenate([[SEP, COPY], string, [SEP]])
        free = room - needle.size
        if free < 0:
            raise InputError(
                f"{self.name}: a string of {string.size} symbols does not fit into the {room} tokens before the "
                "segment of the question; ask for a shorter one or for a longer context"
            )
        start = draws.integer(0, free) if depth is None else min(round(depth * (length - needle.size)), free)
        places = np.arange(start, start + needle.size)
        ids = Chain(draws).speak(draws, length)
        ids[places] = needle
        return Haystack(ids, [self._question(draws, string, spans_by_segment(places, self.segment_length))])


class SelectiveCopy(_Copying[SelectiveCopySpec]):
    """Symbols scattered in filler; ``QUERY COPY`` asks for all of them in the order of the text."""

    name = "sym_selective_copy"

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a haystack with scattered symbols, the first of which is near ``depth``."""
        string = self._string(draws, split)
        room = before_question(length, self.segment_length)
        places = ordered_slots(draws, room, 1, string.size, self.segment_length, what=self.name, depth=depth)
        ids = Chain(draws).speak(draws, length)
        ids[places] = string
        needles = tuple(Span(place, place + 1) for place in places.tolist())
        return Haystack(ids, [self._question(draws, string, needles)])


class Induction(SymbolicTask[InductionSpec]):
    """A key and a value in a noise of values; the key again asks for what came after it (induction heads).

    The noise is made of the answers' own words, so that nothing but the key marks the place.
    """

    name = "sym_induction"
    question_length = 1
    answer_length = 1

    @property
    def floor(self) -> Reference:
        """What one value at random, all of which may occur, and a random ranking, reach."""
        return Reference(exact=1 / VALUES.size, rank_first=1 / self.spec.candidates)

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a noise of values with ``spec.triggers`` pairs in it."""
        count = self.spec.triggers
        keys, values = draw_pairs(draws, split, count, self.name)
        places = slots(draws, length, 2, count, self.segment_length, depth=depth, what=self.name)
        ids = (draws.integers(VALUES.size, length) + VALUES.start).astype(np.int32)
        ids[places], ids[places + 1] = keys, values
        questions = []
        for asked in range(self.spec.questions):
            others = np.delete(values, asked)
            place = int(places[asked])
            questions.append(
                Question(
                    ids=keys[asked : asked + 1],
                    candidates=candidates_for(draws, int(values[asked]), others, self.spec.candidates),
                    needles=(Span(place, place + 2),),
                    others=others,
                    facts={"needles": count, "distractors": count - 1, "hops": 1},
                )
            )
        return Haystack(ids, questions)
