"""Keys with values, the pairs of the two splits disjoint: no model can have learned a pair that it is asked for."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.keys import is_evaluation_key
from palimpsest.tasks.symbolic.vocabulary import KEYS, VALUES
from palimpsest.tasks.task import Split


@cache
def allowed_values(split: Split) -> tuple[NDArray[np.int64], ...]:
    """Return, for every key, the values (numbers from 0) that it may have in a split."""
    codes = np.arange(KEYS.size * VALUES.size).reshape(KEYS.size, VALUES.size)
    mine = is_evaluation_key(codes) == (split == "evaluation")
    return tuple(np.flatnonzero(row) for row in mine)


def draw_pairs(draws: Draws, split: Split, count: int, what: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return ``[count]`` different keys and a value for each, as token ids; values differ as long as there are any.

    Raises:
        InputError: there are not so many keys.
    """
    if count > KEYS.size:
        raise InputError(f"{what} needs {count} different keys, and the symbolic vocabulary has {KEYS.size}")
    keys = draws.subset(KEYS.size, count)
    allowed = allowed_values(split)
    taken: set[int] = set()
    values = []
    for key, bits in zip(keys.tolist(), draws.bits(count).tolist(), strict=True):
        free = [value for value in allowed[key].tolist() if value not in taken] if taken else allowed[key].tolist()
        options = free or allowed[key].tolist()
        values.append(options[bits % len(options)])
        taken.add(values[-1])
    return (keys + KEYS.start).astype(np.int32), (np.array(values) + VALUES.start).astype(np.int32)


def candidates_for(draws: Draws, answer: int, others: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Return ``[count, 1]`` answers to rank: the right one, then other values of the haystack, then any values."""
    rest = VALUES.ids[draws.permutation(VALUES.size)]
    pool = np.concatenate([others[draws.permutation(others.size)], rest])
    pool = pool[pool != answer]
    different = pool[np.sort(np.unique(pool, return_index=True)[1])][: count - 1]
    return np.concatenate([[answer], different]).astype(np.int32)[:, None]
