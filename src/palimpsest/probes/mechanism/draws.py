"""Synthetic pairs: random keys, values from a book of codes, and the same numbers for every memory under test."""

import hashlib
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.errors import InputError
from palimpsest.memory import Memory
from palimpsest.probes.mechanism.theory import Code


class KeyLaw(NamedTuple):
    """The distribution of every number of a key: normal, with this mean and standard deviation."""

    mean: float
    deviation: float

    @property
    def name(self) -> str:
        """As in ``N(-3,4)``: mean and variance."""
        return f"N({self.mean:g},{self.deviation**2:g})"


STANDARD = KeyLaw(0.0, 1.0)
SPARSE = KeyLaw(-3.0, 2.0)
"""Keys that ELU + 1 makes nearly orthogonal."""
WIDE = KeyLaw(0.0, 4.0)


class Pairs(NamedTuple):
    """Independent draws of n pairs.

    Attributes:
        keys: ``[B, 1, n, K]``.
        values: ``[B, 1, n, V]``, the codes with the numbers ``written``.
        written: ``[B, n]``.
        book: the codes ``[B, codes, V]``, of each draw its own.
    """

    keys: Tensor
    values: Tensor
    written: Tensor
    book: Tensor


def generator(seed: int, *words: object) -> torch.Generator:
    """Return a generator of its own for a cell, so that no cell depends on which others are run.

    The memory is not among the words: all memories of a cell are given the same pairs.
    """
    digest = hashlib.sha256(repr((seed, *words)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def random_keys(draws: int, count: int, size: int, law: KeyLaw, random: torch.Generator) -> Tensor:
    """Return keys ``[B, 1, n, K]``."""
    return law.mean + law.deviation * torch.randn(draws, 1, count, size, generator=random)


def similar_keys(draws: int, count: int, size: int, similarity: float, random: torch.Generator) -> Tensor:
    """Return keys ``[B, 1, n, K]`` of N(0, 1), any two of which have this cosine on average."""
    shared = torch.randn(draws, 1, 1, size, generator=random)
    own = torch.randn(draws, 1, count, size, generator=random)
    return similarity**0.5 * shared + (1 - similarity) ** 0.5 * own


def random_book(draws: int, size: int, code: Code, random: torch.Generator) -> Tensor:
    """Return codes ``[B, codes, V]``."""
    book = torch.randn(draws, code.codes, size, generator=random)
    return F.normalize(book, dim=-1) if code.unit else book / size**0.5


def looked_up(book: Tensor, written: Tensor) -> Tensor:
    """Return the codes ``[B, 1, n, V]`` with these numbers ``[B, n]``."""
    return book.gather(1, written.unsqueeze(-1).expand(-1, -1, book.shape[-1])).unsqueeze(1)


def random_pairs(keys: Tensor, code: Code, random: torch.Generator) -> Pairs:
    """Return these keys, each with a code drawn at random; values have the size of keys."""
    draws, _, count, size = keys.shape
    book = random_book(draws, size, code, random)
    written = torch.randint(code.codes, (draws, count), generator=random)
    return Pairs(keys, looked_up(book, written), written, book)


def write_segments(
    memory: Memory[Any], state: Any, keys: Tensor, values: Tensor, segment_length: int, *, strength: float = 1.0
) -> Any:
    """Write pairs segment by segment, as ``scan`` does between its reads, and return the state."""
    weights = None if strength == 1.0 else torch.full(keys.shape[:3], strength, dtype=keys.dtype)
    parts = [] if weights is None else weights.split(segment_length, 2)
    for s, (k, v) in enumerate(zip(keys.split(segment_length, 2), values.split(segment_length, 2), strict=True)):
        state = memory.write(state, k, v, strength=parts[s] if parts else None)
    return state


def empty(memory: Memory[Any], keys: Tensor) -> Any:
    """Return the empty memory for keys ``[B, 1, n, K]`` and values of the same size."""
    draws, heads, _, size = keys.shape
    return memory.init(draws, heads, size, size, dtype=keys.dtype)


def centred(reads: Tensor) -> Tensor:
    """Take the mean read of each draw away from reads ``[B, n, V]``."""
    return reads - reads.mean(1, keepdim=True)


def decoded(reads: Tensor, book: Tensor) -> Tensor:
    """Return which codes ``[B, n]`` have the largest product with reads ``[B, n, V]``; -1: a read is not finite."""
    nearest = (reads @ book.mT).argmax(-1)
    return torch.where(reads.isfinite().all(-1), nearest, -1)


def check_size(size: int) -> None:
    """Raise InputError unless keys can have this size."""
    if size < 2:
        raise InputError(f"The size {size} is too small: keys and values need at least 2 numbers, such as 64.")
