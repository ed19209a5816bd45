"""Claims about a way of training: the sampled unit is the seed, not the item.

Five seeds with 500 items each are five observations of the recipe. The t interval over seeds is the primary
one, and it is widened to the interval over items wherever that is wider: a handful of seeds that agree by
luck must not look more certain than the items they were measured on.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from palimpsest.errors import InputError
from palimpsest.statistics.contrasts import ContrastMethod, contrast
from palimpsest.statistics.intervals import (
    BOOTSTRAP_SEED,
    RESAMPLES,
    Estimate,
    Method,
    as_values,
    estimate,
)

PROPORTIONS = ("wilson", "clopper_pearson")


def estimate_across_seeds(
    values: ArrayLike,
    seeds: Sequence[Hashable],
    *,
    within: Method = "wilson",
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    rng: int | np.random.Generator = BOOTSTRAP_SEED,
) -> Estimate:
    """Estimate the mean over trained models: t over seeds, never narrower than ``within`` over items.

    The result counts seeds (``n``). One seed says nothing about others, and its interval is ``(-inf, inf)``;
    use ``estimate`` for a claim about that one checkpoint. Where all seeds agree exactly (all at the ceiling,
    say) their spread is unknown and the interval over items is quoted: demand enough seeds with ``min_n``.

    Args:
        values: one number per item, ``[n]``.
        seeds: the training seed behind each item.
        within: interval over items, a method of ``estimate``.
        clusters: what items share besides the seed, for ``within``.
        level: confidence level, between 0 and 1.
        resamples: number of bootstrap draws, if ``within`` is a bootstrap.
        rng: seed or generator of the bootstrap.

    Raises:
        InputError: as ``estimate``.
    """
    between = estimate(values, method="t", clusters=seeds, level=level)
    items = estimate(values, method=within, clusters=clusters, level=level, resamples=resamples, rng=rng)
    return _within(wider(between, items), 0.0 if within in PROPORTIONS else -math.inf)


def contrast_across_seeds(
    a: ArrayLike,
    b: ArrayLike,
    seeds: Sequence[Hashable],
    *,
    within: ContrastMethod = "mcnemar_newcombe",
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    rng: int | np.random.Generator = BOOTSTRAP_SEED,
) -> Estimate:
    """Estimate mean(a) - mean(b) over trained models, paired by item and seed; see ``estimate_across_seeds``.

    Args:
        a: one number per item, ``[n]``.
        b: one number per item in the same order, ``[n]``.
        seeds: the training seed behind each pair.
        within: interval over pairs, a method of ``contrast``.
        clusters: what pairs share besides the seed, for ``within``.
        level: confidence level, between 0 and 1.
        resamples: number of bootstrap draws, if ``within`` is a bootstrap.
        rng: seed or generator of the bootstrap.

    Raises:
        InputError: as ``contrast``.
    """
    between = contrast(a, b, method="paired_t", clusters=seeds, level=level)
    items = contrast(a, b, method=within, clusters=clusters, level=level, resamples=resamples, rng=rng)
    return _within(wider(between, items), -1.0 if within == "mcnemar_newcombe" else -math.inf)


def contrast_of_models(
    a: ArrayLike,
    b: ArrayLike,
    seeds: Sequence[Hashable],
    *,
    within: ContrastMethod = "mcnemar_newcombe",
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> Estimate:
    """Estimate mean(a) - mean(b) of the models at hand: over seeds where there are several, else over pairs alone.

    Arguments as of ``contrast_across_seeds``. With one seed the interval speaks of that checkpoint, not of others.

    Raises:
        InputError: as ``contrast``.
    """
    if len(set(seeds)) == 1:
        return contrast(a, b, method=within, clusters=clusters, level=level)
    return contrast_across_seeds(a, b, seeds, within=within, clusters=clusters, level=level)


def seed_means(values: ArrayLike, seeds: Sequence[Hashable]) -> dict[Hashable, float]:
    """Return the mean of each seed's items, in order of appearance: the points to draw beside the interval.

    Raises:
        InputError: no values, one that is not finite, or a different number of seeds.
    """
    data = as_values(values, "values")
    if len(seeds) != len(data):
        raise InputError(f"seeds: {len(seeds)} labels for {len(data)} values; there must be one for each.")
    groups: dict[Hashable, list[float]] = {}
    for seed, value in zip(seeds, data.tolist(), strict=True):
        groups.setdefault(seed, []).append(value)
    return {seed: math.fsum(group) / len(group) for seed, group in groups.items()}


def _within(found: Estimate, least: float) -> Estimate:
    """Cut a bounded interval to what a proportion (0 to 1) or a difference of two (-1 to 1) can be."""
    if math.isinf(least) or not found.bounded:
        return found
    return replace(found, low=max(found.low, least), high=min(found.high, 1.0))


def wider(between: Estimate, items: Estimate) -> Estimate:
    """Return the interval ``between`` seeds, widened to that over ``items`` wherever that reaches further."""
    count = between.n
    if count < 2:
        why = f"t over {count} seed: not defined, needs two seeds or more"
        return Estimate(items.mean, -math.inf, math.inf, count, why, items.level, count)
    if not between.bounded:
        why = f"{items.method} over items of {count} seeds that agree exactly"
        return Estimate(items.mean, items.low, items.high, count, why, items.level, count)
    return Estimate(
        items.mean,
        min(between.low, items.low),
        max(between.high, items.high),
        count,
        f"t over {count} seeds, at least as wide as {items.method} over items",
        items.level,
        count,
    )
