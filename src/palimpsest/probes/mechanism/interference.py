"""Interference: keys that are alike, and keys that are written again with another value."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.probes.mechanism.cells import Effort, setting, share_record, told
from palimpsest.probes.mechanism.draws import (
    STANDARD,
    KeyLaw,
    Pairs,
    centred,
    decoded,
    empty,
    generator,
    looked_up,
    random_book,
    random_keys,
    similar_keys,
    write_segments,
)
from palimpsest.probes.mechanism.subjects import Subject
from palimpsest.probes.mechanism.theory import Code
from palimpsest.records import MechanismRecord, MechanismSetting

KEYS = 32
"""Distinct keys that are written again and again."""
QUESTIONS = 2000
"""Keys that are asked in a cell, over all draws."""
CODES = 256
SCHLAG_KEYS, SCHLAG_CODES = 16, 1024
"""Distinct keys of a stream with replacement, of twice as many tokens, and values (Schlag et al. 2021, setting 2)."""
QUARTERS = 4


class Rewritten(NamedTuple):
    """A stream in which keys come again with other values.

    Attributes:
        stream: the pairs in the order in which they are written.
        keys: the distinct keys ``[B, 1, n, K]``.
        newest: the code that was last written with each key ``[B, n]``; -1 for a key that was not written.
        older: the codes written with it before ``[B, n, R]``; -1 where there are fewer.
        age: writes since the newest ``[B, n]``.
    """

    stream: Pairs
    keys: Tensor
    newest: Tensor
    older: Tensor
    age: Tensor


class Answers(NamedTuple):
    """Whether each key was answered with its newest value, and whether with one it had before, ``[B, n]``."""

    new: Tensor
    old: Tensor


def interference(subject: Subject, size: int, effort: Effort, seed: int) -> Iterator[MechanismRecord]:
    """Write 32 keys of N(0, 1) that are alike to a degree once, twice and five times, in segments of three lengths.

    Every pass takes the keys in an order of its own. Yields the shares of newest and of older values, and the former
    by quarters of age.
    """
    for similarity in (0.0, 0.5, 0.9):
        for rewrites in (0, 1, 4):
            random = generator(seed, "interference", similarity, rewrites, size)
            keys = similar_keys(_draws(KEYS, effort), KEYS, size, similarity, random)
            told_again = passes(keys, rewrites + 1, Code(CODES, size, unit=False), random)
            total = KEYS * (rewrites + 1)
            for segment_length in dict.fromkeys((1, KEYS, total)):
                where = setting("interference", subject, STANDARD, size, segment_length, total).model_copy(
                    update={"similarity": similarity, "rewrites": rewrites, "codes": CODES, "unit_codes": False}
                )
                yield from _answered(subject, told_again, where, by_age=True)


def overwriting(subject: Subject, law: KeyLaw, size: int, effort: Effort, seed: int) -> Iterator[MechanismRecord]:
    """Write 32 keys twice, token by token and in one segment for each pass: is the old value gone?"""
    random = generator(seed, "overwriting", law, size)
    keys = random_keys(_draws(KEYS, effort), KEYS, size, law, random)
    told_again = passes(keys, 2, Code(CODES, size, unit=False), random)
    for segment_length in (1, KEYS):
        where = setting("overwriting", subject, law, size, segment_length, 2 * KEYS)
        where = where.model_copy(update={"rewrites": 1, "codes": CODES, "unit_codes": False})
        yield from _answered(subject, told_again, where, by_age=False)


def replacement(subject: Subject, law: KeyLaw, size: int, effort: Effort, seed: int) -> Iterator[MechanismRecord]:
    """Write twice as many tokens as there are keys, each with one of these at random: is the newest value read?"""
    random = generator(seed, "replacement", law, size)
    draws, code = _draws(SCHLAG_KEYS, effort), Code(SCHLAG_CODES, size)
    told_again = with_replacement(random_keys(draws, SCHLAG_KEYS, size, law, random), 2 * SCHLAG_KEYS, code, random)
    for segment_length in (1, SCHLAG_KEYS, 2 * SCHLAG_KEYS):
        where = setting("replacement", subject, law, size, segment_length, 2 * SCHLAG_KEYS)
        yield from _answered(subject, told_again, where.model_copy(update=told(code)), by_age=False)


def passes(keys: Tensor, count: int, code: Code, random: torch.Generator) -> Rewritten:
    """Return a stream that writes all keys ``count`` times, each time in another order and with other values."""
    draws, _, n, _ = keys.shape
    orders = torch.rand(draws, count, n, generator=random).argsort(-1)
    return _rewritten(keys, orders.flatten(1), code, random)


def with_replacement(keys: Tensor, tokens: int, code: Code, random: torch.Generator) -> Rewritten:
    """Return a stream of tokens, each of which writes one of the keys at random."""
    draws, _, n, _ = keys.shape
    return _rewritten(keys, torch.randint(n, (draws, tokens), generator=random), code, random)


def ask(subject: Subject, told_again: Rewritten, segment_length: int, *, decoding: str) -> Answers:
    """Write the stream, read every key, and compare the answers with the newest and the older values."""
    memory = subject.build()
    stream = told_again.stream
    state = write_segments(memory, empty(memory, stream.keys), stream.keys, stream.values, segment_length)
    reads = memory.read(state, told_again.keys)[:, 0]
    answers = decoded(centred(reads) if decoding == "centred" else reads, stream.book)
    new = answers == told_again.newest
    old = (answers.unsqueeze(-1) == told_again.older).any(-1) & ~new & (answers >= 0)
    return Answers(new, old)


def _answered(
    subject: Subject, told_again: Rewritten, where: MechanismSetting, *, by_age: bool
) -> Iterator[MechanismRecord]:
    # chance may leave keys unwritten: as many as every draw has written are asked, those with the lowest numbers
    written = told_again.newest >= 0
    asked = written.int().argsort(dim=1, descending=True, stable=True)[:, : int(written.sum(1).min())]
    for decoding in ("raw", "centred"):
        found = ask(subject, told_again, where.segment_length, decoding=decoding)
        cell = where.model_copy(update={"decoding": decoding})
        yield share_record(cell, "P(new)", found.new.gather(1, asked))
        yield share_record(cell, "P(old)", found.old.gather(1, asked))
        if by_age and decoding == "centred":
            yield from _by_quarters(cell, found.new, told_again.age)


def _by_quarters(cell: MechanismSetting, new: Tensor, age: Tensor) -> Iterator[MechanismRecord]:
    order = age.argsort(1)
    sorted_new, sorted_age = new.gather(1, order), age.gather(1, order)
    for part, ages in zip(sorted_new.chunk(QUARTERS, 1), sorted_age.chunk(QUARTERS, 1), strict=True):
        yield share_record(cell.model_copy(update={"age": round(ages.double().mean().item())}), "P(new)", part)


def _rewritten(keys: Tensor, order: Tensor, code: Code, random: torch.Generator) -> Rewritten:
    """Return the stream that writes keys ``[B, 1, n, K]`` in this order ``[B, T]``, with random codes."""
    draws, _, n, size = keys.shape
    tokens = order.shape[1]
    book = random_book(draws, size, code, random)
    written = torch.randint(code.codes, (draws, tokens), generator=random)
    here = order.unsqueeze(-1) == torch.arange(n)  # [B, T, n]
    places = torch.where(here, torch.arange(tokens)[:, None], -1)
    last = places.amax(1)
    newest = torch.where(last >= 0, written.gather(1, last.clamp_min(0)), -1)
    before = here & (torch.arange(tokens)[:, None] < last.unsqueeze(1))
    older = torch.where(before, written.unsqueeze(-1), -1).transpose(1, 2)
    stream = keys.gather(2, order[:, None, :, None].expand(-1, 1, -1, size))
    pairs = Pairs(stream, looked_up(book, written), written, book)
    return Rewritten(pairs, keys, newest, older, tokens - 1 - last)


def _draws(keys: int, effort: Effort) -> int:
    """Return how many draws of so many keys make about ``QUESTIONS`` questions at full effort."""
    return max(2, round(QUESTIONS / keys * min(1.0, effort.draws / 24)))
