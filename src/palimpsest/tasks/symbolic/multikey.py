"""``sym_multikey``: many pairs of key and value told in filler, one of them asked for (RULER's multi-key retrieval)."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.base import Haystack, Question, SymbolicSpec, SymbolicTask
from palimpsest.tasks.symbolic.haystack import fill, slots
from palimpsest.tasks.symbolic.pairs import candidates_for, draw_keys, draw_pairs
from palimpsest.tasks.symbolic.vocabulary import PAD, QUERY, SEP, VALUES
from palimpsest.tasks.task import Reference, Split
from palimpsest.tasks.templates import Tokenizer

WIDTH = 3


class MultikeySpec(SymbolicSpec):
    """The knobs of ``sym_multikey``.

    Attributes:
        needles: pairs told.
        candidates: answers to rank, the right one included; the others are values of the haystack first.
        similarity: share of the pairs whose keys begin alike. Keys then have two tokens; the second ones all differ.
            None: keys of one token.
    """

    kind: Literal["sym_multikey"] = "sym_multikey"
    needles: Annotated[int, Field(ge=1, le=128)] = 4
    candidates: Annotated[int, Field(ge=2, le=128)] = 16
    similarity: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _askable(self) -> "MultikeySpec":
        if self.questions > self.needles:
            raise ValueError(f"{self.questions} questions cannot be asked about {self.needles} needles")
        return self


class Multikey(SymbolicTask[MultikeySpec]):
    """``SEP key value`` for every pair; ``QUERY key`` asks for the value of one."""

    name = "sym_multikey"
    question_length = 2
    answer_length = 1

    def __init__(self, spec: MultikeySpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = PAD) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self.question_length = 2 if spec.similarity is None else 3

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
        last, values = draw_pairs(draws, split, count, self.name)
        keys = last[:, None] if self.spec.similarity is None else self._two_tokens(draws, last, self.spec.similarity)
        needles = [
            np.array([SEP, *key, value], dtype=np.int32)
            for key, value in zip(keys.tolist(), values.tolist(), strict=True)
        ]
        width = WIDTH - 1 + keys.shape[1]
        places = slots(draws, length, width, count, self.segment_length, depth=depth, what=self.name)
        ids, spans = fill(draws, length, needles, places)
        questions = []
        for asked in range(self.spec.questions):
            others = np.delete(values, asked)
            facts = {"needles": count, "distractors": count - 1, "hops": 1}
            if self.spec.similarity is not None:
                alike = int(np.count_nonzero(keys[:, 0] == keys[asked, 0])) - 1
                facts |= {"similarity": self.spec.similarity, "alike": alike}
            questions.append(
                Question(
                    ids=np.array([QUERY, *keys[asked]], dtype=np.int32),
                    candidates=candidates_for(draws, int(values[asked]), others, self.spec.candidates),
                    needles=(spans[asked],),
                    others=others,
                    facts=facts,
                )
            )
        return Haystack(ids, questions)

    def _two_tokens(self, draws: Draws, last: NDArray[np.int32], similarity: float) -> NDArray[np.int32]:
        """Return [count, 2] keys that end with ``last``; a random share of them has its first token alike."""
        first = draw_keys(draws, last.size, self.name)
        alike = draws.subset(last.size, round(similarity * last.size))
        first[alike] = first[alike[:1]]
        return np.stack([first, last], 1)
