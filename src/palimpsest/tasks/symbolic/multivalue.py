"""Several answers at once (RULER): ``sym_multivalue``, a key with several values; ``sym_multiquery``, several keys."""

from itertools import chain, islice
from math import comb
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.base import Haystack, Question, SymbolicSpec, SymbolicTask
from palimpsest.tasks.symbolic.haystack import fill, slots
from palimpsest.tasks.symbolic.pairs import candidate_rows, draw_keys, draw_pairs, draw_values, subsets
from palimpsest.tasks.symbolic.vocabulary import PAD, QUERY, SEP, VALUES
from palimpsest.tasks.task import Reference, Split
from palimpsest.tasks.templates import Tokenizer

WIDTH = 3
MOST_VALUES = 64
"""Values that any keys can have in any split: each key may have about one value in five in evaluation."""


def said_at_random(wanted: int, told: int, words: int = VALUES.size) -> float:
    """Return the chance that ``wanted`` of the things told are the right ones, or of all words if no more were told."""
    return 1 / comb(told if told > wanted else words, wanted)


def rank_sets(
    draws: Draws, answer: NDArray[np.int32], told: NDArray[np.int32], rest: NDArray[np.int32], count: int
) -> NDArray[np.int32]:
    """Return ``[count, tokens]`` sets to rank: the right one, then sets of things told, then any of ``rest``."""
    wrong = chain(islice(subsets(draws, told, answer.size), 4 * count), subsets(draws, rest, answer.size))
    return candidate_rows(answer, wrong, count, ordered=False)


class MultivalueSpec(SymbolicSpec):
    """The knobs of ``sym_multivalue``.

    Attributes:
        keys: keys told.
        values: values of every key, each told in a needle of its own.
        candidates: sets to rank, the right one included; the others are made of values of the haystack first.
    """

    kind: Literal["sym_multivalue"] = "sym_multivalue"
    keys: Annotated[int, Field(ge=1, le=64)] = 4
    values: Annotated[int, Field(ge=1, le=8)] = 4
    candidates: Annotated[int, Field(ge=2, le=128)] = 16

    @model_validator(mode="after")
    def _askable(self) -> "MultivalueSpec":
        if self.questions > self.keys:
            raise ValueError(f"{self.questions} questions cannot be asked about {self.keys} keys")
        if self.keys * self.values > MOST_VALUES:
            raise ValueError(f"{self.keys} keys with {self.values} values each need more than {MOST_VALUES} values")
        return self


class Multivalue(SymbolicTask[MultivalueSpec]):
    """``SEP key value`` several times per key; ``QUERY key`` asks for all values of one, in any order."""

    name = "sym_multivalue"
    question_length = 2

    def __init__(self, spec: MultivalueSpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = PAD) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self.answer_length = spec.values

    @property
    def floor(self) -> Reference:
        """What as many values at random of those told, and a random ranking, reach."""
        told = self.spec.keys * self.spec.values
        return Reference(exact=said_at_random(self.spec.values, told), rank_first=1 / self.spec.candidates)

    def answers(self, answer: str) -> tuple[str, ...]:
        """Return the values one by one: their order does not matter."""
        return tuple(answer.split())

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a haystack with all values of all keys."""
        keys, each = self.spec.keys, self.spec.values
        names = draw_keys(draws, keys, self.name)
        told = np.repeat(names, each)
        values = draw_values(draws, split, told, self.name)
        places = slots(draws, length, WIDTH, told.size, self.segment_length, depth=depth, what=self.name)
        places = np.sort(places.reshape(keys, each)).ravel()  # the values of a key in the order of the text
        needles = [np.array([SEP, key, value], dtype=np.int32) for key, value in zip(told, values, strict=True)]
        ids, spans = fill(draws, length, needles, places)
        questions = []
        for asked in range(self.spec.questions):
            mine = slice(asked * each, (asked + 1) * each)
            questions.append(
                Question(
                    ids=np.array([QUERY, names[asked]], dtype=np.int32),
                    candidates=rank_sets(draws, values[mine], values, VALUES.ids, self.spec.candidates),
                    needles=tuple(spans[mine]),
                    others=np.delete(values, mine),
                    facts={"needles": told.size, "distractors": told.size - each, "hops": 1, "values": each},
                )
            )
        return Haystack(ids, questions)


class MultiquerySpec(SymbolicSpec):
    """The knobs of ``sym_multiquery``.

    Attributes:
        needles: pairs told.
        queries: keys asked for in one question. With as many as were told, which is RULER's form, saying every value
            of the haystack is right; with fewer they must be told apart.
        candidates: sets to rank, the right one included; the others are made of values of the haystack first.
    """

    kind: Literal["sym_multiquery"] = "sym_multiquery"
    needles: Annotated[int, Field(ge=1, le=128)] = 8
    queries: Annotated[int, Field(ge=1, le=32)] = 4
    candidates: Annotated[int, Field(ge=2, le=128)] = 16

    @model_validator(mode="after")
    def _askable(self) -> "MultiquerySpec":
        if self.questions * self.queries > self.needles:
            raise ValueError(
                f"{self.questions} questions for {self.queries} keys each cannot be asked about {self.needles} needles"
            )
        return self


class Multiquery(SymbolicTask[MultiquerySpec]):
    """``SEP key value`` for every pair; ``QUERY key key ..`` asks for several values, in any order."""

    name = "sym_multiquery"

    def __init__(self, spec: MultiquerySpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = PAD) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self.question_length = spec.queries + 1
        self.answer_length = spec.queries

    @property
    def floor(self) -> Reference:
        """What as many values at random of those told, and a random ranking, reach."""
        return Reference(
            exact=said_at_random(self.spec.queries, self.spec.needles), rank_first=1 / self.spec.candidates
        )

    def answers(self, answer: str) -> tuple[str, ...]:
        """Return the values one by one: their order does not matter."""
        return tuple(answer.split())

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a haystack with ``spec.needles`` pairs; each question asks for the next ``spec.queries`` of them."""
        count, each = self.spec.needles, self.spec.queries
        keys, values = draw_pairs(draws, split, count, self.name)
        needles = [np.array([SEP, key, value], dtype=np.int32) for key, value in zip(keys, values, strict=True)]
        places = slots(draws, length, WIDTH, count, self.segment_length, depth=depth, what=self.name)
        ids, spans = fill(draws, length, needles, places)
        questions = []
        for asked in range(self.spec.questions):
            mine = slice(asked * each, (asked + 1) * each)
            questions.append(
                Question(
                    ids=np.array([QUERY, *keys[mine]], dtype=np.int32),
                    candidates=rank_sets(draws, values[mine], values, VALUES.ids, self.spec.candidates),
                    needles=tuple(sorted(spans[mine])),
                    others=np.delete(values, mine),
                    facts={"needles": count, "distractors": count - each, "hops": 1, "queries": each},
                )
            )
        return Haystack(ids, questions)
