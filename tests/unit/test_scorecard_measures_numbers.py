"""Numbers over items and seeds are those of closed forms, and their intervals cover."""

import math

import numpy as np
import pytest
from scipy import stats

from palimpsest.statistics import estimate
from palimpsest.study.scorecard.measures.answers import Answers, paired
from palimpsest.study.scorecard.measures.numbers import (
    changes_apart,
    difference,
    gap,
    ratio,
    ratio_of_estimates,
    share_of_loss,
)


def test_a_difference_takes_the_items_and_seeds_that_both_sides_have():
    a = Answers([1, 0, 1, 1], [0, 0, 1, 2], ["x", "y", "x", "x"], ["x", "y", "x", "x"])
    b = Answers([0, 1], [1, 0], ["x", "y"], ["x", "y"])
    left, right = paired(a, b)
    assert list(zip(left.values, right.values, strict=True)) == [(0, 1), (1, 0)]
    assert left.seeds == right.seeds == [0, 1]
    assert difference(a, b)(0.9).mean == 0.0


def drawn(shares, n, rng, prefix=""):
    """Independent answers: n items under each seed with that seed's accuracy."""
    rows = [
        (float(rng.random() < share), seed, f"{prefix}{at}") for seed, share in enumerate(shares) for at in range(n)
    ]
    values, seeds, items = (list(column) for column in zip(*rows, strict=True))
    return Answers(values, seeds, items, items)


def test_over_seeds_the_interval_is_the_paired_t_of_seed_means_where_seeds_differ_most():
    rng = np.random.default_rng(0)
    a, b = drawn([0.1, 0.3, 0.6, 0.8, 0.95], 200, rng), drawn([0.1] * 5, 200, rng)
    means = [np.reshape(side.values, (5, -1)).mean(1) for side in (a, b)]
    expected = stats.ttest_rel(means[0], means[1]).confidence_interval(0.9)
    found = difference(a, b)(0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, min(1, expected.high)))
    assert found.seeds == 5
    unpaired = gap(a, drawn([0.1] * 5, 200, rng, "other"))(0.9)
    assert unpaired.mean == pytest.approx(found.mean, abs=0.05)


def test_a_ratio_of_nothing_does_not_exist_and_one_at_the_ceiling_has_a_width():
    names = [str(number) for number in range(50)]
    ones = Answers([1.0] * 50, [0, 1] * 25, names, names)
    zeros = ones._replace(values=[0.0] * 50)
    assert math.isnan(ratio(ones, zeros)(0.95).mean)
    whole = ratio(ones, ones)(0.95)
    assert whole.mean == 1.0
    assert 0.85 < whole.low < 1 < whole.high < 1.15
    assert ratio(zeros, ones)(0.95).mean == 0.0
    assert ratio(zeros, ones)(0.95).high < 0.2


def test_the_interval_of_a_ratio_of_proportions_covers():
    rng, hits, trials = np.random.default_rng(1), 0, 150
    for _ in range(trials):
        a, b = (estimate((rng.random(120) < share).astype(float)) for share in (0.3, 0.8))
        found = ratio_of_estimates(a, b)
        hits += found.low <= 0.3 / 0.8 <= found.high
    assert 0.90 <= hits / trials <= 0.99


def test_the_share_of_a_loss_is_that_of_the_means():
    rng = np.random.default_rng(2)
    intact = drawn([0.95] * 5, 100, rng)
    whole = intact._replace(values=[0.0] * 500)
    part = intact._replace(values=[value * (rng.random() < 0.25) for value in intact.values])
    found = share_of_loss(intact, part, whole)(0.95)
    assert found.mean == pytest.approx(1 - sum(part.values) / sum(intact.values))
    assert found.low < 0.75 < found.high
    assert math.isnan(share_of_loss(intact, part, intact)(0.95).mean), "a share of no loss does not exist"


def test_changes_apart_is_the_difference_of_two_differences():
    rng = np.random.default_rng(3)
    far = [drawn([share] * 5, 80, rng, "far") for share in (0.3, 0.9)]
    near = [drawn([share] * 5, 80, rng, "near") for share in (0.9, 0.95)]
    found = changes_apart((far[0], far[1]), (near[0], near[1]))(0.95)
    means = [np.mean(side.values) for side in (*far, *near)]
    assert found.mean == pytest.approx(means[0] - means[1] - (means[2] - means[3]))
    assert found.high < 0
    assert found.seeds == 5
    # seeds that change very differently, but alike on both sides, are no evidence for a difference
    after = [0.1, 0.3, 0.5, 0.7, 0.95]
    sides = [(drawn(after, 200, rng, name), drawn([0.95] * 5, 200, rng, name)) for name in ("far", "near")]
    found = changes_apart(*sides)(0.95)
    assert -0.15 < found.low < found.mean < found.high < 0.15
