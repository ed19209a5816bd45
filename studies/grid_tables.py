"""What the models of a study with several grids answered, arm by arm, as Markdown made from its records."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from arm_tables import LOGGED, Value, arm_table, gate_values, percent

from palimpsest.records import GRIDS, ItemRecord, StepRecord
from palimpsest.report import StudyResults, load_records
from palimpsest.report.load import INTACT, STAGE_NAMES, STAGES, Stage
from palimpsest.study.spec import StudySpec

COUNTS = {
    "exact": "A key is found if the answer begins with it.",
    "contains": "A key is found if it stands anywhere in the answer.",
}


def tables(records: Path, spec: StudySpec) -> str:
    """Return all tables: keys found, intact and under interventions, losses and gates; intervals over seeds."""
    results = load_records(records)
    words = (
        "Means with 95 % intervals over training seeds, no narrower than Wilson's over items. *Beyond exact attention* "
        f"is a key {_reach(results):,} tokens or more before the answer: no layers of windows or caches see it."
    )
    parts = ["## Arm by arm", words]
    for grid, found in _grids(records, results, spec):
        score = _score(spec, grid)
        parts.append(f"## Grid {grid}\n\n{COUNTS[score]}")
        parts += [_keys(found, score, beyond) for beyond in (False, True)]
        parts.append(_interventions(found, score))
    parts += ["## Training", _losses(results), _gates(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _grids(records: Path, results: StudyResults, spec: StudySpec) -> Iterator[tuple[str, StudyResults]]:
    """Yield the grids: the first one's records lie at the top, those of others in folders with their names."""
    yield next(iter(spec.grids)), results
    for path in sorted((records / GRIDS).iterdir()):
        yield path.name, load_records(path)


def _score(spec: StudySpec, grid: str) -> str:
    """Return the score by which the claims judge a grid."""
    scores = (claim.score for claim in spec.claims if claim.grid and grid.startswith(claim.grid))
    return next(scores, "exact")


def _keys(results: StudyResults, score: str, beyond: bool) -> str:
    title = "Keys found, percent: " + ("beyond exact attention" if beyond else "all items")
    reach = _reach(results) if beyond else 0
    values = [
        _value(item, score, _length(item))
        for arm in results.arms
        for condition, items in results.items.items()
        if condition.arm == arm and condition.intervention == INTACT
        for item in items
        if item.distance >= reach
    ]
    return arm_table(title, values, percent, within="wilson")


def _reach(results: StudyResults) -> int:
    """Return how many tokens back the arms see that do not see everything."""
    return max(arm.reach for arm in results.study.arms if arm.reach is not None)


def _interventions(results: StudyResults, score: str) -> str:
    """Keys found with and without the own memory, at the lengths at which it was taken away."""
    lengths = {item.length for c, items in results.items.items() if c.intervention != INTACT for item in items}
    values = [
        _value(item, score, f"{_length(item)}, {condition.intervention if condition.intervention != INTACT else 'own'}")
        for arm in results.memory_arms
        for condition, items in results.items.items()
        if condition.arm == arm
        for item in items
        if item.length in lengths
    ]
    return arm_table("Keys found, percent: with the own memory, another's, none", values, percent, within="wilson")


def _value(item: ItemRecord, score: str, column: str) -> Value:
    return Value(item.arm, column, float(getattr(item, score)), item.seed)


def _length(item: ItemRecord) -> str:
    """Return the length by which the study file names it: in characters if it counts those, otherwise in tokens."""
    return f"{item.facts.get('nominal', item.length):g} {item.facts.get('units', 'tokens')}"


def _losses(results: StudyResults) -> str:
    values = [
        Value(
            run.arm, STAGE_NAMES[run.stage], sum(step.loss for step in steps[-LOGGED:]) / len(steps[-LOGGED:]), run.seed
        )
        for run, steps in _trainings(results)
    ]
    return arm_table("Loss at the end of the training, nats per labelled token", values, lambda loss: f"{loss:.3f}")


def _gates(results: StudyResults) -> str:
    values = [
        value
        for run, steps in _trainings(results)
        if run.stage == STAGES[-1]
        for value in gate_values(run.arm, run.seed, {layer.layer: layer.gates for layer in steps[-1].layers})
    ]
    return arm_table("Gates", values, lambda gate: f"{gate:.2f}")


def _trainings(results: StudyResults) -> list[tuple[Stage, Sequence[StepRecord]]]:
    """Return what was logged, in the order of the arms and of the stages."""
    order = {name: place for place, name in enumerate(results.arms)}
    return sorted(results.metrics.items(), key=lambda each: (order[each[0].arm], STAGES.index(each[0].stage)))
