"""How often intervals that promise 95 % contain the truth, by simulation with fixed seeds.

The table of docs/statistics.md comes from the slow test: pytest -m slow -s tests/unit/test_statistics_coverage.py
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from palimpsest.statistics import (
    Estimate,
    Method,
    Shape,
    contrast,
    contrast_across_seeds,
    difference_in_differences,
    distance_at,
    estimate,
    estimate_across_seeds,
    hierarchical_bootstrap,
    logistic_curve,
    logistic_slopes,
    ratio_of_means,
    slope,
    spearman,
    steepest,
)
from palimpsest.statistics.logistic import chance

Random = np.random.Generator
NEAR, FAR = math.log(64), math.log(4096)


def inside(found: Estimate, truth: float) -> bool:
    return found.low <= truth <= found.high


def labels(units: int, size: int) -> list[int]:
    return np.repeat(np.arange(units), size).tolist()


def effects(rng: Random, units: int, size: int, spread: float) -> np.ndarray:
    return np.repeat(spread * rng.normal(size=units), size)


def t_over_seeds(rng: Random) -> bool:
    return inside(estimate(rng.normal(size=5), method="t"), 0)


def wider_over_seeds(rng: Random) -> bool:
    accuracy = rng.beta(8, 4, size=5)
    values = (rng.random((5, 60)) < accuracy[:, None]).astype(int).ravel()
    return inside(estimate_across_seeds(values, labels(5, 60)), 8 / 12)


def paired_over_seeds(rng: Random) -> bool:
    shared = rng.normal(size=5)
    a, b = shared + 0.1 * rng.normal(size=5), shared + 0.1 * rng.normal(size=5)
    return inside(contrast_across_seeds(a, b, [0, 1, 2, 3, 4], within="paired_t"), 0)


def newcombe(rng: Random) -> bool:
    both, only_a, only_b, neither = rng.multinomial(100, [0.6, 0.2, 0.1, 0.1]).tolist()
    a = [1] * (both + only_a) + [0] * (only_b + neither)
    return inside(contrast(a, [1] * both + [0] * only_a + [1] * only_b + [0] * neither), 0.1)


def cluster_t(rng: Random) -> bool:
    values = effects(rng, 24, 8, 1.0) + rng.normal(size=192)
    return inside(estimate(values, method="t", clusters=labels(24, 8)), 0)


def cluster_bootstrap(rng: Random) -> bool:
    values = effects(rng, 60, 4, 1.0) + rng.normal(size=240)
    return inside(estimate(values, method="bootstrap", clusters=labels(60, 4), resamples=500, rng=rng), 0)


def hierarchical_nested(rng: Random) -> bool:
    values = effects(rng, 5, 48, 0.3) + effects(rng, 60, 4, 0.7) + rng.normal(size=240)
    found = hierarchical_bootstrap(values, labels(5, 48), clusters=labels(60, 4), resamples=300, rng=rng)
    return inside(found.quoted, 0)


def hierarchical_alone(rng: Random) -> bool:
    values = effects(rng, 5, 20, 1.0) + 0.3 * rng.normal(size=100)
    return inside(hierarchical_bootstrap(values, labels(5, 20), resamples=300, rng=rng).bootstrap, 0)


def hierarchical_crossed(rng: Random) -> bool:
    values = effects(rng, 5, 60, 0.3) + np.tile(effects(rng, 20, 3, 0.7), 5) + rng.normal(size=300)
    haystacks = np.tile(np.arange(20).repeat(3), 5).tolist()
    return inside(hierarchical_bootstrap(values, labels(5, 60), clusters=haystacks, resamples=300, rng=rng).quoted, 0)


def fieller(rng: Random) -> bool:
    return inside(ratio_of_means(rng.normal(1, 0.4, 5), rng.normal(2, 0.4, 5), method="fieller"), 0.5)


def ratio_bootstrap(rng: Random) -> bool:
    hard = rng.normal(1.0, 0.5, 50)
    above, below = 0.6 * hard + rng.normal(0, 0.2, 50), hard + rng.normal(0, 0.2, 50)
    return inside(ratio_of_means(above, below, resamples=500, rng=rng), 0.6)


def did_welch(rng: Random) -> bool:
    sides = [(rng.normal(1, spread, n), rng.normal(0, spread, n)) for spread, n in ((1, 15), (2, 30))]
    return inside(difference_in_differences(sides[0], sides[1]), 0)


def did_clustered(rng: Random) -> bool:
    shared = np.repeat(rng.normal(size=25), 4)
    sides = [(shared + rng.normal(size=100), np.zeros(100)) for _ in range(2)]
    return inside(difference_in_differences(sides[0], sides[1], clusters=(labels(25, 4), labels(25, 4))), 0)


def rank_correlation(rng: Random, n: int = 60) -> bool:
    x = rng.normal(size=n)
    y = 0.5 * x + math.sqrt(0.75) * rng.normal(size=n)
    return inside(spearman(x, y), 6 / math.pi * math.asin(0.25))


def clustered_slope(rng: Random) -> bool:
    x = rng.normal(size=200)
    y = 0.5 * x + effects(rng, 25, 8, 1.0) + rng.normal(size=200)
    return inside(slope(x, y, clusters=labels(25, 8)), 0.5)


def logistic_slope(rng: Random) -> bool:
    x = rng.normal(size=500)
    y = (rng.random(500) < chance(0.5 - 0.8 * x)).astype(int)
    return inside(logistic_slopes({"x": x}, y)["x"], -0.8)


class Truth(NamedTuple):
    """A curve to be found: log odds by log distance, spread of clusters or seeds, and how it is sampled."""

    log_odds: Callable[[np.ndarray], np.ndarray]
    n: int
    knots: int = 6
    floor: float = 0.0
    clusters: int = 0
    seeds: int = 0
    spread: float = 0.5


def straight(place: np.ndarray) -> np.ndarray:
    return 3 - 6 * (place - NEAR) / (FAR - NEAR)


def plateau(place: np.ndarray) -> np.ndarray:
    """Near perfect, then a fall to 12 % within a factor of 16 or so."""
    return 3.5 - 5.5 / (1 + np.exp(-8 * ((place - NEAR) / math.log(64) - 0.65)))


def ceiling(place: np.ndarray) -> np.ndarray:
    return np.full_like(place, math.log(0.99 / 0.01))


CURVES = {
    "straight line, 2 knots, n = 500": Truth(straight, 500, knots=2),
    "straight line, n = 500": Truth(straight, 500),
    "plateau and fall, n = 500": Truth(plateau, 500),
    "plateau and fall, 8 knots, n = 2,500": Truth(plateau, 2500, knots=8),
    "plateau and fall, 6 knots, n = 2,500": Truth(plateau, 2500),
    "plateau and fall, 4 knots, n = 2,500": Truth(plateau, 2500, knots=4),
    "99 % everywhere, n = 500": Truth(ceiling, 500),
    "floor 0.25, n = 500": Truth(straight, 500, floor=0.25),
    "40 clusters, n = 600": Truth(straight, 600, clusters=40),
    "5 seeds, n = 1,000": Truth(straight, 1000, seeds=5),
}


def marginal(truth: Truth, place: np.ndarray) -> np.ndarray:
    """The accuracy averaged over clusters or seeds."""
    spread = truth.spread if truth.clusters or truth.seeds else 0.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    return chance(truth.log_odds(place)[:, None] + spread * nodes, truth.floor) @ weights / weights.sum()


def curve_hits(truth: Truth, rng: Random, resamples: int) -> dict[str, bool]:
    """Draw items, fit, and say which of band, lowest point, d50 and steepest point hold the truth."""
    place = rng.uniform(NEAR, FAR, truth.n)
    units = truth.clusters or truth.seeds
    codes = np.arange(truth.n) % units if units else np.zeros(truth.n, dtype=int)
    shift = truth.spread * rng.normal(size=units)[codes] if units else 0.0
    correct = (rng.random(truth.n) < chance(truth.log_odds(place) + shift, truth.floor)).astype(int)
    curve = logistic_curve(
        np.exp(place),
        correct,
        shape=Shape(knots=truth.knots, floor=truth.floor),
        clusters=codes.tolist() if truth.clusters else None,
        seeds=codes.tolist() if truth.seeds else None,
        resamples=resamples,
        rng=rng,
    )
    true = marginal(truth, np.log(curve.x))
    hits = {
        "band": bool(np.all((curve.low <= true) & (true <= curve.high))),
        "lowest": inside(curve.lowest(), true.min()),
    }
    if true.min() < 0.5 < true.max():
        d50 = float(np.exp(np.interp(-0.5, -true, np.log(curve.x))))
        hits["d50"] = inside(distance_at(curve, 0.5).estimate, d50)
        hits["steepest"] = inside(steepest(curve).estimate, float(curve.x[np.argmin(np.diff(true))]))
    return hits


SIMPLE: dict[str, tuple[Callable[[Random], bool], float, float]] = {
    "t over 5 seeds": (t_over_seeds, 0.93, 0.97),
    "paired over 5 seeds": (paired_over_seeds, 0.93, 0.97),
    "5 seeds of 60 outcomes, wider of t and Wilson": (wider_over_seeds, 0.93, 0.98),
    "Newcombe, 100 pairs": (newcombe, 0.93, 0.97),
    "cluster-robust t, 24 clusters": (cluster_t, 0.93, 0.97),
    "cluster bootstrap, 60 clusters": (cluster_bootstrap, 0.93, 0.97),
    "hierarchical, quoted, 5 seeds, nested clusters": (hierarchical_nested, 0.93, 0.995),
    "hierarchical, quoted, 5 seeds, crossed clusters": (hierarchical_crossed, 0.93, 0.995),
    "hierarchical bootstrap alone, 5 seeds": (hierarchical_alone, 0.78, 0.89),
    "Fieller, 5 seeds": (fieller, 0.93, 0.97),
    "ratio bootstrap, 50 documents": (ratio_bootstrap, 0.93, 0.97),
    "difference in differences, Welch, 15 and 30": (did_welch, 0.93, 0.97),
    "difference in differences, 25 shared clusters": (did_clustered, 0.93, 0.97),
    "Spearman, 60 heads": (rank_correlation, 0.93, 0.97),
    "Spearman, 16 heads": (partial(rank_correlation, n=16), 0.93, 0.98),
    "slope, 25 clusters": (clustered_slope, 0.93, 0.97),
    "logistic slope, 500 items": (logistic_slope, 0.93, 0.97),
}
PARTS = ("band", "lowest", "d50", "steepest")
TOO_FEW_KNOTS = {"plateau and fall, 4 knots, n = 2,500": 0.7, "plateau and fall, 6 knots, n = 2,500": 0.93}
"""Curves that their knots cannot quite draw, and what the coverage of the band is at most: more items, larger bias."""


def coverage(hit: Callable[[Random], bool], runs: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    return sum(hit(rng) for _ in range(runs)) / runs


def curve_coverage(truth: Truth, runs: int, resamples: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    hits = [curve_hits(truth, rng, resamples) for _ in range(runs)]
    return {name: sum(each[name] for each in hits) / runs for name in hits[0]}


FAST = [
    "t over 5 seeds",
    "paired over 5 seeds",
    "hierarchical, quoted, 5 seeds, nested clusters",
    "hierarchical, quoted, 5 seeds, crossed clusters",
    "Fieller, 5 seeds",
    "difference in differences, Welch, 15 and 30",
    "difference in differences, 25 shared clusters",
    "Spearman, 16 heads",
    "slope, 25 clusters",
    "logistic slope, 500 items",
]


@pytest.mark.parametrize("name", FAST)
def test_coverage_within_its_noise(name):
    """200 draws: two standard errors of 0.015 around the bounds of the slow test."""
    hit, low, high = SIMPLE[name]
    assert low - 0.03 < coverage(hit, 200, seed=1) <= high + 0.03


@pytest.mark.parametrize("name", ["straight line, 2 knots, n = 500", "straight line, n = 500"])
def test_coverage_of_curves_within_its_noise(name):
    found = curve_coverage(CURVES[name], 50, 100, seed=2)
    assert min(found["band"], found["d50"], found["steepest"]) > 0.85
    assert found["lowest"] > 0.9


@pytest.mark.parametrize("n", [10, 50, 200])
def test_proportions_by_enumeration(n):
    """Every outcome of n items: Wilson is right on average over p, Clopper-Pearson at every p."""
    p = np.linspace(0.02, 0.98, 481)
    weight = stats.binom.pmf(np.arange(n + 1)[:, None], n, p)
    methods: list[Method] = ["wilson", "clopper_pearson"]
    covered = {}
    for method in methods:
        found = [estimate([1] * k + [0] * (n - k), method=method) for k in range(n + 1)]
        covered[method] = (weight * np.array([(each.low <= p) & (p <= each.high) for each in found])).sum(axis=0)
    assert 0.94 < covered["wilson"].mean() < 0.965
    assert covered["clopper_pearson"].min() >= 0.95
    print(
        f"n = {n}: Wilson {covered['wilson'].mean():.3f} on average, {covered['wilson'].min():.3f} at worst; "
        f"Clopper-Pearson {covered['clopper_pearson'].mean():.3f} on average, "
        f"{covered['clopper_pearson'].min():.3f} at worst"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMPLE)
def test_coverage(name):
    hit, low, high = SIMPLE[name]
    found = coverage(hit, 2000, seed=3)
    print(f"| {name} | {100 * found:.1f} |")
    assert low <= found <= high


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVES)
def test_coverage_of_curves(name):
    runs = 500 if CURVES[name].n <= 1000 else 200
    found = curve_coverage(CURVES[name], runs, 300, seed=4)
    print(f"| {name} | " + " | ".join(f"{100 * found[part]:.1f}" if part in found else "" for part in PARTS) + " |")
    if name in TOO_FEW_KNOTS:
        assert found["band"] < TOO_FEW_KNOTS[name]
        return
    assert found["band"] >= 0.92
    assert found["lowest"] >= 0.95
    assert found.get("d50", 0.95) >= 0.93
    assert found.get("steepest", 0.95) >= 0.92
