"""Ageing: what is left of a pair after others were written, segment by segment, novel or repeated."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from palimpsest.probes.mechanism import predictions
from palimpsest.probes.mechanism.capacity import lengths, nested_reads
from palimpsest.probes.mechanism.cells import Effort, mean_record, setting, share_record, told
from palimpsest.probes.mechanism.draws import (
    STANDARD,
    KeyLaw,
    Pairs,
    decoded,
    empty,
    generator,
    random_keys,
    random_pairs,
    write_segments,
)
from palimpsest.probes.mechanism.predictions import Cell
from palimpsest.probes.mechanism.subjects import Subject
from palimpsest.probes.mechanism.theory import Code
from palimpsest.records import MechanismRecord

SEGMENT = 32
LONG_SEGMENT = 64
CODES = 1024
COMPRESSIONS = (1, 2, 4, 8, 16)
NEEDLES = 8
"""Pairs that are asked for among filler; beside hundreds of tokens they are no load."""
REPEATED = 24
"""Distinct pairs of filler that is repeated."""
DEPTH = 0.1
"""Where the needles stand among the filler."""
WEAK = 0.1
"""The strength of filler that a write gate has recognised."""
LONGEST_NOVEL = 4096
"""Tokens of novel filler at full strength, beyond which no memory of a fixed size has anything left."""


def ages_of(size: int) -> tuple[int, ...]:
    """Return the ages at which a memory for keys of this size is asked: powers of two, up to four sizes."""
    ages = [0]
    while (nxt := max(1, 2 * ages[-1])) < 4 * size:
        ages.append(nxt)
    return (*ages, 4 * size - 1)


def age(subject: Subject, size: int, effort: Effort, seed: int) -> Iterator[MechanismRecord]:
    """Write four times as many random pairs as a key has numbers, and ask by the number of writes since.

    One question to each draw for each age, so that outcomes are independent. Yields accuracy and cosine.
    """
    total, code, ages = 4 * size, Code(CODES, size), ages_of(size)
    random = generator(seed, "age", size)
    pairs = random_pairs(random_keys(effort.rows, total, size, STANDARD, random), code, random)
    memory = subject.build()
    state = write_segments(memory, empty(memory, pairs.keys), pairs.keys, pairs.values, SEGMENT)
    places = torch.tensor([total - 1 - writes for writes in ages])
    reads = memory.read(state, pairs.keys[:, :, places])[:, 0]
    right = decoded(reads, pairs.book) == pairs.written[:, places]
    cosine = F.cosine_similarity(reads, pairs.values[:, 0, places], dim=-1)
    cell = Cell(lengths(total, SEGMENT), STANDARD, size, code)
    recalls = predictions.recall_by_age(subject, cell, ages)
    cosines = predictions.cosine_by_age(subject, size, STANDARD, ages)
    for i, writes in enumerate(ages):
        where = setting("age", subject, STANDARD, size, SEGMENT, total)
        where = where.model_copy(update={"age": writes, "decoding": "raw", **told(code)})
        yield share_record(where, "accuracy", right[:, i : i + 1], *recalls[i])
        yield mean_record(where, "cosine", cosine[:, i].tolist(), effort.rows, *cosines[i])


def compressions(subject: Subject, law: KeyLaw, size: int, effort: Effort, seed: int) -> Iterator[MechanismRecord]:
    """Ask for the pairs of the first segment after S segments of 64 novel pairs."""
    code, loads = Code(CODES, size), [LONG_SEGMENT * count for count in COMPRESSIONS]
    random = generator(seed, "compressions", law, size)
    pairs = random_pairs(random_keys(effort.draws, loads[-1], size, law, random), code, random)
    asked = pairs.written[:, :LONG_SEGMENT]
    for load, reads in nested_reads(subject.build(), pairs, loads, LONG_SEGMENT):
        where = setting("compressions", subject, law, size, LONG_SEGMENT, load)
        where = where.model_copy(update={"updates": load // LONG_SEGMENT, "decoding": "raw", **told(code)})
        right = decoded(reads[:, :LONG_SEGMENT], pairs.book) == asked
        cell = Cell(lengths(load, LONG_SEGMENT), law, size, code)
        yield share_record(where, "accuracy", right, *predictions.first_segment_recall(subject, cell))


def filler(subject: Subject, law: KeyLaw, size: int, effort: Effort, seed: int) -> Iterator[MechanismRecord]:
    """Ask for needles among filler: novel pairs, the same written weakly, and a few pairs that are repeated."""
    code, memory = Code(CODES, size), subject.build()
    for tokens in effort.filler:
        for kind, strength in (("novel", 1.0), ("novel", WEAK), ("repeated", 1.0)):
            if kind == "novel" and strength == 1.0 and tokens > LONGEST_NOVEL:
                continue
            random = generator(seed, "filler", law, size, tokens, kind)
            draws = max(2, effort.draws // 2)
            needles, stream = haystack(tokens, law, size, code, draws, kind == "repeated", random)
            state = empty(memory, stream.keys)
            before, after = _parted(stream, round(DEPTH * tokens))
            for part, weight in ((before, strength), (needles, 1.0), (after, strength)):
                state = write_segments(memory, state, part.keys, part.values, LONG_SEGMENT, strength=weight)
            right = decoded(memory.read(state, needles.keys)[:, 0], stream.book) == needles.written
            where = setting("filler", subject, law, size, LONG_SEGMENT, tokens)
            where = where.model_copy(update={"filler": kind, "strength": strength, "decoding": "raw", **told(code)})
            cell = Cell(lengths(tokens, LONG_SEGMENT), law, size, code)
            distinct = REPEATED if kind == "repeated" else tokens
            predicted = predictions.filler_recall(subject, cell, strength=strength, distinct=distinct)
            yield share_record(where, "accuracy", right, *predicted)


def haystack(
    tokens: int, law: KeyLaw, size: int, code: Code, draws: int, repeated: bool, random: torch.Generator
) -> tuple[Pairs, Pairs]:
    """Return needles and filler with values of one book; repeated filler is a few pairs, one after the other."""
    distinct = REPEATED if repeated else tokens
    pairs = random_pairs(random_keys(draws, NEEDLES + distinct, size, law, random), code, random)
    needles = _slice(pairs, 0, NEEDLES)
    places = NEEDLES + torch.arange(tokens) % distinct
    return needles, Pairs(pairs.keys[:, :, places], pairs.values[:, :, places], pairs.written[:, places], pairs.book)


def _parted(pairs: Pairs, at: int) -> tuple[Pairs, Pairs]:
    return _slice(pairs, 0, at), _slice(pairs, at, pairs.written.shape[1])


def _slice(pairs: Pairs, start: int, end: int) -> Pairs:
    return Pairs(pairs.keys[:, :, start:end], pairs.values[:, :, start:end], pairs.written[:, start:end], pairs.book)
