"""Measures of trainings themselves: sensitivity to the schedule, collapse of gradients, and whether any is missing."""

import math
import statistics
from collections.abc import Sequence

from pydantic import Field

from palimpsest.records import FigureRecord, Series, StepRecord
from palimpsest.schema import Closed
from palimpsest.statistics import Estimate, estimate
from palimpsest.study.scorecard.findings import ArmSeed, Findings
from palimpsest.study.scorecard.measures.base import ArmName, DocumentsName, Measure, Measured, Missing, always
from palimpsest.study.scorecard.measures.loss_tables import (
    Losses,
    Read,
    beyond_windows,
    difference_of,
    losses,
    mean_of,
    seed_losses,
)
from palimpsest.study.scorecard.measures.quantities import LEVEL, count_of, facts_of, needs_some, series


class ScheduleGiven(Closed):
    """An arm, its baseline, and both under other schedules.

    Attributes:
        documents, arm, baseline: the comparison over all seeds, under the schedule of the study.
        from_position: the first position that is predicted.
        design: the documents on which schedules are compared, with a seed of their own.
        arm_schedules, baseline_schedules: the arms that differ in their schedule; the first has that of the study.
    """

    documents: DocumentsName
    arm: ArmName
    baseline: ArmName
    from_position: int = Field(ge=1)
    design: DocumentsName
    arm_schedules: tuple[ArmName, ...] = Field(min_length=2)
    baseline_schedules: tuple[ArmName, ...] = Field(min_length=2)


class CollapseGiven(Closed):
    """Which trainings (all arms if empty), and below which share of its median a gradient norm has collapsed."""

    arms: tuple[ArmName, ...] = ()
    share: float = Field(default=0.1, gt=0, lt=1)


class CompleteGiven(Closed):
    """Whose losses must be there for every seed of the study; ``reference`` is the arm that others differ from."""

    documents: DocumentsName
    reference: ArmName
    from_position: int = Field(ge=1)


def schedule(findings: Findings, given: ScheduleGiven) -> Measured:
    """Compare an arm with its baseline, each under its best schedule.

    Quantities, in nats per token:

    * ``gain``: loss of the baseline minus loss of the arm, over all seeds, under the schedule of the study;
    * ``gain_over_best``: that gain minus what the best schedule gives the baseline over the study's own, while the arm
      keeps its own;
    * ``range``: how far the losses of one of the two lie apart over its schedules, the larger of both: R.
    """
    beyond_windows(findings, (given.arm, given.baseline), given.from_position)
    read = Read(given.documents, given.baseline, given.from_position)
    worse, better = losses(findings, read), losses(findings, read._replace(arm=given.arm))
    tuned = {
        arm: losses(findings, Read(given.design, arm, given.from_position))
        for arm in (*given.arm_schedules, *given.baseline_schedules)
    }
    means = {arm: math.fsum(table.values()) / len(table) for arm, table in tuned.items()}
    ranges = [
        max(means[arm] for arm in arms) - min(means[arm] for arm in arms)
        for arms in (given.arm_schedules, given.baseline_schedules)
    ]
    credit = means[given.baseline_schedules[0]] - min(means[arm] for arm in given.baseline_schedules)
    credited: Losses = {unit: loss - credit for unit, loss in worse.items()}
    seeds = len(seed_losses(better))
    quantities = {
        "gain": difference_of(worse, better),
        "gain_over_best": difference_of(credited, better),
        "range": count_of(max(ranges), seeds, seeds=seeds),
    }
    facts = facts_of(quantities) | {f"loss of {arm}": _over_documents(table).record() for arm, table in tuned.items()}
    gain = quantities["gain"](LEVEL).mean
    small = f" The gain ({gain:.3f}) is smaller than the range R over schedules ({max(ranges):.3f})."
    note = f"Schedules were compared with seed {', '.join(map(str, _seeds(tuned)))}." + (
        small if gain < max(ranges) else ""
    )
    figure = FigureRecord(
        title="Loss under other schedules",
        caption=f"Schedules in the order {', '.join(given.arm_schedules)}; {', '.join(given.baseline_schedules)}.",
        x_label="schedule",
        y_label="nats per token",
        series=tuple(
            series(name, [(float(i), _over_documents(tuned[arm])) for i, arm in enumerate(arms, 1)], dots=True)
            for name, arms in ((given.arm, given.arm_schedules), (given.baseline, given.baseline_schedules))
        ),
    )
    sources = (f"documents/{given.documents}", f"documents/{given.design}")
    return Measured(quantities, facts, figure, sources, note)


def collapse(findings: Findings, given: CollapseGiven) -> Measured:
    """Look for trainings whose gradient norm has collapsed: ``estimate`` is their share, Clopper-Pearson.

    A training has collapsed if, in one of its phases, the last logged norm is below ``share`` of the median norm of
    that phase after its warmup.
    """
    runs = {run: phases for run, phases in findings.steps.items() if not given.arms or run[0] in given.arms}
    needs_some([*runs], "metrics of trainings")
    left = {run: min(_left(findings, run, phases)) for run, phases in sorted(runs.items())}
    collapsed = [run for run, share in left.items() if not share >= given.share]  # NaN has collapsed, too
    outcomes = [float(run in collapsed) for run in left]
    facts = {"smallest share of the median that was left": count_of(min(left.values()), len(left))(LEVEL).record()}
    arms = list(dict.fromkeys(arm for arm, _ in left))
    figure = FigureRecord(
        title="Gradient norm at the end of a training",
        caption=f"As a share of its median after the warmup, the smaller of both phases. Arms in the order "
        f"{', '.join(arms)}.",
        x_label="arm",
        y_label="share of the median",
        series=(
            Series(
                name="trainings",
                x=tuple(1.0 + arms.index(arm) for arm, _ in left),
                y=tuple(left.values()),
                points=True,
            ),
        ),
    )
    note = f"Collapsed: {', '.join(f'{arm} (seed {seed})' for arm, seed in collapsed)}." if collapsed else ""
    at = {"estimate": lambda level: estimate(outcomes, method="clopper_pearson", level=level)}
    return Measured(at, facts, figure, ("train",), note)


def complete(findings: Findings, given: CompleteGiven) -> Measured:
    """Count what became of every declared training: none may be missing, none left out.

    Quantities: ``missing``, declared trainings without losses on these documents; ``not_finite``, trainings with a loss
    that is not finite, which are listed and not left out; ``seeds``, the fewest seeds of an arm. Facts: the loss of
    every arm, and by how much it differs from the reference, paired by seed, with t intervals.
    """
    part = findings.spec.documents.get(given.documents)
    if part is None:
        raise Missing(f"The study has no documents '{given.documents}'.")
    arms = part.arms or tuple(findings.spec.arms)
    declared = [(arm, seed) for arm in arms for seed in findings.spec.seeds_of(arm)]
    read = Read(given.documents, given.reference, given.from_position)
    found = {(record.arm, record.seed) for record in findings.positions.get(given.documents, ())}
    needs_some([*found], f"losses on the documents '{given.documents}'")
    tables = {arm: losses(findings, read._replace(arm=arm)) for arm in arms if any(run[0] == arm for run in found)}
    absent = [run for run in declared if run not in found]
    odd = sorted({(arm, seed) for arm, table in tables.items() for (seed, _), nll in table.items() if nll - nll != 0})
    fewest = min(sum(run[0] == arm for run in found) for arm in arms)
    quantities = {
        name: count_of(value, len(declared), seeds=fewest)
        for name, value in (("missing", len(absent)), ("not_finite", len(odd)), ("seeds", fewest))
    }
    facts = {f"loss of {arm}": mean_of(table) for arm, table in tables.items()}
    if given.reference in tables:
        against = tables[given.reference]
        others = {arm: table for arm, table in tables.items() if arm != given.reference}
        facts |= {f"{given.reference} - {arm}": difference_of(against, table) for arm, table in others.items()}
    figure = FigureRecord(
        title="Loss of every training",
        caption=f"Arms in the order {', '.join(tables)}; every point is one seed. Nats per token only: a symbolic "
        "token has no bytes.",
        x_label="arm",
        y_label="nats per token",
        series=tuple(
            Series(name=arm, x=(float(i),) * len(of_seeds), y=tuple(of_seeds.values()), points=True)
            for i, (arm, table) in enumerate(tables.items(), 1)
            if (of_seeds := seed_losses(table))
        ),
    )
    note = f"{len(declared)} trainings of {len(arms)} arms were declared." + _named("Missing", absent)
    note += _named("With a loss that is not finite", odd)
    return Measured(quantities, facts_of(facts), figure, (f"documents/{given.documents}",), note)


def _left(findings: Findings, run: ArmSeed, phases: Sequence[Sequence[StepRecord]]) -> list[float]:
    """Return the last gradient norm of each phase as a share of the median after its warmup."""
    arm = findings.spec.arms[run[0]]
    shares = []
    for name, phase in zip(arm.phases, phases, strict=False):
        warmup = arm.training.get("warmup_steps", findings.spec.phases[name].training.warmup_steps)
        norms = [step.grad_norm for step in phase if step.step > warmup]
        if norms:
            shares.append(norms[-1] / statistics.median(norms))
    needs_some(shares, f"gradient norms of '{run[0]}' (seed {run[1]}) after the warmup")
    return shares


def _over_documents(table: Losses) -> Estimate:
    """Return the mean loss with the t interval over documents, of the checkpoints that there are."""
    return estimate([*table.values()], method="t", clusters=[document for _, document in table], level=LEVEL)


def _seeds(tables: dict[str, Losses]) -> list[int]:
    return sorted({seed for table in tables.values() for seed, _ in table})


def _named(what: str, runs: Sequence[ArmSeed]) -> str:
    return f" {what}: {', '.join(f'{arm} (seed {seed})' for arm, seed in runs)}." if runs else ""


MEASURES: dict[str, Measure] = {
    "schedule": Measure(ScheduleGiven, schedule, always("gain", "gain_over_best", "range")),
    "gradient_collapse": Measure(CollapseGiven, collapse, always("estimate")),
    "complete_losses": Measure(CompleteGiven, complete, always("missing", "not_finite", "seeds")),
}
