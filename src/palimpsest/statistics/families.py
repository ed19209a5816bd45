"""Many tests at once: what their p-values are worth together."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from palimpsest.errors import InputError
from palimpsest.statistics.intervals import FloatArray, as_values


def holm(pvalues: ArrayLike) -> FloatArray:
    """Return Holm's adjusted p-values ``[m]`` in the order given; reject those up to the family-wise level.

    For claims: the chance of one false claim or more stays below the level, whatever the dependence.

    Raises:
        InputError: no p-values, or one outside [0, 1].

    Source: Holm (1979), Scandinavian Journal of Statistics 6, 65-70.
    """
    raw = _as_pvalues(pvalues)
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def benjamini_hochberg(pvalues: ArrayLike) -> FloatArray:
    """Return Benjamini and Hochberg's adjusted p-values ``[m]`` in the order given; reject those up to the rate.

    For maps of many cells: of the cells that are pointed out, at most that share is false on average, where the tests
    are independent or positively dependent.

    Raises:
        InputError: as ``holm``.

    Source: Benjamini and Hochberg (1995), Journal of the Royal Statistical Society B 57, 289-300.
    """
    return np.asarray(stats.false_discovery_control(_as_pvalues(pvalues), method="bh"), dtype=np.float64)


def _as_pvalues(pvalues: ArrayLike) -> FloatArray:
    raw = as_values(pvalues, "pvalues")
    outside = np.flatnonzero((raw < 0) | (raw > 1))
    if outside.size:
        raise InputError(f"pvalues: item {outside[0]} is {raw[outside[0]]:g}, but a p-value lies between 0 and 1.")
    return raw
