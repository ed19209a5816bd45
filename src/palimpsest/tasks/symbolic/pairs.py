"""Keys with values, the pairs of the two splits disjoint: no model can have learned a pair that it is asked for."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.keys import is_evaluation_key
from palimpsest.tasks.symbolic.vocabulary import KEYS, VALUES, Words
from palimpsest.tasks.task import Split

TRIES = 10_000
"""How often something is drawn anew until it belongs to a split; one in five belongs to the evaluation split."""


@cache
def allowed_values(split: Split) -> tuple[tuple[int, ...], ...]:
    """Return, for every key, the values (numbers from 0) that it may have in a split."""
    codes = np.arange(KEYS.size * VALUES.size).reshape(KEYS.size, VALUES.size)
    mine = is_evaluation_key(codes) == (split == "evaluation")
    return tuple(tuple(np.flatnonzero(row).tolist()) for row in mine)


def draw_keys(draws: Draws, count: int, what: str) -> NDArray[np.int32]:
    """Return ``[count]`` different keys, as token ids.

    Raises:
        InputError: there are not so many keys.
    """
    if count > KEYS.size:
        raise InputError(f"{what} needs {count} different keys, and the symbolic vocabulary has {KEYS.size}")
    return (draws.subset(KEYS.size, count) + KEYS.start).astype(np.int32)


def draw_values(draws: Draws, split: Split, keys: NDArray[np.int32], what: str) -> NDArray[np.int32]:
    """Return a value for each of ``[count]`` keys (token ids, perhaps with repetitions), all values different.

    Values are taken at random one after the other; where none is left for a key, earlier ones make room (an augmenting
    path of the matching of keys to values).

    Raises:
        InputError: there are not so many different values for these keys.
    """
    allowed = allowed_values(split)
    options = [allowed[key] for key in (keys - KEYS.start).tolist()]
    owner: dict[int, int] = {}
    for place, bits in enumerate(draws.bits(len(options)).tolist()):
        free = [value for value in options[place] if value not in owner] if owner else options[place]
        if free:
            owner[free[bits % len(free)]] = place
        elif not _make_room(place, options, owner, set()):
            raise InputError(
                f"{what} needs {len(options)} different values for its keys, and the {split} split has not so many; "
                f"the symbolic vocabulary has {VALUES.size} in all"
            )
    values = np.empty(len(options), dtype=np.int32)
    values[list(owner.values())] = list(owner)
    return values + np.int32(VALUES.start)


def _make_room(place: int, options: list[tuple[int, ...]], owner: dict[int, int], seen: set[int]) -> bool:
    """Give ``place`` a value, moving the owners of values to others of their own; tell whether it was possible."""
    for value in options[place]:
        if value not in seen:
            seen.add(value)
            if value not in owner or _make_room(owner[value], options, owner, seen):
                owner[value] = place
                return True
    return False


def draw_pairs(draws: Draws, split: Split, count: int, what: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return ``[count]`` different keys and a value for each, as token ids, all values different.

    Raises:
        InputError: there are not so many keys.
    """
    keys = draw_keys(draws, count, what)
    return keys, draw_values(draws, split, keys, what)


def in_split(content: NDArray[np.integer], split: Split) -> bool:
    """Tell whether numbers, in this order, belong to a split: about one content in five to evaluation."""
    digest = blake2b(content.astype("<i4").tobytes(), digest_size=8).digest()
    return bool(is_evaluation_key(np.frombuffer(digest, dtype="<u8"))[0]) == (split == "evaluation")


def draw_content(
    make: Callable[[], NDArray[np.int32]], fits: Callable[[NDArray[np.int32]], bool], what: str
) -> NDArray[np.int32]:
    """Return the first of the contents that ``make`` draws which fits, as a rule: which belongs to the split.

    Raises:
        InputError: none does.
    """
    for _ in range(TRIES):
        content = make()
        if fits(content):
            return content
    raise InputError(f"{what}: what its haystacks can say is too little for two splits; let them say more")


def candidate_rows(
    answer: NDArray[np.int32], wrong: Iterable[NDArray[np.int32]], count: int, *, ordered: bool = True
) -> NDArray[np.int32]:
    """Return ``[count, tokens]`` answers to rank: the right one, then the first different ones of ``wrong``.

    Where an answer is a set (``ordered=False``), another order of the same tokens is no different answer.
    """
    rows = [answer.tolist()]
    seen = {tuple(rows[0] if ordered else sorted(rows[0]))}
    for row in wrong:
        tokens = row.tolist()
        name = tuple(tokens if ordered else sorted(tokens))
        if name not in seen:
            seen.add(name)
            rows.append(tokens)
        if len(rows) == count:
            break
    return np.array(rows, dtype=np.int32)


def subsets(draws: Draws, pool: NDArray[np.int32], size: int) -> Iterator[NDArray[np.int32]]:
    """Yield without end random choices of ``size`` of the tokens; none if there are not so many."""
    while pool.size >= size:
        yield pool[draws.subset(pool.size, size)]


def strings(draws: Draws, words: Words, size: int) -> Iterator[NDArray[np.int32]]:
    """Yield without end random strings of ``size`` of the words, perhaps with repetitions."""
    while True:
        yield (draws.integers(words.size, size) + words.start).astype(np.int32)


def candidates_for(
    draws: Draws, answer: int, others: NDArray[np.int32], count: int, words: Words = VALUES
) -> NDArray[np.int32]:
    """Return ``[count, 1]`` answers to rank: the right one, then others of the haystack, then any of the words."""
    rest = words.ids[draws.permutation(words.size)]
    pool = np.concatenate([others[draws.permutation(others.size)], rest])
    pool = pool[pool != answer]
    different = pool[np.sort(np.unique(pool, return_index=True)[1])][: count - 1]
    return np.concatenate([[answer], different]).astype(np.int32)[:, None]
