"""Claims over seeds: the wider of t over seeds and the interval over items."""

import math

import numpy as np
import pytest

from palimpsest.errors import InputError
from palimpsest.statistics import (
    contrast,
    contrast_across_seeds,
    estimate,
    estimate_across_seeds,
    seed_means,
)


def outcomes(successes: list[int], n: int) -> tuple[list[int], list[int]]:
    """Outcomes and seeds, with ``successes[s]`` of ``n`` items right under seed s."""
    values = [int(item < right) for right in successes for item in range(n)]
    return values, [seed for seed in range(len(successes)) for _ in range(n)]


def test_seeds_that_differ_are_quoted_by_t():
    values, seeds = outcomes([95, 60, 80], 100)
    found = estimate_across_seeds(values, seeds)
    means = estimate([0.95, 0.60, 0.80], method="t")
    assert (found.low, found.high) == pytest.approx((means.low, min(means.high, 1.0)))
    assert (found.n, found.mean) == (3, pytest.approx(means.mean))
    assert "3 seeds" in found.method


def test_seeds_that_agree_by_luck_are_quoted_by_items():
    values, seeds = outcomes([8, 8, 8, 9], 10)
    found = estimate_across_seeds(values, seeds)
    items = estimate(values)
    between = estimate([0.8, 0.8, 0.8, 0.9], method="t")
    assert (found.low, found.high) == (min(items.low, between.low), max(items.high, between.high))
    assert found.low < between.low


def test_seeds_at_the_ceiling_are_quoted_by_items():
    values, seeds = outcomes([50, 50, 50], 50)
    found = estimate_across_seeds(values, seeds)
    assert (found.mean, found.low, found.high) == (1.0, estimate(values).low, 1.0)
    assert (found.n, found.method) == (3, "Wilson over items of 3 seeds that agree exactly")
    swapped = contrast_across_seeds(values, [0] * 150, seeds)
    assert swapped.low == contrast(values, [0] * 150).low > 0.9


def test_one_seed_says_nothing_about_others():
    values, seeds = outcomes([99], 100)
    for found in (estimate_across_seeds(values, seeds), contrast_across_seeds(values, [0] * 100, seeds)):
        assert (found.mean, found.n) == (0.99, 1)
        assert (found.low, found.high) == (-math.inf, math.inf)
        assert "1 seed" in found.method


@pytest.mark.parametrize("successes", [[95, 60, 80], [80, 80, 80]])
def test_both_parts_are_of_the_level_asked(successes):
    values, seeds = outcomes(successes, 100)
    zeros = [0] * len(values)
    for across, plain in (
        (estimate_across_seeds(values, seeds, level=0.9), estimate(values, level=0.9)),
        (contrast_across_seeds(values, zeros, seeds, level=0.9), contrast(values, zeros, level=0.9)),
    ):
        if successes == [80, 80, 80]:
            assert (across.low, across.high) == (plain.low, plain.high)
        else:
            between = estimate(values, method="t", clusters=seeds, level=0.9)
            assert (across.low, across.high) == pytest.approx((between.low, min(between.high, 1.0)))
        assert across.level == 0.9


def test_losses_pair_by_seed():
    rng = np.random.default_rng(0)
    base = rng.normal(4, 0.5, size=5)
    seeds = [0, 1, 2, 3, 4]
    found = contrast_across_seeds(base, base - rng.normal(0.1, 0.01, size=5), seeds, within="paired_t")
    assert 0.08 < found.low < found.high < 0.12
    assert found.n == 5


def test_clusters_inside_seeds_reach_the_inner_interval():
    rng = np.random.default_rng(1)
    documents = np.tile(np.repeat(np.arange(10), 8), 3).tolist()
    shared = np.repeat(3 * rng.normal(size=10), 8)
    values = np.concatenate([shared + 0.01 * seed for seed in range(3)])
    seeds = np.repeat([0, 1, 2], 80).tolist()
    plain = estimate_across_seeds(values, seeds, within="t")
    clustered = estimate_across_seeds(values, seeds, within="bootstrap", clusters=documents, resamples=500)
    assert clustered.high - clustered.low > 2 * (plain.high - plain.low)


def test_covers_at_least_95_percent_over_random_seeds():
    rng = np.random.default_rng(2)
    draws, hits, naive = 400, 0, 0
    seeds = np.repeat(np.arange(5), 60).tolist()
    for _ in range(draws):
        accuracy = rng.beta(8, 4, size=5)
        values = (rng.random((5, 60)) < accuracy[:, None]).astype(int).ravel()
        found, items = estimate_across_seeds(values, seeds), estimate(values)
        hits += found.low <= 8 / 12 <= found.high
        naive += items.low <= 8 / 12 <= items.high
    assert 0.93 < hits / draws < 0.98
    assert naive / draws < 0.75


def test_seed_means_keep_their_order():
    assert seed_means([1, 0, 1, 1], ["b", "b", "a", "a"]) == {"b": 0.5, "a": 1.0}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: estimate_across_seeds([], []), "empty"),
        (lambda: estimate_across_seeds([1, 0], [0]), "1 labels for 2"),
        (lambda: estimate_across_seeds([0.5, 1], [0, 1]), "0 or 1"),
        (lambda: contrast_across_seeds([1, 0], [0], [0, 1]), "2 in a and 1 in b"),
        (lambda: seed_means([1.0, math.nan], [0, 1]), "item 1 is nan"),
        (lambda: seed_means([1.0], [0, 1]), "2 labels for 1"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_an_interval_of_a_proportion_stays_within_what_it_can_be():
    seeds = [seed for seed in range(3) for _ in range(10)]
    hits = [1.0] * 10 + [1.0] * 10 + [1.0] * 8 + [0.0] * 2
    found = estimate_across_seeds(hits, seeds, within="wilson")
    assert found.high == 1.0
    assert 0.0 <= found.low < found.mean
    difference = contrast_across_seeds(hits, [0.0] * 30, seeds)
    assert difference.high == 1.0
    assert estimate_across_seeds([2 * hit for hit in hits], seeds, within="t").high > 2.0
