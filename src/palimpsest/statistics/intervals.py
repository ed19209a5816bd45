"""Interval estimates of one mean: an accuracy, a loss, an effect over seeds.

The unit that was sampled independently carries the uncertainty. Items that share a context, and items
answered by the same trained model, are not independent of each other: pass what they share as ``clusters``.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from palimpsest.errors import InputError, nearest
from palimpsest.records import EstimateRecord

Method = Literal["wilson", "clopper_pearson", "t", "bootstrap"]
FloatArray: TypeAlias = NDArray[np.float64]
IndexArray: TypeAlias = NDArray[np.intp]

BOOTSTRAP_SEED = 0
RESAMPLES = 10_000

_PROPORTION_NAMES = {"wilson": "Wilson", "clopper_pearson": "Clopper-Pearson"}
_BATCH_ELEMENTS = 2_000_000  # resampled values held at once, so that 10,000 units do not need gigabytes
_SAME = 1e-12  # relative spread below which unit means differ by rounding alone


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval ``[low, high]`` at confidence ``level``, from ``n`` units by ``method``.

    Where the data cannot bound the mean (one seed, or units that are all alike) the interval is everything,
    ``(-inf, inf)``, and ``method`` says why; a rule that asks for the interval is then INCONCLUSIVE. A number that does
    not exist (a ratio to nothing) has a mean of NaN. ``seeds`` counts the trained models that the interval generalises
    over; None says that it speaks of one checkpoint.
    """

    mean: float
    low: float
    high: float
    n: int
    method: str
    level: float = 0.95
    seeds: int | None = None

    @property
    def bounded(self) -> bool:
        """Whether the data gave an interval at all."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def over_seeds(self, count: int) -> "Estimate":
        """Return the same estimate, said to generalise over ``count`` trained models."""
        return replace(self, seeds=count)

    def record(self) -> EstimateRecord:
        """Return the row that is written to disk; an interval that is not defined keeps its infinite ends."""
        return EstimateRecord(
            mean=self.mean, low=self.low, high=self.high, n=self.n, method=self.method, level=self.level
        )

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return f"not a number ({self.method})"
        if math.isinf(self.low) and math.isinf(self.high):
            return f"{self.mean:.4g} (no interval; {self.method})"
        return (
            f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}] "
            f"({100 * self.level:g} % interval, n = {self.n}; {self.method})"
        )


def estimate(
    values: ArrayLike,
    *,
    method: Method = "wilson",
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    rng: int | np.random.Generator = BOOTSTRAP_SEED,
) -> Estimate:
    """Estimate the mean of ``values`` with a two-sided interval.

    * ``wilson`` (for display) and ``clopper_pearson`` (for claims of "at least"): independent 0/1 outcomes.
    * ``t``: values of any kind, Student's t with one degree of freedom fewer than there are units. With
      ``clusters`` the standard error is the cluster-robust
      sqrt(C / (C-1) * sum_c (sum_{i in c} (x_i - mean))^2) / n; for clusters of one size that is the
      t interval of the cluster means, so ``clusters=seeds`` is the interval over seeds.
    * ``bootstrap``: BCa bootstrap of the mean over units; whole clusters are drawn with replacement. Prefer
      ``t`` below about 20 clusters, where the bootstrap is too narrow.

    Args:
        values: one number per item, ``[n]``.
        method: the interval, see above.
        clusters: one label per item, equal labels make one unit; only for ``t`` and ``bootstrap``.
        level: confidence level of the two-sided interval, between 0 and 1.
        resamples: number of bootstrap draws.
        rng: seed or generator of the bootstrap; the default is fixed, so that a report can be made twice.

    Raises:
        InputError: no values, a value that is not finite (for a proportion: not 0/1), or a label missing.

    Source: Wilson (1927); Clopper and Pearson (1934); Efron (1987); Miller (2024, arXiv:2411.00640).
    """
    check_level(level)
    check_resamples(resamples)
    if method not in get_args(Method):
        raise InputError(f"Unknown interval method '{method}'.{nearest(method, get_args(Method))}")
    if method in ("wilson", "clopper_pearson"):
        if clusters is not None:
            raise InputError(
                f"Method '{method}' takes items as independent and has no clusters: use 't' or 'bootstrap'."
            )
        return _proportion(as_outcomes(values, "values"), method, level)
    data = as_values(values, "values")
    totals, sizes = _units(data, clusters)
    units = _unit_names(len(totals), len(data), clusters is not None)
    mean = float(totals.sum() / sizes.sum())
    name = f"t over {units}" if method == "t" else f"BCa bootstrap over {units}, {resamples} resamples"
    if len(totals) < 2 or no_spread(totals / sizes):
        why = "needs two units or more" if len(totals) < 2 else "the units are all alike, their spread is unknown"
        return Estimate(mean, -math.inf, math.inf, len(totals), f"{name}: not defined, {why}", level)
    if method == "t":
        low, high = _t_interval(totals, sizes, level)
    else:
        low, high = bca((totals, sizes), level, resamples, rng)
    return Estimate(mean, low, high, len(totals), name, level)


def counted(value: float, n: int, *, level: float = 0.95) -> Estimate:
    """Return a number that is known exactly, such as bytes or documents with a hit, as an estimate without width."""
    return Estimate(float(value), float(value), float(value), n, "counted", level)


def as_values(values: ArrayLike, name: str) -> FloatArray:
    """Return ``values`` as a float vector ``[n]``.

    Raises:
        InputError: not a vector of numbers, empty, or with a value that is not finite; it names ``name``.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected one number per item, got something else ({error}).") from error
    if array.ndim != 1:
        raise InputError(f"{name}: expected one number per item, got an array of shape {array.shape}.")
    if array.size == 0:
        raise InputError(f"{name}: empty, but an estimate needs at least one item.")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise InputError(f"{name}: item {bad[0]} is {array[bad[0]]}, but every item must be a finite number.")
    return array


def as_outcomes(values: ArrayLike, name: str) -> FloatArray:
    """Return ``values`` as a float vector ``[n]`` of zeros and ones.

    Raises:
        InputError: as ``as_values``, or a value that is neither 0 nor 1.
    """
    array = as_values(values, name)
    bad = np.flatnonzero((array != 0) & (array != 1))
    if bad.size:
        raise InputError(
            f"{name}: item {bad[0]} is {array[bad[0]]:g}, but a proportion needs outcomes that are 0 or 1."
        )
    return array


def as_codes(labels: Sequence[Hashable], count: int, name: str) -> IndexArray:
    """Return labels as numbers ``[count]`` from 0 in order of appearance.

    Raises:
        InputError: not one label for each of the ``count`` values.
    """
    if len(labels) != count:
        raise InputError(f"{name}: {len(labels)} labels for {count} values; there must be one for each.")
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(label, len(codes)) for label in labels], dtype=np.intp)


def check_level(level: float) -> None:
    """Raise InputError unless ``level`` is a confidence level strictly between 0 and 1."""
    if not 0 < level < 1:
        raise InputError(f"Confidence level {level} must lie between 0 and 1, for example 0.95.")


def check_resamples(resamples: int) -> None:
    """Raise InputError unless a bootstrap of ``resamples`` draws is possible."""
    if resamples < 1:
        raise InputError(f"resamples is {resamples}, but a bootstrap needs at least 1, better 1,000 and more.")


def wilson(successes: int, n: int, level: float) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion."""
    interval = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def bca(
    sums: tuple[FloatArray, FloatArray], level: float, resamples: int, rng: int | np.random.Generator
) -> tuple[float, float]:
    """Return the BCa bootstrap interval of sum(first) / sum(second) over units, both ``[C]``."""

    def ratio(first: FloatArray, second: FloatArray, axis: int) -> FloatArray:
        return first.sum(axis=axis) / second.sum(axis=axis)

    result = stats.bootstrap(
        sums,
        ratio,
        n_resamples=resamples,
        batch=max(1, _BATCH_ELEMENTS // len(sums[0])),
        vectorized=True,
        paired=True,
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(rng),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def no_spread(means: FloatArray) -> bool:
    """Whether unit means ``[C]`` are all equal up to rounding."""
    return bool(np.ptp(means) <= _SAME * np.abs(means).max())


def _proportion(outcomes: FloatArray, method: Method, level: float) -> Estimate:
    n, successes = len(outcomes), int(outcomes.sum())
    if method == "wilson":
        low, high = wilson(successes, n, level)
    else:
        exact = stats.binomtest(successes, n).proportion_ci(level, method="exact")
        low, high = float(exact.low), float(exact.high)
    return Estimate(successes / n, low, high, n, _PROPORTION_NAMES[method], level)


def _units(values: FloatArray, clusters: Sequence[Hashable] | None) -> tuple[FloatArray, FloatArray]:
    """Return sum and number of values of each unit, both ``[C]``; without clusters each value is a unit."""
    if clusters is None:
        return values, np.ones_like(values)
    index = as_codes(clusters, len(values), "clusters")
    totals = np.asarray(np.bincount(index, weights=values), dtype=np.float64)
    return totals, np.bincount(index).astype(np.float64)


def _unit_names(units: int, values: int, clustered: bool) -> str:
    noun = "cluster" if clustered else "unit"
    plural = "" if units == 1 else "s"
    return f"{units} {noun}{plural}" + (f" of {values} values" if clustered else "")


def _t_interval(totals: FloatArray, sizes: FloatArray, level: float) -> tuple[float, float]:
    count, n = len(totals), sizes.sum()
    mean = totals.sum() / n
    error = math.sqrt(count / (count - 1) * np.sum((totals - sizes * mean) ** 2)) / n
    low, high = stats.t.interval(level, count - 1, loc=mean, scale=error)
    return float(low), float(high)
