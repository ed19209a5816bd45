"""Estimates over trained models that are never more certain than the items they were measured on.

Every interval is the t interval over seeds, reaching at least as far as that over answers and, since all seeds read the
same items, as the one that counts each haystack once.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from palimpsest.statistics import (
    Estimate,
    contrast,
    difference_in_differences,
    estimate,
    ratio_of_means,
    seed_means,
)
from palimpsest.statistics.seeds import wider
from palimpsest.study.scorecard.measures.answers import Answers, paired, same_seeds
from palimpsest.study.scorecard.measures.base import Quantity


def accuracy(of: Answers) -> Quantity:
    """Return the share of right answers over trained models."""

    def at(level: float) -> Estimate:
        between = estimate(of.values, method="t", clusters=of.seeds, level=level)
        return _cut(wider(between, _over_items(of, level)), 0.0)

    return at


def above_floor(of: Answers, floor: float) -> Quantity:
    """Return the share of right answers over trained models minus what guessing scores."""
    share = accuracy(of)
    return lambda level: _shifted(share(level), floor)


def difference(a: Answers, b: Answers) -> Quantity:
    """Return the share of right answers of a minus that of b, paired by seed and item.

    Raises:
        Missing: they have no item in common under the same seed.
    """
    a, b = paired(a, b)

    def at(level: float) -> Estimate:
        changes = _changes(a, b)
        between = estimate(changes.values, method="t", clusters=changes.seeds, level=level)
        return _cut(wider(between, _changed_over_items(a, b, level)), -1.0)

    return at


def gap(a: Answers, b: Answers) -> Quantity:
    """Return the share of right answers of a minus that of b, where they answered different items.

    Source: Newcombe (1998), Statistics in Medicine 17, 873-890, method 10, for the items.

    Raises:
        Missing: they have no seed in common.
    """
    a, b = same_seeds(a, b)

    def at(level: float) -> Estimate:
        changes = [x - y for x, y in zip(*_means(a, b), strict=True)]
        between = estimate(changes, method="t", level=level)
        return wider(between, difference_of_estimates(_over_items(a, level), _over_items(b, level)))

    return at


def ratio(a: Answers, b: Answers, *, floor: float = 0.0) -> Quantity:
    """Return (mean of a - floor) / (mean of b - floor): Fieller over seeds, at least as wide as that over items.

    It is not defined (NaN) where the denominator may be zero.

    Raises:
        Missing: they have no seed in common.
    """
    a, b = same_seeds(a, b)

    def at(level: float) -> Estimate:
        above, below = ([mean - floor for mean in means] for means in _means(a, b))
        between = ratio_of_means(above, below, method="fieller", level=level)
        if math.isnan(between.mean) or sum(below) <= 0:
            return replace(between, mean=math.nan, seeds=between.n)
        sides = [_shifted(_over_items(each, level), floor) for each in (a, b)]
        return wider(between, ratio_of_estimates(*sides))

    return at


def share_of_loss(intact: Answers, part: Answers, whole: Answers) -> Quantity:
    """Return (intact - part) / (intact - whole), all on the same items; NaN where the whole loss may be zero.

    Raises:
        Missing: they have no item in common under the same seed.
    """
    intact, part = paired(intact, part)
    intact, whole = paired(intact, whole)
    part, _ = paired(part, intact)

    def at(level: float) -> Estimate:
        sides = [seed_means(_changes(intact, each).values, intact.seeds) for each in (part, whole)]
        above, below = (list(side.values()) for side in sides)
        between = ratio_of_means(above, below, method="fieller", level=level)
        if math.isnan(between.mean) or sum(below) <= 0:
            return replace(between, mean=math.nan, seeds=between.n)
        items = [_changed_over_items(intact, each, level) for each in (part, whole)]
        return wider(between, ratio_of_estimates(*items))

    return at


def changes_apart(treated: tuple[Answers, Answers], control: tuple[Answers, Answers]) -> Quantity:
    """Return how much more the treated answers changed, (after - before), than those of the control.

    Raises:
        Missing: a change without items in common, or no seed in common.
    """
    treated, control = paired(*treated), paired(*control)
    both = set(treated[0].seeds) & set(control[0].seeds)
    (a, b), (c, d) = ((x.of_seeds(both), y.of_seeds(both)) for x, y in (treated, control))

    def at(level: float) -> Estimate:
        means = [seed_means(each.values, each.seeds) for each in (a, b, c, d)]
        apart = [means[0][s] - means[1][s] - (means[2][s] - means[3][s]) for s in means[0]]
        between = estimate(apart, method="t", level=level)
        items = difference_in_differences(
            (a.values, b.values), (c.values, d.values), clusters=(a.clusters, c.clusters), level=level
        )
        return wider(between, items)

    return at


def over_seeds(values: Sequence[float]) -> Quantity:
    """Return the t interval of one number for each seed; NaN if one of them does not exist."""

    def at(level: float) -> Estimate:
        if not all(math.isfinite(value) for value in values):
            why = "not defined for every seed"
            return Estimate(math.nan, -math.inf, math.inf, len(values), why, level, len(values))
        return estimate(values, method="t", level=level).over_seeds(len(values))

    return at


def difference_of_estimates(a: Estimate, b: Estimate) -> Estimate:
    """Return a - b of independent estimates from their intervals (Newcombe 1998, method 10)."""
    mean = a.mean - b.mean
    low = mean - math.hypot(a.mean - a.low, b.high - b.mean)
    high = mean + math.hypot(a.high - a.mean, b.mean - b.low)
    return Estimate(mean, low, high, min(a.n, b.n), "recovered variances of a difference", a.level)


def ratio_of_estimates(a: Estimate, b: Estimate) -> Estimate:
    """Return a / b of independent estimates, b above 0, from their intervals; without an upper end if b may be 0.

    Source: Donner and Zou (2012), Statistical Methods in Medical Research 21, 347-359.
    """
    name = "recovered variances of a ratio"
    if a.mean < 0:
        turned = ratio_of_estimates(replace(a, mean=-a.mean, low=-a.high, high=-a.low), b)
        return replace(turned, mean=-turned.mean, low=-turned.high, high=-turned.low)
    if b.low <= 0 and a.low < 0:
        return Estimate(a.mean / b.mean, -math.inf, math.inf, min(a.n, b.n), name, a.level)
    product = a.mean * b.mean
    far = b.high if a.low > 0 else b.low
    top = a.low * (2 * a.mean - a.low)
    below = product + math.sqrt(max(0.0, product**2 - top * far * (2 * b.mean - far)))
    low = top / below if below > 0 else -math.inf if top < 0 else 0.0
    high = math.inf
    if b.low > 0:
        bottom = b.low * (2 * b.mean - b.low)
        high = (product + math.sqrt(max(0.0, product**2 - a.high * (2 * a.mean - a.high) * bottom))) / bottom
    return Estimate(a.mean / b.mean, low, high, min(a.n, b.n), name, a.level)


def _means(a: Answers, b: Answers) -> tuple[list[float], list[float]]:
    """Return the mean of each seed, in one order."""
    first, second = (seed_means(each.values, each.seeds) for each in (a, b))
    return list(first.values()), [second[seed] for seed in first]


def _one_each(of: Answers, *, agree: bool) -> Answers:
    """Return one answer for each haystack and seed; where all answers ``agree``, one for each haystack.

    Exact intervals of a proportion take answers as independent; the others are counted by ``_by_haystack``, which has
    nothing to go by where all agree: there, seeds that answer the same items are no more evidence than one of them.
    """
    keys = of.clusters if agree else list(zip(of.seeds, of.clusters, strict=True))
    places = {key: place for place, key in enumerate(keys)}
    return of if len(places) == len(of.values) else of.taken(places.values())


def _over_items(of: Answers, level: float) -> Estimate:
    """Return the interval over items alone, of these checkpoints."""
    one = _one_each(of, agree=len(set(of.values)) == 1)
    found = replace(estimate(one.values, method="clopper_pearson", level=level), mean=float(np.mean(of.values)))
    return _cut(_reaching(found, _by_haystack(of, level)), 0.0)


def _changes(a: Answers, b: Answers) -> Answers:
    return a._replace(values=[x - y for x, y in zip(a.values, b.values, strict=True)])


def _changed_over_items(a: Answers, b: Answers, level: float) -> Estimate:
    """Return a - b of pairs over items alone, of these checkpoints."""
    changes = _changes(a, b)
    agree = len(set(zip(a.values, b.values, strict=True))) == 1
    pairs = contrast(_one_each(a, agree=agree).values, _one_each(b, agree=agree).values, level=level)
    return _cut(_reaching(replace(pairs, mean=float(np.mean(changes.values))), _by_haystack(changes, level)), -1.0)


def _by_haystack(of: Answers, level: float) -> Estimate:
    """Return the interval that counts a haystack once, however many seeds have read it and questions asked about it."""
    return estimate(of.values, method="t", clusters=of.clusters, level=level)


def _reaching(found: Estimate, other: Estimate) -> Estimate:
    """Return an estimate that reaches at least as far as another one, if both have an interval."""
    if not (found.bounded and other.bounded):
        return found
    return replace(found, low=min(found.low, other.low), high=max(found.high, other.high))


def _cut(found: Estimate, least: float) -> Estimate:
    """Cut a bounded interval to what a proportion (0 to 1) or a difference of two (-1 to 1) can be."""
    return replace(found, low=max(found.low, least), high=min(found.high, 1.0)) if found.bounded else found


def _shifted(of: Estimate, by: float) -> Estimate:
    return replace(of, mean=of.mean - by, low=of.low - by, high=of.high - by)
