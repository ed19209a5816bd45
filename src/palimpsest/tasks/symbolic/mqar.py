"""Multi-query associative recall: pairs told as densely as can be, and asked for later (zoology).

``sym_mqar`` follows Arora et al. 2023 (arXiv 2312.04927, HazyResearch/zoology, ``multiquery_ar.py``) and
``sym_forgetting_mqar`` the ``forgetting_mqar.py`` of the same repository. Departures, on purpose: no pair crosses a
segment boundary, the queries begin at least one segment after the pairs, and what is neither pair nor query is filler.
"""

from typing import Annotated, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.base import Haystack, Question, SymbolicSpec, SymbolicTask, labelled_row
from palimpsest.tasks.symbolic.haystack import before_question, fill
from palimpsest.tasks.symbolic.pairs import candidates_for, draw_keys, draw_values
from palimpsest.tasks.symbolic.vocabulary import VALUES
from palimpsest.tasks.task import Reference, Row, Span, Split

WIDTH = 2


class MqarSpec(SymbolicSpec):
    """The knobs of ``sym_mqar``.

    Attributes:
        pairs: pairs of key and value told.
        passes: how often all of them are told, one pass after the other.
        power: a of the law p(gap) ~ gap^(a - 1) of the gaps between pairs and queries; 1 is uniform.
        candidates: answers to rank, the right one included; the others are values of the haystack first.
    """

    kind: Literal["sym_mqar"] = "sym_mqar"
    pairs: Annotated[int, Field(ge=1, le=128)] = 8
    passes: Annotated[int, Field(ge=1, le=8)] = 1
    power: Annotated[float, Field(gt=0, le=1)] = 0.01
    candidates: Annotated[int, Field(ge=2, le=128)] = 16

    @model_validator(mode="after")
    def _askable(self) -> "MqarSpec":
        if self.questions > self.pairs:
            raise ValueError(f"{self.questions} questions cannot be asked about {self.pairs} pairs")
        return self


class ForgettingMqarSpec(SymbolicSpec):
    """The knobs of ``sym_forgetting_mqar``: those of ``sym_mqar``, and

    Attributes:
        updates: keys that are told another value after all passes; for them the newest is right.
    """

    kind: Literal["sym_forgetting_mqar"] = "sym_forgetting_mqar"
    pairs: Annotated[int, Field(ge=1, le=128)] = 8
    passes: Annotated[int, Field(ge=1, le=8)] = 1
    updates: Annotated[int, Field(ge=0, le=64)] = 4
    power: Annotated[float, Field(gt=0, le=1)] = 0.01
    candidates: Annotated[int, Field(ge=2, le=128)] = 16

    @model_validator(mode="after")
    def _askable(self) -> "ForgettingMqarSpec":
        if self.questions > self.pairs:
            raise ValueError(f"{self.questions} questions cannot be asked about {self.pairs} pairs")
        if self.updates > self.pairs:
            raise ValueError(f"{self.updates} updates cannot be made to {self.pairs} pairs")
        if self.pairs + self.updates > VALUES.size:
            raise ValueError(
                f"{self.pairs} pairs and {self.updates} updates need more than the {VALUES.size} values that there are"
            )
        return self


class _Told(NamedTuple):
    """Tokens with the pairs in them; ``keys``, ``values`` and ``spans`` of all writes in the order of the text.

    ``asked`` are the keys in the order in which they are asked for.
    """

    ids: NDArray[np.int32]
    keys: NDArray[np.int32]
    values: NDArray[np.int32]
    spans: tuple[Span, ...]
    asked: NDArray[np.int32]


M = TypeVar("M", MqarSpec, ForgettingMqarSpec)


class _Recall(SymbolicTask[M]):
    """What both tasks share; the number of updates is what they differ in."""

    question_length = 1
    answer_length = 1

    @property
    def updates(self) -> int:
        """Keys that are told another value."""
        return self.spec.updates if isinstance(self.spec, ForgettingMqarSpec) else 0

    @property
    def floor(self) -> Reference:
        """What one value at random of those told, and a random ranking, reach."""
        told = self.spec.pairs + self.updates
        return Reference(exact=1 / told if told > 1 else 1 / VALUES.size, rank_first=1 / self.spec.candidates)

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a haystack with one block of pairs: the gap after it follows the law, or it is near ``depth``."""
        room = self._places(before_question(length, self.segment_length), length)
        starts = room.size - self._count + 1
        if depth is None:
            begin = starts - 1 - int(power_law(draws, starts, 1, self.spec.power)[0])
        else:
            begin = int(np.argmin(np.abs(room[:starts] - depth * (length - WIDTH * self._count))))
        told = self._tell(draws, split, length, room[begin : begin + self._count])
        return Haystack(told.ids, [self._question(draws, told, key) for key in told.asked])

    def training_sample(self, seed: int, index: int) -> Row:
        """Make training row ``index``: the pairs, then queries at gaps that follow the law, with filler between."""
        draws, length = self._row_draws(seed, index)
        room = self._places(length, length)
        told = self._tell(draws, "training", length, room[: self._count])
        end = told.spans[-1].end
        later = -(-end // self.segment_length) * self.segment_length
        begin = later if length - later >= WIDTH * self.questions else end
        gaps = (length - begin) // WIDTH
        if gaps < self.questions:
            raise InputError(
                f"{self.name}: a training row of {length} tokens has no room for {self.questions} queries after "
                f"{self._count} pairs; raise min_length"
            )
        at = begin
        parts = []
        drawn = np.sort(power_law(draws, gaps, self.questions, self.spec.power))
        for key, gap in zip(told.asked, drawn.tolist(), strict=True):
            question = self._question(draws, told, key)
            start = begin + WIDTH * gap
            parts += [(told.ids[at:start], False), (question.ids, False), (question.candidates[0], True)]
            at = start + WIDTH
        parts = [(told.ids[:begin], False), *parts, (told.ids[at:], False)]
        return labelled_row(parts, self.spec.max_length, self.pad_id)

    @property
    def _count(self) -> int:
        """Pairs in a haystack, repetitions and updates included."""
        return self.spec.pairs * self.spec.passes + self.updates

    def _places(self, room: int, length: int) -> NDArray[np.int64]:
        """Return, ascending, where pairs can stand in the first ``room`` tokens without crossing a boundary."""
        starts = np.arange(0, room, self.segment_length)
        each = WIDTH * np.arange(self.segment_length // WIDTH)
        places = (starts[:, None] + each).ravel()
        places = places[places + WIDTH <= room]
        if places.size < self._count:
            raise InputError(
                f"{self.name}: {self._count} pairs of 2 tokens need more than the {room} tokens that a haystack of "
                f"{length} with segments of {self.segment_length} has for them; ask for fewer or for a longer context"
            )
        return places

    def _tell(self, draws: Draws, split: Split, length: int, places: NDArray[np.int64]) -> _Told:
        """Return ``length`` tokens with the pairs at these places."""
        names = draw_keys(draws, self.spec.pairs, self.name)
        again = names[draws.subset(names.size, self.updates)]
        values = draw_values(draws, split, np.concatenate([names, again]), self.name)
        first, second = values[: names.size], values[names.size :]
        keys = np.concatenate([np.tile(names, self.spec.passes), again])
        said = np.concatenate([np.tile(first, self.spec.passes), second])
        ids, spans = fill(draws, length, list(np.stack([keys, said], 1)), places)
        return _Told(ids, keys, said, tuple(spans), names[draws.subset(names.size, self.questions)])

    def _question(self, draws: Draws, told: _Told, key: np.int32) -> Question:
        writes = np.flatnonzero(told.keys == key)
        answer = told.values[writes[-1]]
        right = writes[told.values[writes] == answer]
        values = np.unique(told.values)
        facts = {
            "needles": self.spec.pairs,
            "distractors": self.spec.pairs - 1,
            "hops": 1,
            "passes": self.spec.passes,
            "rewrites": np.unique(told.values[writes]).size - 1,
            "age": int(told.keys.size - 1 - writes[-1]),
        }
        stale = told.values[writes[told.values[writes] != answer]]
        others = values[values != answer]
        return Question(
            ids=np.array([key], dtype=np.int32),
            candidates=candidates_for(draws, int(answer), others, self.spec.candidates),
            needles=tuple(told.spans[write] for write in right),
            others=np.unique(stale) if self.updates else others,
            facts=facts,
        )


class Mqar(_Recall[MqarSpec]):
    """``key value key value ..`` without filler between; a key alone asks for its value (zoology's MQAR)."""

    name = "sym_mqar"


class ForgettingMqar(_Recall[ForgettingMqarSpec]):
    """``key value key value ..``, and then other values for some keys: a key alone asks for its newest value.

    ``Sample.others`` are the old values of the key that is asked for, if it has any.
    """

    name = "sym_forgetting_mqar"


def power_law(draws: Draws, size: int, count: int, power: float) -> NDArray[np.int64]:
    """Draw ``[count]`` different numbers g of 0 .. size - 1 with weights (g + 1)^(power - 1), as zoology does.

    The largest of log-weights plus Gumbel noise are a sample without replacement (Gumbel top-k, Vieira 2014).
    """
    noise = -np.log(-np.log(np.maximum(draws.fractions(size), 2.0**-54)))
    weights = (power - 1) * np.log(np.arange(1, size + 1))
    return np.argsort(-(weights + noise), kind="stable")[:count]
