"""``plan``: a scorecard becomes stages, each with a digest of everything that determines its result."""

from typing import Any

from pydantic import BaseModel

from palimpsest.attention.gated import GatedAttention
from palimpsest.attention.kinds import KINDS
from palimpsest.errors import InputError
from palimpsest.probes import applicable
from palimpsest.study.plan import Stage, Stages
from palimpsest.study.scorecard.judge import check_rows
from palimpsest.study.scorecard.spec import ScorecardSpec
from palimpsest.study.scorecard.texts import CORPUS
from palimpsest.study.scorecard.trainings import trainings
from palimpsest.tasks import TASKS, TaskSpec, build_task
from palimpsest.training.tasks import symbolic_tokenizer

PHASE_SEEDS = 1_000_000
"""What every phase adds to the seed of its rows, so that no phase is trained on the rows of another."""


def plan_scorecard(spec: ScorecardSpec) -> list[Stage]:
    """Return the stages of a scorecard, every stage after its inputs. A pure function of the study file.

    What is asked of a model is a stage for each arm, seed and version of a task, so that a run that is cut off loses
    little, and a longer list of tasks asks only what is new.

    Raises:
        InputError: as ``check_rows``; symbolic items that do not fit into their lengths.
    """
    check_rows(spec)
    if spec.corpus is None:
        _check_items(spec)
    stages = Stages()
    _once(stages, spec)
    for seed in dict.fromkeys(seed for arm in spec.arms for seed in spec.seeds_of(arm)):
        trained: dict[str, Stage] = {}
        for arm in spec.arms:
            if seed in spec.seeds_of(arm):
                trained[arm] = _train(stages, spec, arm, seed, trained)
                _examine(stages, spec, arm, seed, trained[arm])
        if spec.rerun in trained and seed == spec.seeds_of(spec.rerun)[0]:
            phases = [stage.settings for stage in _behind(stages, trained[spec.rerun])]
            stages.add("rerun", spec.rerun, seed, {"phases": phases}, *_texts(stages, spec), trained[spec.rerun])
    return stages.in_order


def _check_items(spec: ScorecardSpec) -> None:
    """Make one item of every version and length that is asked, of a design seed: later is too late to learn it fails.

    Raises:
        InputError: what is asked, and why there are no such items.
    """
    tokenizer = symbolic_tokenizer()
    for name, part in spec.ask.items():
        for version in part.versions():
            task = build_task(version, tokenizer, segment_length=spec.segment_length)
            for length in part.lengths:
                try:
                    task.sample(split="evaluation", seed=0, index=0, length=length, depth=next(iter(part.depths), None))
                except InputError as error:
                    raise InputError(f"'{name}', {length} tokens: {error}") from error


def _once(stages: Stages, spec: ScorecardSpec) -> None:
    """Add what needs no model."""
    for kind, part in (("mechanism", spec.mechanism), ("validity", spec.validity), ("audit", spec.audit)):
        if part is not None:
            settings: dict[str, Any] = {"part": _json(part), "segment_length": spec.segment_length}
            if kind == "validity":
                settings["tasks"] = _asked(spec)
            stages.add(kind, None, None, settings, *(_texts(stages, spec) if kind == "validity" else ()))


def _texts(stages: Stages, spec: ScorecardSpec) -> list[Stage]:
    """Return the stage that prepares the corpus, none if the study is symbolic."""
    if spec.corpus is None or spec.tokenizer is None:
        return []
    return [stages.add(CORPUS, None, None, {"corpus": _json(spec.corpus), "tokenizer": _json(spec.tokenizer)})]


def _behind(stages: Stages, last: Stage) -> list[Stage]:
    """Return the training stages that led to a model, in order."""
    return trainings(last, {stage.name: stage for stage in stages.in_order})


def _asked(spec: ScorecardSpec) -> list[dict[str, Any]]:
    """Return every version of every task, once, each with the longest context in which it is asked."""
    longest: dict[str, dict[str, Any]] = {}
    for part in spec.ask.values():
        for version in part.versions():
            key = version.model_dump_json()
            length = max(*part.lengths, longest.get(key, {"length": 0})["length"])
            longest[key] = {"task": _json(version), "version": _version(version), "length": length}
    return list(longest.values())


def _train(stages: Stages, spec: ScorecardSpec, name: str, seed: int, trained: dict[str, Stage]) -> Stage:
    arm = spec.arms[name]
    before = None if arm.after is None else trained[arm.after]
    for number, phase_name in enumerate(arm.phases, 0 if arm.after is None else len(spec.phases)):
        phase = spec.phases[phase_name]
        changed = {"learning_rate": arm.learning_rate * phase.rate} | arm.training
        settings = {
            "seed": seed + PHASE_SEEDS * number,
            "model": spec.model_of(name).model_dump(mode="json") if before is None else None,
            "data": phase.data.model_dump(mode="json"),
            "tasks": [_version(task) for task in phase.tasks],
            "training": phase.training.model_dump(mode="json") | changed,
        }
        if phase.method is not None:
            settings["method"] = _json(phase.method)
        inputs = [*_texts(stages, spec), *([] if before is None else [before])]
        before = stages.add("train", name, seed, settings, *inputs, label=phase_name)
    assert before is not None  # there is a phase
    if arm.restore and arm.after is not None:
        # the arm that it went on after lies behind its training, and so need not be an input of its own
        settings = {"restore": sorted(arm.restore), "base": trained[arm.after].directory}
        return stages.add("train", name, seed, settings, before, label="restore")
    return before


def _examine(stages: Stages, spec: ScorecardSpec, arm: str, seed: int, model: Stage) -> None:
    """Add what is asked of a trained model."""
    who = {"arm": arm, "seed": seed}
    kinds = spec.attention(arm).pattern
    read = [*_texts(stages, spec), model]
    for name, part in spec.ask.items():
        if not part.arms or arm in part.arms:
            given = _json(part, "task", "vary", "arms") | {"interventions": list(applicable(part.interventions, kinds))}
            for number, task in enumerate(part.versions()):
                asked = {"part": given, "task": _json(task), "version": _version(task), "named": name}
                stages.add("ask", arm, seed, who | asked, model, label=f"{name}-{number}")
    for name, part in spec.documents.items():
        if not part.arms or arm in part.arms:
            given = _json(part, "arms") | {"interventions": list(applicable(part.interventions, kinds))}
            stages.add("documents", arm, seed, who | {"part": given, "named": name}, *read, label=name)
    gated = any(issubclass(KINDS[kind], GatedAttention) for kind in kinds)
    if spec.usage is not None and gated and (not spec.usage.arms or arm in spec.usage.arms):
        stages.add("usage", arm, seed, who | {"part": _json(spec.usage, "arms")}, *read)
    if spec.costs and seed == spec.seeds_of(arm)[0]:
        stages.add("cost", arm, seed, who | {"lengths": list(spec.costs)}, model)


def _json(part: BaseModel, *without: str) -> dict[str, Any]:
    return part.model_dump(mode="json", exclude=set(without))


def _version(task: TaskSpec) -> str:
    return f"{task.kind}@{TASKS[task.kind].version}"
