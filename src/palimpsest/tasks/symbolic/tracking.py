"""``sym_vt``: variables that take each other's value; the chain must be followed to its end (from RULER)."""

from itertools import chain, islice
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.base import Haystack, Question, SymbolicSpec, SymbolicTask
from palimpsest.tasks.symbolic.haystack import fill, ordered_slots
from palimpsest.tasks.symbolic.multivalue import said_at_random
from palimpsest.tasks.symbolic.pairs import candidate_rows, candidates_for, draw_keys, draw_values, subsets
from palimpsest.tasks.symbolic.vocabulary import IS, KEYS, PAD, QUERY, VAR
from palimpsest.tasks.task import Reference, Span, Split
from palimpsest.tasks.templates import Tokenizer

WIDTH = 3


class VariableTrackingSpec(SymbolicSpec):
    """The knobs of ``sym_vt``.

    Attributes:
        hops: assignments of one variable to another between the value and the variable that is asked for.
        chains: chains told, each with a value of its own.
        order: ``hops`` tells every chain from the value on, as RULER does; ``shuffled`` in any order.
        ask: for the value of the last variable of a chain, or, as RULER does, for the set of all variables of a value.
        candidates: answers to rank, the right one included; the others are values (sets of variables) of the haystack
            first.
    """

    kind: Literal["sym_vt"] = "sym_vt"
    hops: Annotated[int, Field(ge=1, le=8)] = 2
    chains: Annotated[int, Field(ge=1, le=4)] = 2
    order: Literal["hops", "shuffled"] = "hops"
    ask: Literal["value", "set"] = "value"
    candidates: Annotated[int, Field(ge=2, le=128)] = 16

    @model_validator(mode="after")
    def _askable(self) -> "VariableTrackingSpec":
        if self.questions > self.chains:
            raise ValueError(f"{self.questions} questions cannot be asked about {self.chains} chains")
        return self


class VariableTracking(SymbolicTask[VariableTrackingSpec]):
    """``VAR a v``, ``VAR b a``, ..: ``QUERY VAR z`` asks for the value at the end of the chain of z.

    ``QUERY VAR IS v`` asks for all variables that have a value, in any order.
    """

    name = "sym_vt"

    def __init__(
        self, spec: VariableTrackingSpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = PAD
    ) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self.question_length = 3 if spec.ask == "value" else 4
        self.answer_length = 1 if spec.ask == "value" else spec.hops + 1

    @property
    def floor(self) -> Reference:
        """What one value at random of those told, or as many variables, and a random ranking, reach."""
        chains, variables = self.spec.chains, self.spec.hops + 1
        exact = said_at_random(1, chains)
        if self.spec.ask == "set":
            exact = said_at_random(variables, chains * variables, KEYS.size)
        return Reference(exact=exact, rank_first=1 / self.spec.candidates)

    def answers(self, answer: str) -> tuple[str, ...]:
        """Return the value, or the variables one by one: their order does not matter."""
        return tuple(answer.split())

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a haystack with all chains; the statement nearest to ``depth`` is the first of the first chain's."""
        chains, each = self.spec.chains, self.spec.hops + 1
        variables = draw_keys(draws, chains * each, self.name).reshape(chains, each)
        values = draw_values(draws, split, variables[:, -1], self.name)
        # which chain speaks when; the statements of a chain take its turns in their order, or in any
        turns = np.repeat(np.arange(chains), each)[draws.permutation(chains * each)]
        ranks = np.stack([np.flatnonzero(turns == number) for number in range(chains)])
        first = int(ranks[0, 0])
        if self.spec.order == "shuffled":
            ranks = np.stack([row[draws.permutation(each)] for row in ranks])
        places = ordered_slots(
            draws, length, WIDTH, turns.size, self.segment_length, what=self.name, depth=depth, rank=first
        )[ranks]
        needles = [
            np.array([VAR, row[at], row[at - 1] if at else value], dtype=np.int32)
            for row, value in zip(variables, values, strict=True)
            for at in range(each)
        ]
        ids, spans = fill(draws, length, needles, places.ravel())
        questions = []
        for asked in range(self.spec.questions):
            told = tuple(sorted(spans[asked * each : (asked + 1) * each]))
            if self.spec.ask == "value":
                questions.append(self._value(draws, variables[asked, -1], values, asked, told))
            else:
                questions.append(self._set(draws, variables, values, asked, told))
        return Haystack(ids, questions)

    def _value(
        self, draws: Draws, variable: np.int32, values: NDArray[np.int32], asked: int, needles: tuple[Span, ...]
    ) -> Question:
        others = np.delete(values, asked)
        return Question(
            ids=np.array([QUERY, VAR, variable], dtype=np.int32),
            candidates=candidates_for(draws, int(values[asked]), others, self.spec.candidates),
            needles=needles,
            others=others,
            facts=self._facts(),
        )

    def _set(
        self,
        draws: Draws,
        variables: NDArray[np.int32],
        values: NDArray[np.int32],
        asked: int,
        needles: tuple[Span, ...],
    ) -> Question:
        others = np.delete(variables, asked, axis=0)
        size, count = variables.shape[1], self.spec.candidates
        told = islice(subsets(draws, variables.ravel(), size), 4 * count)
        return Question(
            ids=np.array([QUERY, VAR, IS, values[asked]], dtype=np.int32),
            candidates=candidate_rows(
                variables[asked], chain(others, told, subsets(draws, KEYS.ids, size)), count, ordered=False
            ),
            needles=needles,
            others=others.ravel(),
            facts=self._facts(),
        )

    def _facts(self) -> dict[str, float | str]:
        told = self.spec.chains * (self.spec.hops + 1)
        return {
            "needles": told,
            "distractors": told - self.spec.hops - 1,
            "hops": self.spec.hops,
            "chains": self.spec.chains,
            "order": self.spec.order,
        }
