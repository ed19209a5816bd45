"""The bootstrap over seeds, clusters and items: its variance, its designs, and the t interval beside it."""

import math

import numpy as np
import pytest

from palimpsest.errors import InputError
from palimpsest.statistics import estimate, hierarchical_bootstrap
from palimpsest.statistics.resampling import cell_weights, design, item_weights


def nested(seeds: int, clusters: int, items: int) -> tuple[list[int], list[int]]:
    index = np.arange(seeds * clusters * items)
    return (index // (clusters * items)).tolist(), (index // items).tolist()


def test_draws_replace_every_unit_by_units_of_its_own_kind():
    seeds, clusters = nested(3, 4, 5)
    plan = design(60, clusters, seeds)
    rng = np.random.default_rng(0)
    cells, items = cell_weights(plan, 50, rng), item_weights(plan, 50, rng)
    assert cells.sum(axis=1).tolist() == [12.0] * 50
    assert items.sum(axis=1).tolist() == [60.0] * 50
    by_seed = items.reshape(50, 3, 20).sum(axis=2)
    assert set((by_seed % 20).ravel().tolist()) == {0.0}
    assert set((items.reshape(50, 12, 5).sum(axis=2) % 5).ravel().tolist()) == {0.0}
    assert items.mean(axis=0) == pytest.approx(np.ones(60), abs=0.9)
    assert np.ptp(items.reshape(50, 12, 5), axis=2).max() > 0  # items inside a cluster are drawn, not carried along


def test_clusters_may_differ_in_size():
    labels = np.repeat(np.arange(6), [1, 4, 2, 4, 3, 1]).tolist()
    plan = design(15, labels, np.repeat([0, 1], [7, 8]).tolist())
    cells = cell_weights(plan, 30, np.random.default_rng(6))
    items = item_weights(plan, 30, np.random.default_rng(6))
    sums = np.stack([items[:, np.flatnonzero(plan.cells == cell)].sum(axis=1) for cell in range(6)], axis=1)
    assert np.array_equal(sums, cells * np.bincount(plan.cells))


def test_shared_clusters_are_drawn_for_all_seeds_together():
    seeds = np.repeat([0, 1, 2], 8).tolist()
    plan = design(24, np.tile(np.arange(8), 3).tolist(), seeds)
    assert plan.crossed
    weights = cell_weights(plan, 40, np.random.default_rng(1)).reshape(40, 3, 8)
    for draw in weights:
        present = draw[draw.sum(axis=1) > 0]
        assert np.all(present[0] * present.sum(axis=1, keepdims=True) / present[0].sum() == present)


def test_the_variance_is_that_of_the_stages():
    """Seeds without items' noise: (S - 1) / S of the variance of a mean; the bootstrap's own closed form."""
    rng = np.random.default_rng(2)
    means = rng.normal(size=6)
    seeds, clusters = nested(6, 10, 2)
    values = np.repeat(means, 20)
    found = hierarchical_bootstrap(values, seeds, clusters=clusters, resamples=20_000).bootstrap
    error = means.std() / math.sqrt(6)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.04)


def test_the_quoted_interval_reaches_as_far_as_either():
    rng = np.random.default_rng(3)
    seeds, clusters = nested(4, 12, 3)
    for spread in (0.0, 1.0):
        values = np.repeat(spread * rng.normal(size=4), 36) + np.repeat(rng.normal(size=48), 3) + rng.normal(size=144)
        quoted, bootstrap, between = hierarchical_bootstrap(values, seeds, clusters=clusters, resamples=1000)
        assert quoted.low == min(bootstrap.low, between.low)
        assert quoted.high == max(bootstrap.high, between.high)
        assert quoted.mean == pytest.approx(values.mean())
        same = estimate(values, method="t", clusters=seeds)
        assert (between.low, between.high) == (same.low, same.high)
        assert {each.seeds for each in (quoted, bootstrap, between)} == {4}


def test_haystacks_that_all_seeds_read_widen_the_interval():
    rng = np.random.default_rng(4)
    shared = rng.normal(size=20)
    values = np.tile(np.repeat(shared, 5), 4) + 0.1 * rng.normal(size=400)
    seeds = np.repeat(np.arange(4), 100).tolist()
    haystacks = np.tile(np.repeat(np.arange(20), 5), 4).tolist()
    crossed = hierarchical_bootstrap(values, seeds, clusters=haystacks, resamples=2000).quoted
    own = [seed * 100 + haystack for seed, haystack in zip(seeds, haystacks, strict=True)]
    inside = hierarchical_bootstrap(values, seeds, clusters=own, resamples=2000).quoted
    assert crossed.high - crossed.low > 1.6 * (inside.high - inside.low)
    assert (crossed.high - crossed.low) / 2 == pytest.approx(1.96 * shared.std() / math.sqrt(20), rel=0.1)


def test_without_spread_or_with_one_seed_there_is_no_interval():
    one = hierarchical_bootstrap([1.0, 0.0, 1.0], ["a", "a", "a"], resamples=10)
    alike = hierarchical_bootstrap([1.0] * 6, [0, 0, 1, 1, 2, 2], resamples=10)
    for found, seeds in ((one, 1), (alike, 3)):
        assert not found.quoted.bounded
        assert "not defined" in found.quoted.method
        assert found.quoted.n == found.quoted.seeds == seeds


def test_it_can_be_made_twice_and_its_batches_do_not_matter(monkeypatch):
    values, seeds = np.random.default_rng(5).normal(size=30), np.repeat(np.arange(3), 10).tolist()
    first = hierarchical_bootstrap(values, seeds, resamples=500)
    assert hierarchical_bootstrap(values, seeds, resamples=500) == first
    assert hierarchical_bootstrap(values, seeds, resamples=500, rng=1) != first
    monkeypatch.setattr("palimpsest.statistics.resampling.BATCH_ELEMENTS", 3000)
    again = hierarchical_bootstrap(values, seeds, resamples=500).bootstrap
    assert (again.low, again.high) == pytest.approx((first.bootstrap.low, first.bootstrap.high), abs=0.1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: hierarchical_bootstrap([], []), "empty"),
        (lambda: hierarchical_bootstrap([1.0, 2.0], [0]), "1 labels for 2"),
        (lambda: hierarchical_bootstrap([1.0, 2.0], [0, 1], clusters=["x"]), "1 labels for 2"),
        (lambda: hierarchical_bootstrap([1.0, 2.0], [0, 1], resamples=0), "resamples"),
        (lambda: hierarchical_bootstrap([1.0, 2.0], [0, 1], level=2.0), "Confidence level"),
        (lambda: hierarchical_bootstrap([1.0] * 4, [0, 0, 1, 2], clusters=["x", "y", "x", "z"]), "under 1 to 2"),
        (lambda: hierarchical_bootstrap([1.0] * 3, [0, 1, 2], clusters=["x", "x", "z"]), "all of them under all 3"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
