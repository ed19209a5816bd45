"""What theory says of memories that are filled with random pairs: closed forms in float64, no simulation.

A read is ``r = own v_j + noise``: the value that was asked for, and what all other pairs left. The answer is the code
that has the largest product with it. For a given r the products with codes that have nothing to do with it are those of
r with random vectors, so that the chance of the right answer is one integral over the noise of the right product. What
the laws differ in is own and noise.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, optimize, special, stats

Floats = NDArray[np.float64]

_X = np.linspace(-8.0, 8.0, 161)
_WEIGHTS = stats.norm.pdf(_X) * (_X[1] - _X[0])
"""Nodes of the mean over a standard normal: for smooth functions the trapezoid rule is exact to rounding."""

_GRID = np.linspace(-1.0, 1.0, 8001)
"""Cosines between which a distribution is interpolated."""

_TINY = float(np.finfo(float).tiny)


class Code(NamedTuple):
    """The values among which a read is decoded: V random vectors in R^{d_v}.

    ``unit``: of length one; otherwise their numbers are normal with variance 1 / d_v, and their lengths vary.
    """

    codes: int
    d_v: int
    unit: bool = True


def expected_maximum(count: int) -> float:
    """Return E_C, the mean of the largest of ``count`` standard normal numbers."""

    def density(x: float) -> float:
        return x * count * stats.norm.pdf(x) * special.ndtr(x) ** (count - 1)

    return float(integrate.quad(density, -10.0, 10.0, limit=400)[0])


def elu_moments(mean: float, deviation: float) -> tuple[float, float]:
    """Return E phi and E phi^2 of phi = ELU(x) + 1 for x ~ N(mean, deviation^2)."""
    # below zero phi = exp(x), above it x + 1: both parts are moments of a cut normal distribution
    at, variance = -mean / deviation, deviation**2
    above, edge = special.ndtr(-at), float(stats.norm.pdf(at))
    first = mean * above + deviation * edge
    second = (variance + mean**2) * above + deviation * mean * edge
    below = [
        math.exp(k * mean + k * k * variance / 2) * special.ndtr(-(mean + k * variance) / deviation) for k in (1, 2)
    ]
    return float(below[0] + first + above), float(below[1] + second + 2 * first + above)


def common_mode_ratio(mean: float, deviation: float) -> float:
    """Return kappa = m^4 / s^4 of ELU + 1: how much the part common to all keys exceeds a key's own, per pair."""
    first, second = elu_moments(mean, deviation)
    return first**4 / (second - first**2) ** 2


def recall(own: ArrayLike, noise: ArrayLike, load: float, code: Code) -> Floats:
    """Return how often a read ``own v_j + noise`` has its largest product with v_j ``[J]``.

    ``noise`` is its root mean square length, what ``load`` other pairs without a common mode left. Among few pairs

    P = E_x [ F( s / sqrt(s^2 + noise^2 (1 - 1/d_v)) )^(V - 1) ],  s = own + x noise / sqrt d_v,  x ~ N(0, 1)

    where F is the distribution of the cosine between a read and a code that has nothing to do with it; among many,
    codes are held by several keys.
    """
    noise = np.asarray(noise, float)
    return overlapping_recall(own, np.zeros_like(noise), noise**2 / max(load, 1.0), (load,), (0.0,), code)


def overlapping_recall(
    own: ArrayLike, common: ArrayLike, spread: ArrayLike, counts: ArrayLike, weights: ArrayLike, code: Code
) -> Floats:
    """Return recall from pairs whose keys overlap: r = own v_j + sum_i kappa_i v_i over the others.

    Args:
        own: the weight of the value asked for, for a sample of keys ``[J]``.
        common: mean overlap with the key of another pair ``[J]``; that of group g is ``weights[g]`` times as large.
        spread: variance of the overlaps ``[J]``.
        counts: how many other pairs there are in each group ``[G]``.
        weights: what is left of the common overlap of each group ``[G]``.
        code: the values. One that another pair holds has a product larger by that pair's overlap, and a code may be
            held several times; so the V - 1 competitors are of G + 1 kinds, and how often they are held is Poisson.

    Returns:
        The share of right answers for each key ``[J]``.
    """
    own, common, spread = (
        x[..., None] for x in np.broadcast_arrays(*(np.asarray(y, float) for y in (own, common, spread)))
    )
    counts, weights = np.asarray(counts, float), np.asarray(weights, float)
    load, often = max(counts.sum(), 1.0), counts.sum() / code.codes
    stored = -math.expm1(-often)
    times = often / stored if often else 0.0
    varying = (often + often**2) / stored - times**2 if often else 0.0
    mean, square = np.dot(counts, weights) / load, np.dot(counts, weights**2) / load
    noise = (common**2 * square + spread) * load
    twins = (common**2 * square + spread) * often  # the same code, held by other keys too
    right = own + common * mean * often + _X * np.sqrt(noise / code.d_v + twins + _varying_length(own, code))
    power = right**2 + noise * (1 - 1 / code.d_v)
    never = log_cosine_distribution(right / np.sqrt(np.maximum(power, _TINY)), code)
    total = (1 - stored) * never
    for count, weight in zip(counts, weights, strict=True):
        held = (spread * times + (common * weight) ** 2 * varying) * code.d_v
        ahead = (right - common * weight * times) / np.sqrt(np.maximum(power + held, _TINY))
        total = total + stored * count / load * log_cosine_distribution(ahead, code)
    return np.exp((code.codes - 1) * total) @ _WEIGHTS


def log_cosine_distribution(cosine: ArrayLike, code: Code) -> Floats:
    """Return log P(c r <= cosine |r|) for a random code c: the product with a unit vector is not quite normal."""
    cosine = np.asarray(cosine, float)
    if not code.unit:
        return special.log_ndtr(cosine * math.sqrt(code.d_v))
    return np.interp(cosine, _GRID, _on_the_sphere(code.d_v))


@lru_cache
def _on_the_sphere(dimension: int) -> Floats:
    """Return the logarithm of the distribution of the cosine of two random vectors, on ``_GRID``."""
    tail = 0.5 * special.betainc((dimension - 1) / 2, 0.5, 1 - _GRID**2)
    return np.where(_GRID > 0, np.log1p(-np.minimum(tail, 0.5)), np.log(np.maximum(tail, _TINY)))


def _varying_length(own: Floats, code: Code) -> Floats | float:
    """Return the variance of own |v_j|^2."""
    return 0.0 if code.unit else own**2 * 2 / code.d_v


def centred_recall(own: ArrayLike, spread: ArrayLike, load: float, code: Code) -> Floats:
    """Return recall from a sum of pairs after the mean read was taken away.

    SNR_j^2 = own_j^2 / (spread_j n (1 / d_v + 1 / V)),  P = E_x [ Phi(x + SNR_j)^(V - 1) ]

    with own_j = |delta_j|^2, delta_j = phi(k_j) - E phi, and spread_j = E_i (delta_j delta_i)^2; for independent
    features of variance s^2 that is SNR_j^2 = |delta_j|^2 / (s^2 n (1 / d_v + 1 / V)).
    """
    own, spread = np.asarray(own, float), np.asarray(spread, float)
    ratio = own / np.sqrt(np.maximum(spread * load * (1 / code.d_v + 1 / code.codes), _TINY))
    return np.exp((code.codes - 1) * special.log_ndtr(ratio[..., None] + _X)) @ _WEIGHTS


def delta_common_mode(segments: ArrayLike, *, inclusive: bool) -> Floats:
    """Return what is left of each segment's common mode after the last, for a delta rule with a normalised read.

    A segment of N tokens takes the mean of what n tokens left, N times over: B <- (1 - N / n) B + its own values. With
    the inclusive normaliser n counts the segment itself.
    """
    lengths = np.asarray(segments, float)
    before = np.concatenate([[0.0], lengths.cumsum()])
    seen = before[1:] if inclusive else before[:-1]
    keeps = 1 - lengths / np.where(seen > 0, seen, np.inf)
    keeps[0] = 1.0
    return np.append(np.cumprod(keeps[:0:-1])[::-1], 1.0)


def hebbian_half_load(d_k: int, code: Code) -> float:
    """Return n50 = d_k d_v / E_C^2, for zero-mean keys."""
    return d_k * code.d_v / expected_maximum(code.codes) ** 2


def hebbian_error(d_k: int, load: float) -> float:
    """Return the relative error (n - 1) / (d + n - 1) of a sum of pairs with zero-mean keys, best scaled."""
    return (load - 1) / (d_k + load - 1)


def kept_after(width: int, age: ArrayLike) -> Floats:
    """Return (1 - 1/d)^a, what a token-wise delta rule with unit keys and strength 1 keeps after a more writes."""
    return (1 - 1 / width) ** np.asarray(age, float)


def token_delta_recall(width: int, ages: ArrayLike, load: int, code: Code) -> Floats:
    """Return recall by age among ``load`` pairs: SNR = 1 / (e^{2a/d} - 1), for a read as long as a value."""
    kept = kept_after(width, ages)
    return recall(kept, np.sqrt(np.maximum(1 - kept**2, 0.0)), load, code)


class Fit(NamedTuple):
    """Ridge fits read at keys they were fitted to ``[J]``: ``own`` of its value, and noise of that root mean square."""

    own: Floats
    noise: Floats

    @property
    def error(self) -> float:
        """The relative error, best scaled."""
        power = np.mean(self.own**2 + self.noise**2)
        return float(1.0 - np.mean(self.own) ** 2 / power) if power > 0 else 1.0


def least_squares(spectrum: ArrayLike, projections: ArrayLike, load: int, ridge: float) -> Fit:
    """Return what ridge regression answers for keys it was fitted to.

    The deterministic equivalent of random matrices: the implicit ridge kappa solves kappa (1 - df1(kappa) / n) =
    lambda / n with df1 = sum_i e_i / (e_i + kappa). Key j has the leverage l / (1 + l), l = phi_j^T (E + kappa)^-1
    phi_j / (n - df1), which is what is ``own``; the fit to the other pairs answers it with power phi_j^T (E + kappa)^-1
    E (E + kappa)^-1 phi_j / (n - df2), of which 1 - own is left. As lambda goes to 0 the error is max(0, 1 - rank / n).

    Args:
        spectrum: eigenvalues e of E = E phi phi^T ``[F]``.
        projections: squares of the parts of a sample of keys along its eigenvectors ``[J, F]``.
        load: n, the pairs that were fitted.
        ridge: lambda.

    Source: Dobriban and Wager (2018), arXiv 1507.03003; Bach (2024), arXiv 2303.01372.
    """
    values, parts = np.asarray(spectrum, float), np.asarray(projections, float)
    there = values > 1e-12 * values.max()
    values, parts = values[there], parts[:, there]

    def balance(log_kappa: float) -> float:
        kappa = math.exp(log_kappa)
        return kappa * (1 - np.sum(values / (values + kappa)) / load) - ridge / load

    # lambda = 0 and fewer keys than features: the fit is exact, as near as the smallest kappa comes to it
    low, high = math.log(1e-14 * values.max()), math.log(2 * values.sum() + ridge)
    found = optimize.root_scalar(balance, bracket=(low, high), xtol=1e-13).root if balance(low) < 0 else low
    kappa = math.exp(found)
    shares = values / (values + kappa)
    leverage = parts @ (1 / (values + kappa)) / max(load - shares.sum(), 1e-9)
    power = parts @ (shares / (values + kappa)) / max(load - np.sum(shares**2), 1e-9)
    own = leverage / (1 + leverage)
    return Fit(own, (1 - own) * np.sqrt(power))
