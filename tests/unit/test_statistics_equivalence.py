"""Equivalence and non-inferiority: against statsmodels, at the borders, and by simulated error rates."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statistics_case import table
from statsmodels.stats.weightstats import ttost_paired

from palimpsest.errors import InputError
from palimpsest.statistics import (
    Equivalent,
    contrast,
    contrast_across_seeds,
    decide,
    equivalence,
    items_for_equivalence,
    items_for_non_inferiority,
    non_inferiority,
)


@given(st.integers(0, 1000), st.floats(-0.6, 0.6))
@settings(deadline=None, max_examples=25)
def test_paired_t_is_the_two_one_sided_tests_of_statsmodels(seed, shift):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(shift, 1, 30), rng.normal(0, 1, 30)
    p, (_, p_above, _), _ = ttost_paired(a, b, -0.5, 0.5)
    assert equivalence(a, b, 0.5, method="paired_t").p == pytest.approx(p, abs=3e-5)
    assert non_inferiority(a, b, 0.5, method="paired_t").p == pytest.approx(p_above, abs=3e-5)


@pytest.mark.parametrize("method", ["mcnemar_newcombe", "paired_t", "cluster_bootstrap"])
@pytest.mark.parametrize("cells", [(90, 10, 10, 90), (90, 20, 5, 85), (90, 40, 5, 65), (190, 3, 2, 5)])
def test_p_and_verdict_say_the_same(method, cells):
    a, b = table(*cells)
    found = equivalence(a, b, 0.08, method=method, resamples=1000)
    difference = contrast(a, b, method=method, level=0.90, resamples=1000)
    assert found.difference == difference
    assert found.verdict == decide(Equivalent(margin=0.08), difference)
    assert (found.p < 0.05) == (found.verdict == "PASS")
    worse = non_inferiority(b, a, 0.08, method=method, resamples=1000)
    assert (worse.p < 0.05) == (worse.verdict == "PASS") == (worse.difference.low > -0.08)
    assert (worse.verdict == "FAIL") == (worse.difference.high <= -0.08)
    assert (worse.p > 0.95) == (worse.verdict == "FAIL")


def test_an_effect_is_not_equivalent_and_no_evidence_is_not_either():
    a, b = table(20, 60, 2, 18)
    assert equivalence(a, b, 0.05).verdict == "FAIL"
    assert equivalence(a, b, 0.05).p > 0.99
    few = equivalence([1, 0, 1, 1], [1, 0, 0, 1], 0.05)
    assert (few.verdict, few.p > 0.05) == ("INCONCLUSIVE", True)


def test_being_better_is_non_inferior_but_not_equivalent():
    a, b = table(100, 60, 5, 35)
    assert non_inferiority(a, b, 0.05).verdict == "PASS"
    assert equivalence(a, b, 0.05).verdict == "FAIL"


def test_over_seeds_it_is_the_interval_over_seeds():
    rng = np.random.default_rng(1)
    base, shifts = rng.normal(size=5), np.array([-0.01, 0.01, 0.0, -0.02, 0.02])
    seeds = [0, 1, 2, 3, 4]
    found = equivalence(base, base - shifts, 0.05, method="paired_t", seeds=seeds)
    error = shifts.std(ddof=1) / math.sqrt(5)
    p = max(stats.t.sf((shifts.mean() + 0.05) / error, 4), stats.t.cdf((shifts.mean() - 0.05) / error, 4))
    assert found.p == pytest.approx(p, abs=3e-5)
    assert found.difference == contrast_across_seeds(base, base - shifts, seeds, within="paired_t", level=0.90)
    assert (found.verdict, found.difference.seeds) == ("PASS", 5)


def test_one_seed_shows_nothing():
    for test in (equivalence, non_inferiority):
        found = test([1.0, 0.0, 1.0], [1.0, 0.0, 0.0], 0.5, method="paired_t", seeds=[1, 1, 1])
        assert (found.p, found.verdict) == (1.0, "INCONCLUSIVE")


def test_error_rates_and_power_of_pairs():
    """At the margin at most about 5 % pass; at no difference the planned n passes 80 % of the time."""
    rng = np.random.default_rng(2)
    known: dict[tuple[int, int, int], tuple[bool, bool]] = {}

    def rates(n: int, only_a: float, only_b: float) -> np.ndarray:
        passed = []
        for cells in rng.multinomial(n, [0.7, only_a, only_b, 0.3 - only_a - only_b], 500).tolist():
            key = (cells[1], cells[2], cells[0])
            if key not in known:
                difference = contrast(*table(*cells), level=0.90)
                inside = difference.low > -0.05
                known[key] = (inside and difference.high < 0.05, inside)
            passed.append(known[key])
        known.clear()
        return np.mean(passed, axis=0)

    at_margin = rates(400, 0.075, 0.125)
    assert np.all(at_margin < 0.07)
    assert at_margin[1] > 0.03
    assert rates(items_for_equivalence(0.05, 0.10), 0.05, 0.05)[0] == pytest.approx(0.80, abs=0.05)
    one_sided = rates(items_for_non_inferiority(0.05, 0.10), 0.05, 0.05)
    assert one_sided == pytest.approx([0.60, 0.80], abs=0.06)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: equivalence([1, 0], [1, 0], 0.0), "margin is 0.0, but it must be above 0"),
        (lambda: non_inferiority([1, 0], [1, 0], -0.1), "must be above 0"),
        (lambda: equivalence([1, 0], [1, 0], math.nan), "must be above 0"),
        (lambda: equivalence([1, 0], [1], 0.1), "2 in a and 1 in b"),
        (lambda: equivalence([1, 0.5], [1, 0], 0.1), "0 or 1"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
