"""Fact-table stories: long narratives from a simulator, in which every fact is known and can be read out again.

People walk between rooms, carry objects about, hand them over, put them down, and now and then do something to one.
The narrative tells every step in order, among sentences that tell nothing. What is true at the end is the fact table:
one value for every (subject, relation). ``facts_of`` reads sentences of the narrative and of the gold summary alike and
lets a later statement replace an earlier one, so that

    facts_of(story.summary) == facts_of(story.text) == the fact table, whatever the length.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.task import Split

VERSION = 1

Relation: TypeAlias = Literal["room", "place", "outcome"]

SALIENCE: dict[Relation, float] = {"outcome": 3.0, "place": 2.0, "room": 1.0}
"""Weight of a fact in a summary: what happened to an object, where it is, where a person is."""

PEOPLE = ("Ada", "Ben", "Clara", "David", "Edith", "Frank", "Grace", "Henry", "Irene", "Jacob", "Laura", "Martin")
ROOMS = ("attic", "cellar", "garden", "hall", "kitchen", "library", "nursery", "parlour", "pantry", "stable", "study")
OBJECTS = ("basket", "clock", "compass", "kettle", "lantern", "letter", "locket", "mirror", "statue", "trunk", "violin")
OUTCOMES = ("broke", "mended", "painted", "polished", "sold", "stole", "washed", "wrapped")

_PARTICIPLES = dict(zip(OUTCOMES, ("broken", *OUTCOMES[1:5], "stolen", *OUTCOMES[6:]), strict=True))
_TIMES = ("In the morning", "At noon", "Towards evening", "After supper", "A little later", "Before long")
_SCENES = (
    "the rain beat against the windows",
    "a dog barked somewhere down the lane",
    "the fire had burned low and nobody spoke",
    "the wind moved the branches of the old pear tree",
    "bells could be heard from the village",
    "the light grew dim and someone drew the curtains",
    "a cart went by on the road",
    "nothing happened for a good while",
)


class Fact(NamedTuple):
    """What is true at the end: the ``room`` of a person, the ``place`` (person or room) or ``outcome`` of an object."""

    subject: str
    relation: Relation
    value: str

    @property
    def salience(self) -> float:
        """Weight in a summary."""
        return SALIENCE[self.relation]


class Cloze(NamedTuple):
    """A sentence with a gap, the word that fills it, and all words that might, the right one first."""

    question: str
    answer: str
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class StorySpec:
    """What takes part in a story; ``event_share`` of its sentences tell a step, the others tell nothing."""

    people: int = 4
    rooms: int = 5
    objects: int = 4
    event_share: float = 0.3

    def __post_init__(self) -> None:
        for name, count, known in (
            ("people", self.people, PEOPLE),
            ("rooms", self.rooms, ROOMS),
            ("objects", self.objects, OBJECTS),
        ):
            if not 2 <= count <= len(known):
                raise InputError(f"A story has 2 to {len(known)} {name}, not {count}.")
        if not 0 < self.event_share <= 1:
            raise InputError(f"event_share is a share above 0 and at most 1, not {self.event_share}.")


@dataclass(frozen=True)
class Story:
    """A narrative and all that is true in it.

    Attributes:
        sentences: the narrative, in order.
        facts: the fact table, sorted.
        told: for every fact the number of words before the sentence that last told it.
        summary: the gold summary, one sentence a fact.
        questions: one cloze item a fact.
    """

    sentences: tuple[str, ...]
    facts: tuple[Fact, ...]
    told: tuple[int, ...]
    summary: str
    questions: tuple[Cloze, ...]

    @property
    def text(self) -> str:
        """The narrative."""
        return " ".join(self.sentences)

    @property
    def words(self) -> int:
        """Length of the narrative."""
        return sum(len(sentence.split()) for sentence in self.sentences)


def write_story(spec: StorySpec, *, split: Split, seed: int, index: int, words: int) -> Story:
    """Tell the story that these coordinates name, in the fewest whole sentences that have at least ``words`` words.

    Raises:
        InputError: the first sentences, which say who and what is where, are longer than that already.
    """
    world = _World(spec, Draws(f"story {VERSION} {split} {seed} {index} {spec}"))
    opening = sum(len(sentence.split()) for sentence in world.sentences)
    if opening > words:
        raise InputError(
            f"A story of {spec.people} people and {spec.objects} objects needs {opening} words to say who and what is "
            f"where, more than {words}; ask for longer stories or for fewer people and objects."
        )
    while world.words < words:
        world.step()
    table = sorted(Fact(*key, value) for key, value in world.state.items())
    return Story(
        sentences=tuple(world.sentences),
        facts=tuple(table),
        told=tuple(world.told[fact.subject, fact.relation] for fact in table),
        summary=" ".join(_summary_sentence(fact) for fact in table),
        questions=tuple(_cloze(fact, world) for fact in table),
    )


def facts_of(text: str) -> tuple[Fact, ...]:
    """Read the facts that a text states in the sentences of stories and of their summaries, sorted.

    Of several statements about the same thing the last one holds, as in a narrative. What is written otherwise is not
    read: a model is scored on facts only as far as it writes as its training texts do.
    """
    stated: dict[tuple[str, Relation], str] = {}
    for found in _grammar().finditer(text):
        kind = found.lastgroup or ""
        stated.update(_READERS[kind](found))
    return tuple(sorted(Fact(*key, value) for key, value in stated.items()))


class _World:
    """The state of a story that is being told."""

    def __init__(self, spec: StorySpec, draws: Draws) -> None:
        def some(names: tuple[str, ...], count: int) -> list[str]:
            return [names[i] for i in draws.subset(len(names), count)]

        self.draws, self.share = draws, spec.event_share
        self.people, self.rooms = some(PEOPLE, spec.people), some(ROOMS, spec.rooms)
        self.objects = some(OBJECTS, spec.objects)
        self.state: dict[tuple[str, Relation], str] = {}
        self.told: dict[tuple[str, Relation], int] = {}
        self.sentences: list[str] = []
        self.words = 0
        for person in self.people:
            room = draws.choice(self.rooms)
            self._tell(f"{person} was in the {room}.", person, "room", room)
        for thing in self.objects:
            room = draws.choice(self.rooms)
            self._tell(f"The {thing} was in the {room}.", thing, "place", room)

    def step(self) -> None:
        """Tell one more sentence."""
        if self.draws.fractions(1)[0] >= self.share:
            self._say(f"{self.draws.choice(_TIMES)} {self.draws.choice(_SCENES)}.")
            return
        person = self.draws.choice(self.people)
        room = self.state[person, "room"]
        held = [thing for thing in self.objects if self.state[thing, "place"] == person]
        lying = [thing for thing in self.objects if self.state[thing, "place"] == room]
        beside = [other for other in self.people if other != person and self.state[other, "room"] == room]
        steps = [self._walk]
        steps += [self._take] if lying else []
        steps += [self._put, self._do] if held else []
        steps += [self._give] if held and beside else []
        self.draws.choice(steps)(person, room, held or lying, beside)

    def _walk(self, person: str, room: str, things: list[str], beside: list[str]) -> None:
        other = self.draws.choice([there for there in self.rooms if there != room])
        self._tell(f"{person} went to the {other}.", person, "room", other)

    def _take(self, person: str, room: str, things: list[str], beside: list[str]) -> None:
        thing = self.draws.choice([thing for thing in self.objects if self.state[thing, "place"] == room])
        self._tell(f"{person} picked up the {thing}.", thing, "place", person)

    def _put(self, person: str, room: str, things: list[str], beside: list[str]) -> None:
        thing = self.draws.choice(things)
        self._tell(f"{person} left the {thing} in the {room}.", thing, "place", room)

    def _give(self, person: str, room: str, things: list[str], beside: list[str]) -> None:
        thing, other = self.draws.choice(things), self.draws.choice(beside)
        self._tell(f"{person} gave the {thing} to {other}.", thing, "place", other)

    def _do(self, person: str, room: str, things: list[str], beside: list[str]) -> None:
        thing, outcome = self.draws.choice(things), self.draws.choice(OUTCOMES)
        self._tell(f"{person} {outcome} the {thing}.", thing, "outcome", f"{_PARTICIPLES[outcome]} by {person}")

    def _tell(self, sentence: str, subject: str, relation: Relation, value: str) -> None:
        self.state[subject, relation] = value
        self.told[subject, relation] = self.words
        self._say(sentence)

    def _say(self, sentence: str) -> None:
        self.sentences.append(sentence)
        self.words += len(sentence.split())


def _summary_sentence(fact: Fact) -> str:
    if fact.relation == "room":
        return f"In the end {fact.subject} was in the {fact.value}."
    if fact.relation == "outcome":
        return f"The {fact.subject} was {fact.value}."
    return f"In the end {_where(fact)}."


def _where(fact: Fact) -> str:
    return (
        f"{fact.value} had the {fact.subject}"
        if fact.value in PEOPLE
        else f"the {fact.subject} was in the {fact.value}"
    )


def _cloze(fact: Fact, world: _World) -> Cloze:
    if fact.relation == "outcome":
        answer = fact.value.split()[0]
        question, options = f"The {fact.subject} was ____.", list(_PARTICIPLES.values())
    else:
        answer = fact.value
        options = world.people if fact.value in PEOPLE else world.rooms
        question = _summary_sentence(fact).replace(fact.value, "____")
    return Cloze(question, answer, (answer, *(option for option in options if option != answer)))


_READERS = {
    "was_in": lambda m: {((m["who"] or m["what"]), "room" if m["who"] else "place"): m["where"]},
    "went": lambda m: {(m["goer"], "room"): m["goal"]},
    "took": lambda m: {(m["taken"], "place"): m["taker"]},
    "left": lambda m: {(m["put"], "place"): m["there"]},
    "gave": lambda m: {(m["given"], "place"): m["receiver"]},
    "did": lambda m: {(m["object"], "outcome"): f"{_PARTICIPLES[m['act']]} by {m['actor']}"},
    "done": lambda m: {(m["subject"], "outcome"): f"{m['participle']} by {m['agent']}"},
}


@lru_cache(maxsize=1)
def _grammar() -> re.Pattern[str]:
    person, room, thing = ("|".join(names) for names in (PEOPLE, ROOMS, OBJECTS))
    acts, participles = "|".join(OUTCOMES), "|".join(_PARTICIPLES.values())
    rules = {
        "was_in": rf"(?:(?P<who>{person})|[Tt]he (?P<what>{thing})) was in the (?P<where>{room})",
        "went": rf"(?P<goer>{person}) went to the (?P<goal>{room})",
        "took": rf"(?P<taker>{person}) (?:picked up|had) the (?P<taken>{thing})",
        "left": rf"(?:{person}) left the (?P<put>{thing}) in the (?P<there>{room})",
        "gave": rf"(?:{person}) gave the (?P<given>{thing}) to (?P<receiver>{person})",
        "did": rf"(?P<actor>{person}) (?P<act>{acts}) the (?P<object>{thing})",
        "done": rf"[Tt]he (?P<subject>{thing}) was (?P<participle>{participles}) by (?P<agent>{person})",
    }
    return re.compile("|".join(rf"(?P<{name}>\b{rule}\b)" for name, rule in rules.items()))
