"""Logistic curves: the fit against statsmodels, bands, censored distances, and what separation does to them."""

import math
import time
import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.interpolate import CubicSpline

from palimpsest.errors import InputError
from palimpsest.statistics import (
    BandAtLeast,
    Shape,
    decide,
    distance_at,
    logistic_curve,
    logistic_slopes,
    slope,
    steepest,
)
from palimpsest.statistics.logistic import chance, fit, information

LINE = Shape(knots=2)


def falling(n: int, *, middle: float = 512.0, rate: float = 2.0, floor: float = 0.0, seed: int = 0):
    """Distances from 64 to 4,096 and outcomes whose log odds fall by ``rate`` per e-fold, 0 at ``middle``."""
    rng = np.random.default_rng(seed)
    x = np.exp(np.linspace(math.log(64), math.log(4096), n))
    return x, (rng.random(n) < chance(rate * np.log(middle / x), floor)).astype(int)


def oracle(basis, correct, weights):
    """The same added items, given to statsmodels as proportions with weights."""
    n, k = basis.shape
    total = weights + k / n
    family = sm.families.Binomial()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it takes fractions for a mistake
        model = sm.GLM((weights * correct + k / n / 2) / total, basis, family=family, freq_weights=total)
        return model.fit(tol=1e-12).params


def test_the_fit_is_that_of_statsmodels_for_every_draw():
    rng = np.random.default_rng(1)
    basis = np.stack([np.ones(120), rng.normal(size=120), rng.normal(size=120)], axis=1)
    correct = (rng.random(120) < chance(basis @ [0.5, -1.0, 0.3])).astype(float)
    weights = rng.multinomial(120, np.full(120, 1 / 120), size=4).astype(float)
    found = fit(basis, correct, weights)
    for row, weight in zip(found, weights, strict=True):
        assert row == pytest.approx(oracle(basis, correct, weight), abs=1e-6)


@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_the_fit_solves_its_score_equation(floor):
    x, y = falling(300, floor=floor)
    basis = np.stack([np.ones(300), np.log(x)], axis=1)
    found = fit(basis, y, np.ones((1, 300)), floor=floor)[0]

    def likelihood(coefficients):
        p, share = chance(basis @ coefficients, floor), chance(basis @ coefficients)
        added = 1 / 300 * np.log(share * (1 - share))
        return np.sum(y * np.log(p) + (1 - y) * np.log1p(-p) + added)

    for move in ([1e-3, 0], [-1e-3, 0], [0, 1e-3], [0, -1e-3]):
        assert likelihood(found + np.array(move)) < likelihood(found)


def test_the_information_is_the_curvature_of_the_likelihood_with_the_added_items():
    x, y = falling(60)
    basis = np.stack([np.ones(60), np.log(x)], axis=1)
    found = fit(basis, y, np.ones((1, 60)))[0]

    def slope_of(coefficients):
        share = chance(basis @ coefficients)
        return basis.T @ (y - share + 2 / 60 * (0.5 - share))

    steps = 1e-5 * np.eye(2)
    curvature = [(slope_of(found - step) - slope_of(found + step)) / 2e-5 for step in steps]
    assert information(basis, found) == pytest.approx(np.array(curvature), rel=1e-6)


def test_the_curve_is_the_natural_spline_of_statsmodels():
    x, y = falling(400)
    curve = logistic_curve(x, y, shape=Shape(knots=5), resamples=20)
    knots = np.quantile(np.log(x), np.linspace(0, 1, 5))
    # another basis of the same space: natural splines through arbitrary values at the knots
    other = CubicSpline(knots, np.random.default_rng(2).normal(size=(5, 5)), bc_type="natural")
    values = other(np.log(x))
    assert curve.mean == pytest.approx(chance(other(np.log(curve.x)) @ oracle(values, y, np.ones(400))), abs=1e-6)


def test_two_knots_are_a_straight_line_whose_d50_and_steepest_point_are_closed_forms():
    x, y = falling(3000)
    curve = logistic_curve(x, y, shape=LINE, resamples=300)
    basis = np.stack([np.ones(3000), np.log(x)], axis=1)
    a, b = fit(basis, y, np.ones((1, 3000)))[0]
    for accuracy in (0.5, 0.9, 0.2):
        closed = math.exp((math.log(accuracy / (1 - accuracy)) - a) / b)
        found = distance_at(curve, accuracy)
        assert found.estimate.mean == pytest.approx(closed, rel=1e-3)
        assert found.estimate.low < closed < found.estimate.high
        assert not found.censored
    half = steepest(curve)
    assert half.estimate.mean == pytest.approx(math.exp(-a / b), rel=0.015)  # half a step of the grid
    assert half.estimate.low < 512 < half.estimate.high


def test_the_interval_of_d50_agrees_with_the_delta_method():
    x, y = falling(3000)
    found = distance_at(logistic_curve(x, y, shape=LINE, resamples=2000), 0.5).estimate
    result = sm.Logit(y, sm.add_constant(np.log(x))).fit(disp=0)
    a, b = result.params
    gradient = np.array([-1 / b, a / b**2])
    error = math.sqrt(gradient @ result.cov_params() @ gradient)
    assert math.log(found.high / found.low) / 2 == pytest.approx(1.96 * error, rel=0.08)


def test_a_distance_that_is_not_reached_is_a_bound_and_never_the_end_of_the_range():
    x, y = falling(600, middle=1e6)
    far = distance_at(logistic_curve(x, y, shape=LINE, resamples=100), 0.5)
    assert far.censored
    assert far.estimate.mean == far.estimate.high == math.inf
    assert far.estimate.low == pytest.approx(4096)
    assert str(far).startswith("not reached: > 4096, the largest tested")
    assert str(far.estimate).startswith("inf [4096, inf] (95 % interval")
    x, y = falling(600, middle=1.0)
    near = distance_at(logistic_curve(x, y, shape=LINE, resamples=100), 0.5)
    assert near.censored
    assert near.estimate.mean == near.estimate.low == 0.0
    assert near.estimate.high == pytest.approx(64)
    assert "< 64, the smallest tested" in str(near)
    x, y = falling(150, middle=3600.0)
    half_open = distance_at(logistic_curve(x, y, shape=LINE, resamples=200), 0.5)
    assert half_open.estimate.high == math.inf
    assert half_open.estimate.low < 4000
    assert "above 4096" in str(half_open)


def test_the_first_fall_counts():
    """Accuracy that comes back at longer distances does not undo that it fell."""
    x = np.repeat([1.0, 2.0, 4.0, 8.0, 16.0], 400)
    share = np.repeat([1.0, 1.0, 0.1, 0.95, 1.0], 400)
    y = (np.tile(np.arange(400), 5) / 400 < share).astype(int)
    found = distance_at(logistic_curve(x, y, shape=Shape(knots=5), resamples=50), 0.5).estimate
    assert 2 < found.mean < 4


@pytest.mark.parametrize("answer", [0, 1])
@pytest.mark.parametrize("knots", [2, 6])
def test_answers_that_are_all_alike_keep_a_finite_honest_band(answer, knots):
    x = np.geomspace(64, 4096, 2000)
    curve = logistic_curve(x, np.full(2000, answer), shape=Shape(knots=knots), resamples=50)
    wrong = 1 - curve.low if answer else curve.high
    assert np.all(wrong < 0.04)
    assert np.all(wrong > 3.7 / 2000)  # the exact bound of one proportion from all 2,000 items
    assert decide(BandAtLeast(value=0.9, fail_below=0.5), curve.lowest()) == ("PASS" if answer else "FAIL")
    assert math.isnan(steepest(curve).estimate.mean)
    assert "none shown" in str(steepest(curve))


def test_outcomes_that_are_separated_have_a_curve():
    x = np.geomspace(1, 1024, 200)
    curve = logistic_curve(x, (x < 32).astype(int), shape=LINE, resamples=100)
    assert distance_at(curve, 0.5).estimate.mean == pytest.approx(32, rel=0.05)
    assert np.all(np.diff(curve.mean) < 0)


def test_the_floor_holds_the_curve_up_and_moves_d50_to_where_it_is():
    x, y = falling(6000, floor=0.25, rate=3.0)
    curve = logistic_curve(x, y, shape=Shape(knots=2, floor=0.25), resamples=200)
    true = 512 * math.exp(math.log(2) / 3)  # (.5 - .25) / .75 = 1/3: log odds -log 2 at rate 3
    found = distance_at(curve, 0.5).estimate
    assert found.low < true < found.high
    assert found.high / found.low < 1.3
    assert curve.low.min() >= 0.25
    low, mean, high = (np.arcsin(np.sqrt((each - 0.25) / 0.75)) for each in (curve.low, curve.mean, curve.high))
    inside = (curve.low > 0.25) & (curve.high < 1)
    assert inside.sum() > 50
    assert (low + high)[inside] == pytest.approx(2 * mean[inside])  # symmetrical where the share is, not the accuracy
    with pytest.raises(InputError, match=r"between the floor 0\.25 and 1"):
        distance_at(curve, 0.25)


def test_the_band_is_wider_than_pointwise_and_contains_the_fit():
    x, y = falling(800)
    curve = logistic_curve(x, y, resamples=300)
    inside = slice(40, 160)
    half = (np.arcsin(np.sqrt(curve.high)) - np.arcsin(np.sqrt(curve.low)))[inside] / 2
    assert np.all(half > 2.3 * curve.error[inside])
    assert np.all((curve.low <= curve.mean) & (curve.mean <= curve.high))
    narrow = logistic_curve(x, y, resamples=300, level=0.8)
    assert np.all((curve.high - curve.low)[inside] > (narrow.high - narrow.low)[inside])


def test_items_that_are_copies_add_nothing():
    x, y = falling(150)
    single = logistic_curve(x, y, shape=LINE, resamples=400)
    labels = np.repeat(np.arange(150), 10).tolist()
    copies = logistic_curve(np.repeat(x, 10), np.repeat(y, 10), shape=LINE, clusters=labels, resamples=400)
    naive = logistic_curve(np.repeat(x, 10), np.repeat(y, 10), shape=LINE, resamples=400)
    assert copies.error == pytest.approx(single.error, rel=0.15)
    assert np.all(naive.error < copies.error / 2)


def test_seeds_that_differ_widen_the_band_by_their_spread_and_their_number():
    x, _ = falling(500)
    rng = np.random.default_rng(3)
    shifts = np.array([-1.2, -0.4, 0.1, 0.5, 1.0])
    y = np.concatenate([rng.random(500) < chance(2 * np.log(512 / x) + shift) for shift in shifts])
    seeds = np.repeat(np.arange(5), 500).tolist()
    across = logistic_curve(np.tile(x, 5), y, shape=LINE, seeds=seeds, resamples=300)
    items = logistic_curve(np.tile(x, 5), y, shape=LINE, resamples=300)
    assert (across.n, across.seeds, items.seeds) == (5, 5, None)
    assert across.widening == pytest.approx(math.sqrt(5 / 4) * 2.7764 / 1.96, rel=1e-3)
    assert np.median(across.error / items.error) > 3
    assert across.lowest().seeds == 5
    assert decide(BandAtLeast(value=0.01, min_seeds=6), across.lowest()) == "INCONCLUSIVE"


def test_one_seed_has_no_band():
    x, y = falling(300)
    curve = logistic_curve(x, y, seeds=[7] * 300, resamples=20)
    assert not curve.lowest().bounded
    assert curve.lowest().mean > 0
    assert "needs two or more" in curve.method
    found = distance_at(curve, 0.5).estimate
    assert (found.low, found.high) == (0.0, math.inf)
    assert decide(BandAtLeast(value=0.9), curve.lowest()) == "INCONCLUSIVE"


def test_the_lowest_point_is_that_of_the_range_asked():
    x, y = falling(2000)
    curve = logistic_curve(x, y, resamples=100)
    near, all_of_it = curve.lowest(end=128), curve.lowest()
    assert near.mean > 0.85 > 0.1 > all_of_it.mean
    assert (all_of_it.mean, all_of_it.low) == (curve.mean.min(), curve.low.min())
    with pytest.raises(InputError, match="No part of 5000 to inf"):
        curve.lowest(start=5000)


def test_a_curve_can_be_made_twice_and_its_seed_matters():
    x, y = falling(200)
    first, again, other = (logistic_curve(x, y, resamples=50, rng=rng) for rng in (0, 0, 1))
    assert np.array_equal(first.low, again.low)
    assert not np.array_equal(first.low, other.low)


def test_data_drawn_with_the_same_seed_do_not_steer_the_draws():
    """Else one draw in the first thousand picks the right answers alone, and the error is a quarter too large."""
    x, y = falling(3000, seed=0)
    same, other = (logistic_curve(x, y, shape=LINE, resamples=1000, rng=rng) for rng in (0, 1))
    assert same.error == pytest.approx(other.error, rel=0.08)


def test_a_curve_of_2500_items_and_1000_draws_takes_seconds():
    x, y = falling(2500)
    began = time.process_time()
    logistic_curve(x, y, resamples=1000)
    assert time.process_time() - began < 10


def test_slopes_are_those_of_statsmodels():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 30, 400)
    x = rng.normal(size=400)
    y = 0.5 * x + rng.normal(size=30)[labels] + rng.normal(size=400)
    design = sm.add_constant(x)
    plain = sm.OLS(y, design).fit()
    found = slope(x, y)
    assert (found.mean, found.low, found.high) == pytest.approx((plain.params[1], *plain.conf_int()[1]), rel=1e-9)
    robust = sm.OLS(y, design).fit(cov_type="cluster", cov_kwds={"groups": labels}, use_t=True)
    found = slope(x, y, clusters=labels.tolist())
    assert (found.low, found.high) == pytest.approx(tuple(robust.conf_int()[1]), rel=1e-9)
    assert found.n == 30


def test_logistic_slopes_are_those_of_statsmodels():
    rng = np.random.default_rng(5)
    n = 20_000  # so that the added items do not matter
    labels = rng.integers(0, 200, n)
    length, compressions = rng.normal(size=n), rng.normal(size=n)
    correct = (rng.random(n) < chance(0.4 - 0.7 * compressions + 0.5 * rng.normal(size=200)[labels])).astype(int)
    found = logistic_slopes({"length": length, "compressions": compressions}, correct, clusters=labels.tolist())
    design = np.stack([np.ones(n), length, compressions], axis=1)
    model = sm.GLM(correct, design, family=sm.families.Binomial())
    robust = model.fit(cov_type="cluster", cov_kwds={"groups": labels}, use_t=True)
    for i, name in enumerate(("length", "compressions"), 1):
        each = found[name]
        ends = robust.conf_int()[i]
        # statsmodels takes n - k degrees of freedom here, and t differs by half a percent
        assert (each.mean, each.low, each.high) == pytest.approx((robust.params[i], *ends), abs=2e-3)
    assert found["compressions"].high < 0 < found["length"].high


def test_separating_covariates_have_a_finite_slope():
    found = logistic_slopes({"x": [0.0] * 50 + [1.0] * 50}, [0] * 50 + [1] * 50)["x"]
    assert found.mean > 4
    assert math.isfinite(found.mean)


def test_slopes_without_a_spread():
    assert not slope([1, 2], [1, 3]).bounded
    assert not slope([1, 2, 3], [1, 3, 4], clusters=["a", "a", "a"]).bounded


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: logistic_curve([1, 2], [1]), "got 2 and 1"),
        (lambda: logistic_curve([1, 0.0], [1, 0]), "item 1 is 0, but a logarithmic axis"),
        (lambda: logistic_curve([1, 2, 3], [1, 0, 0.5]), "0 or 1"),
        (lambda: logistic_curve([1, 2, 2, 1], [1, 0, 1, 0]), "2 distinct values, fewer than the 6 knots"),
        (lambda: logistic_curve([1, 2], [1, 0], shape=LINE, resamples=0), "resamples"),
        (lambda: logistic_curve([1, 2], [1, 0], shape=LINE, level=1.0), "Confidence level"),
        (lambda: logistic_curve([1, 2, 3], [1, 0, 0], shape=LINE, clusters=[1]), "1 labels for 3"),
        (lambda: Shape(knots=1), "at least 2"),
        (lambda: Shape(floor=1.0), "floor is 1.0"),
        (lambda: slope([1, 1, 1], [1, 2, 3]), "x: constant"),
        (lambda: slope([1, 2], [1, 2, 3]), "2 values for 3"),
        (lambda: logistic_slopes({"a": [1, 2, 3], "b": [2, 4, 6]}, [0, 1, 1]), "determined by each other"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
