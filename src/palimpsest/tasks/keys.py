"""Random numbers and passkeys that are pure functions of their coordinates, the same on every machine.

A key belongs to the evaluation split when ``mix(key) % 5 == 0`` and to the training split otherwise, where
``mix`` is the finaliser of SplitMix64 (Steele, Lea & Flood 2014): a fixed, seedless rule, so no run can train
on a key that any evaluation asks for.
"""

from hashlib import blake2b
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from palimpsest.tasks.task import Split

EVALUATION_SHARE = 5

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash 64-bit integers one by one with the finaliser of SplitMix64, a bijection."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def random_bits(label: str, count: int, *, start: int = 0) -> NDArray[np.uint64]:
    """Return numbers ``start .. start + count`` of the SplitMix64 stream that ``label`` names."""
    seed = np.frombuffer(blake2b(label.encode(), digest_size=8).digest(), dtype="<u8")
    return mix(seed + _GOLDEN_GAMMA * np.arange(start + 1, start + count + 1, dtype=np.uint64))


def unit_interval(label: str, *, start: int = 0) -> float:
    """Return number ``start`` of the stream that ``label`` names as a fraction in [0, 1)."""
    return int(random_bits(label, 1, start=start)[0] >> np.uint64(11)) * 2.0**-53


def is_evaluation_key(keys: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Tell which keys (non-negative integers) belong to the evaluation split; about one in five does."""
    return mix(keys.astype(np.uint64)) % np.uint64(EVALUATION_SHARE) == 0


def draw_keys(label: str, split: Split, *, width: int, count: int) -> NDArray[np.int64]:
    """Draw ``count`` different keys of ``width`` digits, without leading zero, uniformly from one split.

    ``count`` must be small against the ``9 * 10 ** (width - 1)`` keys that exist.

    Raises:
        ValueError: there is no such split.
    """
    if split not in get_args(Split):
        raise ValueError(f"split is one of {get_args(Split)}, not {split!r}")
    lowest = 10 ** (width - 1)
    chunk = 8 * EVALUATION_SHARE + 2 * EVALUATION_SHARE * count
    keys = np.empty(0, dtype=np.int64)
    start = 0
    while keys.size < count:
        drawn = random_bits(label, chunk, start=start) % np.uint64(9 * lowest) + np.uint64(lowest)
        drawn = drawn[is_evaluation_key(drawn) == (split == "evaluation")].astype(np.int64)
        keys = np.concatenate([keys, drawn])
        keys = keys[np.sort(np.unique(keys, return_index=True)[1])]
        start += chunk
    return keys[:count]


def digits_of(keys: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Return [keys, width] decimal digits, most significant first."""
    return keys[:, None] // 10 ** np.arange(width - 1, -1, -1) % 10
