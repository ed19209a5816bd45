"""Random draws that are pure functions of a label: the same on every machine and with every version of numpy."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from palimpsest.tasks.keys import random_bits

T = TypeVar("T")

BLOCK = 256
"""Numbers that are taken from the stream at once."""


class Draws:
    """A stream of random numbers named by ``label``, and what is usually made of them.

    Every draw takes the next 64-bit numbers of the SplitMix64 stream; a label gives the same draws in the same order.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._taken = 0
        self._ahead: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)

    def bits(self, count: int) -> NDArray[np.uint64]:
        """Return the next ``[count]`` 64-bit numbers."""
        if count > self._ahead.size:
            start = self._taken + self._ahead.size
            more = random_bits(self._label, max(BLOCK, count - self._ahead.size), start=start)
            self._ahead = np.concatenate([self._ahead, more])
        drawn, self._ahead = self._ahead[:count], self._ahead[count:]
        self._taken += count
        return drawn

    def integers(self, below: int, count: int) -> NDArray[np.int64]:
        """Return ``[count]`` integers in 0 .. below - 1."""
        return (self.bits(count) % np.uint64(below)).astype(np.int64)  # the bias is below / 2**64

    def integer(self, low: int, high: int) -> int:
        """Return one integer in low .. high, both included."""
        return low + int(self.bits(1)[0]) % (high - low + 1)

    def fractions(self, count: int) -> NDArray[np.float64]:
        """Return ``[count]`` numbers in [0, 1)."""
        return (self.bits(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def permutation(self, size: int) -> NDArray[np.int64]:
        """Return 0 .. size - 1 in random order."""
        return np.argsort(self.bits(size), kind="stable")

    def subset(self, size: int, count: int) -> NDArray[np.int64]:
        """Return ``[count]`` different integers in 0 .. size - 1, in random order.

        Raises:
            ValueError: more are wanted than there are.
        """
        if count > size:
            raise ValueError(f"{count} different integers cannot be drawn from {size}")
        return self.permutation(size)[:count]

    def choice(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[self.integer(0, len(options) - 1)]
