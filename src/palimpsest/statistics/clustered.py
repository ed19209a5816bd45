"""The Wilson interval of a proportion over items that share a context: as if there were fewer of them."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from palimpsest.statistics.intervals import Estimate, as_codes, as_outcomes, check_level, wilson


def clustered_wilson(outcomes: ArrayLike, clusters: Sequence[Hashable], *, level: float = 0.95) -> Estimate:
    """Estimate a proportion with a Wilson interval for the effective number of independent items.

    With C clusters, the effective number is p (1 - p) / v, where v is the cluster-robust variance of the mean,
    C / (C - 1) sum_c (sum_{i in c} (x_i - p))^2 / n^2, times (t_{n - 1} / t_{C - 1})^2 for what is not known of v, and
    at most n. Where all items are right, or all are wrong, nothing says how alike the items of a cluster are: a cluster
    then counts as one item. Items that share nothing give the plain Wilson interval.

    Args:
        outcomes: 0 or 1 per item, ``[n]``.
        clusters: one label per item; equal labels make one unit.
        level: confidence level of the two-sided interval, between 0 and 1.

    Raises:
        InputError: no outcomes, one that is neither 0 nor 1, or a label missing.

    Source: Korn and Graubard (1998), Survey Methodology 24, 193-201 (the effective number); Dean and Pagano (2015),
    Journal of Survey Statistics and Methodology 3, 484-503 (Wilson's interval with it).
    """
    check_level(level)
    data = as_outcomes(outcomes, "outcomes")
    index = as_codes(clusters, len(data), "clusters")
    count, n, mean = int(index.max()) + 1, len(data), float(data.mean())
    if count == n:
        low, high = wilson(int(data.sum()), n, level)
        return Estimate(mean, low, high, n, "Wilson", level)
    low, high = _score_interval(mean, _effective(data, index, count, level), level)
    return Estimate(mean, low, high, count, f"Wilson over {count} clusters of {n} values", level)


def _effective(data: np.ndarray, index: np.ndarray, count: int, level: float) -> float:
    """Return how many independent items would say as much."""
    n, mean = len(data), float(data.mean())
    if mean in (0.0, 1.0) or count == 1:
        return float(count)
    totals = np.bincount(index, weights=data - mean)
    variance = count / (count - 1) * float((totals**2).sum()) / n**2
    if variance == 0:
        return float(n)
    tail = (1 + level) / 2
    unsure = (float(stats.t.ppf(tail, n - 1)) / float(stats.t.ppf(tail, count - 1))) ** 2
    return min(float(n), unsure * mean * (1 - mean) / variance)


def _score_interval(mean: float, n: float, level: float) -> tuple[float, float]:
    """Return Wilson's (1927) interval for a number of items that need not be whole."""
    z = float(stats.norm.ppf((1 + level) / 2))
    centre = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
