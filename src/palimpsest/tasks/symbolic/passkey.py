"""``sym_passkey``: one number of three tokens told in filler, perhaps among others of the same form."""

from itertools import chain
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.base import Haystack, OneQuestionSpec, Question, SymbolicTask
from palimpsest.tasks.symbolic.haystack import fill, slots
from palimpsest.tasks.symbolic.pairs import candidate_rows, draw_content, draw_keys, in_split, strings
from palimpsest.tasks.symbolic.vocabulary import NUM, QUERY, SEP, VALUES
from palimpsest.tasks.task import Reference, Split

DIGITS = 3
WIDTH = DIGITS + 2


class SymbolicPasskeySpec(OneQuestionSpec):
    """The knobs of ``sym_passkey``.

    Attributes:
        distractors: numbers told in the same form, under a key each.
        candidates: answers to rank, the right one included; the others are numbers of the haystack first.
    """

    kind: Literal["sym_passkey"] = "sym_passkey"
    distractors: Annotated[int, Field(ge=0, le=128)] = 0
    candidates: Annotated[int, Field(ge=2, le=128)] = 16


class SymbolicPasskey(SymbolicTask[SymbolicPasskeySpec]):
    """``SEP NUM v v v`` in filler, among others with a key for ``NUM``; ``QUERY NUM`` asks for the values."""

    name = "sym_passkey"
    question_length = 2
    answer_length = DIGITS

    @property
    def floor(self) -> Reference:
        """What one number at random of those told, and a random ranking, reach."""
        told = self.spec.distractors + 1
        return Reference(
            exact=1 / told if told > 1 else float(VALUES.size) ** -DIGITS, rank_first=1 / self.spec.candidates
        )

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a haystack with the number and ``spec.distractors`` others."""
        told = self.spec.distractors + 1
        names = np.concatenate([[NUM], draw_keys(draws, told - 1, self.name)])

        def numbers() -> NDArray[np.int32]:
            return (draws.integers(VALUES.size, told * DIGITS).reshape(told, DIGITS) + VALUES.start).astype(np.int32)

        def fits(rows: NDArray[np.int32]) -> bool:
            return in_split(rows[0], split) and len(set(map(tuple, rows.tolist()))) == told

        values = draw_content(numbers, fits, self.name)
        needles = [
            np.array([SEP, name, *row], dtype=np.int32)
            for name, row in zip(names.tolist(), values.tolist(), strict=True)
        ]
        places = slots(draws, length, WIDTH, told, self.segment_length, depth=depth, what=self.name)
        ids, spans = fill(draws, length, needles, places)
        others = values[1:]
        wrong = chain(others[draws.permutation(told - 1)], strings(draws, VALUES, DIGITS))
        question = Question(
            ids=np.array([QUERY, NUM], dtype=np.int32),
            candidates=candidate_rows(values[0], wrong, self.spec.candidates),
            needles=(spans[0],),
            others=others,
            facts={"needles": told, "distractors": told - 1, "hops": 1},
        )
        return Haystack(ids, [question])
