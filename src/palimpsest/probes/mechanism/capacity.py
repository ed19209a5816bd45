"""Capacity: how many random pairs, each written once, are recalled; and how the features of keys overlap."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from palimpsest.memory import Memory
from palimpsest.probes.mechanism import predictions, theory
from palimpsest.probes.mechanism.cells import Effort, exact_record, mean_record, setting, share_record, told
from palimpsest.probes.mechanism.draws import (
    KeyLaw,
    Pairs,
    centred,
    decoded,
    empty,
    generator,
    random_keys,
    random_pairs,
    write_segments,
)
from palimpsest.probes.mechanism.moments import moments_of
from palimpsest.probes.mechanism.predictions import Cell
from palimpsest.probes.mechanism.subjects import Subject
from palimpsest.probes.mechanism.theory import Code
from palimpsest.records import MechanismRecord, MechanismSetting

SEGMENT = 32


class Curve(NamedTuple):
    """A capacity curve: keys of this law and size, values of this code, asked at these loads."""

    keys: KeyLaw
    size: int
    code: Code
    loads: tuple[int, ...]


def loads_of(size: int, effort: Effort) -> tuple[int, ...]:
    """Return the loads of a curve for keys of this size, at least two pairs each."""
    return tuple(sorted({max(2, round(multiple * size)) for multiple in effort.loads}))


def capacity(subject: Subject, curve: Curve, effort: Effort, seed: int) -> Iterator[MechanismRecord]:
    """Fill a memory and ask, at each load, for pairs spread evenly over all that it holds.

    The loads of one draw are nested: a larger one holds the pairs of a smaller one. Yields accuracy, raw and centred,
    and the relative error of the raw reads, min_a |a r - v|^2 / |v|^2.
    """
    random = generator(seed, "capacity", curve.keys, curve.size, curve.code)
    keys = random_keys(effort.draws, max(curve.loads), curve.size, curve.keys, random)
    pairs = random_pairs(keys, curve.code, random)
    for load, reads in nested_reads(subject.build(), pairs, curve.loads, SEGMENT):
        where = setting("capacity", subject, curve.keys, curve.size, SEGMENT, load).model_copy(update=told(curve.code))
        cell = Cell(lengths(load, SEGMENT), curve.keys, curve.size, curve.code)
        asked = torch.linspace(0, load - 1, min(load, effort.asked)).round().long()
        for name, shown in (("raw", reads), ("centred", centred(reads))):
            right = decoded(shown[:, asked], pairs.book) == pairs.written[:, asked]
            decoding = where.model_copy(update={"decoding": name})
            predicted = predictions.recall_of(subject, cell, centred=name == "centred")
            yield share_record(decoding, "accuracy", right, *predicted)
        errors = relative_errors(reads, pairs.values[:, 0, :load]).tolist()
        yield mean_record(where, "relative error", errors, reads.shape[0] * load, *predictions.error_of(subject, cell))


def features(name: str, law: KeyLaw, size: int) -> Iterator[MechanismRecord]:
    """Yield the common-mode ratio kappa and the effective dimension of random keys under a feature map."""
    overlaps = moments_of(name, size, law)
    where = MechanismSetting(
        test="features", kind="", memory="", features=name, keys=law.name, size=size, segment_length=0, load=0
    )
    exact = theory.common_mode_ratio(*law) if name == "elu1" else None
    yield exact_record(where, "kappa", overlaps.kappa, exact, "m^4 / s^4")
    yield exact_record(where, "effective dimension", overlaps.effective)


def nested_reads(
    memory: Memory[Any], pairs: Pairs, loads: Sequence[int], segment_length: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield each load with the reads ``[B, n, V]`` of its n pairs, from a memory that holds just these."""
    state, written = empty(memory, pairs.keys), 0
    for load in loads:
        whole = load // segment_length * segment_length
        state = _written(memory, state, pairs, written, whole, segment_length)
        written = whole
        # a last segment that is not full is written to a state that is then forgotten: writes are pure
        holding = _written(memory, state, pairs, whole, load, segment_length)
        yield load, memory.read(holding, pairs.keys[:, :, :load])[:, 0]


def lengths(load: int, segment_length: int) -> tuple[int, ...]:
    """Return the lengths of the segments of so many pairs."""
    rest = load % segment_length
    return (segment_length,) * (load // segment_length) + ((rest,) if rest else ())


def relative_errors(reads: Tensor, values: Tensor) -> Tensor:
    """Return min_a |a r - v|^2 / |v|^2 for the reads ``[B, n, V]`` of each draw, one factor a for all of them."""
    dot = (reads * values).sum((1, 2))
    return 1 - dot.square() / (reads.square().sum((1, 2)) * values.square().sum((1, 2)))


def _written(memory: Memory[Any], state: Any, pairs: Pairs, start: int, end: int, segment_length: int) -> Any:
    if end == start:
        return state
    keys, values = pairs.keys[:, :, start:end], pairs.values[:, :, start:end]
    return write_segments(memory, state, keys, values, segment_length)
