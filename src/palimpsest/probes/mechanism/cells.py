"""From outcomes to records: means with intervals in which one draw of keys and values is one unit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from torch import Tensor

from palimpsest.probes.mechanism.draws import KeyLaw
from palimpsest.probes.mechanism.subjects import Subject
from palimpsest.probes.mechanism.theory import Code
from palimpsest.records import MechanismRecord, MechanismSetting

LEVEL = 0.95
DIGITS = 5
"""Decimals of the means of draws in a record."""


@dataclass(frozen=True)
class Effort:
    """How much is drawn.

    The standard error of a share is at most sqrt(deff / 4 n), with n outcomes whose variance the draws they share
    inflate by deff: 1.6 or less in nine cells of ten. 24 draws of 64 questions then give at most 0.016, 400 rows of one
    question 0.025.

    Attributes:
        draws: independent draws of keys and values, where one draw is asked many questions.
        asked: questions put to one draw, at most.
        rows: draws that are asked one question for each age.
        loads: pairs of the capacity curve, as multiples of the size.
        updates: segments after which the precision of the state is looked at.
        filler: tokens of filler around a needle.
        segments: lengths of the segments of novel keys that are written to a state of low precision.
    """

    draws: int = 24
    asked: int = 64
    rows: int = 400
    loads: tuple[float, ...] = (1 / 16, 1 / 8, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16)
    updates: tuple[int, ...] = (64, 256, 512, 1000)
    filler: tuple[int, ...] = (256, 512, 1024, 4096, 16384)
    segments: tuple[int, ...] = (64, 512)


FULL = Effort()
QUICK = Effort(
    draws=4, asked=32, rows=64, loads=(1 / 16, 0.25, 1, 4, 8), updates=(64, 128), filler=(256, 1024), segments=(64,)
)


def setting(test: str, subject: Subject, keys: KeyLaw, size: int, segment_length: int, load: int) -> MechanismSetting:
    """Return what all cells say; a test adds its own with ``model_copy(update=...)``."""
    return MechanismSetting(
        test=test, kind=subject.kind, memory=subject.name, features=subject.features, keys=keys.name, size=size,
        segment_length=segment_length, load=load,
    )  # fmt: skip


def told(code: Code) -> dict[str, object]:
    """Return what a setting says of the values."""
    return {"codes": code.codes, "unit_codes": code.unit}


def share_record(
    where: MechanismSetting, measure: str, outcomes: Tensor, theory: float | None = None, law: str | None = None
) -> MechanismRecord:
    """Return the share of right outcomes ``[B, Q]`` (bool), with a Wilson interval for correlated outcomes."""
    means = outcomes.double().mean(1).numpy()
    n, effect = outcomes.numel(), design_effect(means, outcomes.shape[1])
    low, high = wilson(float(means.mean()), n / effect)
    method = f"Wilson over {n} outcomes of {len(means)} draws, design effect {effect:.2f}"
    return _record(where, measure, means.tolist(), (low, high), n, method, theory, law)


def mean_record(
    where: MechanismSetting,
    measure: str,
    draws: Sequence[float],
    n: int,
    theory: float | None = None,
    law: str | None = None,
) -> MechanismRecord:
    """Return the mean of the means of draws, with Student's t over the draws; one draw has no interval."""
    means = np.asarray(draws, float)
    mean, error = float(means.mean()), float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.inf
    half = 0.0 if error == 0.0 else float(stats.t.ppf((1 + LEVEL) / 2, max(len(means) - 1, 1))) * error
    method = f"t over {len(means)} draws"
    return _record(where, measure, list(draws), (mean - half, mean + half), n, method, theory, law)


def exact_record(
    where: MechanismSetting, measure: str, value: float, theory: float | None = None, law: str | None = None
) -> MechanismRecord:
    """Return a number that was counted or computed, not sampled."""
    return _record(where, measure, [value], (value, value), 1, "exact", theory, law)


def wilson(share: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Return the Wilson score interval for a share of ``n`` outcomes, which may be an effective number.

    Source: Wilson (1927); with an effective number of outcomes, Korn and Graubard (1998).
    """
    z = float(stats.norm.ppf((1 + level) / 2))
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return max(low, 0.0) if share > 0 else 0.0, min(high, 1.0) if share < 1 else 1.0


def design_effect(means: np.ndarray, questions: int) -> float:
    """Return by how much the variance of the mean exceeds that of independent outcomes, at least 1.

    Outcomes of one draw share its memory. The ratio is that of the variance of the draws' means to the binomial one.
    """
    share = float(means.mean())
    binomial = share * (1 - share) / questions
    if len(means) < 2 or binomial == 0.0:
        return 1.0
    return max(1.0, float(means.var(ddof=1)) / binomial)


def _record(
    where: MechanismSetting,
    measure: str,
    draws: list[float],
    interval: tuple[float, float],
    n: int,
    method: str,
    theory: float | None,
    law: str | None,
) -> MechanismRecord:
    mean = float(np.mean(draws))
    rounded = tuple(round(value, DIGITS) for value in draws) if method != "exact" else (float(draws[0]),)
    return MechanismRecord(
        **where.model_dump(), measure=measure, mean=mean, low=interval[0], high=interval[1], n=n, draws=rounded,
        method=method, theory=theory, law=None if theory is None else law,
    )  # fmt: skip
