"""The Wilson interval over clusters: plain where nothing is shared, wider where it is, and covering what it says."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from palimpsest.errors import InputError
from palimpsest.statistics import estimate
from palimpsest.statistics.clustered import clustered_wilson


def test_items_that_share_nothing_give_the_plain_interval():
    outcomes = [1.0] * 13 + [0.0] * 7
    plain, found = estimate(outcomes), clustered_wilson(outcomes, range(20))
    assert (found.mean, found.low, found.high, found.n) == (plain.mean, plain.low, plain.high, 20)


def test_clusters_whose_items_agree_are_worth_one_item_each():
    outcomes = np.repeat([1.0] * 12 + [0.0] * 8, 5)
    found = clustered_wilson(outcomes, np.repeat(np.arange(20), 5).tolist())
    variance = 20 / 19 * 0.6 * 0.4 / 20  # of the means of 20 clusters
    effective = 0.6 * 0.4 / variance * (stats.t.ppf(0.975, 99) / stats.t.ppf(0.975, 19)) ** 2
    low, high = proportion_confint(0.6 * effective, effective, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert effective < 20
    assert (found.n, found.method) == (20, "Wilson over 20 clusters of 100 values")


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_where_all_agree_a_cluster_counts_once(share):
    found = clustered_wilson([share] * 30, [index // 3 for index in range(30)])
    low, high = proportion_confint(10 * share, 10, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_it_is_never_narrower_than_for_independent_items():
    outcomes = [1.0, 0.0] * 20  # every cluster has one of each: its mean has no spread at all
    found, plain = clustered_wilson(outcomes, [index // 2 for index in range(40)]), estimate(outcomes)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high))


def test_one_cluster_and_bad_input():
    found = clustered_wilson([1.0, 0.0, 1.0], ["a"] * 3)
    assert found.high - found.low > 0.7
    with pytest.raises(InputError, match="2 labels for 3 values"):
        clustered_wilson([1.0, 0.0, 1.0], ["a", "b"])
    with pytest.raises(InputError, match="0 or 1"):
        clustered_wilson([0.5], ["a"])


@pytest.mark.parametrize(("share", "alike"), [(0.5, 0.3), (0.85, 0.5)])
def test_it_covers_what_it_says_where_the_plain_interval_does_not(share, alike):
    rng = np.random.default_rng(0)
    clusters, size, trials = 25, 8, 1_000
    labels = np.repeat(np.arange(clusters), size).tolist()
    a = (1 / alike - 1) * share
    chances = rng.beta(a, a / share - a, size=(trials, clusters))  # beta-binomial: intra-class correlation ``alike``
    drawn = (rng.random((trials, clusters, size)) < chances[..., None]).reshape(trials, -1).astype(float)
    found = [clustered_wilson(outcomes, labels) for outcomes in drawn]
    plain = [estimate(outcomes) for outcomes in drawn]
    covered, naive = (np.mean([each.low <= share <= each.high for each in some]) for some in (found, plain))
    assert 0.93 <= covered <= 0.975
    assert naive < 0.85
