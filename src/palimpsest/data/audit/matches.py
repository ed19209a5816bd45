"""Longest matches between evaluated and training sequences: exact, streaming, in memory bounded by what is evaluated.

A sequence is an array of symbols (words or tokens, as non-negative integers). For every position of the evaluated
sequences the length of the longest run of symbols from there on that stands somewhere in the training sequences (the
matching statistics of Chang and Lawler, 1994) is found in two steps:

1. *Screen.* A training position can begin a match of ``shortest`` symbols only if the hash of its next ``shortest``
   symbols is among those of the evaluated ones. What passes, some hundredths of a corpus, is copied into a buffer.
2. *Sort.* Whenever the buffer is full, its suffixes and the evaluated ones are ranked together by prefix doubling
   (Karp, Miller and Rosenberg, 1972; Manber and Myers, 1993). The training suffix with the longest common prefix is a
   neighbour in that order, and the ranks of the prefixes of 1, 2, 4, ... symbols give its length.

A collision of hashes lets more pass the screen; it cannot change a result.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 2**18
"""Symbols that are screened at once."""

BUFFER = 2**20
"""Symbols that pass the screen before they are sorted; more, if more than that is evaluated."""

_BASE = np.uint64(0x9E3779B97F4A7C15)
_EVALUATED_END, _TRAINING_END = -1, -2  # different, so that no match runs over the end of a sequence
_NOWHERE = -1


class Matches(NamedTuple):
    """The longest match from every position of one evaluated sequence, each array [symbols].

    ``length`` is 0 where no match of the shortest length begins; ``document`` is the number of the training sequence
    that was found to hold the match (one of them) and ``position`` where in it the match begins, else both -1.
    """

    length: NDArray[np.int32]
    document: NDArray[np.int64]
    position: NDArray[np.int64]


class Span(NamedTuple):
    """Symbols [start, stop) of one evaluated sequence."""

    sequence: int
    start: int
    stop: int


class MatchFinder:
    """Finds the longest matches of evaluated sequences in a stream of training sequences.

    Training sequences of group 0 are compared with everything. Those of group 1, 2, ... are compared with one of
    ``spans`` each and kept apart from all others. Memory: some 200 bytes for every evaluated symbol, and the same for
    ``BUFFER`` symbols, whatever the length of the stream but for its longest sequence.
    """

    def __init__(
        self,
        evaluated: Sequence[NDArray[np.integer]],
        *,
        shortest: int,
        spans: Sequence[Span] = (),
        buffer: int = BUFFER,
    ) -> None:
        if shortest < 1:
            raise ValueError(f"a match has at least one symbol, not {shortest}")
        self.shortest = shortest
        self.sizes = [len(sequence) for sequence in evaluated]
        self.symbols = _joined(evaluated, _EVALUATED_END)
        hashes = _window_hashes(self.symbols, shortest)
        self._starts = np.flatnonzero(~_touches_end(self.symbols, shortest))
        self._hashes = hashes[self._starts]
        self._screen = _Screen(self._hashes)
        ends = np.cumsum([size + 1 for size in self.sizes])
        self._firsts = [int(end) - size - 1 for end, size in zip(ends, self.sizes, strict=True)]
        firsts = [self._firsts[span.sequence] for span in spans]
        self._looks = [(0, len(self.symbols))]
        self._looks += [(f + span.start, f + span.stop) for f, span in zip(firsts, spans, strict=True)]
        self._found = [_nothing(stop - start) for start, stop in self._looks]
        self._capacity = max(buffer, len(self.symbols))
        self._pending: list[tuple[int, int, NDArray[np.integer]]] = []
        self._pending_size = 0
        self._buffer = _Stretches()

    def add(self, document: int, symbols: NDArray[np.integer], *, group: int = 0) -> None:
        """Search one training sequence, [symbols] of non-negative integers."""
        self._pending.append((document, group, symbols))
        self._pending_size += len(symbols) + 1
        if self._pending_size >= BLOCK:
            self._screen_pending()

    def finish(self) -> tuple[list[Matches], list[Matches]]:
        """Return the matches of every evaluated sequence with group 0, and of every span with its own group.

        A match that begins in a span may reach beyond its end. Nothing can be added afterwards.
        """
        self._screen_pending()
        self._sort_buffer()
        everything, *spans = self._found
        parts = [slice(first, first + size) for first, size in zip(self._firsts, self.sizes, strict=True)]
        return [
            Matches(everything.length[part], everything.document[part], everything.position[part]) for part in parts
        ], spans

    def _screen_pending(self) -> None:
        if not self._pending:
            return
        sequences = [symbols for _, _, symbols in self._pending]
        stream = _joined(sequences, _TRAINING_END)
        passed = self._screen.positions(_window_hashes(stream, self.shortest))
        if passed.size:
            firsts = np.concatenate([[0], np.cumsum([len(symbols) + 1 for symbols in sequences])[:-1]])
            starts, stops = _runs(passed, self.shortest)
            owners = np.searchsorted(firsts, starts, side="right") - 1
            for start, stop, owner in zip(starts.tolist(), stops.tolist(), owners.tolist(), strict=True):
                document, group, _ = self._pending[owner]
                self._buffer.add(stream[start:stop], document, start - int(firsts[owner]), group)
        self._pending, self._pending_size = [], 0
        if self._buffer.size >= self._capacity:
            self._sort_buffer()

    def _sort_buffer(self) -> None:
        training = self._buffer.take()
        if training is None:
            return
        there = _Screen(_window_hashes(training.symbols, self.shortest)).positions(self._hashes)
        if not there.size:
            return
        starts, stops = _runs(self._starts[there], self.shortest)
        sizes = stops - starts
        own = _joined([self.symbols[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)], _EVALUATED_END)
        place = np.repeat(starts - np.concatenate([[0], np.cumsum(sizes + 1)[:-1]]), sizes + 1) + np.arange(len(own))
        inside = np.flatnonzero(own != _EVALUATED_END)
        ranks = _prefix_ranks(np.concatenate([own, training.symbols]), len(own))
        for group in np.unique(training.group).tolist():
            first, last = self._looks[group]
            here = inside[(first <= place[inside]) & (place[inside] < last)]
            candidates = np.flatnonzero((training.group == group) & (training.symbols != _TRAINING_END))
            for neighbour in _neighbours(ranks[-1][here], ranks[-1][len(own) + candidates]):
                there = candidates[neighbour]
                length = _common_prefix(ranks, here, len(own) + there)
                _improve(self._found[group], place[here] - first, length, training, there, self.shortest)


class _Training(NamedTuple):
    """Stretches of training sequences, each closed by an end: symbol, sequence, place in it and group, [size]."""

    symbols: NDArray[np.int64]
    document: NDArray[np.int64]
    position: NDArray[np.int64]
    group: NDArray[np.int64]


class _Stretches:
    """Gathers the stretches that passed the screen."""

    def __init__(self) -> None:
        self.size = 0
        self._symbols: list[NDArray[np.integer]] = []
        self._places: list[tuple[int, int, int]] = []

    def add(self, symbols: NDArray[np.integer], document: int, position: int, group: int) -> None:
        self._symbols.append(symbols.copy())
        self._places.append((document, position, group))
        self.size += len(symbols) + 1

    def take(self) -> _Training | None:
        if not self.size:
            return None
        lengths = np.array([len(symbols) + 1 for symbols in self._symbols])
        document, position, group = (np.repeat(column, lengths) for column in np.array(self._places).T)
        position = position + np.arange(self.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        taken = _Training(_joined(self._symbols, _TRAINING_END), document, position, group)
        self.__init__()
        return taken


class _Screen:
    """Tells which hashes are among given ones: a bitmap says no at once to nearly all others, a table decides."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._table = np.unique(hashes)
        bits = max(16, int(16 * self._table.size).bit_length())
        self._shift = np.uint64(64 - bits)
        self._bitmap = np.zeros(2**bits, dtype=bool)
        self._bitmap[self._table >> self._shift] = True

    def positions(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the indices of the hashes that are in the table."""
        likely = np.flatnonzero(self._bitmap[hashes >> self._shift])
        if not self._table.size:
            return likely
        wanted = hashes[likely]
        place = np.minimum(np.searchsorted(self._table, wanted), self._table.size - 1)
        return likely[self._table[place] == wanted]


def _joined(sequences: Sequence[NDArray[np.integer]], end: int) -> NDArray[np.int64]:
    """Return all sequences one after the other, each followed by ``end``."""
    joined = np.full(sum(len(sequence) + 1 for sequence in sequences), end, dtype=np.int64)
    position = 0
    for sequence in sequences:
        joined[position : position + len(sequence)] = sequence
        position += len(sequence) + 1
    return joined


def _window_hashes(symbols: NDArray[np.int64], size: int) -> NDArray[np.uint64]:
    """Hash every window of ``size`` symbols: sum of symbol times base to the power of its place, modulo 2^64."""
    count = max(len(symbols) - size + 1, 0)
    unsigned = symbols.astype(np.uint64)
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(size if count else 0):
        hashes += unsigned[place : place + count] + np.uint64(1)
        hashes *= _BASE
    return hashes


def _touches_end(symbols: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Tell for every window of ``size`` symbols whether the end of a sequence is in it."""
    ends = np.concatenate([[0], np.cumsum(symbols < 0)])
    return ends[size:] > ends[:-size] if len(symbols) >= size else np.zeros(0, dtype=bool)


def _runs(starts: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Merge windows of ``size`` symbols that overlap or touch into stretches; return where they start and stop."""
    breaks = np.flatnonzero(np.diff(starts) >= max(size, 2))  # windows side by side may be one match
    return starts[np.concatenate([[0], breaks + 1])], starts[np.concatenate([breaks, [-1]])] + size


def _prefix_ranks(symbols: NDArray[np.int64], own: int) -> list[NDArray[np.int64]]:
    """Rank the suffixes by their first 1, 2, 4, ... symbols, until the first ``own`` share no rank with the others."""
    ranks = [np.unique(symbols, return_inverse=True)[1].reshape(-1)]
    size = 1
    while _share_a_rank(ranks[-1][:own], ranks[-1][own:]):
        following = np.zeros(len(symbols), dtype=np.int64)
        following[: len(symbols) - size] = ranks[-1][size:] + 1
        pairs = ranks[-1] * (len(symbols) + 1) + following
        ranks.append(np.unique(pairs, return_inverse=True)[1].reshape(-1))
        size *= 2
    return ranks


def _share_a_rank(first: NDArray[np.int64], second: NDArray[np.int64]) -> bool:
    there = np.zeros(len(first) + len(second), dtype=bool)
    there[first] = True
    return bool(there[second].any())


def _neighbours(ranks: NDArray[np.int64], others: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return for every rank the index of the nearest of the ``others`` (at least one) below and above it.

    Where there is none on one side it is the nearest on the other.
    """
    order = np.argsort(others, kind="stable")
    above = np.searchsorted(others[order], ranks)
    return [order[np.maximum(above - 1, 0)], order[np.minimum(above, len(others) - 1)]]


def _common_prefix(
    ranks: Sequence[NDArray[np.int64]], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many symbols the suffixes at ``first`` and ``second`` have in common, pair by pair."""
    length = np.zeros(len(first), dtype=np.int64)
    for level in reversed(range(len(ranks) - 1)):  # at the last level no two are equal
        same = ranks[level][first + length] == ranks[level][second + length]
        length += same.astype(np.int64) << level
    return length


def _nothing(size: int) -> Matches:
    return Matches(np.zeros(size, np.int32), np.full(size, _NOWHERE, np.int64), np.full(size, _NOWHERE, np.int64))


def _improve(
    found: Matches,
    place: NDArray[np.int64],
    length: NDArray[np.int64],
    training: _Training,
    index: NDArray[np.int64],
    shortest: int,
) -> None:
    """Keep the matches that are longer than what was found before."""
    better = (length >= shortest) & (length > found.length[place])
    place, index = place[better], index[better]
    found.length[place] = length[better]
    found.document[place] = training.document[index]
    found.position[place] = training.position[index]
