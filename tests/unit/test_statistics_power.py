"""Planning: the published numbers, statsmodels, and the tests themselves run on simulated data."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import NormalIndPower, TTestPower

from palimpsest.errors import InputError
from palimpsest.statistics import (
    design_effect,
    detectable_difference,
    detectable_effect,
    estimate,
    items_for_at_least,
    items_for_difference,
    items_for_equivalence,
    items_for_mcnemar,
    items_for_non_inferiority,
    items_without_failure,
    mcnemar,
    mcnemar_power,
    question_variance,
    seed_half_width,
    seeds_for_effect,
)


@pytest.mark.parametrize(("value", "two", "one"), [(0.99, 368, 299), (0.9, 36, 29), (0.95, 72, 59)])
def test_items_without_failure(value, two, one):
    assert items_without_failure(value) == two
    assert items_without_failure(value, two_sided=False) == one
    for n, holds in ((two, True), (two - 1, False)):
        assert (estimate([1] * n, method="clopper_pearson").low >= value) is holds


@pytest.mark.parametrize(("value", "truth"), [(0.9, 0.95), (0.5, 0.6), (0.8, 0.97)])
def test_items_for_at_least_is_the_power_of_the_exact_interval(value, truth):
    def power(n: int) -> float:
        right = np.arange(1, n + 1)
        lows = stats.beta.ppf(0.025, right, n - right + 1)
        return float(np.sum(stats.binom.pmf(right[lows >= value], n, truth)))

    n = items_for_at_least(value, truth)
    assert power(n) >= 0.8
    assert max(power(fewer) for fewer in range(max(1, n - 10), n)) < 0.8


@pytest.mark.parametrize(
    ("margin", "needed"), [(0.05, [124, 248, 495]), (0.03, [344, 687, 1374]), (0.02, [773, 1546, 3092])]
)
def test_the_published_sample_sizes_are_those_of_one_one_sided_test(margin, needed):
    assert [items_for_non_inferiority(margin, share) for share in (0.05, 0.10, 0.20)] == needed


def test_equivalence_needs_more_because_both_sides_must_reject():
    assert [items_for_equivalence(0.05, share) for share in (0.05, 0.10, 0.20)] == [172, 343, 686]
    n, error = 343, math.sqrt(0.10 / 343)
    reach = 0.05 / error - stats.norm.isf(0.05)
    assert 2 * stats.norm.cdf(reach) - 1 == pytest.approx(0.80, abs=0.002)
    reach = 0.05 / math.sqrt(0.10 / 248) - stats.norm.isf(0.05)
    assert 2 * stats.norm.cdf(reach) - 1 == pytest.approx(0.60, abs=0.002)
    assert n == items_for_equivalence(0.05, 0.10)


@pytest.mark.parametrize(("n", "unpaired", "ten", "twenty"), [(500, 0.089, 0.040, 0.056), (1000, 0.063, 0.028, 0.040)])
def test_the_published_detectable_differences(n, unpaired, ten, twenty):
    found = [detectable_difference(n, variance) for variance in (0.5, 0.10, 0.20)]
    assert [round(each, 3) for each in found] == [unpaired, ten, twenty]


def test_items_for_a_difference_invert_it_and_agree_with_statsmodels():
    n = items_for_difference(0.04, 0.10)
    assert detectable_difference(n, 0.10) <= 0.04 < detectable_difference(n - 1, 0.10)
    oracle = NormalIndPower(ddof=0).solve_power(0.04 / math.sqrt(0.10), alpha=0.05, power=0.8, ratio=0)
    assert n == math.ceil(float(oracle))


@pytest.mark.parametrize(("n", "discordance", "difference"), [(30, 0.3, 0.2), (80, 0.1, 0.08), (60, 0.2, 0.0)])
def test_mcnemar_power_is_that_of_the_test_itself(n, discordance, difference):
    """Every possible table of discordants, weighted with its chance, through ``mcnemar``."""
    first = (discordance + difference) / 2
    power = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            a, other = [1] * b + [0] * c + [0], [0] * b + [1] * c + [0]
            chance = stats.multinomial.pmf([b, c, n - b - c], n, [first, discordance - first, 1 - discordance])
            if chance > 1e-9 and mcnemar(a, other) <= 0.05:
                power += chance
    assert mcnemar_power(n, discordance, difference) == pytest.approx(power, abs=1e-5)
    assert mcnemar_power(n, discordance, -difference) == pytest.approx(power, abs=1e-5)


def test_items_for_mcnemar_reach_the_power_and_are_near_the_normal_formula():
    n = items_for_mcnemar(0.10, 0.04)
    assert mcnemar_power(n, 0.10, 0.04) >= 0.8 > mcnemar_power(n - 1, 0.10, 0.04)
    assert 1.0 < n / items_for_difference(0.04, 0.10 - 0.04**2) < 1.15  # the exact test is conservative


@pytest.mark.parametrize(("seeds", "half", "effect"), [(3, 2.48, 3.3), (4, 1.59, None), (5, 1.24, 1.7), (8, 0.84, 1.2)])
def test_the_published_numbers_of_seeds(seeds, half, effect):
    assert round(seed_half_width(seeds), 2) == half
    if effect is not None:
        assert round(detectable_effect(seeds), 1) == effect


@pytest.mark.parametrize("seeds", [3, 5, 12])
@pytest.mark.parametrize("power", [0.5, 0.8])
def test_detectable_effects_are_those_of_statsmodels(seeds, power):
    oracle = TTestPower().solve_power(nobs=seeds, alpha=0.05, power=power)
    assert detectable_effect(seeds, power=power) == pytest.approx(oracle, rel=1e-5)


def test_seeds_for_an_effect_invert_it():
    for effect in (0.5, 1.0, 1.7, 3.3, 40.0):
        seeds = seeds_for_effect(effect)
        assert detectable_effect(seeds) <= effect
        assert seeds == 2 or detectable_effect(seeds - 1) > effect


def test_millers_formula():
    # (1.960 + 0.842)^2 (1/9 + (1/6 + 1/6) / K) / 0.03^2 with K = 1 and 10
    variance = [question_variance(1 / 9, 1 / 6, 1 / 6, answers_a=k, answers_b=k) for k in (1, 10)]
    assert variance == pytest.approx([4 / 9, 1 / 9 + 1 / 30])
    assert [items_for_difference(0.03, each) for each in variance] == [3876, 1260]
    assert items_for_difference(0.03, variance[1] * design_effect(5, 0.25)) == 2520


def test_the_design_effect_is_the_inflation_of_the_cluster_robust_error():
    rng = np.random.default_rng(0)
    values = (rng.normal(0, math.sqrt(0.3), (4000, 1)) + rng.normal(0, math.sqrt(0.7), (4000, 5))).ravel()
    labels = np.repeat(np.arange(4000), 5).tolist()
    clustered, plain = (estimate(values, method="t", clusters=c) for c in (labels, None))
    ratio = ((clustered.high - clustered.low) / (plain.high - plain.low)) ** 2
    assert ratio == pytest.approx(design_effect(5, 0.3), rel=0.06)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: items_without_failure(1.0), "value is 1, but it must lie between 0 and 1"),
        (lambda: items_for_at_least(0.9, 0.9), "truth is 0.9, but it must be above value"),
        (lambda: mcnemar_power(10, 0.1, 0.2), "cannot exceed the discordance"),
        (lambda: items_for_mcnemar(0.1, 0.0), "difference is 0"),
        (lambda: items_for_difference(0.0, 1.0), "difference is 0"),
        (lambda: items_for_equivalence(0.0, 0.1), "margin is 0"),
        (lambda: items_for_non_inferiority(0.05, 1.5), "discordance is 1.5"),
        (lambda: detectable_difference(0, 1.0), "n is 0"),
        (lambda: detectable_difference(10, -1.0), "variance is -1"),
        (lambda: seed_half_width(1), "seeds is 1, but there must be at least 2"),
        (lambda: detectable_effect(5, power=0.01), "power is 0.01"),
        (lambda: seeds_for_effect(0.0), "effect is 0"),
        (lambda: question_variance(0.1, answers_a=0), "answers_a is 0"),
        (lambda: design_effect(0.5, 0.1), "cluster_size 0.5"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
