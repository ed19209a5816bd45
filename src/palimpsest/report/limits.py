"""What a study did not test, and why: read off its records, so that nobody has to remember to say it."""

from typing import NamedTuple

from palimpsest.report.answers import answers, cells, conditions, effects
from palimpsest.report.load import INTACT, STAGE_NAMES, STAGES, Condition, Run, Stage, StudyResults
from palimpsest.report.numerals import depth, listed, plural, tokens


class Limit(NamedTuple):
    """One thing that was not tested, and what follows from that."""

    what: str
    why: str


def limits(results: StudyResults) -> list[Limit]:
    """Return what the reader must not conclude, the most important first."""
    return [
        *_missing(results),
        *_seeds(results),
        *_scope(results),
        *_certainty(results),
        *_interventions(results),
        *_origin(results),
        *(Limit("A deviation from the plan.", note) for note in results.study.deviations),
    ]


def _missing(results: StudyResults) -> list[Limit]:
    """Name what the plan asks for and the records lack."""
    study, found = results.study, []
    runs = [Run(arm, seed) for arm in results.arms for seed in study.seeds]
    unanswered = [run for run in runs if Condition(*run, INTACT) not in results.items]
    if unanswered:
        found.append(Limit(f"No answers from {_runs(unanswered)}.", "The study is unfinished, or these runs failed."))
    for stage in STAGES:
        logs = {run for run in runs if Stage(*run, stage) in results.metrics}
        if logs and len(logs) < len(runs):
            lacking = [run for run in runs if run not in logs]
            found.append(Limit(f"No log of {STAGE_NAMES[stage]} from {_runs(lacking)}.", "Their curves are not drawn."))
    if not results.metrics:
        found.append(Limit("No training logs.", "Curves and gates are not drawn."))
    if results.verdicts is None:
        found.append(Limit("No claim was judged.", "The study has not come to its verdicts, or has none."))
    if not results.losses:
        found.append(Limit("No held-out loss.", "Nothing is said about ordinary text."))
    uncosted = [run for run in runs if run not in results.costs]
    if uncosted:
        found.append(Limit(f"No cost of {_runs(uncosted)}.", "Their compute cannot be compared."))
    strangers = sorted({c.arm for c in results.items} - set(results.arms))
    if strangers:
        found.append(
            Limit(f"Left out: {listed(strangers)}.", "There are answers of it, but the study has no such arm.")
        )
    return found


def _seeds(results: StudyResults) -> list[Limit]:
    seeds = results.seeds
    if len(seeds) == 1:
        return [
            Limit(
                f"One training run per arm (seed {seeds[0]}).",
                "The intervals speak of these very models on more items of this kind. Another run of the same training "
                "may end elsewhere; differences between arms are differences between two runs.",
            )
        ]
    if len(seeds) < 5:
        return [
            Limit(
                f"Only {len(seeds)} training runs per arm.",
                "Intervals over so few runs are wide, and the bands in the figures, which pool the items of all runs, "
                "are narrower than what another run may show. The thin lines are the honest spread.",
            )
        ]
    return []


def _scope(results: StudyResults) -> list[Limit]:
    study, found = results.study, []
    items = [item for arm in results.arms for item in answers(results, arm)]
    if not items:
        return found
    tasks = sorted({item.task for item in items})
    found.append(
        Limit(
            f"No other task than {listed(tasks)}.",
            "What holds for it says nothing about many needles, distractors, reasoning or prose.",
        )
    )
    longest = max(items, key=lambda item: item.length)
    found.append(
        Limit(
            f"Nothing longer than {tokens(longest.length)} tokens ({plural(longest.segments, 'segment')}).",
            f"Training used at most {tokens(study.trained_length)} tokens.",
        )
    )
    empty = sorted(
        {(length, d) for length in study.lengths for d in study.depths}
        - {place for arm in results.arms for place in cells(results, arm)}
    )
    if empty:
        shown = listed([f"{tokens(length)} at {depth(d)}" for length, d in empty[:4]])
        more = f" and {len(empty) - 4} more" if len(empty) > 4 else ""
        found.append(Limit(f"No items at {shown}{more}.", "Planned lengths and depths without an answer."))
    return found


def _certainty(results: StudyResults) -> list[Limit]:
    found = [cell for arm in results.arms for cell in cells(results, arm).values()]
    wide = sum(cell.wide for cell in found)
    if not wide:
        return []
    fewest = min(cell.found.n for cell in found)
    return [
        Limit(
            f"{wide} of {len(found)} cells are uncertain by more than 10 points either way (hatched).",
            f"A cell has as few as {plural(fewest, 'item')}; read rows and columns rather than single cells.",
        )
    ]


def _interventions(results: StudyResults) -> list[Limit]:
    made = set(conditions(results))
    found = []
    for arm in results.memory_arms:
        lacking = [name for name in results.study.interventions if (arm, name) not in made and name != INTACT]
        if lacking and (arm, INTACT) in made:
            names = listed([name.replace("_", " ") for name in lacking])
            found.append(Limit(f"{arm} without the intervention {names}.", "Not in the records."))
    every = {item.length for arm in results.memory_arms for item in answers(results, arm)}
    tested = {item.length for (_, _, name), items in results.items.items() if name != INTACT for item in items}
    if tested and every - tested:
        found.append(
            Limit(
                f"Interventions at {listed([tokens(length) for length in sorted(tested)])} tokens only.",
                "At the other lengths it was not tested whether the memory did the work.",
            )
        )
    unpaired = [effect for effect in effects(results) if effect.unpaired]
    return found + [
        Limit(
            f"{plural(effect.unpaired, 'item')} left out of {effect.arm}, {effect.intervention.replace('_', ' ')}.",
            "The intact model has no answer to them, so there is no pair.",
        )
        for effect in unpaired
    ]


def _origin(results: StudyResults) -> list[Limit]:
    if not results.provenance:
        return [Limit("No provenance.", "It is not recorded which code and data made these numbers.")]
    found = []
    if any(record.git_dirty for record in results.provenance.values()):
        found.append(Limit("Code with uncommitted changes.", "The recorded commit is not exactly the code that ran."))
    if len({record.git_commit for record in results.provenance.values()}) > 1:
        found.append(Limit("More than one version of the code.", "Runs were made at different commits."))
    return found


def _runs(runs: list[Run]) -> str:
    arms: dict[str, list[int]] = {}
    for run in runs:
        arms.setdefault(run.arm, []).append(run.seed)
    return listed([f"{arm} (seed {', '.join(map(str, seeds))})" for arm, seeds in arms.items()])
