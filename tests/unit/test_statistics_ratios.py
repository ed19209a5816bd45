"""Ratios, differences in differences and rank correlations against closed forms, scipy and statsmodels."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize, stats

from palimpsest.errors import InputError
from palimpsest.statistics import contrast, difference_in_differences, estimate, ratio_of_means, spearman


def test_fieller_is_the_set_that_a_paired_t_test_does_not_reject():
    rng = np.random.default_rng(0)
    above, below = rng.normal(1.0, 0.3, 6), rng.normal(2.0, 0.3, 6)
    found = ratio_of_means(above, below, method="fieller")

    def edge(ratio: float) -> float:
        return float(stats.ttest_1samp(above - ratio * below, 0.0).pvalue) - 0.05

    middle = above.mean() / below.mean()
    low, high = (optimize.root_scalar(edge, bracket=pair).root for pair in ((middle - 2, middle), (middle, middle + 2)))
    assert (found.mean, found.low, found.high) == pytest.approx((middle, low, high), rel=1e-6)


def test_a_denominator_of_one_is_a_mean():
    values = np.random.default_rng(1).normal(size=30)
    labels = (np.arange(30) // 3).tolist()
    # a denominator that hardly varies
    ones = 1 + 1e-9 * np.random.default_rng(2).normal(size=30)
    t = estimate(values, method="t", clusters=labels)
    fieller = ratio_of_means(values, ones, method="fieller", clusters=labels)
    assert (fieller.low, fieller.high) == pytest.approx((t.low, t.high), rel=1e-6)
    plain = estimate(values, method="bootstrap", clusters=labels, resamples=500)
    found = ratio_of_means(values, ones, clusters=labels, resamples=500)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), rel=1e-6)


def test_the_bootstrap_is_scipys():
    rng = np.random.default_rng(3)
    above, below = rng.exponential(1.0, 40), rng.exponential(2.0, 40)
    oracle = stats.bootstrap(
        (above, below),
        lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
        paired=True,
        n_resamples=800,
        rng=np.random.default_rng(4),
    ).confidence_interval
    found = ratio_of_means(above, below, resamples=800, rng=4)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), rel=1e-9)
    assert found.n == 40


@pytest.mark.parametrize("method", ["bootstrap", "fieller"])
def test_a_ratio_to_what_may_be_nothing_is_not_defined(method):
    rng = np.random.default_rng(5)
    below = rng.normal(0.1, 1.0, 40)
    assert estimate(below, method="t").low < 0 < estimate(below, method="t").high
    found = ratio_of_means(below / 2, below, method=method)
    assert math.isnan(found.mean)
    assert not found.bounded
    assert str(found).startswith("not a number")
    assert "the denominator includes 0" in found.method
    assert not ratio_of_means([1.0], [2.0], method=method).bounded


def test_the_memory_share_of_a_two_by_two():
    """Losses of 40 documents: position brings .3 of the gain, the memory .7."""
    rng = np.random.default_rng(6)
    hard = rng.normal(4.0, 0.5, 40)
    short_off = hard
    long_off = hard - 0.03 + rng.normal(0, 0.01, 40)
    long_on = hard - 0.10 + rng.normal(0, 0.01, 40)
    share = ratio_of_means(long_off - long_on, short_off - long_on)
    assert share.low < 0.7 < share.high
    assert share.high - share.low < 0.15


def test_two_groups_are_welchs():
    rng = np.random.default_rng(7)
    treated = (rng.normal(1, 1, 20), rng.normal(0, 1, 20))
    control = (rng.normal(0, 2, 35), rng.normal(0, 2, 35))
    oracle = stats.ttest_ind(treated[0] - treated[1], control[0] - control[1], equal_var=False)
    interval = oracle.confidence_interval(0.9)
    found = difference_in_differences(treated, control, level=0.9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.n == 55


def test_the_same_items_on_both_sides_are_the_paired_t():
    rng = np.random.default_rng(8)
    sides = [(rng.normal(size=25), rng.normal(size=25)) for _ in range(2)]
    items = [*range(25)]
    found = difference_in_differences(*sides, clusters=(items, items))
    changes = [after - before for after, before in sides]
    paired = contrast(*changes, method="paired_t")
    assert (found.mean, found.low, found.high) == pytest.approx((paired.mean, paired.low, paired.high), rel=1e-9)
    assert found.n == 25


def test_shared_clusters_are_the_sandwich_of_statsmodels():
    rng = np.random.default_rng(9)
    labels = [rng.integers(0, 12, 40).tolist(), rng.integers(0, 12, 70).tolist()]
    shared = rng.normal(size=12)
    changes = [shared[own] + rng.normal(size=len(own)) + side for side, own in enumerate(labels)]
    found = difference_in_differences(
        (changes[0], np.zeros(40)), (changes[1], np.zeros(70)), clusters=(labels[0], labels[1])
    )
    group = np.repeat([1.0, 0.0], [40, 70])
    codes = np.array(labels[0] + labels[1])
    model = sm.OLS(np.concatenate(changes), sm.add_constant(group)).fit(
        cov_type="cluster", cov_kwds={"groups": codes, "use_correction": False}
    )
    half = stats.t.ppf(0.975, 11) * model.bse[1] * math.sqrt(12 / 11)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), rel=1e-9)


def test_a_difference_of_differences_without_spread_has_no_interval():
    one = difference_in_differences(([1.0], [0.0]), ([1.0, 2.0], [0.0, 0.0]))
    alike = difference_in_differences(([1.0, 1.0], [0.0, 0.0]), ([1.0, 1.0], [0.0, 0.0]))
    assert not one.bounded
    assert not alike.bounded
    assert (one.mean, alike.mean) == (-0.5, 0.0)


def test_spearman_is_scipys_and_its_interval_the_closed_form():
    rng = np.random.default_rng(10)
    x = rng.integers(0, 8, 30).astype(float)  # with ties
    y = x + rng.normal(0, 3, 30)
    r = float(stats.spearmanr(x, y).statistic)
    found = spearman(x, y)
    half = 1.959964 * math.sqrt((1 + r**2 / 2) / 27)
    assert found.mean == pytest.approx(r)
    assert (found.low, found.high) == pytest.approx((math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)))
    mirrored = spearman(x, -y)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_complete_agreement_keeps_a_width():
    order = list(range(16))
    found = spearman(order, [each**3 for each in order])
    assert (found.mean, found.high) == (1.0, 1.0)
    assert 0.9 < found.low < 1 - 12 / (16**3 - 16)
    down = spearman(order, order[::-1])
    assert (down.mean, down.low, down.high) == (-1.0, -1.0, pytest.approx(-found.low))


def test_ranks_that_say_nothing():
    assert math.isnan(spearman([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]).mean)
    assert not spearman([1, 2, 3], [1, 3, 2]).bounded


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ratio_of_means([1, 2], [1]), "2 above and 1 below"),
        (lambda: ratio_of_means([1, 2], [1, math.nan]), "denominator: item 1"),
        (lambda: ratio_of_means([1, 2], [1, 2], method="felier"), "Did you mean 'fieller'"),  # pyright: ignore
        (lambda: ratio_of_means([1, 2], [1, 2], clusters=[1]), "1 labels for 2"),
        (lambda: ratio_of_means([1, 2], [1, 2], resamples=0), "resamples"),
        (lambda: difference_in_differences(([1, 2], [1]), ([1], [1])), "treated: a change needs the same items"),
        (lambda: difference_in_differences(([1], [1]), ([], [])), "control after: empty"),
        (lambda: difference_in_differences(([1], [1]), ([1], [1]), clusters=([1], [1, 2])), "2 labels for 1"),
        (lambda: spearman([1, 2, 3], [1, 2]), "3 in x and 2 in y"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
