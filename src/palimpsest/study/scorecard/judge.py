"""The verdict on every row: its measure, its rule, and the correction for the family of primary claims."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from palimpsest.errors import InputError, nearest
from palimpsest.records import RowRecord
from palimpsest.schema import parse
from palimpsest.statistics import INCONCLUSIVE, Estimate, Verdict, decide, explain
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures import MEASURES
from palimpsest.study.scorecard.measures.base import Measured, Missing, PartOf
from palimpsest.study.scorecard.spec import RowSpec, ScorecardSpec


class _Judged(NamedTuple):
    """A row on its own, before it is seen as one of a family."""

    row: RowSpec
    measured: Measured | None
    estimates: Mapping[str, Estimate]
    verdict: Verdict
    sentence: str


class Judgement(NamedTuple):
    """What became of every row, in the order of the study file, and of how many training seeds its numbers speak."""

    rows: tuple[RowRecord, ...]
    trained: Mapping[str, int]


def check_rows(spec: ScorecardSpec) -> None:
    """Check that every row can be measured and judged, before there are any records.

    Its measure must exist and take its arguments, these must name what the study has, and the rule may ask only for
    quantities that the measure gives with these arguments.

    Raises:
        InputError: the row, and what is wrong.
    """
    for row in spec.rows:
        given = _given(row)
        for name, what in _named(given):
            there = getattr(spec, what)
            if name not in there:
                raise InputError(
                    f"The row {row.id} names '{name}' under '{what}', and the study has no such thing."
                    f"{nearest(name, there)}"
                )
        quantities = MEASURES[row.measure].quantities(given)
        for need in row.rule.requires.values():
            if need.quantity not in quantities:
                raise InputError(
                    f"The rule of the row {row.id} asks for '{need.quantity}', which the measure '{row.measure}' does "
                    f"not give with these arguments.{nearest(need.quantity, quantities)}"
                )


def _named(given: BaseModel) -> Iterator[tuple[str, str]]:
    """Yield the names in the arguments of a measure, each with the part of the study that must have it."""
    for name, field in type(given).model_fields.items():
        value = getattr(given, name)
        parts = [mark.part for mark in _marks(field) if isinstance(mark, PartOf)]
        for each in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,):
            if isinstance(each, BaseModel):
                yield from _named(each)
            elif parts and each is not None:
                yield each, parts[0]


def _marks(field: FieldInfo) -> Iterator[object]:
    """Yield what a field is annotated with, also inside ``tuple[...]`` and ``... | None``."""
    yield from field.metadata
    kinds = [field.annotation]
    while kinds:
        kind = kinds.pop()
        yield from getattr(kind, "__metadata__", ())
        kinds += get_args(kind)


def judge_rows(findings: Findings) -> Judgement:
    """Judge every row of a scorecard.

    A row whose records are missing is INCONCLUSIVE and says so. The verdicts of the primary rows hold together: each is
    asked again at the stricter level that Holm's procedure demands of it, and one that does not hold there becomes
    INCONCLUSIVE.

    Raises:
        InputError: as ``check_rows``.
    """
    check_rows(findings.spec)
    judged = [_judge(row, findings) for row in findings.spec.rows]
    held = _holm([each for each in judged if each.row.primary])
    rows = tuple(_record(each, findings, held.get(each.row.id)) for each in judged)
    seeds = {each.row.id: [n for number in each.estimates.values() if (n := number.seeds)] for each in judged}
    return Judgement(rows, {row: min(counts) for row, counts in seeds.items() if counts})


def _judge(row: RowSpec, findings: Findings) -> _Judged:
    given = _given(row)
    try:
        measured = MEASURES[row.measure].measure(findings, given)
        found = _estimates(row, measured, family=1)
    except Missing as missing:
        return _Judged(row, None, {}, INCONCLUSIVE, str(missing))
    verdict = decide(row.rule, found)
    return _Judged(row, measured, found, verdict, explain(row.rule, found).removeprefix(f"{verdict}: "))


def _given(row: RowSpec) -> BaseModel:
    """Return the arguments of the measure of a row.

    Raises:
        InputError: there is no such measure, or it takes other arguments.
    """
    if row.measure not in MEASURES:
        known = ", ".join(sorted(MEASURES))
        raise InputError(f"The row {row.id} has the measure '{row.measure}'; known: {known}.")
    return parse(MEASURES[row.measure].given, row.given, f"The row {row.id}")


def _estimates(row: RowSpec, measured: Measured, *, family: int) -> dict[str, Estimate]:
    """Return what the rule asks for, at levels that a family of so many claims demands.

    Raises:
        Missing: the measure could not make one of them from these records.
    """
    found = {}
    for key, need in row.rule.requires.items():
        if need.quantity not in measured.quantities:
            raise Missing(f"The records do not give '{need.quantity}'. {measured.note}".rstrip())
        number = measured.quantities[need.quantity](1 - (1 - need.level) / family)
        found[key] = replace(number, level=need.level)  # the rule takes the stricter interval for its own
    return found


def _holm(primary: Sequence[_Judged]) -> dict[str, int]:
    """Return by row how many claims its level was corrected for, 0 where its verdict does not hold at that level.

    Holm's procedure, with for every claim the largest family at whose level its verdict still holds in the place of
    the smallest p-value: claims are taken from the surest on, the first corrected for all of them, the next for one
    less, until one does not hold; it and all after it are open.
    """
    decided = [each for each in primary if each.verdict != INCONCLUSIVE]
    size = len(primary)
    sure = {each.row.id: _largest_family(each, size) for each in decided}
    held: dict[str, int] = {}
    standing = True
    for number, each in enumerate(sorted(decided, key=lambda each: -sure[each.row.id])):
        needed = size - number
        standing = standing and sure[each.row.id] >= needed
        held[each.row.id] = needed if standing else 0
    return held


def _largest_family(judged: _Judged, size: int) -> int:
    """Return the largest family, of at most ``size`` claims, at whose level the verdict holds; verdicts get rarer."""
    assert judged.measured is not None  # it has a verdict
    low, high = 1, size
    while low < high:
        middle = (low + high + 1) // 2
        verdict = decide(judged.row.rule, _estimates(judged.row, judged.measured, family=middle))
        low, high = (middle, high) if verdict == judged.verdict else (low, middle - 1)
    return low


def _record(judged: _Judged, findings: Findings, held: int | None) -> RowRecord:
    row, measured = judged.row, judged.measured
    verdict, sentence = judged.verdict, judged.sentence
    if held == 0:
        sentence = (
            f"{verdict} on its own, but not at the level that Holm's correction for the primary rows asks. {sentence}"
        )
        verdict = INCONCLUSIVE
    elif held is not None:
        sentence = f"{sentence} It holds at the level corrected for {held} of the primary rows (Holm)."
    return RowRecord(
        id=row.id,
        demand=row.demand,
        claim=row.claim,
        published=row.published,
        rule=row.rule.sentence(),
        verdict=verdict,
        sentence=sentence,
        estimates={name: number.record() for name, number in judged.estimates.items()},
        facts={} if measured is None else dict(measured.facts),
        figure=None if measured is None else measured.figure,
        sources=() if measured is None else measured.sources,
        note="" if measured is None else measured.note,
        prereg=findings.spec.sha256,
        primary=row.primary,
        tested=measured is not None,
    )
