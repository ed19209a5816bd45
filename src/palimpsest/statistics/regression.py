"""Slopes: of a number on another, and of the log odds of an answer on several."""

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from palimpsest.errors import InputError
from palimpsest.statistics.intervals import Estimate, FloatArray, as_codes, as_outcomes, as_values, check_level
from palimpsest.statistics.logistic import fit, information, scores


def slope(x: ArrayLike, y: ArrayLike, *, clusters: Sequence[Hashable] | None = None, level: float = 0.95) -> Estimate:
    """Estimate the slope of y on x by least squares.

    Student's t with n - 2 degrees of freedom (equal variances), or, with ``clusters``, the cluster-robust error with
    (clusters - 1) degrees of freedom.

    Args:
        x: one number per item, ``[n]``, of which at least two differ.
        y: one number per item in the same order, ``[n]``.
        clusters: one label per item.
        level: confidence level of the two-sided interval, between 0 and 1.

    Raises:
        InputError: lists of different length, no values, one that is not finite, or x all alike.

    Source: Liang and Zeger (1986), Biometrika 73, 13-22.
    """
    check_level(level)
    first, second = as_values(x, "x"), as_values(y, "y")
    basis = _basis({"x": first}, len(second))
    n = len(second)
    inverse = np.asarray(np.linalg.inv(basis.T @ basis), dtype=np.float64)
    coefficients = inverse @ basis.T @ second
    residuals = second - basis @ coefficients
    if clusters is None:
        units, freedom, name = n, n - 2, f"least squares over {n} units"
        variance = inverse[1, 1] * float(residuals @ residuals) / max(freedom, 1)
    else:
        sums = _cluster_sums(basis * residuals[:, None], clusters)
        units, freedom = len(sums), len(sums) - 1
        name = f"least squares over {units} clusters of {n} values"
        variance = _robust(inverse, sums, n)[1, 1]
    return _t_estimate(float(coefficients[1]), variance, units, freedom, name, level)


def logistic_slopes(
    covariates: Mapping[str, ArrayLike],
    correct: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """Estimate how the log odds of a right answer move with each covariate, the others held fixed.

    Cluster-robust errors with (clusters - 1) degrees of freedom; without ``clusters`` each item is one. The fit is
    drawn to a half by (covariates + 1) added items, see ``palimpsest.statistics.logistic.fit``, so that it is finite
    where a covariate separates right from wrong; an intercept is always part of it.

    Args:
        covariates: by name, one number per item, ``[n]``; give lengths and counts as logarithms.
        correct: 0/1 outcomes, ``[n]``.
        clusters: one label per item; with ``clusters=seeds`` say so by ``over_seeds``.
        level: confidence level of the two-sided intervals, between 0 and 1.

    Raises:
        InputError: lists of different length, outcomes that are not 0/1, or covariates that determine each other.
    """
    check_level(level)
    outcomes = as_outcomes(correct, "correct")
    basis = _basis({name: as_values(values, name) for name, values in covariates.items()}, len(outcomes))
    found = fit(basis, outcomes, np.ones((1, len(outcomes))))[0]
    labels = range(len(outcomes)) if clusters is None else clusters
    sums = _cluster_sums(scores(basis, outcomes, found), labels)
    inverse = np.asarray(np.linalg.inv(information(basis, found)), dtype=np.float64)
    covariance = _robust(inverse, sums, len(outcomes))
    count = len(sums)
    name = f"logistic regression over {count} {'items' if clusters is None else 'clusters'}"
    return {
        each: _t_estimate(float(found[i]), covariance[i, i], count, count - 1, name, level)
        for i, each in enumerate(covariates, 1)
    }


def _basis(covariates: Mapping[str, FloatArray], n: int) -> FloatArray:
    """Return the columns 1 and the covariates, ``[n, k]``, checked."""
    for name, values in covariates.items():
        if len(values) != n:
            raise InputError(f"{name}: {len(values)} values for {n} outcomes; there must be one for each.")
    basis = np.stack([np.ones(n), *covariates.values()], axis=1)
    if np.linalg.matrix_rank(basis) < basis.shape[1]:
        names = ", ".join(covariates)
        raise InputError(f"{names}: constant, or determined by each other, so that no slope can be told apart.")
    return basis


def _cluster_sums(pulls: FloatArray, clusters: Sequence[Hashable]) -> FloatArray:
    """Return the sums ``[C, k]`` of rows ``[n, k]``."""
    codes = as_codes(clusters, len(pulls), "clusters")
    return np.stack([np.bincount(codes, weights=column) for column in pulls.T], axis=1).astype(np.float64)


def _robust(inverse: FloatArray, sums: FloatArray, n: int) -> FloatArray:
    """Return the sandwich covariance with the correction C / (C - 1) * (n - 1) / (n - k)."""
    count, k = sums.shape
    correction = count / max(count - 1, 1) * (n - 1) / max(n - k, 1)
    return correction * inverse @ (sums.T @ sums) @ inverse


def _t_estimate(mean: float, variance: float, units: int, freedom: int, name: str, level: float) -> Estimate:
    if freedom < 1 or variance <= 0:
        why = "too few units" if freedom < 1 else "no residual is left, its spread is unknown"
        return Estimate(mean, -math.inf, math.inf, units, f"{name}: not defined, {why}", level)
    low, high = stats.t.interval(level, freedom, loc=mean, scale=math.sqrt(variance))
    return Estimate(mean, float(low), float(high), units, name, level)
