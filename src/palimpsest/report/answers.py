"""What the answers of the models amount to: every number on items that a figure or table of the report shows."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, NamedTuple, TypeVar

from palimpsest.records import ErrorClass, ItemRecord
from palimpsest.report.load import INTACT, Condition, StudyResults
from palimpsest.report.numerals import DASH
from palimpsest.statistics import Estimate, align, contrast, estimate, holm, mcnemar

Score = Literal["exact", "rank"]
ERROR_CLASSES: tuple[ErrorClass, ...] = ("correct", "other_number", "no_number", "not_finite")
"""What an answer to a question for a number can be."""
WIDE = 0.1
"""Half-width of an interval above which a cell counts as too uncertain to be read by its colour."""

K = TypeVar("K")
T = TypeVar("T")


Since = Literal["needle", "start"]
"""From where on compressions are counted: the needle, or the start of the text."""


class Bin(NamedTuple):
    """A range of numbers of compressions, both ends included."""

    low: int
    high: int

    @property
    def label(self) -> str:
        """The range in words."""
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}{DASH}{self.high:,}"


def compression_bin(compressions: int) -> Bin:
    """Return the bin of a number of compressions: 0, 1, 2, 3-4, 5-8, 9-16, and so on by powers of two."""
    if compressions < 1:
        return Bin(0, 0)
    high = 1 << (compressions - 1).bit_length()
    return Bin(high // 2 + 1, high)


@dataclass(frozen=True)
class Rate:
    """A share of items with its Wilson interval, pooled over the seeds, and the share of each seed."""

    pooled: Estimate
    by_seed: Mapping[int, float]


@dataclass(frozen=True)
class Cell:
    """Accuracy at one length and depth; ``reachable`` if local attention reaches the needle of any item in it."""

    found: Estimate
    reachable: bool

    @property
    def wide(self) -> bool:
        """Whether the interval is too wide to trust the colour."""
        return (self.found.high - self.found.low) / 2 > WIDE


@dataclass(frozen=True)
class Effect:
    """What an intervention on the memory takes away, paired by item and seed.

    Attributes:
        difference: accuracy intact minus accuracy under the intervention.
        intact, intervened: the two accuracies on these items.
        by_seed: the difference within each seed.
        p: exact McNemar test, two-sided.
        p_holm: the same, adjusted by Holm over all effects of the study.
        unpaired: items left out because the intact model has no answer to them.
    """

    arm: str
    intervention: str
    difference: Estimate
    intact: Estimate
    intervened: Estimate
    by_seed: Mapping[int, float]
    p: float
    p_holm: float
    unpaired: int


def conditions(results: StudyResults) -> list[tuple[str, str]]:
    """Return (arm, intervention) of all answers, arm by arm, the intact model first."""
    made = {(c.arm, c.intervention) for c in results.items}
    return [
        (arm, name) for arm in results.arms for name in (INTACT, *results.interventions(arm)) if (arm, name) in made
    ]


def answers(results: StudyResults, arm: str, intervention: str = INTACT) -> list[ItemRecord]:
    """Return the answers of an arm, all seeds together."""
    return [item for seed in results.seeds for item in results.items.get(Condition(arm, seed, intervention), ())]


def beyond_reach(items: Iterable[ItemRecord]) -> list[ItemRecord]:
    """Keep the items whose needle local attention cannot reach."""
    return [item for item in items if not item.locally_reachable]


def succeeded(item: ItemRecord, score: Score) -> bool:
    """Whether the answer is right: the whole key, or the key ranked first among the candidates."""
    return item.exact if score == "exact" else item.rank == 1


def rate(items: Sequence[ItemRecord], score: Score = "exact") -> Rate:
    """Return the share of right answers."""
    by_seed = _grouped((item.seed, succeeded(item, score)) for item in items)
    means = {seed: sum(hits) / len(hits) for seed, hits in sorted(by_seed.items())}
    return Rate(_proportion(sum(succeeded(item, score) for item in items), len(items)), means)


def by_compressions(
    results: StudyResults,
    arm: str,
    intervention: str = INTACT,
    score: Score = "exact",
    since: Since = "needle",
) -> dict[Bin, Rate]:
    """Return the accuracy of an arm by number of compressions, in ascending order.

    Counted since the needle, in bins of powers of two over all lengths; or since the start of the text, which is one
    number for each length, over all depths.
    """

    def key(item: ItemRecord) -> Bin:
        return compression_bin(item.compressions) if since == "needle" else Bin(item.segments - 1, item.segments - 1)

    bins = _grouped((key(item), item) for item in answers(results, arm, intervention))
    return {bin_: rate(items, score) for bin_, items in sorted(bins.items())}


def grid(results: StudyResults) -> tuple[list[int], list[float]]:
    """Return the lengths and depths that were evaluated, in ascending order."""
    found = {
        snapped
        for (_, _, intervention), items in results.items.items()
        if intervention == INTACT
        for snapped in map(_snapper(results), items)
    }
    return sorted({length for length, _ in found}), sorted({depth for _, depth in found})


def cells(results: StudyResults, arm: str) -> dict[tuple[int, float], Cell]:
    """Return accuracy by planned length and depth; an item belongs to the planned values nearest to its own.

    A cell is reachable if exact attention may see a needle of it: from the same segment, or through windows and caches
    that see more than a segment.
    """
    reach = results.arm(arm).reach or 0
    beyond = reach if reach > results.study.segment_length else 0
    groups = _grouped(zip(map(_snapper(results), answers(results, arm)), answers(results, arm), strict=True))
    return {
        place: Cell(rate(items).pooled, any(item.locally_reachable or item.distance < beyond for item in items))
        for place, items in sorted(groups.items())
    }


def error_classes(results: StudyResults, arm: str, intervention: str) -> dict[ErrorClass, Estimate]:
    """Return the share of each kind of answer among the items beyond local reach; empty where there is none."""
    counts = Counter(item.error_class for item in beyond_reach(answers(results, arm, intervention)))
    total = counts.total()
    return {kind: _proportion(counts[kind], total) for kind in ERROR_CLASSES} if total else {}


def chance(results: StudyResults) -> float | None:
    """Return the share of keys that a random order of the candidates ranks first, None without items."""
    shares = {1 / item.candidates for items in results.items.values() for item in items}
    return min(shares) if shares else None


def effects(results: StudyResults) -> list[Effect]:
    """Return the effect of every intervention on the items beyond local reach, in the order of the arms."""
    pairs = [pair for pair in conditions(results) if pair[1] != INTACT]
    found = [effect for arm, name in pairs if (effect := _effect(results, arm, name)) is not None]
    if not found:
        return []
    adjusted = holm([effect.p for effect in found]).tolist()
    return [replace(effect, p_holm=p) for effect, p in zip(found, adjusted, strict=True)]


def _effect(results: StudyResults, arm: str, name: str) -> Effect | None:
    intact = {(item.seed, item.item_id): float(item.exact) for item in answers(results, arm)}
    changed = {(item.seed, item.item_id): float(item.exact) for item in beyond_reach(answers(results, arm, name))}
    shared = [key for key in changed if key in intact]
    if not shared:
        return None
    keys, before, after = align({key: intact[key] for key in shared}, {key: changed[key] for key in shared})
    differences = _grouped((seed, a - b) for (seed, _), a, b in zip(keys, before, after, strict=True))
    p = mcnemar(before, after)
    return Effect(
        arm=arm,
        intervention=name,
        difference=contrast(before, after),
        intact=estimate(before),
        intervened=estimate(after),
        by_seed={seed: sum(values) / len(values) for seed, values in sorted(differences.items())},
        p=p,
        p_holm=p,
        unpaired=len(changed) - len(shared),
    )


def _snapper(results: StudyResults) -> Callable[[ItemRecord], tuple[int, float]]:
    lengths, depths = results.study.lengths, results.study.depths

    @cache
    def nearest_length(length: int) -> int:
        return min(lengths, key=lambda planned: abs(math.log(max(planned, 1) / max(length, 1))), default=length)

    @cache
    def nearest_depth(depth: float) -> float:
        return min(depths, key=lambda planned: abs(planned - depth), default=depth)

    def snap(item: ItemRecord) -> tuple[int, float]:
        return nearest_length(item.length), nearest_depth(item.depth)

    return snap


@cache
def _proportion(hits: int, total: int) -> Estimate:
    return estimate([1.0] * hits + [0.0] * (total - hits))


def _grouped(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return dict(groups)
