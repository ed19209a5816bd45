"""``plan``: a scorecard becomes stages, each with a digest of everything that determines its result."""

from typing import Any

from pydantic import BaseModel

from palimpsest.attention.gated import GatedAttention
from palimpsest.attention.kinds import KINDS
from palimpsest.probes import applicable
from palimpsest.study.plan import Stage, Stages
from palimpsest.study.scorecard.spec import ScorecardSpec
from palimpsest.tasks import TASKS, TaskSpec


def plan_scorecard(spec: ScorecardSpec) -> list[Stage]:
    """Return the stages of a scorecard, every stage after its inputs. A pure function of the study file.

    What is asked of a model is a stage for each arm, seed and version of a task, so that a run that is cut off loses
    little, and a longer list of lengths or tasks asks only what is new.
    """
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
            stages.add("rerun", spec.rerun, seed, {"phases": phases}, trained[spec.rerun])
    return stages.in_order


def _once(stages: Stages, spec: ScorecardSpec) -> None:
    """Add what needs no model."""
    for kind, part in (("mechanism", spec.mechanism), ("validity", spec.validity), ("audit", spec.audit)):
        if part is not None:
            settings: dict[str, Any] = {"part": _json(part), "segment_length": spec.segment_length}
            if kind == "validity":
                settings["tasks"] = _asked(spec)
            stages.add(kind, None, None, settings)


def _behind(stages: Stages, last: Stage) -> list[Stage]:
    """Return the training stages that led to a model, in order."""
    by_name = {stage.name: stage for stage in stages.in_order}
    chain = [last]
    while chain[0].inputs:
        chain.insert(0, by_name[chain[0].inputs[0]])
    return chain


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
    for phase_name in arm.phases:
        phase = spec.phases[phase_name]
        changed = {"learning_rate": arm.learning_rate * phase.rate} | arm.training
        settings = {
            "seed": seed,
            "model": spec.model_of(name).model_dump(mode="json") if before is None else None,
            "data": phase.data.model_dump(mode="json"),
            "tasks": [_version(each.task) for each in phase.data.tasks],
            "training": phase.training.model_dump(mode="json") | changed,
        }
        before = stages.add("train", name, seed, settings, *([] if before is None else [before]), label=phase_name)
    assert before is not None  # there is a phase
    return before


def _examine(stages: Stages, spec: ScorecardSpec, arm: str, seed: int, model: Stage) -> None:
    """Add what is asked of a trained model."""
    who = {"arm": arm, "seed": seed}
    kinds = spec.attention(arm).pattern
    for name, part in spec.ask.items():
        if not part.arms or arm in part.arms:
            given = _json(part, "task", "vary", "arms") | {"interventions": list(applicable(part.interventions, kinds))}
            for number, task in enumerate(part.versions()):
                asked = {"part": given, "task": _json(task), "version": _version(task), "named": name}
                stages.add("ask", arm, seed, who | asked, model, label=f"{name}-{number}")
    for name, part in spec.documents.items():
        if not part.arms or arm in part.arms:
            given = _json(part, "arms") | {"interventions": list(applicable(part.interventions, kinds))}
            stages.add("documents", arm, seed, who | {"part": given, "named": name}, model, label=name)
    gated = any(issubclass(KINDS[kind], GatedAttention) for kind in kinds)
    if spec.usage is not None and gated and (not spec.usage.arms or arm in spec.usage.arms):
        stages.add("usage", arm, seed, who | {"part": _json(spec.usage, "arms")}, model)
    if spec.costs and seed == spec.seeds_of(arm)[0]:
        stages.add("cost", arm, seed, who | {"lengths": list(spec.costs)}, model)


def _json(part: BaseModel, *without: str) -> dict[str, Any]:
    return part.model_dump(mode="json", exclude=set(without))


def _version(task: TaskSpec) -> str:
    return f"{task.kind}@{TASKS[task.kind].version}"
