"""Numbers: what is lost when the state is kept in bfloat16, and how many bytes it takes."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from palimpsest.memory import Memory, state_bytes
from palimpsest.probes.mechanism.cells import Effort, exact_record, mean_record, setting, share_record, told
from palimpsest.probes.mechanism.draws import STANDARD, centred, decoded, empty, generator, random_keys, random_pairs
from palimpsest.probes.mechanism.subjects import Subject
from palimpsest.probes.mechanism.theory import Code
from palimpsest.records import MechanismRecord

KEPT = 32
"""Pairs that every segment writes again: the load stays the same, however many segments there are."""
STREAMS = 2
"""Draws of novel keys: a leaf has thousands of numbers, whose mean hardly varies."""
CODES = 1024
BYTES_AFTER = (64, 1024, 16384)
FLOAT32_BYTES = 4


def precision(subject: Subject, size: int, effort: Effort, seed: int) -> Iterator[MechanismRecord]:
    """Write the same 32 pairs in every segment, with the state kept in float32, and rounded to bfloat16.

    The load does not grow, so that whatever recall is lost with the number of segments is lost to rounding.
    """
    code = Code(CODES, size)
    random = generator(seed, "precision", size)
    pairs = random_pairs(random_keys(effort.draws, KEPT, size, STANDARD, random), code, random)
    memory = subject.build()
    for state_dtype, rounded in (("float32", False), ("bfloat16", True)):
        state = empty(memory, pairs.keys)
        for update in range(1, max(effort.updates) + 1):
            state = kept_in(memory.write(state, pairs.keys, pairs.values), bfloat16=rounded)
            if update in effort.updates:
                reads = memory.read(state, pairs.keys)[:, 0]
                where = setting("precision", subject, STANDARD, size, KEPT, KEPT * update).model_copy(
                    update={"updates": update, "filler": "repeated", "state": state_dtype, **told(code)}
                )
                for name, shown in (("raw", reads), ("centred", centred(reads))):
                    right = decoded(shown, pairs.book) == pairs.written
                    yield share_record(where.model_copy(update={"decoding": name}), "accuracy", right)


def saturation(
    subject: Subject, segment_length: int, size: int, effort: Effort, seed: int
) -> Iterator[MechanismRecord]:
    """Write segments of novel pairs to a state in bfloat16, in float32 and in float64, and compare each leaf.

    Yields, for every leaf of the state, its projection on the float64 leaf (1 if nothing is lost) and its relative
    error.
    """
    random = generator(seed, "saturation", segment_length, size)
    memory = subject.build()
    exact = memory.init(STREAMS, 1, size, size, dtype=torch.float64)
    kept = {name: memory.init(STREAMS, 1, size, size) for name in ("float32", "bfloat16")}
    for update in range(1, max(effort.updates) + 1):
        keys, values = (torch.randn(STREAMS, 1, segment_length, size, generator=random) for _ in range(2))
        values = values / math.sqrt(size)
        exact = memory.write(exact, keys.double(), values.double())
        for name, state in kept.items():
            kept[name] = kept_in(memory.write(state, keys, values), bfloat16=name == "bfloat16")
        if update in effort.updates:
            for name, state in kept.items():
                where = setting("saturation", subject, STANDARD, size, segment_length, segment_length * update)
                where = where.model_copy(update={"updates": update, "filler": "novel", "state": name})
                yield from _compared(where, state, exact)


def kept_in(state: Any, *, bfloat16: bool) -> Any:
    """Return a state that was stored in bfloat16 and read back, or as it is."""
    return type(state)(*(leaf.bfloat16().to(leaf.dtype) for leaf in state)) if bfloat16 else state


def size_in_bytes(subject: Subject, size: int, seed: int) -> Iterator[MechanismRecord]:
    """Yield the bytes of a head's state after more and more tokens, and what the formula of its kind says."""
    formula = FLOAT32_BYTES * numbers_kept(subject.spec.keeps, subject.spec.width(size), size)
    memory: Memory[Any] = subject.build()
    random = generator(seed, "bytes", size)
    state, written = memory.init(1, 1, size, size), 0
    for tokens in BYTES_AFTER:
        while written < tokens:
            keys, values = (torch.randn(1, 1, min(1024, tokens - written), size, generator=random) for _ in range(2))
            state, written = memory.write(state, keys, values), written + keys.shape[2]
        where = setting("bytes", subject, STANDARD, size, 1024, tokens)
        yield exact_record(where, "bytes", float(state_bytes(state)), float(formula), subject.spec.keeps)


def numbers_kept(formula: str, width: int, size: int) -> int:
    """Return the value of a formula such as ``F d + F`` for F features and values of this size.

    Raises:
        ValueError: a letter that stands for nothing.
    """
    sizes = {"F": width, "d": size}
    if unknown := set(formula.replace("+", " ").split()) - set(sizes):
        raise ValueError(f"'{formula}' has {', '.join(sorted(unknown))}, but a formula is of F and d")
    return sum(math.prod(sizes[letter] for letter in term.split()) for term in formula.split("+"))


def _compared(where: Any, state: Any, exact: Any) -> Iterator[MechanismRecord]:
    for leaf, kept, true in zip(type(exact)._fields, state, exact, strict=True):
        error = (kept.double() - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)
        yield mean_record(where, f"{leaf} kept", projection(kept.double(), true).tolist(), kept.numel())
        yield mean_record(where, f"{leaf} error", error.tolist(), kept.numel())


def projection(kept: Tensor, true: Tensor) -> Tensor:
    """Return how much of the true leaf is left in each draw ``[B]``: <kept, true> / <true, true>."""
    return (kept * true).flatten(1).sum(1) / true.square().flatten(1).sum(1)
