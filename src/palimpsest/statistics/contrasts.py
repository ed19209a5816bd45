"""Paired contrasts: two conditions answered the same items, and only the differences count."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from palimpsest.errors import InputError, nearest
from palimpsest.statistics.intervals import (
    BOOTSTRAP_SEED,
    RESAMPLES,
    Estimate,
    FloatArray,
    as_outcomes,
    as_values,
    check_level,
    estimate,
    wilson,
)

ContrastMethod = Literal["mcnemar_newcombe", "paired_t", "cluster_bootstrap"]

K = TypeVar("K", bound=Hashable)


def contrast(
    a: ArrayLike,
    b: ArrayLike,
    *,
    method: ContrastMethod = "mcnemar_newcombe",
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    rng: int | np.random.Generator = BOOTSTRAP_SEED,
) -> Estimate:
    """Estimate mean(a) - mean(b), where ``a[i]`` and ``b[i]`` belong to the same item (or the same seed).

    * ``mcnemar_newcombe``: independent pairs of 0/1 outcomes; Newcombe's hybrid score interval (his method
      10), the companion of ``mcnemar``. It keeps its width where all pairs agree, or all disagree.
    * ``paired_t``: Student's t on the differences, cluster-robust with ``clusters``.
    * ``cluster_bootstrap``: BCa bootstrap of the mean difference over clusters (without ``clusters``, pairs).

    Args:
        a: one number per item, ``[n]``.
        b: one number per item in the same order, ``[n]``; ``align`` puts records in one order.
        method: the interval, see above.
        clusters: one label per pair, for ``paired_t`` and ``cluster_bootstrap``.
        level: confidence level of the two-sided interval, between 0 and 1.
        resamples: number of bootstrap draws.
        rng: seed or generator of the bootstrap.

    Raises:
        InputError: as ``estimate``, and where ``a`` and ``b`` differ in length.

    Source: Newcombe (1998), Statistics in Medicine 17, 2635-2650.
    """
    check_level(level)
    if method not in get_args(ContrastMethod):
        raise InputError(f"Unknown contrast method '{method}'.{nearest(method, get_args(ContrastMethod))}")
    if method == "mcnemar_newcombe":
        if clusters is not None:
            raise InputError(
                "Method 'mcnemar_newcombe' takes pairs as independent and has no clusters: "
                "use 'paired_t' or 'cluster_bootstrap'."
            )
        return _newcombe(*_outcome_pairs(a, b), level)
    first, second = as_values(a, "a"), as_values(b, "b")
    _check_paired(first, second)
    plain = "t" if method == "paired_t" else "bootstrap"
    found = estimate(first - second, method=plain, clusters=clusters, level=level, resamples=resamples, rng=rng)
    return Estimate(found.mean, found.low, found.high, found.n, f"paired {found.method}", level)


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Return the two-sided p-value of the exact McNemar test: are discordant pairs equally likely either way?

    With no discordant pair there is no evidence, and p is 1.

    Raises:
        InputError: outcomes that are not 0/1, none at all, or lists of different length.

    Source: McNemar (1947), exact binomial form.
    """
    first, second = _outcome_pairs(a, b)
    only_first = int(np.sum(first > second))
    discordant = only_first + int(np.sum(first < second))
    return float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0


def align(a: Mapping[K, float], b: Mapping[K, float]) -> tuple[list[K], list[float], list[float]]:
    """Return the common keys and the values of ``a`` and ``b`` in their order, ready for ``contrast``.

    Raises:
        InputError: an item that only one side has; a pair is never dropped in silence.
    """
    only_a, only_b = a.keys() - b.keys(), b.keys() - a.keys()
    if only_a or only_b:
        raise InputError(
            f"The two conditions did not answer the same items: {len(only_a)} are in a only, "
            f"{len(only_b)} in b only, for example {next(iter(only_a or only_b))!r}."
        )
    keys = list(a)
    return keys, [a[key] for key in keys], [b[key] for key in keys]


def _outcome_pairs(a: ArrayLike, b: ArrayLike) -> tuple[FloatArray, FloatArray]:
    first, second = as_outcomes(a, "a"), as_outcomes(b, "b")
    _check_paired(first, second)
    return first, second


def _check_paired(a: FloatArray, b: FloatArray) -> None:
    if len(a) != len(b):
        raise InputError(f"A paired contrast needs the same items on both sides, got {len(a)} in a and {len(b)} in b.")


def _newcombe(a: FloatArray, b: FloatArray, level: float) -> Estimate:
    """Square-and-add of two Wilson intervals; e, f, g, h are the cells of the paired table."""
    n = len(a)
    e, f = int(np.sum(a * b)), int(np.sum(a * (1 - b)))
    g = int(np.sum((1 - a) * b))
    h = n - e - f - g
    first, second = (e + f) / n, (e + g) / n
    low1, high1 = wilson(e + f, n, level)
    low2, high2 = wilson(e + g, n, level)
    phi = _correlation(e, f, g, h)
    below1, above1, below2, above2 = first - low1, high1 - first, second - low2, high2 - second
    down = math.sqrt(max(0.0, below1**2 - 2 * phi * below1 * above2 + above2**2))
    up = math.sqrt(max(0.0, above1**2 - 2 * phi * above1 * below2 + below2**2))
    mean = (f - g) / n
    return Estimate(mean, max(-1.0, mean - down), min(1.0, mean + up), n, "Newcombe paired score interval", level)


def _correlation(e: int, f: int, g: int, h: int) -> float:
    """Phi of the table, continuity-corrected towards zero where positive, and 0 where a margin is empty."""
    scale = (e + f) * (g + h) * (e + g) * (f + h)
    if scale == 0:
        return 0.0
    product = e * h - f * g
    if product > 0:
        product = max(product - (e + f + g + h) / 2, 0)
    return product / math.sqrt(scale)
