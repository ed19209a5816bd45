"""Families of tasks far beyond the training length, beside the same model's own answers to short texts."""

from collections.abc import Collection
from typing import Annotated

from pydantic import Field

from palimpsest.records import FigureRecord, Series
from palimpsest.schema import Closed
from palimpsest.statistics import counted
from palimpsest.study.naming import Name
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.answers import Cells, answers, select
from palimpsest.study.scorecard.measures.base import ArmName, AskName, Measure, Measured, Missing, Quantity
from palimpsest.study.scorecard.measures.numbers import above_floor, accuracy, ratio
from palimpsest.study.scorecard.measures.quantities import facts_of, series

Length = Annotated[int, Field(ge=1)]


class Family(Closed):
    """One task of ``families``.

    Attributes:
        ask: a name under ``ask``.
        cells: which answers count at the longer lengths.
        base: the short length that the model is measured by, wherever the needle is.
        length: the length that the claim names.
        shortest: the shortest length that asks for memory.
        floor: what guessing scores.
    """

    ask: AskName
    cells: Cells = Cells()
    base: Length
    length: Length
    shortest: Length
    floor: Annotated[float, Field(ge=0, lt=1)] = 0.0


class FamiliesGiven(Closed):
    """What ``families`` compares.

    Attributes:
        arm: who answers.
        families: tasks, by name.
        keep: share of the base that a length must keep to count as effective.
    """

    arm: ArmName
    families: dict[Name, Family] = Field(min_length=1)
    keep: Annotated[float, Field(gt=0, le=1)] = 0.85


def families(findings: Findings, given: FamiliesGiven) -> Measured:
    """Estimate what is left of every family at a length, and from where on it is no better than guessing.

    Quantities: ``<family>``, the accuracy at the length; ``<family>_kept``, as a share of that at the base length;
    ``<family>_lift``, the accuracy above guessing at the shortest length that asks for memory. Facts: the effective
    length, up to which the low end of the share kept (95 %) is at least ``keep`` at all lengths that were asked; 0 if
    at none.
    """
    quantities: dict[str, Quantity] = {}
    facts, lines, sources = {}, [], []
    for name, family in given.families.items():
        base = answers(findings, family.ask, given.arm, _anywhere(family).at(family.base))
        own = {
            name: accuracy(answers(findings, family.ask, given.arm, family.cells.at(family.length))),
            f"{name}_kept": ratio(answers(findings, family.ask, given.arm, family.cells.at(family.length)), base),
            f"{name}_lift": above_floor(
                answers(findings, family.ask, given.arm, family.cells.at(family.shortest)), family.floor
            ),
        }
        quantities |= own
        facts |= facts_of({**own, f"{name} at {family.base} tokens": accuracy(base)})
        facts[f"{name}: effective length in tokens"] = counted(*_effective(findings, given, family)).record()
        lines.append(_line(findings, given.arm, name, family))
        sources.append(f"items/{family.ask}")
    return Measured(
        quantities=quantities,
        facts=facts,
        figure=FigureRecord(
            title=f"Right answers of {given.arm} by length",
            caption="Beyond the shortest length only answers that need the memory; 95 % intervals over seeds.",
            x_label="tokens",
            y_label="share of answers",
            series=tuple(lines),
            log_x=True,
            share=True,
        ),
        sources=tuple(dict.fromkeys(sources)),
    )


def _family_names(given: FamiliesGiven) -> Collection[str]:
    return [name for family in given.families for name in (family, f"{family}_kept", f"{family}_lift")]


def _anywhere(family: Family) -> Cells:
    return family.cells.model_copy(update={"reach": "any"})


def _lengths(findings: Findings, arm: str, family: Family) -> list[int]:
    """Return the lengths of a family, the base first."""
    asked = {item.length for item in select(findings, family.ask, arm, _anywhere(family))}
    return [family.base, *sorted(length for length in asked if length > family.base)]


def _cells(family: Family, length: int) -> Cells:
    return (_anywhere(family) if length == family.base else family.cells).at(length)


def _effective(findings: Findings, given: FamiliesGiven, family: Family) -> tuple[float, int]:
    """Return the effective length and how many answers were counted at it or, if there is none, at the base."""
    base = answers(findings, family.ask, given.arm, _cells(family, family.base))
    reached, n = 0, len(base.values)
    for length in _lengths(findings, given.arm, family)[1:]:
        try:
            there = answers(findings, family.ask, given.arm, _cells(family, length))
        except Missing:
            continue  # no answer at this length needs the memory
        if not ratio(there, base)(0.95).low >= given.keep:
            break
        reached, n = length, len(there.values)
    return float(reached), n


def _line(findings: Findings, arm: str, name: str, family: Family) -> Series:
    shown = {}
    for length in _lengths(findings, arm, family):
        try:
            shown[length] = accuracy(answers(findings, family.ask, arm, _cells(family, length)))(0.95)
        except Missing:
            continue
    return series(name, ((float(length), number) for length, number in shown.items()))


FAMILIES = {"families": Measure(FamiliesGiven, families, _family_names)}
