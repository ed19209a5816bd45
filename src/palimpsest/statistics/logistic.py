"""Maximum-likelihood fits of logistic models, many reweighted samples at a time."""

import numpy as np
from scipy.special import expit

from palimpsest.statistics.intervals import FloatArray

_STEPS = 60
_TOLERANCE = 1e-8
_LONGEST_STEP = 4.0  # log odds; a longer Newton step overshoots where the data are nearly separated
_DAMPING = 1e-9


def fit(
    basis: FloatArray,
    correct: FloatArray,
    weights: FloatArray,
    *,
    floor: float = 0.0,
    start: FloatArray | None = None,
) -> FloatArray:
    """Fit P = floor + (1 - floor) / (1 + exp(-basis @ coefficients)) to weighted outcomes by Fisher scoring.

    Each item is joined by k / (2 n) of a success and as much of a failure of the sigmoid (k coefficients, n items): k
    items in all, as in the "plus four" interval of a proportion. So the fit is finite where outcomes are separated, all
    alike, or no better than guessing, and moves by O(k / n) elsewhere.

    Args:
        basis: ``[n, k]``.
        correct: 0/1 outcomes, ``[n]``.
        weights: how often each item stands in each of B samples, ``[B, n]``.
        floor: what guessing scores, at least 0 and below 1.
        start: coefficients to begin from, ``[k]``.

    Returns:
        Coefficients ``[B, k]``.

    Source: Clogg et al. (1991), Sociological Methodology 21, 331-356, for the added items.
    """
    k = basis.shape[1]
    found = np.tile(np.zeros(k) if start is None else start, (len(weights), 1))
    open_rows = np.arange(len(weights))
    for _ in range(_STEPS):
        score, matrix = _score_and_information(basis, correct, weights[open_rows], found[open_rows], floor)
        matrix[:, range(k), range(k)] += _DAMPING
        step = np.linalg.solve(matrix, score[..., None])[..., 0]
        longest = np.abs(step).max(axis=1)
        found[open_rows] += step * np.minimum(1.0, _LONGEST_STEP / np.maximum(longest, 1e-300))[:, None]
        open_rows = open_rows[longest > _TOLERANCE]
        if not open_rows.size:
            break
    return found


def information(basis: FloatArray, coefficients: FloatArray, *, floor: float = 0.0) -> FloatArray:
    """Return Fisher's information ``[k, k]`` of one fit, the added items included."""
    n = len(basis)
    return _score_and_information(basis, np.zeros(n), np.ones((1, n)), coefficients[None], floor)[1][0]


def scores(basis: FloatArray, correct: FloatArray, coefficients: FloatArray) -> FloatArray:
    """Return what each item adds to the score of one fit without a floor, ``[n, k]``."""
    return basis * (correct - chance(basis @ coefficients))[:, None]


def chance(log_odds: FloatArray, floor: float = 0.0) -> FloatArray:
    """Return floor + (1 - floor) sigmoid(log_odds)."""
    return floor + (1 - floor) * expit(log_odds)


def _score_and_information(
    basis: FloatArray, correct: FloatArray, weights: FloatArray, coefficients: FloatArray, floor: float
) -> tuple[FloatArray, FloatArray]:
    """Return the score ``[B, k]`` and the expected information ``[B, k, k]``."""
    n, k = basis.shape
    added = k / n
    sigmoid = chance(coefficients @ basis.T)
    p = floor + (1 - floor) * sigmoid
    lift = sigmoid / p if floor else np.ones_like(p)  # (dP / d log odds) / (P (1 - P))
    score = weights * (correct - p) * lift + added * (0.5 - sigmoid)
    density = (weights * lift * (1 - floor) + added) * sigmoid * (1 - sigmoid)
    products = (basis[:, :, None] * basis[:, None, :]).reshape(n, k * k)
    return score @ basis, (density @ products).reshape(-1, k, k)
