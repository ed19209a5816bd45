"""Which answers a row of the scorecard counts, and how they are put side by side."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from palimpsest.records import ItemRecord
from palimpsest.schema import Closed
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import Missing

INTACT = "none"

Reach = Literal["memory_only", "own", "inside", "any"]

Score = Callable[[ItemRecord], float]


class Cells(Closed):
    """Some of the answers to what was asked.

    Attributes:
        lengths: of the items; all if empty.
        depth: the place that the needle was asked to have; None: any.
        where: facts that an item must have, by name.
        reach: ``memory_only``: items whose needles the exact attention of no bounded arm of the study reaches;
            ``own``: that of the arm itself does not; ``inside``: the needle is in the segment that answers; ``any``.
    """

    lengths: tuple[Annotated[int, Field(ge=1)], ...] = ()
    depth: Annotated[float, Field(ge=0, le=1)] | None = None
    where: dict[str, float | str] = Field(default_factory=dict)
    reach: Reach = "memory_only"

    def at(self, length: int) -> "Cells":
        """Return the same at one length."""
        return self.model_copy(update={"lengths": (length,)})

    def told(self, fact: str, value: float | str) -> "Cells":
        """Return the same where a fact has this value."""
        return self.model_copy(update={"where": self.where | {fact: value}})

    def hold(self, item: ItemRecord) -> bool:
        """Return whether an item is among them, whatever is reached."""
        return (
            (not self.lengths or item.length in self.lengths)
            and (self.depth is None or math.isclose(item.depth, self.depth))
            and all(item.facts.get(name) == value for name, value in self.where.items())
        )


class Answers(NamedTuple):
    """One number for each answer, with the training seed, the item and the haystack behind it."""

    values: Sequence[float]
    seeds: Sequence[int]
    items: Sequence[str]
    clusters: Sequence[str]

    def of_seeds(self, seeds: set[int]) -> "Answers":
        """Return those of some seeds."""
        return self.taken([place for place, seed in enumerate(self.seeds) if seed in seeds])

    def taken(self, places: Iterable[int]) -> "Answers":
        """Return those at some places, in that order."""
        values, seeds, items, clusters = self
        kept = list(places)
        return Answers(
            [values[place] for place in kept],
            [seeds[place] for place in kept],
            [items[place] for place in kept],
            [clusters[place] for place in kept],
        )

    def haystacks(self) -> list[Hashable]:
        """Return labels for resampling: haystacks that all seeds have read are shared by them, others are not."""
        read = {(seed, cluster) for seed, cluster in zip(self.seeds, self.clusters, strict=True)}
        if len(read) == len(set(self.seeds)) * len(set(self.clusters)):
            return list(self.clusters)
        return list(zip(self.seeds, self.clusters, strict=True))


def exact(item: ItemRecord) -> float:
    """Return 1 for a right answer."""
    return float(item.exact)


def select(findings: Findings, ask: str, arm: str, cells: Cells, intervention: str = INTACT) -> list[ItemRecord]:
    """Return the answers of an arm, in one order for all arms and interventions.

    Raises:
        Missing: there is none.
    """
    chosen = [
        item
        for item in findings.items.get(ask, ())
        if item.arm == arm and item.intervention == intervention and cells.hold(item)
    ]
    if cells.reach == "memory_only":
        chosen = findings.memory_only(chosen)
    elif cells.reach == "own":
        chosen = findings.memory_only(chosen, [arm])
    elif cells.reach == "inside":
        chosen = [item for item in chosen if item.locally_reachable]
    if not chosen:
        under = "" if intervention == INTACT else f" under '{intervention}'"
        raise Missing(f"'{ask}' has no answer of the arm '{arm}'{under} that the row could count.")
    return sorted(chosen, key=lambda item: (item.seed, item.length, item.item_id))


def scored(items: Sequence[ItemRecord], score: Score = exact) -> Answers:
    """Return a number for each answer."""
    return Answers(
        [score(item) for item in items],
        [item.seed for item in items],
        [item.item_id for item in items],
        [item.cluster or item.item_id for item in items],
    )


def answers(findings: Findings, ask: str, arm: str, cells: Cells, intervention: str = INTACT) -> Answers:
    """Return which answers of an arm are right.

    Raises:
        Missing: as ``select``.
    """
    return scored(select(findings, ask, arm, cells, intervention))


def paired(a: Answers, b: Answers) -> tuple[Answers, Answers]:
    """Return the answers to the items that both sides have answered, under the seeds that both sides have.

    Raises:
        Missing: no item under the same seed is on both sides.
    """
    first, second = ({key: place for place, key in enumerate(zip(x.seeds, x.items, strict=True))} for x in (a, b))
    keys = [key for key in first if key in second]
    if not keys:
        raise Missing("The two sides of a difference have answered no item in common under the same seed.")
    return a.taken(first[key] for key in keys), b.taken(second[key] for key in keys)


def same_seeds(a: Answers, b: Answers) -> tuple[Answers, Answers]:
    """Return the answers under the seeds that both sides have.

    Raises:
        Missing: they have none in common.
    """
    both = set(a.seeds) & set(b.seeds)
    if not both:
        raise Missing("The two sides of a comparison have no seed in common.")
    return a.of_seeds(both), b.of_seeds(both)
