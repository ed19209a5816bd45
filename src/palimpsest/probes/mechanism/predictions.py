"""Which law speaks of which kind of memory, and what it says of one cell."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from palimpsest.memory import FEATURE_MAPS
from palimpsest.probes.mechanism import theory
from palimpsest.probes.mechanism.draws import KeyLaw
from palimpsest.probes.mechanism.moments import Moments, moments_of, spectrum_of
from palimpsest.probes.mechanism.subjects import RIDGE, Subject
from palimpsest.probes.mechanism.theory import Code

SEGMENTWISE = "a common mode that each segment replaces"
ADDITIVE = "sum of overlapping keys"
CENTRED = "sum of keys without their common mode"
AGED = "(1 - 1/d)^a"
FITTED = "least squares"

GROUPS = 16
"""Parts of a stream whose common mode has faded alike."""


class Prediction(NamedTuple):
    """A predicted number and the name of the law; no number where no law speaks."""

    value: float | None = None
    law: str | None = None


class Cell(NamedTuple):
    """Pairs in a memory: segments of these lengths, keys of this law and size, values among so many codes."""

    segments: tuple[int, ...]
    keys: KeyLaw
    size: int
    code: Code

    @property
    def load(self) -> int:
        """How many pairs there are."""
        return sum(self.segments)


def recall_of(subject: Subject, cell: Cell, *, centred: bool) -> Prediction:
    """Predict the share of all pairs that are recalled."""
    law = _RECALL.get(subject.kind)
    return Prediction() if law is None else law(subject, cell, centred)


def error_of(subject: Subject, cell: Cell) -> Prediction:
    """Predict the relative error of the reads of all pairs, best scaled."""
    if subject.kind in _SUMS:
        overlaps = moments_of(subject.features, cell.size, cell.keys)
        noise = (np.square(overlaps.common) + overlaps.spread) * (cell.load - 1)
        return Prediction(float(noise.mean() / (np.mean(overlaps.own) ** 2 + noise.mean())), ADDITIVE)
    if subject.kind in _FITS:
        return Prediction(_fit(subject, cell).error, FITTED)
    return Prediction()


def cosine_by_age(subject: Subject, size: int, keys: KeyLaw, ages: Sequence[int]) -> list[Prediction]:
    """Predict the cosine between a value and its read, by writes since it was written."""
    if not _forgets_by_age(subject, keys):
        return [Prediction()] * len(ages)
    return [Prediction(float(kept), AGED) for kept in theory.kept_after(size, ages)]


def recall_by_age(subject: Subject, cell: Cell, ages: Sequence[int]) -> list[Prediction]:
    """Predict recall by writes since, where age is what matters."""
    if not _forgets_by_age(subject, cell.keys):
        return [Prediction()] * len(ages)
    return [Prediction(float(p), AGED) for p in theory.token_delta_recall(cell.size, ages, cell.load - 1, cell.code)]


def first_segment_recall(subject: Subject, cell: Cell) -> Prediction:
    """Predict the recall of the pairs of the first segment."""
    if _forgets_by_age(subject, cell.keys):
        ages = np.arange(cell.load - cell.segments[0], cell.load)
        found = theory.token_delta_recall(cell.size, ages, cell.load - 1, cell.code)
        return Prediction(float(found.mean()), AGED)
    if subject.kind == "delta":
        return Prediction(float(_delta_shares(subject, cell).first), SEGMENTWISE)
    return recall_of(subject, cell, centred=False)


def filler_recall(subject: Subject, cell: Cell, *, strength: float, distinct: int) -> Prediction:
    """Predict the recall of a pair beside ``cell.load`` tokens of filler that repeat so many distinct pairs."""
    if subject.kind in _SUMS:
        squares = strength**2 * cell.load**2 / distinct
        overlaps = moments_of(subject.features, cell.size, cell.keys)
        found = theory.overlapping_recall(overlaps.own, overlaps.common, overlaps.spread, (squares,), (1.0,), cell.code)
        return Prediction(float(found.mean()), ADDITIVE)
    novel = distinct == cell.load and strength == 1.0
    return recall_of(subject, cell, centred=False) if novel and subject.kind in _FITS else Prediction()


def _additive(subject: Subject, cell: Cell, centred: bool) -> Prediction:
    overlaps = moments_of(subject.features, cell.size, cell.keys)
    if centred:
        return _centred(overlaps, cell)
    found = theory.overlapping_recall(
        overlaps.own, overlaps.common, overlaps.spread, (cell.load - 1,), (1.0,), cell.code
    )
    return Prediction(float(found.mean()), ADDITIVE)


def _normalised_delta(subject: Subject, cell: Cell, centred: bool) -> Prediction:
    """Law 3: a key's own part is as in the sum, but of the common mode each segment replaces a share."""
    if centred:
        return _centred(moments_of(subject.features, cell.size, cell.keys), cell)
    return Prediction(float(_delta_shares(subject, cell).mean), SEGMENTWISE)


class _Shares(NamedTuple):
    """Recall of the first segment's pairs and of all pairs."""

    first: float
    mean: float


def _delta_shares(subject: Subject, cell: Cell) -> _Shares:
    overlaps = moments_of(subject.features, cell.size, cell.keys)
    weights = theory.delta_common_mode(cell.segments, inclusive=subject.option == "inclusive")
    # neighbours have nearly the same weight: a few groups of segments are enough
    groups = np.array_split(np.arange(len(weights)), min(GROUPS, len(weights)))
    counts = np.array([sum(cell.segments[i] for i in group) for group in groups], float)
    weights = np.array([weights[group].mean() for group in groups])
    shares = []
    for i, weight in enumerate(weights):
        others = counts - (np.arange(len(groups)) == i)
        own = overlaps.own - overlaps.common + overlaps.common * weight
        found = theory.overlapping_recall(own, overlaps.common, overlaps.spread, others, weights, cell.code)
        shares.append(float(found.mean()))
    return _Shares(shares[0], float(np.average(shares, weights=counts)))


def _centred(overlaps: Moments, cell: Cell) -> Prediction:
    found = theory.centred_recall(overlaps.centred_own, overlaps.centred_spread, cell.load, cell.code)
    return Prediction(float(found.mean()), CENTRED)


def _least_squares(subject: Subject, cell: Cell, centred: bool) -> Prediction:
    fit = _fit(subject, cell)
    return Prediction(float(theory.recall(fit.own, fit.noise, cell.load - 1, cell.code).mean()), FITTED)


def _fit(subject: Subject, cell: Cell) -> theory.Fit:
    return theory.least_squares(*spectrum_of(subject.features, cell.size, cell.keys), cell.load, RIDGE)


def _by_age(subject: Subject, cell: Cell, centred: bool) -> Prediction:
    if not _forgets_by_age(subject, cell.keys):
        return Prediction()
    return Prediction(
        float(theory.token_delta_recall(cell.size, np.arange(cell.load), cell.load - 1, cell.code).mean()), AGED
    )


def _forgets_by_age(subject: Subject, keys: KeyLaw) -> bool:
    """Whether the law of age speaks: unit keys without a common direction, each write at full strength."""
    unit = FEATURE_MAPS[subject.features].width(2) == 2 and subject.features in ("identity_l2", "identity_centred_l2")
    return subject.kind == "token_delta" and unit and keys.mean == 0.0


_RECALL: dict[str, Callable[[Subject, Cell, bool], Prediction]] = {
    "linear": _additive,
    "hebbian": _additive,
    "delta": _normalised_delta,
    "ridge": _least_squares,
    "token_delta": _by_age,
}
_SUMS = ("linear", "hebbian")
_FITS = ("ridge",)
