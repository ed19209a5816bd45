"""``sym_overwrite``: keys whose value is told again and again; which one is in force, and which was the first?

A memory that overwrites gives the newest, one that only adds gives a mixture.
"""

from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.base import Haystack, Question, SymbolicSpec, SymbolicTask
from palimpsest.tasks.symbolic.haystack import all_places, fill
from palimpsest.tasks.symbolic.pairs import candidates_for, draw_keys, draw_values
from palimpsest.tasks.symbolic.vocabulary import FIRST, PAD, QUERY, SEP, VALUES
from palimpsest.tasks.task import Reference, Split
from palimpsest.tasks.templates import Tokenizer

WIDTH = 3


class OverwriteSpec(SymbolicSpec):
    """The knobs of ``sym_overwrite``.

    Attributes:
        keys: keys told.
        writes: how often each of them is told, always with another value.
        ask: for the newest value of a key, or for its first one.
        gap: whether all writes of a key lie in one segment, where a memory that is written once per segment sees them
            together, or each in a segment of its own.
        candidates: answers to rank, the right one included; the others are values of the haystack first.
    """

    kind: Literal["sym_overwrite"] = "sym_overwrite"
    keys: Annotated[int, Field(ge=1, le=128)] = 4
    writes: Annotated[int, Field(ge=1, le=64)] = 2
    ask: Literal["newest", "first"] = "newest"
    gap: Literal["different", "same"] = "different"
    candidates: Annotated[int, Field(ge=2, le=128)] = 16

    @model_validator(mode="after")
    def _askable(self) -> "OverwriteSpec":
        if self.questions > self.keys:
            raise ValueError(f"{self.questions} questions cannot be asked about {self.keys} keys")
        if self.keys * self.writes > VALUES.size:
            raise ValueError(
                f"{self.keys} keys with {self.writes} values need more than the {VALUES.size} values that there are"
            )
        return self


class Overwrite(SymbolicTask[OverwriteSpec]):
    """``SEP key value``, told again with other values; ``QUERY key`` asks for the newest of a key.

    ``QUERY FIRST key`` asks for the first. ``Sample.others`` are the other values of the key that is asked for, so
    the error class ``other_value`` counts answers out of date; a value of another key is ``absent_value``.
    """

    name = "sym_overwrite"
    answer_length = 1

    def __init__(self, spec: OverwriteSpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = PAD) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self.question_length = 2 if spec.ask == "newest" else 3
        self._right = spec.writes - 1 if spec.ask == "newest" else 0

    @property
    def floor(self) -> Reference:
        """What one value at random of those told, and a random ranking, reach."""
        told = self.spec.keys * self.spec.writes
        return Reference(exact=1 / told if told > 1 else 1 / VALUES.size, rank_first=1 / self.spec.candidates)

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a haystack in which every key is told ``spec.writes`` times."""
        keys, writes = self.spec.keys, self.spec.writes
        names = draw_keys(draws, keys, self.name)
        told = np.repeat(names, writes)
        # what is asked for has a value of the split, what is out of date any other
        right = draw_values(draws, split, names, self.name)
        rest = np.setdiff1d(VALUES.ids, right)
        stale = rest[draws.subset(rest.size, keys * (writes - 1))].reshape(keys, writes - 1)
        values = np.insert(stale, self._right, right, axis=1).ravel()
        places = self._places(draws, length, depth)
        needles = [np.array([SEP, key, value], dtype=np.int32) for key, value in zip(told, values, strict=True)]
        ids, spans = fill(draws, length, needles, places.ravel())
        begin = [QUERY] if self.spec.ask == "newest" else [QUERY, FIRST]
        questions = []
        for asked in range(self.spec.questions):
            answer = asked * writes + self._right
            everything = np.delete(values, answer)
            facts = {
                "needles": told.size,
                "distractors": told.size - 1,
                "hops": 1,
                "rewrites": writes - 1,
                "age": int(np.count_nonzero(places > places[asked, self._right])),
                "gap": self.spec.gap,
            }
            questions.append(
                Question(
                    ids=np.array([*begin, names[asked]], dtype=np.int32),
                    candidates=candidates_for(draws, int(values[answer]), everything, self.spec.candidates),
                    needles=(spans[answer],),
                    others=np.delete(values[asked * writes : (asked + 1) * writes], self._right),
                    facts=facts,
                )
            )
        return Haystack(ids, questions)

    def _places(self, draws: Draws, length: int, depth: float | None) -> NDArray[np.int64]:
        """Return [keys, writes] places, those of a key in the order of the text; the first answer is near ``depth``."""
        keys, writes = self.spec.keys, self.spec.writes
        grid = all_places(draws, length, WIDTH, keys * writes, self.segment_length, what=self.name)
        free = [part.tolist() for part in np.split(grid, np.flatnonzero(np.diff(grid // self.segment_length)) + 1)]
        pick = _in_different_segments if self.spec.gap == "different" else _in_one_segment
        chosen = []
        for key in range(keys):
            wanted = depth * (length - WIDTH) if key == 0 and depth is not None else None
            picked = pick(draws, free, _Order(writes, self._right, keys - key - 1), wanted)
            if picked is None:
                raise InputError(
                    f"{self.name}: {keys} keys cannot be told {writes} times each, with all writes of a key in "
                    f"{'different segments' if self.spec.gap == 'different' else 'one segment'} of "
                    f"{self.segment_length}, in a haystack of {length} tokens; ask for fewer or for a longer context"
                )
            for segment, place in picked:
                free[segment].remove(place)
            chosen.append([place for _, place in picked])
        return np.array(chosen)


class _Order(NamedTuple):
    """How often a key is told, which of the writes is asked for, and how many keys come after this one."""

    writes: int
    right: int
    keys_left: int


Places = list[tuple[int, int]]
"""Segment and place of every write of a key, in the order of the text."""


def _in_one_segment(draws: Draws, free: list[list[int]], order: _Order, wanted: float | None) -> Places | None:
    """Choose free places in one segment, at random or with the right one near ``wanted``; None if there are none."""
    options = [segment for segment, places in enumerate(free) if len(places) >= order.writes]
    if not options:
        return None
    if wanted is None:
        segment = draws.choice(options)
        chosen = np.sort(draws.subset(len(free[segment]), order.writes))
    else:
        after = order.writes - 1 - order.right
        possible = [(s, at) for s in options for at in range(order.right, len(free[s]) - after)]
        segment, at = min(possible, key=lambda each: abs(free[each[0]][each[1]] - wanted))
        chosen = _around(draws, at, len(free[segment]), order)
    return [(segment, free[segment][at]) for at in chosen.tolist()]


def _in_different_segments(draws: Draws, free: list[list[int]], order: _Order, wanted: float | None) -> Places | None:
    """Choose a free place in each of several segments; None if there are none."""
    options = [segment for segment, places in enumerate(free) if places]
    if len(options) < order.writes:
        return None
    if wanted is not None:
        after = order.writes - 1 - order.right
        possible = [(at, p) for at in range(order.right, len(options) - after) for p in free[options[at]]]
        at, place = min(possible, key=lambda each: abs(each[1] - wanted))
        segments = [options[each] for each in _around(draws, at, len(options), order).tolist()]
        return [(s, place if s == options[at] else draws.choice(free[s])) for s in segments]
    chosen = {options[at] for at in draws.subset(len(options), order.writes).tolist()}
    rest = [len(places) - (segment in chosen) for segment, places in enumerate(free)]
    if sum(min(room, order.keys_left) for room in rest) < order.keys_left * order.writes:
        # the emptiest segments leave room for the other keys, if anything does (Gale and Ryser)
        chosen = set(sorted(options, key=lambda segment: -len(free[segment]))[: order.writes])
    return [(segment, draws.choice(free[segment])) for segment in sorted(chosen)]


def _around(draws: Draws, at: int, size: int, order: _Order) -> NDArray[np.int64]:
    """Return ``order.writes`` ascending numbers below ``size``, of which number ``order.right`` is ``at``."""
    before = draws.subset(at, order.right)
    after = at + 1 + draws.subset(size - at - 1, order.writes - 1 - order.right)
    return np.sort(np.concatenate([before, [at], after]))
