"""Small steps that measures share: counts and read-outs as quantities, and the lines of figures."""

import math
from collections.abc import Iterable, Mapping, Sequence

from palimpsest.errors import InputError
from palimpsest.records import EstimateRecord, Series
from palimpsest.statistics import Estimate, counted
from palimpsest.study.scorecard.measures.base import Missing, Quantity

LEVEL = 0.95
"""Level of the intervals that are shown beside those that a rule asks for."""


def count_of(value: float, n: int, *, seeds: int | None = None) -> Quantity:
    """Return a number that is known exactly, at any level; ``seeds`` says over how many trained models it was taken."""

    def at(level: float) -> Estimate:
        found = counted(value, n, level=level)
        return found if seeds is None else found.over_seeds(seeds)

    return at


def read_out(found: Estimate) -> Quantity:
    """Return a read-out that was made at one level as a quantity.

    The quantity raises InputError where it is asked at another level.
    """

    def at(level: float) -> Estimate:
        if not math.isclose(level, found.level):
            raise InputError(
                f"This number has an interval of {100 * found.level:g} %, but the rule asks for {100 * level:g} %; "
                f"give its condition the level {found.level:g}."
            )
        return found

    return at


def facts_of(quantities: Mapping[str, Quantity]) -> dict[str, EstimateRecord]:
    """Return quantities at 95 %, as facts."""
    return {name: quantity(LEVEL).record() for name, quantity in quantities.items()}


def series(name: str, points: Iterable[tuple[float, Estimate]], *, dots: bool = False) -> Series:
    """Return estimates along x as a line (or points) of a figure, in order of x; an end without a bound is the mean."""
    placed = sorted(points, key=lambda point: point[0])
    return Series(
        name=name,
        x=tuple(x for x, _ in placed),
        y=tuple(found.mean for _, found in placed),
        low=tuple(found.low if found.bounded else found.mean for _, found in placed),
        high=tuple(found.high if found.bounded else found.mean for _, found in placed),
        points=dots,
    )


def needs_some(records: Sequence[object], what: str) -> None:
    """Raise Missing unless there are records; ``what`` says of what, as in ``records of 'ridge' under usage``."""
    if not records:
        raise Missing(f"There are no {what}; was that part of the study run?")
