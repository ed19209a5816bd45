"""Ratios of two means, and differences of two differences."""

import math
from collections.abc import Hashable, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from palimpsest.errors import InputError, nearest
from palimpsest.statistics.intervals import (
    BOOTSTRAP_SEED,
    RESAMPLES,
    Estimate,
    FloatArray,
    as_codes,
    as_values,
    bca,
    check_level,
    check_resamples,
)

RatioMethod = Literal["bootstrap", "fieller"]


def ratio_of_means(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    method: RatioMethod = "bootstrap",
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    rng: int | np.random.Generator = BOOTSTRAP_SEED,
) -> Estimate:
    """Estimate mean(numerator) / mean(denominator), where both numbers of index i belong to the same item or seed.

    Where the t interval of the denominator's mean (cluster-robust, of the same level) includes 0 the ratio is not
    defined: its mean is NaN and rules are INCONCLUSIVE. The share of the memory in a gain, for instance, is the ratio
    of ``long_off - long_on`` to ``short_off - long_on``, losses of the same documents (or seeds).

    * ``bootstrap``: BCa bootstrap of the ratio over units; for about 20 units and more.
    * ``fieller``: the values that a t test with (units - 1) degrees of freedom does not reject. Exact for normal
      means however few the units are: for a handful of seeds. With ``clusters=seeds`` say so by ``over_seeds``.

    Args:
        numerator: one number per item, ``[n]``.
        denominator: one number per item in the same order, ``[n]``.
        method: the interval, see above.
        clusters: one label per item; equal labels make one unit.
        level: confidence level of the two-sided interval, between 0 and 1.
        resamples: number of bootstrap draws.
        rng: seed or generator of the bootstrap.

    Raises:
        InputError: no values, a value that is not finite, or lists of different length.

    Source: Fieller (1954), Journal of the Royal Statistical Society B 16, 175-185; Efron (1987).
    """
    check_level(level)
    check_resamples(resamples)
    if method not in get_args(RatioMethod):
        raise InputError(f"Unknown ratio method '{method}'.{nearest(method, get_args(RatioMethod))}")
    above, below = as_values(numerator, "numerator"), as_values(denominator, "denominator")
    if len(above) != len(below):
        raise InputError(f"A ratio needs the same items on both sides, got {len(above)} above and {len(below)} below.")
    units = _sums(np.stack([above, below, np.ones_like(above)], axis=1), clusters)
    count = len(units)
    names = {"bootstrap": f"BCa bootstrap of a ratio, {resamples} resamples", "fieller": "Fieller interval of a ratio"}
    name = f"{names[method]}, {count} units"
    if count < 2:
        return Estimate(math.nan, -math.inf, math.inf, count, f"{name}: not defined, needs two units or more", level)
    top, bottom, covariance = _means(units)
    t = float(stats.t.ppf((1 + level) / 2, count - 1))
    if bottom**2 <= t**2 * covariance[1, 1]:
        why = f"the {100 * level:g} % interval of the denominator includes 0"
        return Estimate(math.nan, -math.inf, math.inf, count, f"{name}: not defined, {why}", level)
    if method == "fieller":
        low, high = _fieller(top, bottom, covariance, t)
    else:
        low, high = bca((units[:, 0], units[:, 1]), level, resamples, rng)
    return Estimate(top / bottom, low, high, count, name, level)


def difference_in_differences(
    treated: tuple[ArrayLike, ArrayLike],
    control: tuple[ArrayLike, ArrayLike],
    *,
    clusters: tuple[Sequence[Hashable], Sequence[Hashable]] | None = None,
    level: float = 0.95,
) -> Estimate:
    """Estimate how much more the treated items changed than the controls: mean(after - before) of one minus the other.

    Items or clusters that only one side has are independent of the other side: Welch's t on the changes, with
    Satterthwaite's degrees of freedom. Clusters that occur on both sides tie them together: cluster-robust t with
    (clusters - 1) degrees of freedom, which for the same items on both sides is the paired t.

    Args:
        treated: ``(after, before)``, each ``[n]``, item by item.
        control: ``(after, before)``, each ``[m]``, item by item.
        clusters: labels of the treated ``[n]`` and of the control items ``[m]``.
        level: confidence level of the two-sided interval, between 0 and 1.

    Raises:
        InputError: lists of different length inside one side, no values, or one that is not finite.

    Source: Liang and Zeger (1986) for the clustered form; Welch (1947).
    """
    check_level(level)
    changes = [_change(*treated, "treated"), _change(*control, "control")]
    sizes = [len(change) for change in changes]
    labels = clusters if clusters is not None else ([*range(sizes[0])], [*range(sizes[0], sum(sizes))])
    sides = [as_codes(own, size, name) for own, size, name in zip(labels, sizes, ("treated", "control"), strict=True)]
    codes = as_codes([*labels[0], *labels[1]], sum(sizes), "clusters")
    mean = float(changes[0].mean() - changes[1].mean())
    pulls = [(change - change.mean()) / len(change) for change in changes]
    if not set(codes[: sizes[0]].tolist()) & set(codes[sizes[0] :].tolist()):
        counts = [int(side.max()) + 1 for side in sides]
        name = f"Welch t of two changes over {counts[0]} and {counts[1]} units"
        errors = [_square(pull, side) for pull, side in zip(pulls, sides, strict=True)]
        variance = sum(errors)
        parts = [error**2 / (count - 1) for error, count in zip(errors, counts, strict=True) if count > 1]
        freedom = variance**2 / sum(parts) if min(counts) > 1 and variance > 0 else math.nan
    else:
        counts = [int(codes.max()) + 1]
        name = f"cluster-robust t of two changes over {counts[0]} units"
        variance = _square(np.concatenate([pulls[0], -pulls[1]]), codes)
        freedom = counts[0] - 1.0
    if min(counts) < 2 or variance <= 0:
        why = "needs two units or more" if min(counts) < 2 else "the units are all alike, their spread is unknown"
        return Estimate(mean, -math.inf, math.inf, sum(counts), f"{name}: not defined, {why}", level)
    low, high = stats.t.interval(level, freedom, loc=mean, scale=math.sqrt(variance))
    return Estimate(mean, float(low), float(high), sum(counts), name, level)


def _sums(values: FloatArray, clusters: Sequence[Hashable] | None) -> FloatArray:
    """Return the sums ``[units, columns]`` of values ``[n, columns]`` in each cluster."""
    if clusters is None:
        return values
    codes = as_codes(clusters, len(values), "clusters")
    return np.stack([np.bincount(codes, weights=column) for column in values.T], axis=1).astype(np.float64)


def _means(units: FloatArray) -> tuple[float, float, FloatArray]:
    """Return two means over items and the cluster-robust covariance of both, ``[2, 2]``."""
    count, n = len(units), units[:, 2].sum()
    means = units[:, :2].sum(axis=0) / n
    pulls = (units[:, :2] - units[:, 2:] * means) / n
    return float(means[0]), float(means[1]), count / (count - 1) * pulls.T @ pulls


def _fieller(top: float, bottom: float, covariance: FloatArray, t: float) -> tuple[float, float]:
    """Solve (top - x bottom)^2 = t^2 Var(top - x bottom) for x; the denominator is known not to be 0."""
    square = bottom**2 - t**2 * covariance[1, 1]
    middle = top * bottom - t**2 * covariance[0, 1]
    root = math.sqrt(max(0.0, middle**2 - square * (top**2 - t**2 * covariance[0, 0])))
    return (middle - root) / square, (middle + root) / square


def _change(after: ArrayLike, before: ArrayLike, name: str) -> FloatArray:
    first, second = as_values(after, f"{name} after"), as_values(before, f"{name} before")
    if len(first) != len(second):
        raise InputError(f"{name}: a change needs the same items, got {len(first)} after and {len(second)} before.")
    return first - second


def _square(pulls: FloatArray, codes: np.ndarray) -> float:
    """Return the cluster-robust variance of a mean from what each item pulls it by."""
    sums = np.bincount(codes, weights=pulls)
    return float(len(sums) / max(len(sums) - 1, 1) * np.sum(sums**2))
