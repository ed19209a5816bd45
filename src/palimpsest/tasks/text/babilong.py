"""``babilong``: facts about people, rooms and things, told in order between sentences of a text (Kuratov et al. 2024).

The questions are bAbI's first three (Weston et al. 2015), simulated anew: where is a person; where is a thing that was
carried; where was a thing before it was in a room. What was told last is right, so old facts must be overwritten.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from palimpsest.tasks.draws import Draws
from palimpsest.tasks.task import Output, Reference, Sample, Score, Span, Split, rank_of_first
from palimpsest.tasks.templates import Tokenizer
from palimpsest.tasks.text.base import Haystack, Question, TextSpec, TextTask
from palimpsest.tasks.text.haystack import Unit, lay, ordered_cuts, place
from palimpsest.tasks.words import score_labels

PEOPLE = ("Mary", "John", "Daniel", "Sandra")
ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")
MOVES = ("moved", "went", "journeyed", "travelled")
TAKES = ("took", "got", "picked up", "grabbed")
LEAVES = ("dropped", "left", "put down", "discarded")

INTRODUCTION = (
    "I will give you a text in which some facts about people are hidden. Remember the facts and answer the question at "
    "its end with one word."
)
_SPEAKS_OF = re.compile(rf"\b({'|'.join((*PEOPLE, *ROOMS, *THINGS))})s?\b", re.IGNORECASE)


class BabilongSpec(TextSpec):
    """The knobs of ``babilong``.

    Attributes:
        question: ``qa1`` where a person is, ``qa2`` where a thing is, ``qa3`` where a thing was before.
        events: facts told; None: 6, 12 or 20, by the question.
    """

    kind: Literal["babilong"] = "babilong"
    question: Literal["qa1", "qa2", "qa3"] = "qa1"
    events: Annotated[int | None, Field(ge=1, le=256)] = None
    prose: Annotated[str, Field(min_length=1)] = "grammar"

    @model_validator(mode="after")
    def _tellable(self) -> "BabilongSpec":
        least = {"qa1": 1, "qa2": 4, "qa3": 8}[self.question]
        if self.events is not None and self.events < least:
            raise ValueError(f"{self.question} needs at least {least} events, not {self.events}")
        return self

    @property
    def told(self) -> int:
        """Facts told."""
        return self.events or {"qa1": 6, "qa2": 12, "qa3": 20}[self.question]


class Stay(NamedTuple):
    """A thing's being in a room: which facts say so."""

    room: str
    facts: tuple[int, ...]


@dataclass
class World:
    """What is where, and which facts say so, while a story is told."""

    facts: list[str] = field(default_factory=list)
    place: dict[str, str] = field(default_factory=dict)
    came: dict[str, int] = field(default_factory=dict)
    holder: dict[str, str] = field(default_factory=dict)
    stays: dict[str, list[Stay]] = field(default_factory=lambda: {thing: [] for thing in THINGS})

    def move(self, who: str, how: str, room: str) -> None:
        """Let a person go to a room, with what it carries."""
        self.place[who], self.came[who] = room, len(self.facts)
        self.facts.append(f"{who} {how} to the {room}.")
        for thing in (thing for thing, holder in self.holder.items() if holder == who):
            taken = self.stays[thing][-1].facts[-1]
            self.stays[thing].append(Stay(room, (self.came[who], taken)))

    def take(self, who: str, how: str, thing: str) -> None:
        """Let a person take a thing, which is then known to be where the person is."""
        self.holder[thing] = who
        stay = Stay(self.place[who], (self.came[who], len(self.facts)))
        self.facts.append(f"{who} {how} the {thing}.")
        if self.stays[thing] and self.stays[thing][-1].room == stay.room:
            self.stays[thing].pop()
        self.stays[thing].append(stay)

    def leave(self, who: str, how: str, thing: str) -> None:
        """Let a person leave a thing where it is; that it was left must be known to answer."""
        room, facts = self.stays[thing][-1]
        self.stays[thing][-1] = Stay(room, (*facts, len(self.facts)))
        self.facts.append(f"{who} {how} the {thing}.")
        del self.holder[thing]

    def takeable(self, who: str) -> list[str]:
        """Return what a person can take: nobody has it, and it was not left in another room."""
        here = self.place.get(who)
        return [
            thing
            for thing in THINGS
            if thing not in self.holder and (not self.stays[thing] or self.stays[thing][-1].room == here)
        ]


class Story(NamedTuple):
    """Facts in order, a question about them, its answer, and which facts tell it."""

    facts: list[str]
    question: str
    answer: str
    support: tuple[int, ...]


class Babilong(TextTask[BabilongSpec]):
    """``Mary moved to the garden.`` between sentences; ``Where is Mary?``"""

    name = "babilong"

    def __init__(self, spec: BabilongSpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = 0) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self._introduction = self.speller.opening(INTRODUCTION)

    @property
    def floor(self) -> Reference:
        """What one of the rooms at random reaches; the room that the question names, if any, is none of them."""
        rooms = len(ROOMS) - (self.spec.question == "qa3")
        return Reference(exact=1 / rooms, rank_first=1 / rooms)

    def confuses(self, sentence: str) -> bool:
        """Tell whether a sentence speaks of the people, the rooms or the things."""
        return _SPEAKS_OF.search(sentence) is not None

    def write(self, label: str, split: Split, length: int, depth: float | None, together: bool) -> Haystack:
        """Return a story in filler; with ``depth`` its first supporting fact lies there."""
        told = tell(Draws(f"{label}|story"), self.spec.question, self.spec.told)
        ground = self.ground(len(self._introduction), length - self.asked_length(told.question, told.answer))
        units = [Unit(self.speller.spell(f" {fact}")) for fact in told.facts]
        draws = Draws(f"{label}|cuts")
        first = min(told.support)
        starts = place(ground, units, lambda: self._cuts(draws, len(units), first, depth), self.name)
        ids = lay(ground, units, starts, Draws(f"{label}|filler").integer(0, self.prose.count - 1))
        rooms = [room for room in ROOMS if room != told.answer and room not in told.question.split("?")[0].split()]
        order = Draws(f"{label}|candidates").permutation(len(rooms)).tolist()
        said = {room for fact in told.facts for room in ROOMS if f" {room}." in fact}
        question = Question(
            text=told.question,
            candidates=(told.answer, *(rooms[at] for at in order)),
            answers=(told.answer,),
            needles=tuple(Span(starts[at], starts[at] + len(units[at].ids)) for at in told.support),
            others=tuple(room for room in rooms if room in said),
            facts={
                "needles": len(told.support),
                "distractors": len(told.facts) - len(told.support),
                "hops": len(told.support),
                "question": self.spec.question,
            },
        )
        return Haystack(np.concatenate([np.array(self._introduction, dtype=np.int32), ids]), [question])

    def score(self, sample: Sample, output: Output) -> Score:
        """Score one answer: is exactly one room named, the right one? Rooms of the question do not count."""
        given = set(ROOMS) - set(sample.candidates)
        return score_labels(sample, output, rank_of_first, labels=ROOMS, asked_with=given)

    def _cuts(self, draws: Draws, count: int, pivot: int, depth: float | None) -> NDArray[np.float64]:
        return ordered_cuts(draws.fractions(count), pivot, depth)


def tell(draws: Draws, question: Literal["qa1", "qa2", "qa3"], events: int) -> Story:
    """Return a story of ``events`` facts with something to ask about."""
    while True:
        world = _simulated(draws, events, things=question != "qa1")
        story = {"qa1": _ask_person, "qa2": _ask_thing, "qa3": _ask_before}[question](draws, world)
        if story is not None:
            return story


def _simulated(draws: Draws, events: int, *, things: bool) -> World:
    world = World()
    while len(world.facts) < events:
        who = draws.choice(PEOPLE)
        held = [thing for thing, holder in world.holder.items() if holder == who]
        turn = draws.integer(0, 9)
        if things and turn >= 8 and held:
            world.leave(who, draws.choice(LEAVES), draws.choice(held))
        elif things and turn >= 5 and who in world.place and (free := world.takeable(who)):
            world.take(who, draws.choice(TAKES), draws.choice(free))
        else:
            world.move(who, draws.choice(MOVES), draws.choice([room for room in ROOMS if room != world.place.get(who)]))
    return world


def _ask_person(draws: Draws, world: World) -> Story | None:
    who = draws.choice(sorted(world.place))
    return Story(world.facts, f" Where is {who}?", world.place[who], (world.came[who],))


def _ask_thing(draws: Draws, world: World) -> Story | None:
    known = [thing for thing in THINGS if world.stays[thing]]
    if not known:
        return None
    thing = draws.choice(known)
    stay = world.stays[thing][-1]
    return Story(world.facts, f" Where is the {thing}?", stay.room, tuple(sorted(stay.facts)))


def _ask_before(draws: Draws, world: World) -> Story | None:
    asked = [
        (thing, at) for thing in THINGS for at in range(1, len(world.stays[thing])) if _once(world.stays[thing], at)
    ]
    if not asked:
        return None
    thing, at = draws.choice(asked)
    before, after = world.stays[thing][at - 1 : at + 1]
    support = tuple(sorted({*before.facts, *after.facts}))
    return Story(world.facts, f" Where was the {thing} before the {after.room}?", before.room, support)


def _once(stays: Sequence[Stay], at: int) -> bool:
    """Tell whether a thing was just once in the room of stay ``at``, so that "before" is clear."""
    return [stay.room for stay in stays].count(stays[at].room) == 1
