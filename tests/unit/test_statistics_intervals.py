"""Intervals against closed forms, scipy, published tables and simulated coverage."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from palimpsest.errors import InputError
from palimpsest.records import EstimateRecord, read_jsonl, write_jsonl
from palimpsest.statistics import Estimate, Method, estimate

outcomes = st.lists(st.integers(0, 1), min_size=1, max_size=60)


def ones(successes: int, n: int) -> list[int]:
    return [1] * successes + [0] * (n - successes)


def wilson_closed_form(k: int, n: int) -> tuple[float, float]:
    p, z = k / n, float(stats.norm.ppf(0.975))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return centre - half, centre + half


@pytest.mark.parametrize(
    ("n", "all_wilson", "all_exact", "half_low", "half_high", "none_high"),
    [
        (10, 0.722, 0.692, 0.24, 0.76, 0.278),
        (50, 0.929, 0.929, 0.37, 0.63, 0.071),
        (100, 0.963, 0.964, 0.40, 0.60, 0.037),
        (200, 0.981, 0.982, 0.43, 0.57, 0.019),
        (500, 0.992, 0.993, 0.46, 0.54, 0.008),
    ],
)
def test_the_published_table_of_one_cell(n, all_wilson, all_exact, half_low, half_high, none_high):
    full, half, none = (estimate(ones(k, n)) for k in (n, n // 2, 0))
    assert (full.mean, half.mean, none.mean) == (1.0, 0.5, 0.0)
    assert round(full.low, 3) == all_wilson
    assert round(estimate(ones(n, n), method="clopper_pearson").low, 3) == all_exact
    assert (round(half.low, 2), round(half.high, 2)) == (half_low, half_high)
    assert round(none.high, 3) == none_high
    assert full.high == 1.0
    assert none.low == 0.0


@given(outcomes)
@settings(deadline=None, max_examples=60)
def test_proportions_equal_their_closed_forms(values):
    k, n = sum(values), len(values)
    wilson = estimate(values)
    assert (wilson.low, wilson.high) == pytest.approx(wilson_closed_form(k, n), abs=1e-12)
    exact = estimate(values, method="clopper_pearson")
    assert exact.low == pytest.approx(stats.beta.ppf(0.025, k, n - k + 1) if k else 0.0, abs=1e-9)
    assert exact.high == pytest.approx(stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0, abs=1e-9)
    assert wilson.mean == exact.mean == k / n
    assert wilson.n == exact.n == n


@given(outcomes, st.sampled_from(["wilson", "clopper_pearson"]))
@settings(deadline=None, max_examples=40)
def test_proportions_mirror_and_nest(values, method):
    narrow, wide = (estimate(values, method=method, level=level) for level in (0.9, 0.99))
    assert wide.low <= narrow.low <= narrow.mean <= narrow.high <= wide.high
    mirrored = estimate([1 - value for value in values], method=method, level=0.9)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((narrow.low, narrow.high), abs=1e-9)


@pytest.mark.parametrize(("n", "level"), [(368, 0.95), (299, 0.90)])
def test_how_many_items_without_a_failure_show_99_percent(n, level):
    assert estimate(ones(n, n), method="clopper_pearson", level=level).low >= 0.99
    assert estimate(ones(n - 1, n - 1), method="clopper_pearson", level=level).low < 0.99


@pytest.mark.parametrize(("seeds", "half_width"), [(3, 2.48), (4, 1.59), (5, 1.24), (8, 0.84)])
def test_t_half_width_in_standard_deviations(seeds, half_width):
    means = np.linspace(-1, 1, seeds)
    found = estimate(means, method="t")
    assert round((found.high - found.low) / 2 / means.std(ddof=1), 2) == half_width
    assert found.n == seeds


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30).filter(lambda x: np.ptp(x) > 1e-6))
@settings(deadline=None, max_examples=40)
def test_t_is_the_one_sample_t_interval(values):
    oracle = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    found = estimate(values, method="t", level=0.9)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), rel=1e-9, abs=1e-9)


def test_cluster_robust_error_is_the_double_sum():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 7, 60).tolist()
    values = rng.normal(size=60) + np.array(labels)
    mean, count = values.mean(), len(set(labels))
    between = 0.0
    for label in set(labels):
        inside = [value - mean for value, other in zip(values, labels, strict=True) if other == label]
        between += sum(first * second for first in inside for second in inside)
    error = math.sqrt(between) / len(values) * math.sqrt(count / (count - 1))
    half = stats.t.ppf(0.975, count - 1) * error
    found = estimate(values, method="t", clusters=labels)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), rel=1e-12)
    assert (found.mean, found.n) == (pytest.approx(mean), count)


def test_clusters_of_one_size_are_their_means():
    values = np.random.default_rng(2).normal(size=(6, 11))
    labels = [("seed", row) for row in range(6) for _ in range(11)]
    clustered = estimate(values.ravel(), method="t", clusters=labels)
    means = estimate(values.mean(axis=1), method="t")
    assert (clustered.low, clustered.high) == pytest.approx((means.low, means.high), rel=1e-12)
    assert clustered.n == means.n == 6


def test_bootstrap_of_single_items_is_scipys():
    values = np.random.default_rng(3).exponential(size=40)
    rng = np.random.default_rng(5)
    oracle = stats.bootstrap((values,), np.mean, confidence_level=0.9, n_resamples=2000, rng=rng)
    found = estimate(values, method="bootstrap", level=0.9, resamples=2000, rng=5)
    interval = oracle.confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert found.method == "BCa bootstrap over 40 units, 2000 resamples"


def test_copies_inside_a_cluster_add_nothing():
    values = np.random.default_rng(4).normal(size=25)
    copies, labels = np.repeat(values, 20), np.repeat(np.arange(25), 20).tolist()
    single = estimate(values, method="bootstrap", resamples=500)
    assert estimate(copies, method="bootstrap", clusters=labels, resamples=500).low == pytest.approx(single.low)
    naive = estimate(copies, method="bootstrap", resamples=500)
    assert naive.high - naive.low < (single.high - single.low) / 3


def test_bootstrap_is_reproducible_and_its_seed_matters():
    values = np.random.default_rng(6).normal(size=30)
    again = [estimate(values, method="bootstrap", resamples=300) for _ in range(2)]
    assert again[0] == again[1]
    assert estimate(values, method="bootstrap", resamples=300, rng=1) != again[0]
    assert estimate(values, method="bootstrap", resamples=300, rng=np.random.default_rng(0)) == again[0]


def test_bootstrap_does_not_depend_on_the_batch(monkeypatch):
    values = np.random.default_rng(7).normal(size=30)
    whole = estimate(values, method="bootstrap", resamples=300)
    monkeypatch.setattr("palimpsest.statistics.intervals._BATCH_ELEMENTS", 100)
    assert estimate(values, method="bootstrap", resamples=300) == whole


@pytest.mark.parametrize("method", ["t", "bootstrap"])
@pytest.mark.parametrize("values", [[0.7], [1.0, 1.0, 1.0], [0.1 + 0.2, 0.3], [0.0, 0.0]])
def test_without_spread_there_is_no_interval(method, values):
    found = estimate(values, method=method)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert not found.bounded
    assert "not defined" in found.method
    assert str(found).startswith(f"{np.mean(values):.4g} (no interval")


def test_one_cluster_is_one_unit():
    found = estimate([0.1, 0.5, 0.9], method="t", clusters=["a", "a", "a"])
    assert (found.n, found.bounded, found.mean) == (1, False, pytest.approx(0.5))


def test_text_and_record_carry_the_numbers():
    found = estimate(ones(90, 100))
    assert str(found) == "0.9 [0.8256, 0.9448] (95 % interval, n = 100; Wilson)"
    record = found.record()
    assert isinstance(record, EstimateRecord)
    assert record.model_dump() == {
        "mean": 0.9,
        "low": found.low,
        "high": found.high,
        "n": 100,
        "method": "Wilson",
        "level": 0.95,
    }


@pytest.mark.parametrize(
    "found",
    [
        estimate(ones(9, 10)),
        estimate([3.1, 3.4], method="t"),
        estimate([3.1], method="t"),
    ],
)
def test_record_survives_the_disk(found, tmp_path):
    write_jsonl(tmp_path / "estimates.jsonl", [found.record()])
    assert list(read_jsonl(tmp_path / "estimates.jsonl", EstimateRecord)) == [found.record()]


def test_wilson_covers_95_percent_on_average_and_clopper_pearson_always():
    n = 60
    p = np.linspace(0.03, 0.97, 401)
    weight = stats.binom.pmf(np.arange(n + 1)[:, None], n, p)
    expected: list[tuple[Method, float, float]] = [("wilson", 0.945, 0.956), ("clopper_pearson", 0.95, 0.985)]
    for method, low, high in expected:
        found = [estimate(ones(k, n), method=method) for k in range(n + 1)]
        inside = np.array([(cell.low <= p) & (p <= cell.high) for cell in found])
        coverage = (weight * inside).sum(axis=0)
        assert low < coverage.mean() < high
        assert method == "wilson" or coverage.min() >= 0.95


def test_cluster_t_covers_95_percent_where_the_plain_t_does_not():
    rng = np.random.default_rng(8)
    hits = {"clustered": 0, "plain": 0}
    draws = 1200
    for _ in range(draws):
        sizes = rng.integers(6, 11, 24)
        labels = np.repeat(np.arange(24), sizes).tolist()
        values = np.repeat(rng.normal(size=24), sizes) + rng.normal(size=len(labels))
        for name, clusters in (("clustered", labels), ("plain", None)):
            found = estimate(values, method="t", clusters=clusters)
            hits[name] += found.low <= 0 <= found.high
    assert 0.93 < hits["clustered"] / draws < 0.97
    assert hits["plain"] / draws < 0.80


def test_cluster_bootstrap_covers_about_95_percent():
    rng = np.random.default_rng(9)
    draws, hits = 1000, 0
    for _ in range(draws):
        sizes = rng.integers(2, 7, 60)
        labels = np.repeat(np.arange(60), sizes).tolist()
        values = np.repeat(rng.normal(size=60), sizes) + 0.2 * rng.normal(size=len(labels))
        found = estimate(values, method="bootstrap", clusters=labels, resamples=999, rng=rng)
        hits += found.low <= 0 <= found.high
    assert 0.93 < hits / draws < 0.97


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: estimate([]), "empty"),
        (lambda: estimate([1, 0, math.nan]), "item 2 is nan"),
        (lambda: estimate([1, math.inf], method="t"), "item 1 is inf"),
        (lambda: estimate([1, 0.5]), "item 1 is 0.5"),
        (lambda: estimate([[1, 0]]), "shape"),
        (lambda: estimate(["yes", "no"]), "expected one number per item"),
        (lambda: estimate([1, 0], level=95), "Confidence level 95"),
        (lambda: estimate([1, 0], level=1.0), "Confidence level 1"),
        (lambda: estimate([1, 0], method="wilsn"), "Did you mean 'wilson'"),  # pyright: ignore[reportArgumentType]
        (lambda: estimate([1, 0], clusters=["a", "b"]), "has no clusters"),
        (lambda: estimate([1, 0], method="t", clusters=["a"]), "1 labels for 2 values"),
        (lambda: estimate([1, 0, 1], method="bootstrap", resamples=0), "resamples"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_estimate_is_immutable():
    with pytest.raises(AttributeError):
        Estimate(0.5, 0.4, 0.6, 10, "Wilson").mean = 0.9  # pyright: ignore[reportAttributeAccessIssue]


def test_statistics_needs_no_torch():
    code = "import sys, palimpsest.statistics; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
