"""Passkey retrieval: a key told once inside repeated filler, asked for at the end.

Text of Mohtashami & Jaggi 2023 (arXiv 2305.16300) as Munkhdalai et al. 2024 (arXiv 2404.07143, appendix B) use it.
Departures, all on purpose: keys have a fixed number of digits, filler begins with any sentence of its cycle and is cut
between sentences and never inside, lengths are exact in tokens, the needle never crosses a segment boundary, and
training and evaluation keys are disjoint.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from palimpsest.errors import InputError
from palimpsest.tasks.filler import Filler
from palimpsest.tasks.keys import digits_of, draw_keys, random_bits, unit_interval
from palimpsest.tasks.knobs import Length, TaskKnobs
from palimpsest.tasks.task import (
    Output,
    Reference,
    Row,
    Sample,
    Score,
    Span,
    Split,
    padded_row,
    score_number,
)
from palimpsest.tasks.templates import Tokenizer, cut_pieces


class PasskeySpec(TaskKnobs):
    """The knobs of the passkey task.

    Attributes:
        key_digits: width of every key; the first digit is never 0.
        needle: ``repeat`` is the classic needle, which tells the key twice; ``short`` tells it once.
        filler_start: ``any`` begins each stretch of filler with a sentence of the cycle drawn per item, so that items
            differ in their haystack too; ``first`` begins it with the first one, as the papers do, and then the same
            texts meet the same places of a segment again and again.
        candidates: number of answers to rank, the right one included; the others are keys of its split.
        min_length, max_length: range of the training samples' lengths, prompt and answer together; rows are
            padded to ``max_length``.
    """

    kind: Literal["passkey"] = "passkey"
    key_digits: Annotated[int, Field(ge=3, le=12)] = 5
    needle: Literal["repeat", "short"] = "repeat"
    filler_start: Literal["any", "first"] = "any"
    candidates: Annotated[int, Field(ge=2, le=64)] = 16
    min_length: Length = 160
    max_length: Length = 256


class Passkey:
    """A key told once inside filler, and asked for at the end.

    Attributes:
        spec: the knobs.
        segment_length: tokens per segment; the needle lies wholly inside one.
        pad_id: token on the padding of training rows, where it is masked.
        needle_length: tokens of the needle.
        minimum_length: least number of tokens of prompt and answer that an item can have.

    Raises:
        InputError: the tokenizer is unfit, a segment cannot hold the needle, or ``max_length`` is too short.
    """

    name = "passkey"
    version = 2
    questions = 1

    def __init__(self, spec: PasskeySpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = 0) -> None:
        self.spec = spec
        self.segment_length = segment_length
        self.pad_id = pad_id
        self._pieces = cut_pieces(tokenizer, spec.needle, spec.key_digits)
        self.needle_length = self._pieces.needle.ids.size
        if self.needle_length > segment_length:
            raise InputError(
                f"the passkey needle '{spec.needle}' has {self.needle_length} tokens and does not fit in one "
                f"segment of {segment_length}; take longer segments or a shorter needle (needle: short, or "
                "fewer key_digits)"
            )
        self._geometry = _Geometry(
            self._pieces.filler, self._pieces.introduction.size, self.needle_length, segment_length
        )
        self.minimum_length = self._pieces.fixed_length + _least_before(self._geometry)
        if spec.max_length < self.minimum_length:
            raise InputError(
                f"passkey max_length {spec.max_length} is shorter than the task's fixed text with this "
                f"tokenizer; it must be at least {self.minimum_length} tokens"
            )

    @property
    def floor(self) -> Reference:
        """What uniform random digits and a random ranking reach."""
        return Reference(exact=10.0**-self.spec.key_digits, rank_first=1 / self.spec.candidates)

    @property
    def ceiling(self) -> Reference:
        """What perfect recall reaches."""
        return Reference(exact=1.0, rank_first=1.0)

    def sample(self, *, split: Split, seed: int, index: int, length: int, depth: float | None) -> Sample:
        """Make one item, a pure function of its arguments.

        Args:
            split: which keys may be asked for and ranked; the two splits share none.
            seed, index: coordinates of the item.
            length: exact number of tokens of prompt and answer.
            depth: where the needle should be, from 0 (start of the haystack) to 1 (its end); it is put at the
                nearest place that whole sentences reach and that keeps it inside one segment. None: anywhere.

        Raises:
            InputError: ``depth`` is outside 0..1, or ``length`` is too short or not to be reached exactly.
        """
        if depth is None:
            depth = unit_interval(f"{self.name}@{self.version}|depth|{split}|{seed}|{index}|{length}")
        if not 0.0 <= depth <= 1.0:
            raise InputError(f"the passkey depth is a fraction of the haystack from 0 to 1, not {depth}")
        haystack = length - self._pieces.fixed_length
        before = _nearest(self._some_positions(length), depth * haystack)
        width = self.spec.key_digits
        label = f"{self.name}@{self.version}|{split}|{seed}|{index}|{length}|{float(depth).hex()}"
        keys = draw_keys(label, split, width=width, count=self.spec.candidates)
        candidate_ids = self._pieces.digits[digits_of(keys, width)]
        input_ids = self._pieces.join(
            candidate_ids[0], before=before, after=haystack - before, begin=self._filler_begins(label)
        )
        needle_start = self._pieces.introduction.size + before
        content = f"{label}|{self.segment_length}|{needle_start}|{keys.tolist()}|".encode()
        input_ids.setflags(write=False)
        candidate_ids.setflags(write=False)
        identity = blake2b(content + input_ids.astype("<i4").tobytes(), digest_size=8).hexdigest()
        candidates = tuple(map(str, keys.tolist()))
        return Sample(
            id=identity,
            task=self.name,
            version=self.version,
            split=split,
            seed=seed,
            index=index,
            cluster=identity,
            depth=float(depth),
            segment_length=self.segment_length,
            input_ids=input_ids,
            prompt_length=length - width,
            question_start=length - self._pieces.question.ids.size,
            needles=(Span(needle_start, needle_start + self.needle_length),),
            candidates=candidates,
            candidate_ids=candidate_ids,
            answers=candidates[:1],
            others=(),
            facts={"needles": 1, "distractors": 0, "hops": 1},
            new_tokens=width,
        )

    def training_item(self, seed: int, index: int) -> Sample:
        """Make the training item with this index, its length uniform in the spec's range, its depth in 0..1.

        A length that whole sentences do not reach is replaced by the nearest that they do.
        """
        label = f"{self.name}@{self.version}|mix|{seed}|{index}"
        first = int(random_bits(label, 1)[0])
        length = self.spec.min_length + first % (self.spec.max_length - self.spec.min_length + 1)
        length = self.nearest_length(length, at_most=self.spec.max_length)
        depth = unit_interval(label, start=1)
        return self.sample(split="training", seed=seed, index=index, length=length, depth=depth)

    def training_sample(self, seed: int, index: int) -> Row:
        """Make training item ``index`` as a row of ``max_length``; only the answer's digits carry labels."""
        return padded_row(self.training_item(seed, index), self.spec.max_length, self.pad_id)

    def nearest_length(self, length: int, *, at_most: int) -> int:
        """Return the length nearest to ``length`` that an item can have; of two equally near the shorter.

        ``minimum_length`` always can be had, so only an ``at_most`` below it leaves no answer.

        Raises:
            InputError: ``at_most`` is less than ``minimum_length``.
        """
        for gap in range(abs(length - self.minimum_length) + 1):
            for near in (length - gap, length + gap):
                if self.minimum_length <= near <= at_most and self._positions(near).size:
                    return near
        raise InputError(f"no passkey item has {at_most} tokens or fewer; the least is {self.minimum_length}")

    def score(self, sample: Sample, output: Output) -> Score:
        """Score one answer: is the first integer of the text the whole key, and how does the key rank?

        Ties in log-probability count against the key. The text should be the continuation by as many tokens
        as the answer has: training sets no end mark after the key, so what follows its last digit is
        undefined.

        Raises:
            ValueError: the number of log-probabilities is not the number of candidates.
        """
        return score_number(sample, output)

    def _filler_begins(self, label: str) -> tuple[int, int]:
        """Return with which sentence the filler begins before and after the needle."""
        if self.spec.filler_start == "first":
            return 0, 0
        sentences = len(self._pieces.filler.sentences)
        before, after = (int(bits) % sentences for bits in random_bits(f"{label}|filler", 2))
        return before, after

    def _positions(self, length: int) -> NDArray[np.int64]:
        """Return the possible positions of the needle, in tokens of filler before it; perhaps none."""
        return _feasible_before(self._geometry, length - self._pieces.fixed_length)

    def _some_positions(self, length: int) -> NDArray[np.int64]:
        """Return the possible positions of the needle, or raise InputError when there is none."""
        if length < self.minimum_length:
            raise InputError(
                f"a passkey context of {length} tokens is shorter than the task's fixed text with this "
                f"tokenizer; it must be at least {self.minimum_length} tokens"
            )
        positions = self._positions(length)
        if not positions.size:
            near = self.nearest_length(length, at_most=2 * length)
            raise InputError(
                f"no passkey item of exactly {length} tokens can be made of whole sentences with the needle "
                f"inside one segment of {self.segment_length}; the nearest length that can is {near}"
            )
        return positions


class _Geometry(NamedTuple):
    """What decides where a needle can lie; ``introduction`` and ``needle`` are numbers of tokens."""

    filler: Filler
    introduction: int
    needle: int
    segment_length: int

    def fits(self, before: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which numbers of tokens before the needle are whole sentences and keep it in one segment."""
        start = self.introduction + before
        within = start // self.segment_length == (start + self.needle - 1) // self.segment_length
        return within & self.filler.reachable(before)


@lru_cache(maxsize=256)
def _feasible_before(geometry: _Geometry, haystack: int) -> NDArray[np.int64]:
    """Return, ascending, how many of the ``haystack`` tokens of filler can stand before the needle."""
    before = np.arange(haystack + 1)
    feasible = before[geometry.fits(before) & geometry.filler.reachable(haystack - before)]
    feasible.setflags(write=False)
    return feasible


def _least_before(geometry: _Geometry) -> int:
    """Return the least number of filler tokens that the needle can have before it.

    Raises:
        InputError: there is none.
    """
    # Sums of sentences repeat modulo the period from at most period ** 2 on, segments modulo their length:
    # what is not found below this limit does not exist.
    period = geometry.filler.period
    limit = period * (period + geometry.segment_length)
    window = geometry.segment_length
    while True:
        fits = geometry.fits(np.arange(min(window, limit)))
        if fits.any():
            return int(fits.argmax())
        if window >= limit:
            raise InputError(
                f"no number of whole filler sentences puts the passkey needle of {geometry.needle} tokens "
                f"inside one segment of {geometry.segment_length} with this tokenizer; take longer segments "
                "or a shorter needle"
            )
        window *= 4


def _nearest(ascending: NDArray[np.int64], target: float) -> int:
    """Return the entry nearest to ``target``; of two equally near ones the smaller."""
    right = min(int(np.searchsorted(ascending, target)), ascending.size - 1)
    left = max(right - 1, 0)
    return int(ascending[left if target - ascending[left] <= ascending[right] - target else right])
