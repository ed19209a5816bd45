"""Filler text of an exact number of tokens, made of whole sentences.

The classic cycle of five sentences is repeated as it is; what is missing to the exact count is added at the
end as a few sentences of the same cycle, in its order, leaving some out. Which counts can be reached, and by
which sentences, is a coin problem. It is solved once per residue modulo the length of the cycle, so that a
block of any length costs one copy.
"""

import heapq
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CLASSIC_SENTENCES = (
    " The grass is green.",
    " The sky is blue.",
    " The sun is yellow.",
    " Here we go.",
    " There and back again.",
)

_UNREACHABLE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Filler:
    """A cycle of sentences, each a tuple of token ids, from which blocks of exact length are made."""

    sentences: tuple[tuple[int, ...], ...]

    @property
    def period(self) -> int:
        """Tokens in one whole cycle."""
        return sum(map(len, self.sentences))

    def rotated(self, by: int) -> "Filler":
        """Return the same cycle, begun ``by`` sentences later; it reaches the same counts."""
        by %= len(self.sentences)
        return Filler(self.sentences[by:] + self.sentences[:by])

    def reachable(self, counts: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Tell for each number of tokens (>= 0) whether whole sentences add up to it exactly."""
        least = _remainders(self).least
        return counts >= least[counts % least.size]

    def write(self, out: NDArray[np.int32]) -> None:
        """Fill a one-dimensional contiguous array with filler.

        Raises:
            ValueError: no whole sentences add up to the size of ``out``.
        """
        cycle, least, tails = _remainders(self)
        residue = out.size % cycle.size
        if out.size < least[residue]:
            raise ValueError(f"no whole filler sentences add up to {out.size} tokens")
        body = out.size - int(least[residue])
        out[:body].reshape(-1, cycle.size)[:] = cycle
        out[body:] = tails[residue]


def compositions(lengths: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """Map every reachable residue modulo ``sum(lengths)`` to the sentences of its shortest remainder.

    A remainder is a walk along the cycle that starts at sentence 0 and may leave sentences out. Among the
    walks with the fewest tokens the one that leaves out the fewest sentences is taken. Every reachable count
    is its residue's shortest remainder plus whole cycles (Dijkstra's algorithm over residues).
    """
    period, number = sum(lengths), len(lengths)
    best: dict[int, tuple[int, ...]] = {}
    settled: set[tuple[int, int]] = set()
    queue: list[tuple[int, int, int, tuple[int, ...]]] = [(0, 0, 0, ())]
    while queue:
        tokens, skipped, phase, walk = heapq.heappop(queue)
        if (tokens % period, phase) in settled:
            continue
        settled.add((tokens % period, phase))
        best.setdefault(tokens % period, walk)
        for skip in range(number):
            said = (phase + skip) % number
            step = (tokens + lengths[said], skipped + skip, (said + 1) % number, (*walk, said))
            heapq.heappush(queue, step)
    return best


class _Remainders(NamedTuple):
    """``cycle`` [period] ids; ``least`` [period] reachable count of each residue, ``tails`` of that size."""

    cycle: NDArray[np.int32]
    least: NDArray[np.int64]
    tails: dict[int, NDArray[np.int32]]


@lru_cache(maxsize=64)
def _remainders(filler: Filler) -> _Remainders:
    cycle = np.array([token for sentence in filler.sentences for token in sentence], dtype=np.int32)
    least = np.full(cycle.size, _UNREACHABLE)
    tails = {}
    for residue, walk in compositions(tuple(map(len, filler.sentences))).items():
        tails[residue] = np.array([token for said in walk for token in filler.sentences[said]], dtype=np.int32)
        least[residue] = tails[residue].size
    return _Remainders(cycle, least, tails)
