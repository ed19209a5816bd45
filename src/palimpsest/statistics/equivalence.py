"""Two conditions that do not differ by more than a margin: what a p-value above 5 % never shows."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from numpy.typing import ArrayLike

from palimpsest.errors import InputError
from palimpsest.statistics.contrasts import ContrastMethod, contrast
from palimpsest.statistics.decisions import Equivalent, NonInferior, Verdict, decide
from palimpsest.statistics.intervals import RESAMPLES, Estimate
from palimpsest.statistics.seeds import contrast_across_seeds

_LEVEL = 0.90  # both ends are one-sided 95 % bounds
_HALVINGS = 16  # p is found to 1 / 2^16


class MarginTest(NamedTuple):
    """A paired difference against a margin: its 90 % interval, the p-value of the claim, and the verdict at 5 %."""

    difference: Estimate
    margin: float
    p: float
    verdict: Verdict


def equivalence(
    a: ArrayLike,
    b: ArrayLike,
    margin: float,
    *,
    method: ContrastMethod = "mcnemar_newcombe",
    clusters: Sequence[Hashable] | None = None,
    seeds: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> MarginTest:
    """Test whether mean(a) - mean(b) lies within ``margin`` either way: two one-sided tests at 5 % each.

    PASS if the 90 % interval is inside (-margin, margin), FAIL if it is wholly outside, else INCONCLUSIVE. ``p`` is the
    smallest alpha at which the interval of level 1 - 2 alpha is inside; with ``paired_t`` that is the larger of the
    p-values of two one-sided t tests. Without an interval (one seed) p is 1.

    Args:
        a: one number per item, ``[n]``.
        b: one number per item in the same order, ``[n]``.
        margin: the smallest difference that would matter, above 0.
        method: the interval, a method of ``contrast``.
        clusters: what pairs share, for ``paired_t`` and ``cluster_bootstrap``.
        seeds: the training seed behind each pair, for a claim over trained models (``contrast_across_seeds``).
        resamples: number of bootstrap draws; p asks for about 30 intervals.

    Raises:
        InputError: as ``contrast``, or a margin that is not above 0.

    Source: Schuirmann (1987), Journal of Pharmacokinetics and Biopharmaceutics 15, 657-680.
    """
    interval = _interval(a, b, method, clusters, seeds, resamples)
    rule = Equivalent(margin=_checked(margin))
    difference = interval(_LEVEL)
    p = max(_p_above(_ends(interval), -margin), _p_above(_ends(interval, mirrored=True), -margin))
    return MarginTest(difference, margin, p, decide(rule, difference))


def non_inferiority(
    a: ArrayLike,
    b: ArrayLike,
    margin: float,
    *,
    method: ContrastMethod = "mcnemar_newcombe",
    clusters: Sequence[Hashable] | None = None,
    seeds: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> MarginTest:
    """Test whether a is worse than b by less than ``margin``: the one-sided 95 % bound of mean(a) - mean(b).

    PASS if the lower bound is above -margin, FAIL if the upper one-sided bound is at or below it, else INCONCLUSIVE.

    Args:
        a: one number per item, ``[n]``; larger is better.
        b: one number per item in the same order, ``[n]``.
        margin: the smallest loss that would matter, above 0.
        method: as in ``equivalence``.
        clusters: as in ``equivalence``.
        seeds: as in ``equivalence``.
        resamples: as in ``equivalence``.

    Raises:
        InputError: as ``equivalence``.
    """
    interval = _interval(a, b, method, clusters, seeds, resamples)
    rule = NonInferior(margin=_checked(margin))
    difference = interval(_LEVEL)
    return MarginTest(difference, margin, _p_above(_ends(interval), -margin), decide(rule, difference))


def _interval(
    a: ArrayLike,
    b: ArrayLike,
    method: ContrastMethod,
    clusters: Sequence[Hashable] | None,
    seeds: Sequence[Hashable] | None,
    resamples: int,
) -> Callable[[float], Estimate]:
    """Return the interval as a function of its level; the draws of a bootstrap are the same for every level."""

    def at(level: float) -> Estimate:
        if seeds is None:
            return contrast(a, b, method=method, clusters=clusters, level=level, resamples=resamples)
        return contrast_across_seeds(a, b, seeds, within=method, clusters=clusters, level=level, resamples=resamples)

    return at


def _ends(interval: Callable[[float], Estimate], *, mirrored: bool = False) -> Callable[[float], tuple[float, float]]:
    """Return the two ends as a function of the level, of the difference or of its negative."""

    def at(level: float) -> tuple[float, float]:
        found = interval(level)
        return (-found.high, -found.low) if mirrored else (found.low, found.high)

    return at


def _checked(margin: float) -> float:
    if not 0 < margin < math.inf:
        raise InputError(f"margin is {margin}, but it must be above 0, for example 0.05.")
    return float(margin)


def _p_above(ends: Callable[[float], tuple[float, float]], bound: float) -> float:
    """Return the one-sided p-value of the claim that the true value is above ``bound``, by inverting intervals."""
    low, high = ends(_LEVEL)
    if math.isinf(low) and math.isinf(high):
        return 1.0
    alpha = _smallest_alpha(lambda level: ends(level)[0] > bound)
    return alpha if alpha < 0.5 else 1.0 - _smallest_alpha(lambda level: ends(level)[1] < bound)


def _smallest_alpha(holds: Callable[[float], bool]) -> float:
    """Return the smallest one-sided alpha at which a claim on the interval of level 1 - 2 alpha holds; 0.5 if none."""
    fails, low_enough = 0.0, 0.5
    for _ in range(_HALVINGS):
        middle = (fails + low_enough) / 2
        if holds(1 - 2 * middle):
            low_enough = middle
        else:
            fails = middle
    return low_enough if fails < 0.5 - 2.0**-_HALVINGS else 0.5
