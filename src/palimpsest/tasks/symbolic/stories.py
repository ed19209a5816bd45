"""A world in which people walk, take things and drop them, and what must be known of its story to place a thing.

The rules are those of bAbI (Weston et al. 2015, arXiv 1502.05698): a thing that is held is where its holder is, and a
thing that was dropped stays where it fell.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from palimpsest.tasks.draws import Draws

Verb = Literal["went", "took", "dropped"]


class Event(NamedTuple):
    """Who did it, what was done, and the room or the thing that it was done to, by number."""

    actor: int
    verb: Verb
    thing: int


class Puzzle(NamedTuple):
    """A question about a story: who or what is ``asked`` for, ``before`` which room, and what the evidence says."""

    asked: int
    before: int | None
    room: int
    evidence: tuple[int, ...]


class _Stay(NamedTuple):
    """A room in which a thing was, and the events that say so."""

    room: int
    evidence: tuple[int, ...]


class World:
    """Where everybody and everything is, and by which events one knows."""

    def __init__(self) -> None:
        self.at: dict[int, _Stay] = {}
        self.holder: dict[int, tuple[int, int]] = {}
        self.stays: dict[int, list[_Stay]] = {}
        self.fallen: dict[int, _Stay] = {}
        self._told = 0

    def tell(self, event: Event) -> None:
        """Let an event happen, also one whose causes were not told; of what was never said nothing is known."""
        actor, verb, thing = event
        if verb == "went":
            self.at[actor] = _Stay(thing, (self._told,))
            for held, (holder, since) in self.holder.items():
                if holder == actor:
                    self._place(held, since, actor)
        elif verb == "took":
            self.holder[thing] = (actor, self._told)
            self.fallen.pop(thing, None)
            self._place(thing, self._told, actor)
        else:
            self.holder.pop(thing, None)
            self._place(thing, self._told, actor)
            if actor in self.at:
                room, evidence = self.at[actor]
                self.fallen[thing] = _Stay(room, (*evidence, self._told))
        self._told += 1

    def _place(self, thing: int, why: int, actor: int) -> None:
        if actor in self.at:
            room, evidence = self.at[actor]
            stays = self.stays.setdefault(thing, [])
            if not stays or stays[-1].room != room:
                stays.append(_Stay(room, tuple(sorted({why, *evidence}))))

    def puzzles(self, hops: int) -> Iterator[Puzzle]:
        """Yield what can be asked with this many events as evidence: a person, a thing, or a thing's room before.

        A thing may be asked for twice, once by who carried it there and once by who dropped it.
        """
        if hops == 1:
            for actor, stay in self.at.items():
                yield Puzzle(actor, None, stay.room, stay.evidence)
        for thing, stays in self.stays.items():
            if hops == 2:
                yield Puzzle(thing, None, stays[-1].room, stays[-1].evidence)
                if thing in self.fallen:
                    yield Puzzle(thing, None, stays[-1].room, self.fallen[thing].evidence)
            if hops == 3 and len(stays) > 1:
                evidence = tuple(sorted({*stays[-2].evidence, *stays[-1].evidence}))
                yield Puzzle(thing, stays[-1].room, stays[-2].room, evidence)


def history(events: Sequence[Event]) -> World:
    """Return the world after a story."""
    world = World()
    for event in events:
        world.tell(event)
    return world


def invent(draws: Draws, events: int, people: Sequence[int], things: Sequence[int], rooms: int) -> list[Event]:
    """Return a story in which everything is possible: nobody goes where they are, or takes what is elsewhere."""
    world = World()
    story = []
    for bits in draws.bits(events).tolist():
        actor = people[bits % len(people)]
        event = _deed(world, bits >> 16, actor, things) or _walk(world, bits >> 16, actor, rooms)
        world.tell(event)
        story.append(event)
    return story


def _deed(world: World, bits: int, actor: int, things: Sequence[int]) -> Event | None:
    """Return what the actor does with a thing, one time in three if there is anything to be done."""
    if actor not in world.at or bits % 3:
        return None
    bits >>= 16
    here = world.at[actor].room
    free = [thing for thing in things if thing not in world.holder]
    within = [thing for thing in free if thing not in world.stays or world.stays[thing][-1].room == here]
    held = [thing for thing, (holder, _) in world.holder.items() if holder == actor]
    deeds = [*(Event(actor, "took", thing) for thing in within), *(Event(actor, "dropped", thing) for thing in held)]
    return deeds[bits % len(deeds)] if deeds else None


def _walk(world: World, bits: int, actor: int, rooms: int) -> Event:
    """Return a walk to another room."""
    bits >>= 16
    if actor not in world.at:
        return Event(actor, "went", bits % rooms)
    room = bits % (rooms - 1)
    return Event(actor, "went", room + (room >= world.at[actor].room))


def follows(events: Sequence[Event], puzzle: Puzzle, hops: int) -> bool:
    """Tell whether a story gives the answer of a puzzle."""
    return any(
        other.asked == puzzle.asked and other.room == puzzle.room and other.before == puzzle.before
        for other in history(events).puzzles(hops)
    )


def is_necessary(events: Sequence[Event], puzzle: Puzzle, hops: int) -> bool:
    """Tell whether the answer is lost with any event of the evidence, and with all of them."""
    without = [{event} for event in puzzle.evidence] + [set(puzzle.evidence)]
    stories = ([event for at, event in enumerate(events) if at not in left_out] for left_out in without)
    return not any(follows(story, puzzle, hops) for story in stories)
