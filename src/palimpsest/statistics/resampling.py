"""Bootstrap draws of nested and crossed units, as weights: how often each unit stands in a draw."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from palimpsest.errors import InputError
from palimpsest.statistics.intervals import FloatArray, IndexArray, as_codes

BATCH_ELEMENTS = 2_000_000  # weights held at once
_STREAM = 1979  # Efron's year


@dataclass(frozen=True, slots=True)
class Design:
    """Who shares what: each item lies in one cell, and a cell is one cluster under one seed.

    ``seeds`` and ``clusters`` give those of each cell, ``[cells]``; ``seeds`` is None where there is one checkpoint.
    ``crossed`` says that every cluster occurs under every seed, as when all models read the same haystacks.
    """

    cells: IndexArray
    clusters: IndexArray
    seeds: IndexArray | None
    crossed: bool

    @property
    def units(self) -> int:
        """Number of the units at the top, seeds if there are any: what an interval has degrees of freedom from."""
        return int((self.clusters if self.seeds is None else self.seeds).max()) + 1


def design(n: int, clusters: Sequence[Hashable] | None, seeds: Sequence[Hashable] | None) -> Design:
    """Return the design of ``n`` items; without ``clusters`` each item is its own.

    A cluster that several seeds have in common is one cluster: it is drawn for all of them together.

    Raises:
        InputError: a label missing, or clusters that some seeds share and others lack.
    """
    inner = np.arange(n) if clusters is None else as_codes(clusters, n, "clusters")
    if seeds is None:
        return Design(inner, np.arange(int(inner.max()) + 1), None, crossed=False)
    outer = as_codes(seeds, n, "seeds")
    pairs, cells = np.unique(np.stack([outer, inner], axis=1), axis=0, return_inverse=True)
    shared = np.bincount(pairs[:, 1])
    count = int(outer.max()) + 1
    crossed = bool(np.all(shared == count)) and count > 1
    if not crossed and np.any(shared > 1):
        raise InputError(
            f"clusters: each must occur under one seed, or all of them under all {count} seeds, "
            f"but they occur under {shared.min()} to {shared.max()}."
        )
    return Design(cells.astype(np.intp).reshape(-1), pairs[:, 1], pairs[:, 0], crossed)


def cell_weights(plan: Design, draws: int, rng: np.random.Generator) -> FloatArray:
    """Return how often each cell stands in each draw, ``[draws, cells]``: seeds first, then clusters inside them."""
    if plan.seeds is None:
        return _multinomial(plan.units, plan.units, draws, rng)
    outer = _multinomial(plan.units, plan.units, draws, rng)
    if plan.crossed:
        count = int(plan.clusters.max()) + 1
        return outer[:, plan.seeds] * _multinomial(count, count, draws, rng)[:, plan.clusters]
    weights = np.empty((draws, len(plan.seeds)))
    for seed in range(plan.units):
        inside = np.flatnonzero(plan.seeds == seed)
        weights[:, inside] = _split(outer[:, seed] * len(inside), len(inside), rng)
    return weights


def item_weights(plan: Design, draws: int, rng: np.random.Generator) -> FloatArray:
    """Return how often each item stands in each draw, ``[draws, n]``: seeds, clusters, and items inside those."""
    outer = cell_weights(plan, draws, rng)
    weights = outer[:, plan.cells]
    order, sizes = np.argsort(plan.cells, kind="stable"), np.bincount(plan.cells)
    starts = np.cumsum(sizes) - sizes
    for size in np.unique(sizes[sizes > 1]):
        cells = np.flatnonzero(sizes == size)
        inside = order[starts[cells][:, None] + np.arange(size)]  # [cells of that size, size]
        weights[:, inside] = _split(outer[:, cells] * size, int(size), rng)
    return weights


def batches(draws: int, width: int) -> Iterator[int]:
    """Yield numbers of draws that add up to ``draws``, each small enough for rows of ``width`` weights."""
    step = max(1, BATCH_ELEMENTS // width)
    for start in range(0, draws, step):
        yield min(step, draws - start)


def generator(rng: int | np.random.Generator) -> np.random.Generator:
    """Return the generator of a bootstrap; a seed begins a stream that no data drawn with the same seed share."""
    return rng if isinstance(rng, np.random.Generator) else np.random.default_rng([rng, _STREAM])


def _multinomial(picks: int, choices: int, draws: int, rng: np.random.Generator) -> FloatArray:
    return rng.multinomial(picks, np.full(choices, 1 / choices), size=draws).astype(np.float64)


def _split(picks: FloatArray, choices: int, rng: np.random.Generator) -> FloatArray:
    """Distribute ``picks`` ``[...]`` evenly at random over choices, ``[..., choices]``."""
    return rng.multinomial(picks.astype(np.int64), np.full(choices, 1 / choices)).astype(np.float64)
