"""State tracking: ``sym_parity``, ``sym_s3`` and ``sym_s5``, words of a symmetric group and the state they lead to.

The word problem of S5 is out of reach of any model whose state moves linearly with positive weights (Merrill et al.
2024, arXiv 2404.08819); parity is the same problem in S2. Elements are numbered in lexicographic order of the
permutations, so that 0 is the identity; update g takes state s to g after s, and the state begins at 0.
"""

from functools import cache
from itertools import permutations
from math import factorial
from typing import Annotated, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.base import Haystack, OneQuestionSpec, Question, SymbolicTask
from palimpsest.tasks.symbolic.filler import Chain
from palimpsest.tasks.symbolic.haystack import before_question, spans_by_segment
from palimpsest.tasks.symbolic.pairs import candidates_for, draw_content, in_split
from palimpsest.tasks.symbolic.vocabulary import IS, KEYS, QUERY, STATE, VALUES, Words
from palimpsest.tasks.task import Reference, Split

RANKED = 16
"""States that are ranked, if there are so many."""


class StateSpec(OneQuestionSpec):
    """The knobs of state tracking.

    Attributes:
        updates: how many; they stand at random in filler. None: as many as there is room for, without filler.
    """

    updates: Annotated[int, Field(ge=1, le=1_048_576)] | None = None


class ParitySpec(StateSpec):
    """The knobs of ``sym_parity``."""

    kind: Literal["sym_parity"] = "sym_parity"


class S3Spec(StateSpec):
    """The knobs of ``sym_s3``."""

    kind: Literal["sym_s3"] = "sym_s3"


class S5Spec(StateSpec):
    """The knobs of ``sym_s5``."""

    kind: Literal["sym_s5"] = "sym_s5"


@cache
def composition(points: int) -> tuple[tuple[int, ...], ...]:
    """Return the table of a symmetric group: entry [g][s] is the number of g after s."""
    elements = list(permutations(range(points)))
    number = {element: place for place, element in enumerate(elements)}
    return tuple(tuple(number[tuple(g[point] for point in s)] for s in elements) for g in elements)


G = TypeVar("G", ParitySpec, S3Spec, S5Spec)


class _Group(SymbolicTask[G]):
    """What the three tasks share. ``depth`` plays no part: all updates count, and all lie before the last segment."""

    points: ClassVar[int]
    question_length = 3
    answer_length = 1

    @property
    def order(self) -> int:
        """Number of states."""
        return factorial(self.points)

    @property
    def floor(self) -> Reference:
        """What one state at random reaches: after one unknown update all are equally likely."""
        return Reference(exact=1 / self.order, rank_first=1 / min(self.order, RANKED))

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a haystack with a word of the group before the segment of the question."""
        room = before_question(length, self.segment_length)
        count = room if self.spec.updates is None else self.spec.updates
        if count > room:
            raise InputError(
                f"{self.name}: {count} updates do not fit into the {room} tokens before the segment of the question; "
                "ask for fewer or for a longer context"
            )
        word = draw_content(
            lambda: draws.integers(self.order, count).astype(np.int32), lambda w: in_split(w, split), self.name
        )
        places = np.arange(room) if self.spec.updates is None else np.sort(draws.subset(room, count))
        ids = Chain(draws).speak(draws, length)
        ids[places] = word + KEYS.start
        state = self._state(word)
        states = Words(VALUES.stem, VALUES.start, self.order)
        nothing = np.empty(0, dtype=np.int32)
        question = Question(
            ids=np.array([QUERY, STATE, IS], dtype=np.int32),
            candidates=candidates_for(draws, VALUES.start + state, nothing, min(self.order, RANKED), states),
            needles=spans_by_segment(places, self.segment_length),
            others=nothing,
            facts={"needles": count, "distractors": 0, "hops": count, "states": self.order},
        )
        return Haystack(ids, [question])

    def _state(self, word: NDArray[np.int32]) -> int:
        table = composition(self.points)
        state = 0
        for update in word.tolist():
            state = table[update][state]
        return state


class Parity(_Group[ParitySpec]):
    """A word over ``k0`` and ``k1``; ``QUERY STATE IS`` asks whether ``k1`` occurs evenly often (``v0``) or not."""

    name = "sym_parity"
    points = 2


class S3(_Group[S3Spec]):
    """A word over the 6 permutations of 3 things (``k0`` .. ``k5``); ``QUERY STATE IS`` asks for their composition."""

    name = "sym_s3"
    points = 3


class S5(_Group[S5Spec]):
    """A word over the 120 permutations of 5 things (``k0`` ..); ``QUERY STATE IS`` asks for their composition."""

    name = "sym_s5"
    points = 5
