"""Put needles between the sentences of a text so that the whole has an exact length and none crosses a segment."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.tasks.task import Span
from palimpsest.tasks.text.prose import Prose

_ATTEMPTS = 24
_EARLIER = 64


class NoRoom(Exception):
    """An item of this exact length cannot be made; another length can."""


class Unit(NamedTuple):
    """A text to be placed, as tokens, and what of it must lie in one segment; the whole by default."""

    ids: Sequence[int]
    kernel: Span | None = None

    @property
    def inner(self) -> Span:
        """The tokens, counted from the start of the unit, that must lie in one segment."""
        return self.kernel or Span(0, len(self.ids))


class Ground(NamedTuple):
    """Where needles can go: the tokens ``start .. end`` of an item, in segments of ``segment_length``."""

    prose: Prose
    start: int
    end: int
    segment_length: int

    def whole(self, begin: int, end: int) -> bool:
        """Tell whether ``begin .. end`` lies inside one segment."""
        return begin // self.segment_length == (end - 1) // self.segment_length


def place(ground: Ground, units: Sequence[Unit], cuts: Callable[[], NDArray[np.float64]], what: str) -> list[int]:
    """Return where each unit begins.

    ``cuts()`` [units] says how much of the filler, as a fraction of it, should stand before each unit; units
    with equal cuts keep their order. Every unit is put at the nearest place between sentences that keeps it in one
    segment. For a single unit that is the nearest place there is.

    Raises:
        InputError: a unit is longer than a segment.
        NoRoom: the units do not fit, or no whole sentences fill the rest exactly.
    """
    for unit in units:
        if unit.inner.end - unit.inner.start > ground.segment_length:
            raise InputError(
                f"{what}: a needle of {unit.inner.end - unit.inner.start} tokens does not fit in one segment of "
                f"{ground.segment_length}; take longer segments or shorter needles"
            )
    free = ground.end - ground.start - sum(len(unit.ids) for unit in units)
    if free < 0:
        raise NoRoom
    for attempt in range(_ATTEMPTS):
        # needles that crowd at the end need more room than is left there: each attempt begins a little earlier
        starts = _placed(ground, units, cuts() * (1 - attempt / _EARLIER), free)
        if starts is not None:
            return starts
    raise NoRoom


def lay(ground: Ground, units: Sequence[Unit], starts: Sequence[int], sentence: int) -> NDArray[np.int32]:
    """Return the tokens ``ground.start .. ground.end``: the units at their places, filler begun with ``sentence``."""
    out = np.empty(ground.end - ground.start, dtype=np.int32)
    position = ground.start
    for which in np.argsort(starts, kind="stable").tolist():
        start, ids = starts[which], units[which].ids
        sentence = ground.prose.write(out[position - ground.start : start - ground.start], sentence)
        position = start + len(ids)
        out[start - ground.start : position - ground.start] = ids
    ground.prose.write(out[position - ground.start :], sentence)
    return out


def ordered_cuts(fractions: NDArray[np.float64], pivot: int, depth: float | None) -> NDArray[np.float64]:
    """Return fractions in ascending order, those before ``pivot`` up to ``depth``, that of ``pivot`` equal to it."""
    if depth is None:
        return np.sort(fractions)
    before, after = np.sort(fractions[:pivot]) * depth, depth + np.sort(fractions[pivot + 1 :]) * (1 - depth)
    return np.concatenate([before, [depth], after])


def _placed(ground: Ground, units: Sequence[Unit], cuts: NDArray[np.float64], free: int) -> list[int] | None:
    starts = [0] * len(units)
    position, used = ground.start, 0
    order = np.argsort(cuts, kind="stable").tolist()
    for rank, which in enumerate(order):
        unit, last = units[which], rank == len(units) - 1
        gap = _nearest_gap(ground, unit, position, round(float(cuts[which]) * free) - used, free - used, last)
        if gap is None:
            return None
        starts[which] = position + gap
        position += gap + len(unit.ids)
        used += gap
    return starts if units or ground.prose.reachable(free) else None


def _nearest_gap(ground: Ground, unit: Unit, position: int, wanted: int, most: int, last: bool) -> int | None:
    """Return how many tokens of filler to put before a unit, as near to ``wanted`` as can be; the smaller of two."""
    reachable, inner = ground.prose.reachable, unit.inner
    wanted = min(max(wanted, 0), most)
    # Within a segment and what cannot be reached there is a place, if there is one at all.
    furthest = min(max(wanted, most - wanted), ground.segment_length + 2 * ground.prose.settled + len(unit.ids))
    for step in range(furthest + 1):
        for gap in (wanted - step, wanted + step) if step else (wanted,):
            start = position + gap
            if (
                0 <= gap <= most
                and reachable(gap)
                and ground.whole(start + inner.start, start + inner.end)
                and (not last or reachable(most - gap))
            ):
                return gap
    return None


def pack(ground: Ground, units: Sequence[Unit], at_least: int) -> int:
    """Return how many units, the first ones, fill the ground together with a block of filler, as many as can be.

    Raises:
        NoRoom: it is not even ``at_least``.
    """
    rest = ground.end - ground.start - np.cumsum([0, *(len(unit.ids) for unit in units)])
    for count in range(int(np.searchsorted(-rest, 0, side="right")) - 1, at_least - 1, -1):
        if ground.prose.reachable(int(rest[count])):
            return count
    raise NoRoom


def keep_whole(ground: Ground, begin: int, units: Sequence[Unit], order: list[int], chosen: Sequence[int]) -> list[int]:
    """Return an order of units, laid without gaps from ``begin``, in which the chosen ones lie inside one segment each.

    It differs from the given one by moving each chosen unit by as few places as it takes.

    Raises:
        NoRoom: there is none.
    """
    sizes = np.array([len(unit.ids) for unit in units])
    for unit in chosen:
        if sizes[unit] > ground.segment_length:
            raise InputError(
                f"a needle of {sizes[unit]} tokens does not fit in one segment of {ground.segment_length}; take longer "
                "segments or shorter needles"
            )
    for _ in range(_ATTEMPTS):
        broken = [unit for unit in chosen if not _lies_whole(ground, begin, sizes, order, unit)]
        if not broken:
            return order
        order = _moved(ground, begin, sizes, order, broken[0], set(chosen))
    raise NoRoom


def _lies_whole(ground: Ground, begin: int, sizes: NDArray[np.int64], order: list[int], unit: int) -> bool:
    before = begin + int(sizes[order[: order.index(unit)]].sum())
    return ground.whole(before, before + int(sizes[unit]))


def _moved(
    ground: Ground, begin: int, sizes: NDArray[np.int64], order: list[int], unit: int, fixed: set[int]
) -> list[int]:
    """Return the order with ``unit`` and another one, not ``fixed``, in each other's place, so that it lies whole."""
    here = order.index(unit)
    for there in sorted(range(len(order)), key=lambda place: abs(place - here)):
        if order[there] in fixed:
            continue
        trial = order.copy()
        trial[here], trial[there] = trial[there], trial[here]
        if _lies_whole(ground, begin, sizes, trial, unit):
            return trial
    raise NoRoom
