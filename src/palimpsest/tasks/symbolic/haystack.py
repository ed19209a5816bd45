"""Put needles into filler so that none crosses a segment boundary, and the whole has an exact length."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.filler import Chain
from palimpsest.tasks.task import Span


def slots(
    draws: Draws, length: int, width: int, count: int, segment_length: int, *, what: str, depth: float | None = None
) -> NDArray[np.int64]:
    """Return ``[count]`` places, in random order, where needles of ``width`` tokens stand without touching each other.

    Every segment offers as many places as fit into it, at a random offset each; the needles take a random set of all
    places, so that their positions are uniform over the haystack. With ``depth`` (0..1) the first of them is the one
    that is nearest to this fraction of the haystack.

    Raises:
        InputError: there is no room for so many.
    """
    places = all_places(draws, length, width, count, segment_length, what=what)
    order = draws.permutation(places.size)
    if depth is not None:
        wanted = int(np.argmin(np.abs(places - depth * (length - width))))
        order = np.concatenate([[wanted], order[order != wanted]])
    return places[order[:count]]


def ordered_slots(
    draws: Draws,
    length: int,
    width: int,
    count: int,
    segment_length: int,
    *,
    what: str,
    depth: float | None = None,
    rank: int = 0,
) -> NDArray[np.int64]:
    """Return ``[count]`` places like ``slots``, in the order of the text; with ``depth``, number ``rank`` is near it.

    Raises:
        InputError: there is no room for so many.
    """
    places = all_places(draws, length, width, count, segment_length, what=what)
    if depth is None:
        return np.sort(places[draws.permutation(places.size)[:count]])
    later = count - 1 - rank
    possible = places[rank : places.size - later]
    at = rank + int(np.argmin(np.abs(possible - depth * (length - width))))
    before, after = draws.subset(at, rank), at + 1 + draws.subset(places.size - at - 1, later)
    return np.sort(places[np.concatenate([before, [at], after])])


def all_places(
    draws: Draws, length: int, width: int, count: int, segment_length: int, *, what: str
) -> NDArray[np.int64]:
    """Return, ascending, as many places of ``width`` tokens as fit into each segment, at a random offset each.

    Raises:
        InputError: there are fewer than ``count``.
    """
    starts = np.arange(0, length, segment_length)
    rooms = np.minimum(segment_length, length - starts)
    offsets = (draws.bits(starts.size) % (rooms % width + 1).astype(np.uint64)).astype(np.int64)
    each = np.arange(segment_length // width)
    grid = (starts + offsets)[:, None] + width * each
    places = grid[each < (rooms // width)[:, None]]
    if places.size < count:
        raise InputError(
            f"{what}: {count} needles of {width} tokens do not fit into a haystack of {length} tokens with segments "
            f"of {segment_length}, which has room for {places.size}; ask for fewer or for a longer context"
        )
    return places


def before_question(length: int, segment_length: int) -> int:
    """Return how many tokens of a haystack precede the segment in which the question begins; all, if it is the first.

    What a task spreads over these tokens alone is out of reach of attention inside the last segment.
    """
    return length // segment_length * segment_length or length


def spans_by_segment(positions: NDArray[np.int64], segment_length: int) -> tuple[Span, ...]:
    """Return one span for each segment that has some of these ascending positions, from its first to its last."""
    segments = positions // segment_length
    firsts = np.flatnonzero(np.diff(segments, prepend=-1))
    lasts = np.append(firsts[1:], positions.size) - 1
    return tuple(Span(int(a), int(b) + 1) for a, b in zip(positions[firsts], positions[lasts], strict=True))


def fill(
    draws: Draws, length: int, needles: Sequence[NDArray[np.int32]], places: NDArray[np.int64]
) -> tuple[NDArray[np.int32], list[Span]]:
    """Return ``[length]`` tokens of one document's filler with the needles at their places, and their spans."""
    chain = Chain(draws)
    tokens = chain.speak(draws, length)
    spans = []
    for needle, place in zip(needles, places.tolist(), strict=True):
        tokens[place : place + needle.size] = needle
        spans.append(Span(place, place + needle.size))
    return tokens, spans
