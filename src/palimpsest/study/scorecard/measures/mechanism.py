"""Measures of memories alone (Tier 0): capacity against theory, overwriting, and a state of low precision."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from palimpsest.errors import InputError
from palimpsest.records import EstimateRecord, FigureRecord, MechanismRecord, Series
from palimpsest.report.mechanism_readouts import HalfLoad, bfloat16_harm, half_load, matching, overwrite_margin
from palimpsest.schema import Closed
from palimpsest.statistics import Estimate, Shape, logistic_curve, steepest
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import Measure, Measured, Missing, always
from palimpsest.study.scorecard.measures.quantities import needs_some, read_out

SOURCES = ("mechanism",)
RESAMPLES = 200
"""Bootstrap draws for the point of saturation, which is shown and decides nothing."""
KNOTS = 6


class CapacityGiven(Closed):
    """Which capacity curves: of a memory with a feature map (None: the first), one for each size of keys.

    Attributes:
        sizes: sizes of keys; all that were tested if empty.
        keys, codes, decoding: as in the records.
    """

    memory: str
    features: str | None = None
    sizes: tuple[int, ...] = ()
    keys: str = "N(0,1)"
    codes: int = 1024
    decoding: str = "raw"


class OverwriteGiven(Closed):
    """Which memory is written over, with which keys, in segments of which length."""

    memory: str
    features: str | None = None
    keys: str = "N(0,1)"
    segment_length: int = 1
    decoding: str = "centred"


class PrecisionGiven(Closed):
    """Which memory is kept in bfloat16, and after how many segments (None: the most that were tested)."""

    memory: str
    features: str | None = None
    updates: int | None = Field(default=None, ge=1)
    decoding: str = "raw"


def capacity(findings: Findings, given: CapacityGiven) -> Measured:
    """Compare the load at which half of all pairs are recalled, n50, with theory, for every size of keys.

    Quantities, each an interval that holds the intervals of all sizes, so that a claim is shown only where it is shown
    at every size:

    * ``estimate``: measured over predicted n50, if there is a theory;
    * ``per_dimension``: measured n50 over the size of keys, what "at most one pair for each dimension" bounds by 1.
    """
    curves = _curves(findings, given)
    halves = {size: _half(findings, given, size) for size in sorted({record.size for record in curves})}
    per_dimension = {size: scaled(half.measured, 1 / size) for size, half in halves.items()}
    quantities = {"per_dimension": read_out(envelope(per_dimension))}
    ratios = {size: half.ratio for size, half in halves.items()}
    known = {size: ratio for size, ratio in ratios.items() if ratio is not None}
    note = ""
    if len(known) == len(ratios):
        quantities["estimate"] = read_out(envelope(known))
    else:
        note = f"No theory gives n50 for keys of size {', '.join(str(size) for size in ratios if size not in known)}."
    facts = {f"n50 at d = {size}": half.measured.record() for size, half in halves.items()}
    facts |= {f"n50 by theory at d = {size}": _exact(half.theory) for size, half in halves.items() if half.theory}
    return Measured(quantities, facts, _capacity_figure(curves, halves, given), SOURCES, note)


def overwrite(findings: Findings, given: OverwriteGiven) -> Measured:
    """Ask keys that were written twice: ``difference`` is the share of newest minus that of older values (95 %).

    The figure shows both shares by how often every key was written, for keys that are unrelated and alike; a fact the
    load at which the recall of pairs that are written once falls fastest.
    """
    records = [record for record in findings.mechanism if record.memory == given.memory]
    needs_some(records, f"mechanism records of '{given.memory}'")
    try:
        found = overwrite_margin(
            records,
            given.memory,
            features=given.features,
            keys=given.keys,
            segment_length=given.segment_length,
            decoding=given.decoding,
        )
    except InputError as error:
        raise Missing(str(error)) from error
    features = given.features or next(record.features for record in records if record.test == "overwriting")
    mine = [record for record in records if record.features == features]
    figure = _rewrites_figure([record for record in mine if record.test == "interference"], given)
    return Measured({"difference": read_out(found)}, _saturation(mine, given), figure, SOURCES)


def precision(findings: Findings, given: PrecisionGiven) -> Measured:
    """Write the same pairs in many segments, into a state in float32 and one in bfloat16.

    Quantities: ``difference``, the recall of the first minus that of the second, with a 90 % interval (the pair of
    one-sided tests of equivalence); ``float32``, the recall of the first (95 %), without it there is nothing to lose.
    """
    here = [
        record
        for record in findings.mechanism
        if record.test == "precision" and record.memory == given.memory and record.decoding == given.decoding
    ]
    needs_some(here, f"records of the mechanism test 'precision' of '{given.memory}'")
    features = given.features or here[0].features
    here = [record for record in here if record.features == features]
    needs_some(here, f"records of the mechanism test 'precision' of '{given.memory}' with {features}")
    tested = sorted({record.updates for record in here if record.updates is not None})
    last = given.updates or tested[-1]
    if last not in tested:
        raise Missing(f"The state was not looked at after {last} segments; it was after {_listed(tested)}.")
    harm = {
        updates: bfloat16_harm(here, given.memory, features=features, updates=updates, decoding=given.decoding)
        for updates in tested
    }
    facts = {f"recall lost after {updates} segments": found.record() for updates, found in harm.items()}
    lines = tuple(
        _line(
            f"state in {state}",
            [(float(record.updates or 0), record) for record in here if record.state == state],
        )
        for state in ("float32", "bfloat16")
    )
    figure = FigureRecord(
        title="Recall while the same pairs are written again and again",
        caption=f"The load never grows: what is lost is lost to rounding. Memory '{given.memory}', {features}.",
        x_label="segments written",
        y_label="recall",
        series=lines,
        log_x=True,
        share=True,
    )
    cell = {"measure": "accuracy", "updates": last, "state": "float32"}
    exact = matching(here, given.memory, features, cell)[0]
    recalled = Estimate(exact.mean, exact.low, exact.high, exact.n, exact.method)
    quantities = {"difference": read_out(harm[last]), "float32": read_out(recalled)}
    return Measured(quantities, facts, figure, SOURCES)


def envelope(found: Mapping[int, Estimate]) -> Estimate:
    """Return the interval that holds all of these, with the mean that is furthest from 1 (in ratio)."""
    furthest = max(found.values(), key=lambda each: math.inf if each.mean <= 0 else abs(math.log(each.mean)))
    return Estimate(
        furthest.mean,
        min(each.low for each in found.values()),
        max(each.high for each in found.values()),
        min(each.n for each in found.values()),
        f"{furthest.method}; all sizes of keys ({_listed(found)}), the mean furthest from 1",
        furthest.level,
    )


def scaled(found: Estimate, by: float) -> Estimate:
    """Return an estimate times a positive number that is known."""
    return Estimate(found.mean * by, found.low * by, found.high * by, found.n, found.method, found.level, found.seeds)


def _curves(findings: Findings, given: CapacityGiven) -> list[MechanismRecord]:
    cell = {
        "test": "capacity",
        "measure": "accuracy",
        "keys": given.keys,
        "codes": given.codes,
        "decoding": given.decoding,
    }
    try:
        found = matching(findings.mechanism, given.memory, given.features, cell)
    except InputError as error:
        raise Missing(str(error)) from error
    tested = sorted({record.size for record in found})
    for size in given.sizes:
        if size not in tested:
            raise Missing(f"No capacity curve has keys of size {size}; there are those of {_listed(tested)}.")
    return [record for record in found if not given.sizes or record.size in given.sizes]


def _half(findings: Findings, given: CapacityGiven, size: int) -> HalfLoad:
    return half_load(
        findings.mechanism,
        given.memory,
        features=given.features,
        size=size,
        keys=given.keys,
        codes=given.codes,
        decoding=given.decoding,
    )


def _capacity_figure(
    curves: Sequence[MechanismRecord], halves: Mapping[int, HalfLoad], given: CapacityGiven
) -> FigureRecord:
    lines = []
    for size in halves:
        points = sorted((record for record in curves if record.size == size), key=lambda record: record.load)
        lines.append(_line(f"d = {size}", [(float(record.load), record) for record in points], dots=True))
        theory = [(record.load, record.theory) for record in points if record.theory is not None]
        if theory:
            x, y = zip(*theory, strict=True)
            lines.append(Series(name=f"theory, d = {size}", x=tuple(map(float, x)), y=y))
    return FigureRecord(
        title="Recall of random pairs, each written once",
        caption=f"Memory '{given.memory}' with {curves[0].features}, keys {given.keys}, {given.codes} values; lines: "
        "theory. The marks are the sizes of keys.",
        x_label="pairs written",
        y_label="recall",
        series=tuple(lines),
        log_x=True,
        share=True,
        marks={f"d = {size}": float(size) for size in halves},
    )


def _rewrites_figure(records: Sequence[MechanismRecord], given: OverwriteGiven) -> FigureRecord | None:
    here = [
        record
        for record in records
        if record.decoding == given.decoding and record.age is None and record.segment_length == given.segment_length
    ]
    if not here:
        return None
    alike = sorted({record.similarity for record in here if record.similarity is not None})
    lines = [
        _line(
            f"{kind} value, cosine of keys {similarity:g}",
            [
                (1.0 + (record.rewrites or 0), record)
                for record in here
                if record.measure == measure and record.similarity == similarity
            ],
        )
        for similarity in alike
        for kind, measure in (("newest", "P(new)"), ("older", "P(old)"))
    ]
    return FigureRecord(
        title="Keys that are written again with another value",
        caption=f"Memory '{given.memory}' with {here[0].features}, {here[0].codes} values, segments of "
        f"{given.segment_length}.",
        x_label="times every key was written",
        y_label="share of answers",
        series=tuple(lines),
        share=True,
    )


def _saturation(records: Sequence[MechanismRecord], given: OverwriteGiven) -> dict[str, EstimateRecord]:
    """Return the load at which recall falls fastest, for the largest keys whose curve was tested."""
    curve = [
        record
        for record in records
        if record.test == "capacity" and record.measure == "accuracy" and record.decoding == given.decoding
        if record.keys == given.keys and record.unit_codes
    ]
    if not curve:
        return {}
    size = max(record.size for record in curve)
    curve = [record for record in curve if record.size == size]
    if len({record.load for record in curve}) < KNOTS:
        return {}
    loads, right, draws = [], [], []
    for record in curve:
        asked = record.n // len(record.draws)
        for number, share in enumerate(record.draws):
            loads += [record.load] * asked
            right += _outcomes(share, asked)
            draws += [number] * asked
    band = logistic_curve(loads, right, shape=Shape(KNOTS), clusters=draws, resamples=RESAMPLES)
    return {f"load where recall falls fastest, d = {size}": steepest(band).estimate.record()}


def _outcomes(share: float, asked: int) -> list[float]:
    right = round(share * asked)
    return [*np.ones(right), *np.zeros(asked - right)]


def _line(name: str, points: Sequence[tuple[float, MechanismRecord]], *, dots: bool = False) -> Series:
    placed = sorted(points, key=lambda point: point[0])
    return Series(
        name=name,
        x=tuple(x for x, _ in placed),
        y=tuple(record.mean for _, record in placed),
        low=tuple(record.low for _, record in placed),
        high=tuple(record.high for _, record in placed),
        points=dots,
    )


def _exact(value: float) -> EstimateRecord:
    return EstimateRecord(mean=value, low=value, high=value, n=1, method="computed")


def _listed(numbers: Sequence[int] | Mapping[int, object]) -> str:
    return ", ".join(str(number) for number in numbers)


MEASURES: dict[str, Measure] = {
    "mechanism_capacity": Measure(CapacityGiven, capacity, always("per_dimension", "estimate")),
    "mechanism_overwrite": Measure(OverwriteGiven, overwrite, always("difference")),
    "mechanism_precision": Measure(PrecisionGiven, precision, always("difference", "float32")),
}
