"""Paired contrasts against published examples, closed forms and simulated coverage."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statistics_case import table

from palimpsest.errors import InputError
from palimpsest.statistics import Estimate, align, contrast, estimate, holm, mcnemar

pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("cells", "low", "high", "digits"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404, 4),  # Newcombe (1998), table II, method 10
        ((14, 5, 0, 22), 0.011, 0.226, 3),  # Altman et al., Statistics with Confidence (2000), table 6.2
        ((1, 1, 7, 12), -0.507, -0.026, 3),  # Bentur et al. (2009) in Fagerland et al. (2014)
        ((59, 6, 16, 80), -0.119, -0.005, 3),  # Cavo et al. (2012) in Fagerland et al. (2014)
    ],
)
def test_newcombe_equals_the_published_intervals(cells, low, high, digits):
    found = contrast(*table(*cells))
    assert (round(found.low, digits), round(found.high, digits)) == (low, high)
    assert found.mean == pytest.approx((cells[1] - cells[2]) / sum(cells))
    assert found.n == sum(cells)


@pytest.mark.parametrize("n", [5, 30, 500])
def test_newcombe_keeps_its_width_where_all_pairs_agree_or_disagree(n):
    wilson = estimate([0] * n)
    equal = contrast([1] * n, [1] * n)
    assert (equal.low, equal.high) == pytest.approx((-wilson.high, wilson.high))
    total = contrast([1] * n, [0] * n)
    assert total.mean == total.high == 1.0
    assert total.low == pytest.approx(1 - np.sqrt(2) * wilson.high)


@given(pairs, st.sampled_from([0.8, 0.95]))
@settings(deadline=None, max_examples=60)
def test_newcombe_is_antisymmetric_and_inside_the_possible(values, level):
    a, b = zip(*values, strict=True)
    forward, backward = contrast(a, b, level=level), contrast(b, a, level=level)
    assert (forward.low, forward.mean, forward.high) == pytest.approx(
        (-backward.high, -backward.mean, -backward.low), abs=1e-12
    )
    assert -1 <= forward.low <= forward.mean <= forward.high <= 1
    flipped = contrast([1 - x for x in b], [1 - x for x in a], level=level)
    assert (flipped.low, flipped.high) == pytest.approx((forward.low, forward.high), abs=1e-12)


@pytest.mark.parametrize("method", ["mcnemar_newcombe", "paired_t", "cluster_bootstrap"])
def test_a_higher_level_is_wider(method):
    narrow, wide = (contrast(*table(30, 12, 4, 9), method=method, level=level) for level in (0.9, 0.95))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert (narrow.level, wide.level) == (0.9, 0.95)


@pytest.mark.parametrize("cells", [(0.6, 0.2, 0.1, 0.1), (0.05, 0.85, 0.02, 0.08), (0.3, 0.1, 0.05, 0.55)])
def test_newcombe_covers_95_percent(cells):
    @cache
    def interval(*counts: int) -> Estimate:
        return contrast(*table(*counts))

    drawn = np.random.default_rng(0).multinomial(100, cells, 3000).tolist()
    truth = cells[1] - cells[2]
    found = [interval(*counts) for counts in drawn]
    assert 0.93 < np.mean([each.low <= truth <= each.high for each in found]) < 0.97


@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=3, max_size=12).filter(
        lambda values: np.ptp([a - b for a, b in values]) > 1e-6
    )
)
@settings(deadline=None, max_examples=40)
def test_paired_t_is_scipys(values):
    a, b = np.array(values).T
    oracle = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = contrast(a, b, method="paired_t")
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), rel=1e-8, abs=1e-8)
    assert found.method == f"paired t over {len(a)} units"


def test_pairing_removes_what_both_sides_share():
    rng = np.random.default_rng(1)
    hard = 5 * rng.normal(size=60)
    a, b = hard + 0.5 + 0.1 * rng.normal(size=60), hard + 0.1 * rng.normal(size=60)
    found = contrast(a, b, method="paired_t")
    assert 0.4 < found.low < found.mean < found.high < 0.6


def test_cluster_bootstrap_is_the_bootstrap_of_the_differences():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=60), rng.normal(size=60)
    labels = (np.arange(60) // 3).tolist()
    found = contrast(a, b, method="cluster_bootstrap", clusters=labels, resamples=400, rng=3)
    plain = estimate(a - b, method="bootstrap", clusters=labels, resamples=400, rng=3)
    assert (found.mean, found.low, found.high, found.n) == (plain.mean, plain.low, plain.high, 20)
    assert found.method == "paired BCa bootstrap over 20 clusters of 60 values, 400 resamples"


def test_shared_clusters_widen_the_contrast():
    rng = np.random.default_rng(3)
    labels = (np.arange(400) // 20).tolist()
    difference = np.repeat(rng.normal(size=20), 20) + 0.1 * rng.normal(size=400)
    zero = np.zeros(400)
    clustered = contrast(difference, zero, method="paired_t", clusters=labels)
    plain = contrast(difference, zero, method="paired_t")
    assert clustered.high - clustered.low > 3 * (plain.high - plain.low)


def test_mcnemar_equals_the_published_example():
    # Armitage and Berry (1994), p. 127: two culture media, 12 against 2 discordant specimens
    assert round(mcnemar(*table(20, 12, 2, 16)), 4) == 0.0129


@pytest.mark.parametrize(("tests", "needed"), [(1, 6), (21, 10), (126, 13)])
def test_one_way_discordants_needed_under_bonferroni(tests, needed):
    assert mcnemar(*table(20, needed, 0, 3)) * tests < 0.05
    assert mcnemar(*table(20, needed - 1, 0, 3)) * tests >= 0.05


@given(pairs)
@settings(deadline=None, max_examples=40)
def test_mcnemar_is_the_sign_test_of_the_discordants(values):
    a, b = zip(*values, strict=True)
    first = sum(x > y for x, y in values)
    second = sum(x < y for x, y in values)
    oracle = min(1.0, 2 * stats.binom.cdf(min(first, second), first + second, 0.5))
    assert mcnemar(a, b) == pytest.approx(oracle)
    assert mcnemar(a, b) == mcnemar(b, a)


def test_mcnemar_without_discordants_is_no_evidence():
    assert mcnemar([1, 0, 1], [1, 0, 1]) == 1.0


def test_holm_equals_r():
    # R: p.adjust(c(.01, .04, .03, .005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
@settings(deadline=None)
def test_holm_rejects_exactly_the_step_down_set(pvalues, level):
    rejected = set()
    for step, index in enumerate(sorted(range(len(pvalues)), key=pvalues.__getitem__)):
        if pvalues[index] * (len(pvalues) - step) > level:
            break
        rejected.add(index)
    assert set(np.flatnonzero(holm(pvalues) <= level).tolist()) == rejected


def test_align_puts_both_sides_in_one_order():
    keys, a, b = align({"x": 1.0, "y": 0.0}, {"y": 1.0, "x": 0.0})
    assert (keys, a, b) == (["x", "y"], [1.0, 0.0], [0.0, 1.0])


@pytest.mark.parametrize(("a", "b"), [({0: 1.0, 1: 1.0}, {1: 1.0}), ({1: 1.0}, {0: 1.0, 1: 1.0})])
def test_align_never_drops_an_item(a, b):
    with pytest.raises(InputError, match="for example 0"):
        align(a, b)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: contrast([1, 0], [1]), "2 in a and 1 in b"),
        (lambda: contrast([1.0, 0.5], [1.0], method="paired_t"), "2 in a and 1 in b"),
        (lambda: contrast([], []), "a: empty"),
        (lambda: contrast([1, 0], [1, np.nan]), "b: item 1 is nan"),
        (lambda: contrast([1, 2], [1, 0]), "a: item 1 is 2"),
        (lambda: contrast([1], [0], method="wald"), "Unknown contrast method"),  # pyright: ignore[reportArgumentType]
        (lambda: contrast([1, 0], [0, 0], clusters=["x", "x"]), "has no clusters"),
        (lambda: contrast([1, 0], [0, 0], level=0.0), "Confidence level"),
        (lambda: mcnemar([1, 0, 1], [1, 0]), "3 in a and 2 in b"),
        (lambda: mcnemar([1, 3], [1, 0]), "0 or 1"),
        (lambda: holm([]), "empty"),
        (lambda: holm([0.1, 1.2]), "item 1 is 1.2"),
        (lambda: holm([0.1, np.nan]), "item 1 is nan"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
