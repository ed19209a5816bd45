"""Accuracy as a function of distance, load or hops: a logistic curve with a band that holds everywhere at once."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.interpolate import CubicSpline

from palimpsest.errors import InputError
from palimpsest.statistics.intervals import (
    BOOTSTRAP_SEED,
    Estimate,
    FloatArray,
    as_outcomes,
    as_values,
    check_level,
    check_resamples,
)
from palimpsest.statistics.logistic import chance, fit, information
from palimpsest.statistics.resampling import Design, batches, cell_weights, design, generator

_GRID = 201  # points on the axis, evenly spaced in log x
_NORMAL_DRAWS = 4000


@dataclass(frozen=True, slots=True)
class Shape:
    """What a curve may look like: log odds are a natural cubic spline in log x with so many ``knots``.

    Two knots make a straight line; six follow a plateau that ends in a slope. ``floor`` is what guessing scores:
    P = floor + (1 - floor) sigmoid(log odds).
    """

    knots: int = 6
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.knots < 2:
            raise InputError(f"knots is {self.knots}, but a curve needs at least 2, which make a straight line.")
        if not 0 <= self.floor < 1:
            raise InputError(f"floor is {self.floor}, but what guessing scores is at least 0 and below 1.")


@dataclass(frozen=True, slots=True)
class Crossing:
    """A place on the axis with its interval: an estimate, or a bound where the tested range does not reach it.

    The mean of ``estimate`` is 0 where the place lies below everything ``tested`` (smallest, largest) and infinite
    where it lies above; so is an end of its interval that the range does not reach. The largest tested x then stands
    as the lower end, and the smallest as the upper end: a bound, never the estimate itself.
    """

    estimate: Estimate
    tested: tuple[float, float]

    @property
    def censored(self) -> bool:
        """Whether the tested range does not reach the place."""
        return self.estimate.mean in (0, math.inf)

    def __str__(self) -> str:
        (smallest, largest), found = self.tested, self.estimate
        low = f"below {smallest:g}" if found.low <= 0 else f"{found.low:.4g}"
        high = f"above {largest:g}" if math.isinf(found.high) else f"{found.high:.4g}"
        interval = f"{100 * found.level:g} % interval {low} to {high}"
        if math.isnan(found.mean):
            return f"not a number ({found.method})"
        if not self.censored:
            return f"{found.mean:.4g} ({interval})"
        bound = f"> {largest:g}, the largest" if math.isinf(found.mean) else f"< {smallest:g}, the smallest"
        return f"not reached: {bound} tested ({interval})"


@dataclass(frozen=True, slots=True)
class LogisticCurve:
    """A fitted curve on a grid, with a band that contains the whole true curve at confidence ``level``.

    Attributes:
        x: the grid from the smallest to the largest tested value, ``[G]``.
        mean: fitted accuracy, ``[G]``.
        low: lower end of the simultaneous band, ``[G]``; minus infinity where there is no band.
        high: upper end, ``[G]``.
        error: standard error of arcsin(sqrt((mean - floor) / (1 - floor))), widened for few units, ``[G]``.
        draws: accuracy in the bootstrap draws, ``[B, G]``.
        widening: what ``error`` was multiplied with for few units.
        shape: the shape of the curve.
        n: the number of units: seeds if they were given, else clusters, else items.
        method: how the band was made.
        level: its confidence level.
        seeds: the number of seeds, None for a statement about one checkpoint.
    """

    x: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    error: FloatArray
    draws: FloatArray
    widening: float
    shape: Shape
    n: int
    method: str
    level: float
    seeds: int | None

    def lowest(self, start: float = 0.0, end: float = math.inf) -> Estimate:
        """Estimate the lowest accuracy between ``start`` and ``end``, for the rule ``band_at_least``.

        The lowest points of both ends of a simultaneous band are an interval of the lowest point of the curve.

        Raises:
            InputError: nothing was tested between ``start`` and ``end``.
        """
        inside = (self.x >= start * (1 - 1e-9)) & (self.x <= end * (1 + 1e-9))
        if not inside.any():
            raise InputError(f"No part of {start:g} to {end:g} lies between {self.x[0]:g} and {self.x[-1]:g}.")
        ends = [float(each[inside].min()) for each in (self.mean, self.low, self.high)]
        return Estimate(ends[0], ends[1], ends[2], self.n, self.method, self.level, self.seeds)


def logistic_curve(
    x: ArrayLike,
    correct: ArrayLike,
    *,
    shape: Shape = Shape(),
    clusters: Sequence[Hashable] | None = None,
    seeds: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    rng: int | np.random.Generator = BOOTSTRAP_SEED,
) -> LogisticCurve:
    """Fit the accuracy of items as a smooth function of log x, with a simultaneous band by max-t bootstrap.

    Knots stand at even quantiles of the distinct tested x. On the angular scale arcsin(sqrt(S)), S being the share
    (P - floor) / (1 - floor), the band is the fit -/+ c times the standard error of the bootstrap draws (never below
    that of the model); c is the ``level`` quantile of the largest standardised deviation of a draw along the curve
    (never below that of the normal approximation). With U units at the top it is widened by
    sqrt(U / (U - 1)) t_{U-1} / z. Draws resample seeds, then clusters, as ``hierarchical_bootstrap`` does.

    The band speaks of curves that the shape can follow: a cliff sharper than the knots can draw is smoothed, and the
    band with it. Simulated coverage at 95 % (``docs/statistics.md``): 92 to 95 % for independent items and clusters,
    99 % where nearly all answers are right, nearly 100 % for 5 seeds, where the widening multiplies what the items
    contribute too; 89 % where six knots smooth a cliff sampled by 2,500 items.

    Args:
        x: distance, load or hops of each item, above 0, ``[n]``.
        correct: 0/1 outcomes, ``[n]``.
        shape: knots and floor.
        clusters: what items share; without it each item is its own.
        seeds: the training seed behind each item, for a claim over trained models.
        level: confidence level of the whole band.
        resamples: number of bootstrap draws.
        rng: seed or generator of the bootstrap.

    Raises:
        InputError: lists of different length, an x not above 0, an outcome not 0/1, or fewer distinct x than knots.

    Source: Hastie, Tibshirani and Friedman (2009), section 5.2.1, for natural splines; Montiel Olea and
    Plagborg-Moller (2019), Journal of Applied Econometrics 34, 1-17, for bands by max-t.
    """
    check_level(level)
    check_resamples(resamples)
    place, outcomes = _checked(x, correct)
    spline, floor = _spline(place, shape), shape.floor
    axis = np.linspace(spline.x[0], spline.x[-1], _GRID)
    basis, grid = spline(place), spline(axis)
    plan = design(len(place), clusters, seeds)
    best = fit(basis, outcomes, np.ones((1, len(place))), floor=floor)[0]
    coefficients = _resampled(basis, outcomes, plan, floor, best, resamples, rng)
    mean, draws = chance(grid @ best, floor), chance(coefficients @ grid.T, floor)
    root = np.linalg.cholesky(np.linalg.inv(information(basis, best, floor=floor)))
    angle = _angle(mean, floor)
    error, critical = _band(angle, _angle(draws, floor), _pull(grid @ best)[:, None] * (grid @ root), level)
    widening = _widening(plan.units, level)
    low, high = (_accuracy(angle + side * critical * widening * error, floor) for side in (-1, 1))
    top = "seeds" if seeds is not None else "items" if clusters is None else "clusters"
    name = f"simultaneous band of a logistic spline with {shape.knots} knots over {plan.units} {top}"
    if plan.units < 2:
        low, high, name = np.full(_GRID, -math.inf), np.full(_GRID, math.inf), f"{name}: not defined, needs two or more"
    count = None if seeds is None else plan.units
    error = widening * error
    return LogisticCurve(np.exp(axis), mean, low, high, error, draws, widening, shape, plan.units, name, level, count)


def distance_at(curve: LogisticCurve, accuracy: float) -> Crossing:
    """Return up to which x the accuracy stays at or above a value: d90 for 0.9, d50 for 0.5.

    It is the first x where the fitted curve falls below; the interval lies between the first x where the lower end of
    the pointwise interval does and the first x where its upper end does. Ends that the tested range does not reach are
    bounds, see ``Crossing``.

    Raises:
        InputError: an accuracy that is not between the floor of the curve and 1.
    """
    if not curve.shape.floor < accuracy < 1:
        raise InputError(f"accuracy is {accuracy:g}, but it must lie between the floor {curve.shape.floor:g} and 1.")
    half = float(stats.norm.ppf((1 + curve.level) / 2)) * curve.error
    angle = _angle(curve.mean, curve.shape.floor)
    axis, target = np.log(curve.x), float(_angle(np.array(accuracy), curve.shape.floor))
    value, low, high = (_first_below(axis, angle + side * half, target) for side in (0, -1, 1))
    return _crossing(curve, value, low, high, f"x where accuracy falls below {accuracy:g}")


def steepest(curve: LogisticCurve) -> Crossing:
    """Return where accuracy falls fastest per unit of log x: the point of saturation.

    The interval is that of the bootstrap draws (percentiles in log x, widened as the band is). Where the fall is
    steepest at an end of the tested range, the point lies at that end or beyond it: censored. Where a flat line fits
    into the band, no fall is shown and the point is not defined (NaN).
    """
    axis = np.log(curve.x)
    if curve.low.max() <= curve.high.min():
        return _crossing(
            curve, math.nan, -math.inf, math.inf, "x where accuracy falls fastest: not defined, none shown"
        )
    value = float(_steepest(axis, curve.mean[None])[0])
    found = _steepest(axis, curve.draws)
    tail = (1 - curve.level) / 2
    low = float(np.quantile(found, tail, method="lower"))
    high = float(np.quantile(found, 1 - tail, method="higher"))
    if math.isfinite(value):
        low, high = value + curve.widening * (low - value), value + curve.widening * (high - value)
    low = -math.inf if low <= axis[0] else low
    high = math.inf if high >= axis[-1] else high
    return _crossing(curve, value, low, high, "x where accuracy falls fastest")


def _checked(x: ArrayLike, correct: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return log x and the outcomes."""
    place, outcomes = as_values(x, "x"), as_outcomes(correct, "correct")
    if len(place) != len(outcomes):
        raise InputError(f"x and correct must belong to the same items, got {len(place)} and {len(outcomes)}.")
    if place.min() <= 0:
        raise InputError(f"x: item {place.argmin()} is {place.min():g}, but a logarithmic axis needs values above 0.")
    return np.log(place), outcomes


def _resampled(
    basis: FloatArray,
    outcomes: FloatArray,
    plan: Design,
    floor: float,
    start: FloatArray,
    resamples: int,
    rng: int | np.random.Generator,
) -> FloatArray:
    """Return the coefficients of each bootstrap draw, ``[resamples, k]``."""
    random = generator(rng)
    found = []
    for draws in batches(resamples, len(basis)):
        weights = cell_weights(plan, draws, random)[:, plan.cells]
        found.append(fit(basis, outcomes, weights, floor=floor, start=start))
    return np.concatenate(found)


def _spline(place: FloatArray, shape: Shape) -> CubicSpline:
    """Return the cardinal natural spline: its k columns are curves that are 1 at one knot and 0 at the others."""
    distinct = np.unique(place)
    if len(distinct) < shape.knots:
        raise InputError(f"x has {len(distinct)} distinct values, fewer than the {shape.knots} knots of the curve.")
    knots = np.quantile(distinct, np.linspace(0, 1, shape.knots))
    return CubicSpline(knots, np.eye(shape.knots), bc_type="natural")


def _widening(units: int, level: float) -> float:
    """Return what a bootstrap of few units is too narrow by: its variance, and normal against t quantiles."""
    if units < 2:
        return 1.0  # there is no interval to widen
    upper = (1 + level) / 2
    return math.sqrt(units / (units - 1)) * float(stats.t.ppf(upper, units - 1) / stats.norm.ppf(upper))


def _angle(accuracy: FloatArray, floor: float) -> FloatArray:
    """Return arcsin(sqrt(share)), where share is how much of what lies above the floor is reached."""
    return np.arcsin(np.sqrt(np.clip((accuracy - floor) / (1 - floor), 0, 1)))


def _accuracy(angle: FloatArray, floor: float) -> FloatArray:
    """Return the accuracy of an angle, cut to what it can be."""
    return floor + (1 - floor) * np.sin(np.clip(angle, 0, math.pi / 2)) ** 2


def _pull(log_odds: FloatArray) -> FloatArray:
    """Return the derivative of the angle by the log odds, sqrt(share (1 - share)) / 2."""
    return np.sqrt(chance(log_odds) * chance(-log_odds)) / 2


def _band(centre: FloatArray, draws: FloatArray, model: FloatArray, level: float) -> tuple[FloatArray, float]:
    """Return the standard error along the curve and the critical value of the largest deviation.

    ``model`` ``[G, k]`` times k standard normal numbers is a deviation of the curve as the model expects it.
    """
    normal = np.random.default_rng(BOOTSTRAP_SEED).standard_normal((_NORMAL_DRAWS, model.shape[1]))
    expected = np.linalg.norm(model, axis=1)
    error = np.maximum(draws.std(axis=0), expected)
    deviations = [np.abs(draws - centre) / error, np.abs(normal @ model.T) / expected]
    return error, max(float(np.quantile(each.max(axis=1), level, method="higher")) for each in deviations)


def _first_below(axis: FloatArray, angle: FloatArray, target: float) -> float:
    """Return the first point on the axis where a curve falls below, -inf if before all of it, inf if nowhere."""
    below = np.flatnonzero(angle < target)
    if not below.size:
        return math.inf
    after = int(below[0])
    if after == 0:
        return -math.inf
    share = (angle[after - 1] - target) / (angle[after - 1] - angle[after])
    return float(axis[after - 1] + share * (axis[after] - axis[after - 1]))


def _steepest(axis: FloatArray, accuracy: FloatArray) -> FloatArray:
    """Return where each curve of ``[B, G]`` falls fastest in accuracy, -inf or inf at the ends of the axis."""
    slopes = np.diff(accuracy, axis=1)
    at = slopes.argmin(axis=1)
    points = (axis[1:] + axis[:-1])[at] / 2
    return np.where(at == 0, -math.inf, np.where(at == slopes.shape[1] - 1, math.inf, points))


def _crossing(curve: LogisticCurve, value: float, low: float, high: float, what: str) -> Crossing:
    """Go back from the logarithmic axis; an end that is not reached leaves the tested end as the bound."""
    smallest, largest = float(curve.x[0]), float(curve.x[-1])
    mean = math.exp(value)
    low = largest if low == math.inf else math.exp(low)
    high = smallest if high == -math.inf else math.exp(high)
    if curve.n < 2:
        low, high = 0.0, math.inf
    name = f"{what}, {curve.method}"
    return Crossing(Estimate(mean, low, high, curve.n, name, curve.level, curve.seeds), (smallest, largest))
