"""Facts of a document that a summary tells, one by one, by how far back they were told."""

from typing import NamedTuple

from palimpsest.attention.kinds import exact_start
from palimpsest.records import FigureRecord, ItemRecord, Series
from palimpsest.schema import Closed
from palimpsest.statistics import estimate
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.answers import Answers, Cells, select
from palimpsest.study.scorecard.measures.base import ArmName, AskName, Measure, Measured, Missing, always
from palimpsest.study.scorecard.measures.numbers import accuracy, difference
from palimpsest.study.scorecard.measures.quantities import facts_of, series
from palimpsest.tasks.symbolic.summary import WIDTH, fact_scores


class FactsGiven(Closed):
    """What ``fact_recall`` compares.

    Attributes:
        ask: a name under ``ask`` whose items are summaries of facts.
        arm: who tells the facts.
        against: the arm whose recall is taken away.
        cells: which summaries count; what is reached is asked fact by fact.
    """

    ask: AskName
    arm: ArmName
    against: ArmName
    cells: Cells = Cells(reach="any")


def fact_recall(findings: Findings, given: FactsGiven) -> Measured:
    """Estimate how many facts a summary recalls that the exact attention of no bounded arm reaches.

    Quantities: ``recall`` and ``other``, of the two arms; their ``difference``, on the same facts. Facts of one
    document are not independent of each other; the intervals count documents.
    """
    told = {arm: _facts(findings, given, arm) for arm in (given.arm, given.against)}
    far = {arm: _answers([fact for fact in facts if fact.far]) for arm, facts in told.items()}
    near = {arm: [fact for fact in facts if not fact.far] for arm, facts in told.items()}
    for arm in told:
        if not far[arm].values:
            raise Missing(f"No fact of '{given.ask}' lies beyond the exact attention of all bounded arms.")
    quantities = {
        "recall": accuracy(far[given.arm]),
        "other": accuracy(far[given.against]),
        "difference": difference(far[given.arm], far[given.against]),
    }
    within_reach = {f"recall of {arm} within reach": accuracy(_answers(facts)) for arm, facts in near.items() if facts}
    return Measured(
        quantities=quantities,
        facts=facts_of({**quantities, **within_reach}),
        figure=FigureRecord(
            title="Facts that a summary recalls",
            caption="Facts grouped by how far back they were told, with Wilson intervals over the facts of all seeds.",
            x_label="tokens between the fact and the summary",
            y_label="share of facts",
            series=tuple(_line(arm, facts) for arm, facts in told.items()),
            log_x=True,
            share=True,
        ),
        sources=(f"items/{given.ask}",),
    )


class _Fact(NamedTuple):
    """A fact of a summary: whether it was recalled, how far back it was told, and whether memory alone has it."""

    item: ItemRecord
    number: int
    recalled: bool
    distance: int
    far: bool


def _facts(findings: Findings, given: FactsGiven, arm: str) -> list[_Fact]:
    spec = findings.spec
    reached: dict[int, int] = {}
    found = []
    for item in select(findings, given.ask, arm, given.cells):
        at = item.needle_end + item.distance - 1  # the token that must produce the first word
        if at not in reached:
            starts = [
                exact_start(spec.attention(each), spec.model_of(each).num_hidden_layers, at)
                for each in findings.bounded_arms
            ]
            reached[at] = min(starts, default=0)
        places = [int(place) for place in str(item.facts["starts"]).split()]
        recalled = fact_scores(item.answer, item.output).recalled
        for number, (place, right) in enumerate(zip(places, recalled, strict=True)):
            end = place + WIDTH
            right = right and item.error_class != "not_finite"
            found.append(_Fact(item, number, right, at + 1 - end, end <= reached[at]))
    return found


def _answers(facts: list[_Fact]) -> Answers:
    return Answers(
        [float(fact.recalled) for fact in facts],
        [fact.item.seed for fact in facts],
        [f"{fact.item.item_id}/{fact.number}" for fact in facts],
        [fact.item.cluster or fact.item.item_id for fact in facts],
    )


def _line(arm: str, facts: list[_Fact]) -> Series:
    """Return the recall of facts by distance, in ranges that double."""
    groups: dict[int, list[_Fact]] = {}
    for fact in facts:
        groups.setdefault(max(1, fact.distance).bit_length(), []).append(fact)
    ordered = [groups[key] for key in sorted(groups)]
    shown = [estimate([float(fact.recalled) for fact in group]) for group in ordered]
    x = [sum(max(1, fact.distance) for fact in group) / len(group) for group in ordered]
    return series(arm, zip(x, shown, strict=True))


SUMMARIES = {"fact_recall": Measure(FactsGiven, fact_recall, always("recall", "other", "difference"))}
