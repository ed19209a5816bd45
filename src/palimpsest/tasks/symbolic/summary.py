"""``sym_summary``: a table of facts scattered over a document, to be told again in order, and scored fact by fact."""

import re
from dataclasses import replace
from itertools import chain, islice
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.base import Haystack, OneQuestionSpec, Question, SymbolicTask
from palimpsest.tasks.symbolic.haystack import fill, slots
from palimpsest.tasks.symbolic.pairs import candidate_rows, draw_content, in_split, strings, subsets
from palimpsest.tasks.symbolic.vocabulary import IS, NAMES, PAD, QUERY, ROOMS, WENT
from palimpsest.tasks.task import Output, Reference, Sample, Score, Split
from palimpsest.tasks.templates import Tokenizer

WIDTH = 3

_FACT = re.compile(r"\b(n\d+) (r\d+)\b")


class SummarySpec(OneQuestionSpec):
    """The knobs of ``sym_summary``.

    Attributes:
        facts: facts told, about a person each.
        candidates: summaries to rank, the right one included; the others give rooms of the haystack to other people
            first.
    """

    kind: Literal["sym_summary"] = "sym_summary"
    facts: Annotated[int, Field(ge=1, le=NAMES.size)] = 8
    candidates: Annotated[int, Field(ge=2, le=16)] = 8


class FactScores(NamedTuple):
    """Share of the facts of a haystack that were said, share of what was said that is true, and which facts were."""

    recall: float
    precision: float
    recalled: tuple[bool, ...]


def fact_scores(answer: str, output: str) -> FactScores:
    """Compare the facts of an output with those of the right summary; both are there in every item record.

    ``recalled`` follows the order of ``Sample.answers``, as the fact ``starts`` does, which says where in the haystack
    each of them was told. Whoever says nothing has a precision of 0; a fact said twice counts once.
    """
    told = [match.group() for match in _FACT.finditer(answer)]
    said = {match.group() for match in _FACT.finditer(output)}
    recalled = tuple(fact in said for fact in told)
    true = sum(recalled)
    return FactScores(true / len(told), true / len(said) if said else 0.0, recalled)


class Summary(SymbolicTask[SummarySpec]):
    """``name WENT room`` of many people; ``QUERY WENT IS`` asks for all, ``name room`` each, in the order of names."""

    name = "sym_summary"
    question_length = 3

    def __init__(self, spec: SummarySpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = PAD) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self.answer_length = 2 * spec.facts

    @property
    def floor(self) -> Reference:
        """What random rooms for the right people, and a random ranking, reach; of the facts they recall 1 in 16."""
        return Reference(exact=float(ROOMS.size) ** -self.spec.facts, rank_first=1 / self.spec.candidates)

    def answers(self, answer: str) -> tuple[str, ...]:
        """Return the facts one by one, so that recall counts them."""
        words = answer.split()
        return tuple(f"{name} {room}" for name, room in zip(words[::2], words[1::2], strict=True))

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a haystack with all facts, one of them near ``depth``."""
        count = self.spec.facts

        def table() -> NDArray[np.int32]:
            names = np.sort(draws.subset(NAMES.size, count)) + NAMES.start
            return np.stack([names, draws.integers(ROOMS.size, count) + ROOMS.start], 1).astype(np.int32)

        facts = draw_content(table, lambda drawn: in_split(drawn, split), self.name)
        needles = [np.array([name, WENT, room], dtype=np.int32) for name, room in facts]
        places = slots(draws, length, WIDTH, count, self.segment_length, depth=depth, what=self.name)
        # the first place is the one near the depth: it goes to a random fact
        places = places[draws.permutation(count)]
        ids, spans = fill(draws, length, needles, places)
        question = Question(
            ids=np.array([QUERY, WENT, IS], dtype=np.int32),
            candidates=self._candidates(draws, facts),
            needles=tuple(sorted(spans)),
            others=np.empty(0, dtype=np.int32),
            facts={
                "needles": count,
                "distractors": 0,
                "hops": 1,
                "starts": " ".join(map(str, places.tolist())),
            },
        )
        return Haystack(ids, [question])

    def _candidates(self, draws: Draws, facts: NDArray[np.int32]) -> NDArray[np.int32]:
        names, rooms = facts.T
        count = self.spec.candidates
        elsewhere = chain(islice(subsets(draws, rooms, rooms.size), 4 * count), strings(draws, ROOMS, rooms.size))
        wrong = (np.stack([names, each], 1).ravel() for each in elsewhere)
        return candidate_rows(facts.ravel(), wrong, count)

    def score(self, sample: Sample, output: Output) -> Score:
        """Score one summary; it is a binding error to send somebody to the room of somebody else."""
        score = super().score(sample, output)
        if score.error_class != "absent_value":
            return score
        true = set(sample.answers)
        rooms = {fact.split()[1] for fact in true}
        wrong = [match for match in _FACT.finditer(output.text) if match.group() not in true]
        if wrong and wrong[0].group(2) in rooms:
            return replace(score, error_class="other_value")
        return score
