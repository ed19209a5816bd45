"""``sym_babi``: who is where, where is a thing, and where was it before (bAbI qa1-3, hidden in filler)."""

from itertools import islice
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.base import Haystack, Question, SymbolicSpec, SymbolicTask
from palimpsest.tasks.symbolic.haystack import fill, ordered_slots
from palimpsest.tasks.symbolic.pairs import TRIES, candidates_for, in_split
from palimpsest.tasks.symbolic.stories import Event, Puzzle, history, invent, is_necessary
from palimpsest.tasks.symbolic.vocabulary import (
    DROPPED,
    FIRST,
    NAMES,
    OBJECTS,
    PAD,
    QUERY,
    ROOMS,
    TOOK,
    WENT,
    WHERE,
)
from palimpsest.tasks.task import Reference, Split
from palimpsest.tasks.templates import Tokenizer

WIDTH = 3
VERBS = {"went": WENT, "took": TOOK, "dropped": DROPPED}


class BabiSpec(SymbolicSpec):
    """The knobs of ``sym_babi``.

    Attributes:
        supporting: facts that the answer rests on. 1: where is a person; 2: where is a thing; 3: where was a thing
            before it was where it is.
        statements: facts told in all.
        people, things: how many take part.
        candidates: rooms to rank, the right one included; the others are rooms of the haystack first.
    """

    kind: Literal["sym_babi"] = "sym_babi"
    supporting: Literal[1, 2, 3] = 1
    statements: Annotated[int, Field(ge=1, le=512)] = 12
    people: Annotated[int, Field(ge=1, le=NAMES.size)] = 3
    things: Annotated[int, Field(ge=1, le=OBJECTS.size)] = 2
    candidates: Annotated[int, Field(ge=2, le=ROOMS.size)] = ROOMS.size

    @model_validator(mode="after")
    def _askable(self) -> "BabiSpec":
        if self.statements < self.supporting:
            raise ValueError(f"{self.statements} statements cannot hold {self.supporting} supporting facts")
        known = self.people if self.supporting == 1 else self.things
        if self.questions > known:
            raise ValueError(f"{self.questions} questions cannot be asked about {known} people or things")
        return self


class _Story(NamedTuple):
    """Events, and what is asked about them."""

    events: list[Event]
    puzzles: list[Puzzle]


class Babi(SymbolicTask[BabiSpec]):
    """``name WENT room``, ``name TOOK`` or ``DROPPED thing``; ``QUERY WHERE`` a name or a thing asks for the room.

    ``QUERY WHERE thing FIRST room`` asks where a thing was before it last came into the room.
    """

    name = "sym_babi"
    answer_length = 1

    def __init__(self, spec: BabiSpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = PAD) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self.question_length = 5 if spec.supporting == 3 else 3

    @property
    def floor(self) -> Reference:
        """What one room at random, and a random ranking, reach."""
        return Reference(exact=1 / ROOMS.size, rank_first=1 / self.spec.candidates)

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return a haystack with a story; the first fact that the first answer rests on is near ``depth``."""
        events, puzzles = self._story(draws, split)
        places = ordered_slots(
            draws,
            length,
            WIDTH,
            len(events),
            self.segment_length,
            what=self.name,
            depth=depth,
            rank=puzzles[0].evidence[0],
        )
        ids, spans = fill(draws, length, [self._spelled(event) for event in events], places)
        told = np.unique([event.thing for event in events if event.verb == "went"])
        questions = []
        for puzzle in puzzles:
            asked = (NAMES if self.spec.supporting == 1 else OBJECTS).start + puzzle.asked
            before = [] if puzzle.before is None else [FIRST, ROOMS.start + puzzle.before]
            others = (told[told != puzzle.room] + ROOMS.start).astype(np.int32)
            answer = ROOMS.start + puzzle.room
            questions.append(
                Question(
                    ids=np.array([QUERY, WHERE, asked, *before], dtype=np.int32),
                    candidates=candidates_for(draws, answer, others, self.spec.candidates, ROOMS),
                    needles=tuple(spans[fact] for fact in puzzle.evidence),
                    others=others,
                    facts={
                        "needles": len(events),
                        "distractors": len(events) - self.spec.supporting,
                        "hops": self.spec.supporting,
                    },
                )
            )
        return Haystack(ids, questions)

    def _spelled(self, event: Event) -> np.ndarray:
        thing = event.thing + (ROOMS if event.verb == "went" else OBJECTS).start
        return np.array([NAMES.start + event.actor, VERBS[event.verb], thing], dtype=np.int32)

    def _story(self, draws: Draws, split: Split) -> _Story:
        """Return a story of the split about which enough can be asked, each answer with as many facts as wanted.

        Raises:
            InputError: no such story turns up; it would need more statements.
        """
        spec = self.spec
        for _ in range(TRIES):
            people = draws.subset(NAMES.size, spec.people).tolist()
            things = draws.subset(OBJECTS.size, spec.things).tolist()
            events = invent(draws, spec.statements, people, things, ROOMS.size)
            if not in_split(np.concatenate([self._spelled(event) for event in events]), split):
                continue
            puzzles = list(history(events).puzzles(spec.supporting))
            order = draws.permutation(len(puzzles)).tolist()
            asked = (puzzles[each] for each in order if self._asks(events, puzzles[each]))
            chosen = list(islice(asked, self.questions))
            if len(chosen) == self.questions:
                return _Story(events, chosen)
        raise InputError(
            f"{self.name}: stories of {spec.statements} statements about {spec.people} people and {spec.things} things "
            f"hardly ever allow {self.questions} questions with {spec.supporting} supporting facts; ask for more "
            "statements"
        )

    def _asks(self, events: list[Event], puzzle: Puzzle) -> bool:
        wanted = self.spec.supporting
        return len(puzzle.evidence) == wanted and is_necessary(events, puzzle, wanted)
