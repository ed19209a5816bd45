"""What an intervention, another arm, or another version of a task changes."""

from collections.abc import Collection, Mapping
from typing import Self

from pydantic import Field, model_validator

from palimpsest.records import FigureRecord, ItemRecord
from palimpsest.schema import Closed
from palimpsest.study.naming import Name
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.answers import INTACT, Cells, answers, scored, select
from palimpsest.study.scorecard.measures.base import ArmName, AskName, Measure, Measured, Quantity, always
from palimpsest.study.scorecard.measures.numbers import accuracy, difference, gap, ratio
from palimpsest.study.scorecard.measures.quantities import facts_of, series


class EffectGiven(Closed):
    """What ``memory_effect`` is of.

    Attributes:
        ask: a name under ``ask``.
        arm: whose memory.
        intervention: what is done to it.
        others: other interventions, whose effects are quantities too.
        cells: which answers count.
        learnt: accuracy below which the note says that the arm has nothing to lose.
    """

    ask: AskName
    arm: ArmName
    intervention: str = "swap"
    others: tuple[Name, ...] = ()
    cells: Cells = Cells()
    learnt: float = 0.2


def memory_effect(findings: Findings, given: EffectGiven) -> Measured:
    """Estimate what interventions on the memory cost, on the same items.

    Quantities: ``intact`` and ``intervened``, accuracies; ``difference`` of the two; ``<other>_difference``, of the
    intact and another intervention.
    """
    intact = answers(findings, given.ask, given.arm, given.cells)
    under = {
        name: answers(findings, given.ask, given.arm, given.cells, name) for name in (given.intervention, *given.others)
    }
    main = under[given.intervention]
    others = {f"{name}_difference": difference(intact, under[name]) for name in given.others}
    quantities = {
        "intact": accuracy(intact),
        "intervened": accuracy(main),
        "difference": difference(intact, main),
        **others,
    }
    by_length = {}
    for length in sorted({i.length for i in select(findings, given.ask, given.arm, given.cells, given.intervention)}):
        cells = given.cells.at(length)
        sides = [answers(findings, given.ask, given.arm, cells, name) for name in (INTACT, given.intervention)]
        by_length[f"difference at {length} tokens"] = difference(sides[0], sides[1])
    known = quantities["intact"](0.95).mean >= given.learnt
    return Measured(
        quantities=quantities,
        facts=facts_of({**quantities, **by_length}),
        figure=_bars(
            f"What an intervention costs {given.arm}",
            "lost share of right answers",
            {given.intervention: quantities["difference"]}
            | dict(zip(given.others, others.values(), strict=True))
            | {name.removeprefix("difference "): number for name, number in by_length.items()},
        ),
        sources=(f"items/{given.ask}",),
        note="" if known else f"{given.arm} answers few of these items intact, so that it has little to lose.",
    )


def _effect_names(given: EffectGiven) -> Collection[str]:
    return ("intact", "intervened", "difference", *(f"{name}_difference" for name in given.others))


class DifferenceGiven(Closed):
    """What ``difference`` is of: an arm against another one, or intact against an intervention.

    Attributes:
        ask: a name under ``ask``.
        arm: the first side.
        against: the arm that is the other side.
        intervention: the intervention that the other side is under.
        cells: which answers count.
    """

    ask: AskName
    arm: ArmName
    against: ArmName | None = None
    intervention: str | None = None
    cells: Cells = Cells()

    @model_validator(mode="after")
    def _one_other_side(self) -> Self:
        if (self.against is None) == (self.intervention is None):
            raise ValueError("give either against (another arm) or intervention")
        return self


def paired_difference(findings: Findings, given: DifferenceGiven) -> Measured:
    """Estimate a difference of accuracies on the same items.

    Quantities: ``arm`` and ``other``, the two accuracies; ``difference``, the first minus the second.
    """
    arm = answers(findings, given.ask, given.arm, given.cells)
    other = answers(findings, given.ask, given.against or given.arm, given.cells, given.intervention or INTACT)
    quantities = {"arm": accuracy(arm), "other": accuracy(other), "difference": difference(arm, other)}
    against = given.against or f"{given.arm} under {given.intervention}"
    return Measured(
        quantities=quantities,
        facts=facts_of(quantities),
        figure=_bars(
            f"{given.arm} beside {against}",
            "share of answers",
            {given.arm: quantities["arm"], against: quantities["other"]},
        ),
        sources=(f"items/{given.ask}",),
    )


class VersionsGiven(Closed):
    """What ``versions`` compares: two kinds of items, answered by one arm.

    Attributes:
        ask: a name under ``ask``.
        arm: who answers.
        cells: which answers count on both sides.
        fact: the fact in which the sides differ.
        hard, easy: its values.
        floor: what guessing scores, taken away from both sides of the ratio.
    """

    ask: AskName
    arm: ArmName
    cells: Cells = Cells()
    fact: str
    hard: float
    easy: float
    floor: float = Field(default=0.0, ge=0, lt=1)


def versions(findings: Findings, given: VersionsGiven) -> Measured:
    """Compare the accuracies on two versions of a task, whose items differ.

    Quantities: ``easy`` and ``hard``, the accuracies; ``gap``, easy minus hard; ``ratio``, hard over easy. The figure
    shows every value of the fact.
    """

    def at(value: float) -> list[ItemRecord]:
        return select(findings, given.ask, given.arm, given.cells.told(given.fact, value))

    easy, hard = scored(at(given.easy)), scored(at(given.hard))
    quantities = {
        "easy": accuracy(easy),
        "hard": accuracy(hard),
        "gap": gap(easy, hard),
        "ratio": ratio(hard, easy, floor=given.floor),
    }
    found = {item.facts.get(given.fact) for item in select(findings, given.ask, given.arm, given.cells)}
    values = sorted(float(value) for value in found if isinstance(value, int | float))
    shown = {value: accuracy(scored(at(value))) for value in values}
    return Measured(
        quantities=quantities,
        facts=facts_of({**quantities, **{f"accuracy at {given.fact} {value:g}": shown[value] for value in values}}),
        figure=_against(given.arm, given.fact, shown),
        sources=(f"items/{given.ask}",),
    )


class StaleGiven(Closed):
    """What ``newest_over_old`` is of.

    Attributes:
        ask: a name under ``ask`` whose items ask for the newest of several values.
        arm: who answers.
        cells: which answers decide; the facts show all versions.
    """

    ask: AskName
    arm: ArmName
    cells: Cells = Cells()


def newest_over_old(findings: Findings, given: StaleGiven) -> Measured:
    """Estimate how much oftener the newest value of a key is named than one that is out of date.

    Quantities: ``newest``, ``old``, shares of answers, their ``difference``, and ``either``, the share that names a
    value of the haystack at all.
    """
    items = select(findings, given.ask, given.arm, given.cells)
    quantities = _newest_and_old(items)
    facts = dict(quantities)
    everything = select(findings, given.ask, given.arm, given.cells.model_copy(update={"where": {}}))
    for version in sorted({_version(item) for item in everything}):
        part = _newest_and_old([item for item in everything if _version(item) == version])
        facts[f"{version}: newest minus old"] = part["difference"]
    return Measured(
        quantities=quantities,
        facts=facts_of(facts),
        figure=_bars(f"Which value {given.arm} names", "share of answers", quantities),
        sources=(f"items/{given.ask}",),
    )


def _newest_and_old(items: list[ItemRecord]) -> dict[str, Quantity]:
    newest, old = scored(items), scored(items, lambda item: float(item.error_class == "other_value"))
    either = scored(items, lambda item: float(item.exact or item.error_class == "other_value"))
    return {
        "newest": accuracy(newest),
        "old": accuracy(old),
        "difference": difference(newest, old),
        "either": accuracy(either),
    }


def _version(item: ItemRecord) -> str:
    return f"{item.facts.get('rewrites', 0):g} rewrites, {item.facts.get('gap', 'any')} segment"


def _bars(title: str, y_label: str, numbers: dict[str, Quantity]) -> FigureRecord:
    shown = {name: quantity(0.95) for name, quantity in numbers.items()}
    return FigureRecord(
        title=title,
        caption="95 % intervals over seeds, at least as wide as those over items.",
        x_label=", ".join(f"{place}: {name}" for place, name in enumerate(shown, 1)),
        y_label=y_label,
        series=tuple(
            series(name, [(float(place), number)], dots=True) for place, (name, number) in enumerate(shown.items(), 1)
        ),
        share=True,
    )


def _against(arm: str, fact: str, numbers: Mapping[float, Quantity]) -> FigureRecord:
    return FigureRecord(
        title=f"Right answers of {arm} by {fact}",
        caption="95 % intervals over seeds, at least as wide as those over items.",
        x_label=fact,
        y_label="share of answers",
        series=(series(arm, ((x, quantity(0.95)) for x, quantity in numbers.items())),),
        share=True,
    )


CONTRASTS = {
    "memory_effect": Measure(EffectGiven, memory_effect, _effect_names),
    "difference": Measure(DifferenceGiven, paired_difference, always("arm", "other", "difference")),
    "versions": Measure(VersionsGiven, versions, always("easy", "hard", "gap", "ratio")),
    "newest_over_old": Measure(StaleGiven, newest_over_old, always("newest", "old", "difference", "either")),
}
