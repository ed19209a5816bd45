"""Read-outs of mechanism records: the load that halves recall, whether a rewrite wins, what bfloat16 costs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.records import MechanismRecord
from palimpsest.statistics import Estimate, contrast

RESAMPLES = 2000
HALF = 0.5
Floats = NDArray[np.float64]


class HalfLoad(NamedTuple):
    """n50: the load at which half of all pairs are recalled, measured and by theory (None without one).

    Infinite where recall stays above a half at the largest load that was tried: censored, not extrapolated.
    """

    measured: Estimate
    theory: float | None

    @property
    def ratio(self) -> Estimate | None:
        """Measured over theory; None without a finite theory."""
        if self.theory is None or not math.isfinite(self.theory):
            return None
        found, by = self.measured, self.theory
        return Estimate(found.mean / by, found.low / by, found.high / by, found.n, found.method, found.level)


def half_load(
    records: Sequence[MechanismRecord],
    memory: str,
    *,
    features: str | None = None,
    size: int = 64,
    keys: str = "N(0,1)",
    codes: int = 1024,
    decoding: str = "raw",
) -> HalfLoad:
    """Return n50 of a capacity curve, with a percentile bootstrap over the draws of keys and values (95 %).

    A curve is read between its loads on a logarithmic axis; one pair is always recalled.

    Raises:
        InputError: no such curve.
    """
    curve = sorted(
        matching(
            records,
            memory,
            features,
            {
                "test": "capacity",
                "measure": "accuracy",
                "size": size,
                "keys": keys,
                "codes": codes,
                "decoding": decoding,
            },
        ),
        key=lambda record: record.load,
    )
    loads = np.log2([1.0, *(record.load for record in curve)])
    draws = np.array([record.draws for record in curve])  # [loads, B]
    picked = np.random.default_rng(0).integers(draws.shape[1], size=(RESAMPLES, draws.shape[1]))
    resampled = _crossing(loads, draws[:, picked].mean(-1).T)
    # order statistics, not interpolated: some may be infinite
    low, high = np.quantile(resampled, [0.025, 0.975], method="closest_observation")
    method = f"bootstrap over {draws.shape[1]} draws, {RESAMPLES} resamples"
    measured = Estimate(
        float(_crossing(loads, draws.mean(1)[None])[0]), float(low), float(high), draws.shape[1], method
    )
    expected = [record.theory for record in curve if record.theory is not None]
    theory = float(_crossing(loads, np.array([expected]))[0]) if len(expected) == len(curve) else None
    return HalfLoad(measured, theory)


def overwrite_margin(
    records: Sequence[MechanismRecord],
    memory: str,
    *,
    features: str | None = None,
    keys: str = "N(0,1)",
    segment_length: int = 1,
    decoding: str = "centred",
) -> Estimate:
    """Return P(new) - P(old) of keys that were written twice, over draws (95 %): 1 overwrites, 0 keeps the mean.

    Raises:
        InputError: no such cell.
    """
    cell = {"test": "overwriting", "keys": keys, "segment_length": segment_length, "decoding": decoding}
    new, old = (
        matching(records, memory, features, {**cell, "measure": measure})[0] for measure in ("P(new)", "P(old)")
    )
    return _difference(new, old, 0.95)


def bfloat16_harm(
    records: Sequence[MechanismRecord],
    memory: str,
    *,
    features: str | None = None,
    updates: int = 1000,
    decoding: str = "raw",
) -> Estimate:
    """Return the recall of a float32 state minus that of one kept in bfloat16, on the same pairs (90 %).

    The interval is that of two one-sided tests at 5 %: rounding is harmless if it lies inside a margin.

    Raises:
        InputError: no such cell.
    """
    cell = {"test": "precision", "measure": "accuracy", "updates": updates, "decoding": decoding}
    exact, rounded = (
        matching(records, memory, features, {**cell, "state": state})[0] for state in ("float32", "bfloat16")
    )
    return _difference(exact, rounded, 0.90)


def memories_in(records: Iterable[MechanismRecord], test: str) -> list[tuple[str, str]]:
    """Return the memories of a test with their features, in the order of the records."""
    return list(dict.fromkeys((record.memory, record.features) for record in records if record.test == test))


def _difference(a: MechanismRecord, b: MechanismRecord, level: float) -> Estimate:
    """Return the paired difference of the means of draws, also where all draws agree."""
    found = contrast(a.draws, b.draws, method="paired_t", level=level)
    if found.bounded:
        return found
    # no draw differs from another: what n outcomes can have missed (the rule of three, at this level)
    missed = 1 - ((1 - level) / 2) ** (1 / a.n)
    low, high = max(found.mean - missed, -1.0), min(found.mean + missed, 1.0)
    return Estimate(found.mean, low, high, len(a.draws), f"exact bound on {a.n} outcomes, which all agree", level)


def _crossing(loads: Floats, means: Floats) -> Floats:
    """Return where curves ``[C, n]`` that begin at (1, 1) fall below a half for good, infinite for one that never does.

    For good: a mean over two reads, which centring takes away, is half of each, so that such curves first rise.
    """
    values = np.concatenate([np.ones((len(means), 1)), means], axis=1)
    before = values.shape[1] - 1 - (values >= HALF)[:, ::-1].argmax(1)
    crossed = np.full(len(values), np.inf)
    rows = np.flatnonzero(before < values.shape[1] - 1)
    before = before[rows]
    high, low = values[rows, before], values[rows, before + 1]
    share = (high - HALF) / (high - low)
    crossed[rows] = 2 ** (loads[before] + share * (loads[before + 1] - loads[before]))
    return crossed


def matching(
    records: Iterable[MechanismRecord], memory: str, features: str | None, cell: Mapping[str, object]
) -> list[MechanismRecord]:
    """Return the records of a memory whose fields have these values; the first of its feature maps if None is named.

    Raises:
        InputError: there is none.
    """
    found = [
        record
        for record in records
        if record.memory == memory
        and features in (None, record.features)
        and all(getattr(record, name) == value for name, value in cell.items())
    ]
    if not found:
        wanted = ", ".join(f"{name} {value}" for name, value in cell.items())
        of = memory if features is None else f"{memory} with {features}"
        raise InputError(f"No mechanism record of {of} has {wanted}; run 'palimpsest probe memory' with this test.")
    return [record for record in found if record.features == found[0].features]
