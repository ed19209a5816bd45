"""``sym_multikey``: many pairs of key and value told in filler, one of them asked for (RULER's multi-key retrieval)."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.base import Haystack, Question, SymbolicSpec, SymbolicTask
from palimpsest.tasks.symbolic.haystack import fill, slots
from palimpsest.tasks.symbolic.pairs import candidates_for, draw_pairs
from palimpsest.tasks.symbolic.vocabulary import IS, QUERY, SEP, VALUES
from palimpsest.tasks.task import Reference, Split
from palimpsest.tasks.templates import Tokenizer

WIDTH = 5


class MultikeySpec(SymbolicSpec):
    """The knobs of ``sym_multikey``.

    Attributes:
        needles: pairs told.
        candidates: answers to rank, the right one included; the others are values of the haystack first.
    """

    kind: Literal["sym_multikey"] = "sym_multikey"
    needles: Annotated[int, Field(ge=1, le=128)] = 4
    candidates: Annotated[int, Field(ge=2, le=128)] = 16

    @model_validator(mode="after")
    def _askable(self) -> "MultikeySpec":
        if self.questions > self.needles:
            raise ValueError(f"{self.questions} questions cannot be asked about {self.needles} needles")
        return self


class Multikey(SymbolicTask[MultikeySpec]):
    """``SEP key IS value SEP`` for every pair; ``QUERY key IS`` asks for the value of one."""

    name = "sym_multikey"
    question_length = 3
    answer_length = 1

    def __init__(self, spec: MultikeySpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = 0) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)

    @property
    def floor(self) -> Reference:
        """What one value at random of those told, and a random ranking, reach."""
        return Reference(
            exact=1 / self.spec.needles if self.spec.needles > 1 else 1 / VALUES.size,
            rank_first=1 / self.spec.candidates,
        )

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a haystack with ``spec.needles`` pairs."""
        count = self.spec.needles
        keys, values = draw_pairs(draws, split, count, self.name)
        needles = [
            np.array([SEP, key, IS, value, SEP], dtype=np.int32) for key, value in zip(keys, values, strict=True)
        ]
        places = slots(draws, length, WIDTH, count, self.segment_length, depth=depth, what=self.name)
        ids, spans = fill(draws, length, needles, places)
        questions = []
        for asked in range(self.spec.questions):
            others = np.delete(values, asked)
            questions.append(
                Question(
                    ids=np.array([QUERY, keys[asked], IS], dtype=np.int32),
                    candidates=candidates_for(draws, int(values[asked]), others, self.spec.candidates),
                    needles=(spans[asked],),
                    others=others,
                    facts={"needles": count, "distractors": count - 1, "hops": 1},
                )
            )
        return Haystack(ids, questions)
