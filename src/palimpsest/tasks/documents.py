"""How documents are cut, paired and spoilt, to see what a model makes of what stands far back. Tokens only, no text."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.symbolic.filler import Chain

TokenDocument: TypeAlias = tuple[str, NDArray[np.integer]]
"""The identifier of a document, and its tokens ``[T]``."""

Spoiling = Literal["other", "sentences", "tokens", "dropped"]
SPOILINGS: tuple[Spoiling, ...] = ("other", "sentences", "tokens", "dropped")
"""What may stand in the place of the true text: see ``spoilt``."""

SENTENCE = 16
"""Tokens of a sentence where nothing in the vocabulary ends one."""


class Excerpt(NamedTuple):
    """A stretch of a document, from its token ``start`` on."""

    document_id: str
    start: int
    tokens: NDArray[np.integer]


class Pair(NamedTuple):
    """A text to be said, and an unrelated one of the same length."""

    target: Excerpt
    unrelated: Excerpt


def first_documents(
    documents: Iterable[TokenDocument], count: int, tokens: int, *, least: int = 2, where: str
) -> list[TokenDocument]:
    """Return the first ``count`` documents of at least ``tokens`` tokens, or as many as there are, cut to ``tokens``.

    Reads no further than it must.

    Args:
        documents: where they come from, in order.
        count: how many are wanted.
        tokens: how long each shall be.
        least: how many there must be.
        where: names their source in the message.

    Raises:
        InputError: there are fewer than ``least``.
    """
    found: list[TokenDocument] = []
    longest = seen = 0
    for name, ids in documents:
        seen, longest = seen + 1, max(longest, len(ids))
        if len(ids) >= tokens:
            found.append((name, ids[:tokens]))
        if len(found) == count:
            break
    if len(found) < min(least, count):
        raise InputError(
            f"{where}: {len(found)} of {seen} documents have {tokens:,} tokens or more (the longest has {longest:,}), "
            f"but {min(least, count)} are needed; ask for fewer tokens or give longer documents."
        )
    return found


def symbolic_documents(count: int, tokens: int, seed: int) -> list[TokenDocument]:
    """Return documents ``[tokens]`` in the symbolic vocabulary: filler, each in an order of its own."""
    found = []
    for index in range(count):
        draws = Draws(f"text probe|{seed}|{index}")
        found.append((f"symbolic-{seed}-{index}", Chain(draws).speak(draws, tokens)))
    return found


def stacked(documents: Sequence[TokenDocument]) -> NDArray[np.int64]:
    """Return documents of equal length as ``[documents, T]``.

    Raises:
        InputError: there are none, their lengths differ, or two have one identifier.
    """
    if not documents:
        raise InputError("There are no documents; give at least one.")
    lengths = sorted({len(ids) for _, ids in documents})
    if len(lengths) > 1:
        raise InputError(
            f"The documents have from {lengths[0]:,} to {lengths[-1]:,} tokens; cut them to one length first."
        )
    names = [name for name, _ in documents]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"Two documents are called '{twice}'; give each its own identifier.")
    return np.stack([ids for _, ids in documents]).astype(np.int64)


def doubling(first: int, end: int) -> list[int]:
    """Return ``first``, twice, four times, ... as long as it is below ``end``, and then ``end``."""
    edges = [first]
    while edges[-1] * 2 < end:
        edges.append(edges[-1] * 2)
    return [*edges, end]


def forgetting_pairs(documents: Sequence[TokenDocument], length: int, repeats: int, seed: int) -> list[Pair]:
    """Return texts of ``length`` tokens to be copied, each with another of a different document.

    The documents take turns as targets in a random order, so that none comes again before all others have; where in
    its document a text begins is random. The unrelated document is any other.

    Raises:
        InputError: fewer than two documents are long enough.
    """
    usable = [(name, ids) for name, ids in documents if len(ids) >= length]
    if len(usable) < 2:
        longest = max((len(ids) for _, ids in documents), default=0)
        raise InputError(
            f"A text of {length:,} tokens and an unrelated one need two documents that long, but {len(usable)} of "
            f"{len(documents)} are (the longest has {longest:,} tokens); ask for shorter ones."
        )
    draws = Draws(f"forgetting|{seed}|{length}")
    pairs = []
    order: list[int] = []
    for _ in range(repeats):
        order = order or draws.permutation(len(usable)).tolist()
        target = order.pop()
        other = (target + draws.integer(1, len(usable) - 1)) % len(usable)
        pairs.append(Pair(_excerpt(usable[target], length, draws), _excerpt(usable[other], length, draws)))
    return pairs


def _excerpt(document: TokenDocument, length: int, draws: Draws) -> Excerpt:
    name, ids = document
    start = draws.integer(0, len(ids) - length)
    return Excerpt(name, start, ids[start : start + length])


def partners(count: int, seed: int) -> NDArray[np.int64]:
    """Return for each of ``count`` >= 2 documents the number of another one; each is another's once.

    Raises:
        InputError: there is only one.
    """
    if count < 2:
        raise InputError(f"The text of another document needs two documents, got {count}.")
    order = Draws(f"partners|{seed}|{count}").permutation(count)
    partner = np.empty(count, dtype=np.int64)
    partner[order] = np.roll(order, -1)
    return partner


def spoilt(
    tokens: NDArray[np.int64],
    far: int,
    how: Spoiling,
    *,
    other: NDArray[np.int64],
    ends: NDArray[np.integer],
    draws: Draws,
) -> NDArray[np.int64]:
    """Return a document in whose first ``far`` tokens something else stands; the others stay where they are.

    Args:
        tokens: the document, ``[T]``.
        far: how many tokens of its beginning are spoilt, below T.
        how: ``other``: the beginning of another document; ``sentences``, ``tokens``: its own in random order;
            ``dropped``: nothing, and what is returned is shorter, ``[T - far]``.
        other: the other document, of ``far`` tokens at least.
        ends: tokens that end a sentence; if there are none, ``SENTENCE`` tokens are one.
        draws: where the order comes from.
    """
    near = tokens[far:]
    if how == "dropped":
        return near
    if how == "other":
        return np.concatenate([other[:far], near])
    if how == "tokens":
        return np.concatenate([tokens[:far][draws.permutation(far)], near])
    pieces = sentences(tokens[:far], ends)
    return np.concatenate([*(pieces[place] for place in draws.permutation(len(pieces)).tolist()), near])


def sentences(tokens: NDArray[np.int64], ends: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """Return the sentences of a text; the last may lack its end.

    Args:
        tokens: the text, ``[T]``, T >= 1.
        ends: tokens that end a sentence; if there are none, ``SENTENCE`` tokens are one.
    """
    cuts = np.flatnonzero(np.isin(tokens[:-1], ends)) + 1 if ends.size else np.arange(SENTENCE, tokens.size, SENTENCE)
    return np.split(tokens, cuts)
