"""Passkey items of any length, whose tokens are made where they are read: what is held does not grow with the item.

They are the items of ``Passkey``, token for token and with the same identity.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.tasks.filler import Filler
from palimpsest.tasks.keys import digits_of, draw_keys, unit_interval
from palimpsest.tasks.passkey import Passkey
from palimpsest.tasks.task import Sample, Span, Split

WINDOW = 1 << 16
"""Tokens that are made at once where all of an item are needed, one after the other."""

UNMADE = -1
"""Stands for every token of an outline; no embedding has such a row."""


class Part(Protocol):
    """A stretch of an item, of which any tokens can be had without the rest."""

    @property
    def size(self) -> int:
        """Number of tokens."""
        ...

    def tokens(self, start: int, end: int) -> NDArray[np.int32]:
        """Return tokens start .. end - 1 of the stretch."""
        ...


class Fixed(NamedTuple):
    """A few tokens ``[n]`` that are held as they are."""

    ids: NDArray[np.int32]

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.ids.size

    def tokens(self, start: int, end: int) -> NDArray[np.int32]:
        """Return tokens start .. end - 1."""
        return self.ids[start:end]


class FillerRun:
    """What ``Filler.write`` writes into ``size`` tokens: one cycle over and over, then a few sentences of it.

    Raises:
        ValueError: no whole sentences add up to ``size`` tokens.
    """

    def __init__(self, filler: Filler, size: int) -> None:
        tail = size % filler.period
        while tail <= size and not filler.reachable(np.array([tail]))[0]:
            tail += filler.period
        if tail > size:
            raise ValueError(f"no whole filler sentences add up to {size} tokens")
        self.size = size
        self._cycle, self._tail = _written(filler, filler.period), _written(filler, tail)

    def tokens(self, start: int, end: int) -> NDArray[np.int32]:
        """Return tokens start .. end - 1."""
        cycles = self.size - self._tail.size  # tokens before the tail, whole cycles
        body = self._cycle[np.arange(min(start, cycles), min(end, cycles)) % self._cycle.size]
        return np.concatenate([body, self._tail[max(start - cycles, 0) : max(end - cycles, 0)]])


def _written(filler: Filler, size: int) -> NDArray[np.int32]:
    out = np.empty(size, dtype=np.int32)
    filler.write(out)
    return out


@dataclass(frozen=True, eq=False)
class StreamedSample:
    """One item of which any tokens can be had without the rest.

    Attributes:
        outline: everything about the item but its tokens: its ``input_ids`` have the right length, take no memory, and
            are all ``UNMADE``.
        parts: the stretches that the item is made of, in its order, the answer included.
    """

    outline: Sample
    parts: tuple[Part, ...]

    def tokens(self, start: int, end: int) -> NDArray[np.int32]:
        """Return tokens start .. end - 1 of prompt and answer, 0 <= start <= end <= length."""
        return _cut(self.parts, start, end)


def windows(parts: tuple[Part, ...]) -> Iterator[NDArray[np.int32]]:
    """Yield all tokens of the stretches, ``WINDOW`` at a time."""
    total = sum(part.size for part in parts)
    for start in range(0, total, WINDOW):
        yield _cut(parts, start, min(start + WINDOW, total))


def _cut(parts: tuple[Part, ...], start: int, end: int) -> NDArray[np.int32]:
    begins = accumulate((part.size for part in parts), initial=0)
    pieces = [
        part.tokens(max(start - begin, 0), min(end - begin, part.size))
        for part, begin in zip(parts, begins, strict=False)  # there is one place more than there are parts
        if start < begin + part.size and begin < end
    ]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)


class StreamedPasskey(Passkey):
    """``Passkey``, which can also make its items piece by piece."""

    def stream(self, *, split: Split, seed: int, index: int, length: int, depth: float | None) -> StreamedSample:
        """Return the item that ``sample`` makes of the same arguments, without its tokens.

        Raises:
            InputError: as ``sample``.
        """
        if depth is None:
            depth = unit_interval(f"{self.name}@{self.version}|depth|{split}|{seed}|{index}|{length}")
        if not 0.0 <= depth <= 1.0:
            raise InputError(f"the passkey depth is a fraction of the haystack from 0 to 1, not {depth}")
        before = self._before(length, depth)
        label = f"{self.name}@{self.version}|{split}|{seed}|{index}|{length}|{float(depth).hex()}"
        keys = draw_keys(label, split, width=self.spec.key_digits, count=self.spec.candidates)
        candidate_ids = self._pieces.digits[digits_of(keys, self.spec.key_digits)]
        candidate_ids.setflags(write=False)
        parts = self._parts(label, candidate_ids[0], before, length)
        start = self._pieces.introduction.size + before
        identity = blake2b(f"{label}|{self.segment_length}|{start}|{keys.tolist()}|".encode(), digest_size=8)
        for tokens in windows(parts):
            identity.update(tokens.astype("<i4").tobytes())
        candidates = tuple(map(str, keys.tolist()))
        outline = Sample(
            id=identity.hexdigest(),
            task=self.name,
            version=self.version,
            split=split,
            seed=seed,
            index=index,
            cluster=identity.hexdigest(),
            depth=float(depth),
            segment_length=self.segment_length,
            input_ids=np.broadcast_to(np.int32(UNMADE), length),
            prompt_length=length - self.spec.key_digits,
            question_start=length - self._pieces.question.ids.size,
            needles=(Span(start, start + self.needle_length),),
            candidates=candidates,
            candidate_ids=candidate_ids,
            answers=candidates[:1],
            others=(),
            facts={"needles": 1, "distractors": 0, "hops": 1},
            new_tokens=self.spec.key_digits,
        )
        return StreamedSample(outline, parts)

    def _parts(self, label: str, digits: NDArray[np.int32], before: int, length: int) -> tuple[Part, ...]:
        """Return the stretches of an item with ``before`` tokens of filler before the needle, as ``Pieces.join``."""
        pieces = self._pieces
        needle, question = np.empty_like(pieces.needle.ids), np.empty_like(pieces.question.ids)
        pieces.needle.write(needle, digits)
        pieces.question.write(question, digits)
        first, second = (pieces.filler.rotated(by) for by in self._filler_begins(label))
        after = length - pieces.fixed_length - before
        return (
            Fixed(pieces.introduction),
            FillerRun(first, before),
            Fixed(needle),
            FillerRun(second, after),
            Fixed(question),
        )

    def _before(self, length: int, depth: float) -> int:
        """Return the tokens of filler before the needle: the possible number nearest to ``depth``, if two the smaller.

        They are looked for near by and then further off; among all only where the haystack is short, or has none.
        """
        haystack = length - self._pieces.fixed_length
        target, reach = depth * haystack, 4 * self._pieces.filler.period
        while reach <= haystack:
            near = np.arange(max(0, int(target) - reach), min(haystack, int(target) + reach) + 1)
            fits = self._geometry.fits(near) & self._geometry.filler.reachable(haystack - near)
            best = _nearest(near[fits], target)
            if best is not None and abs(best - target) <= reach:
                return best
            reach *= 4
        best = _nearest(self._some_positions(length), target)
        assert best is not None  # there are some
        return best


def _nearest(ascending: NDArray[np.int64], target: float) -> int | None:
    """Return the entry nearest to ``target``, of two equally near the smaller; None if there is none."""
    return int(ascending[np.abs(ascending - target).argmin()]) if ascending.size else None
