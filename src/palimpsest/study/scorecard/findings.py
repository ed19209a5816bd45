"""All records that the stages of a scorecard have left, by what was done, ready to be measured."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from palimpsest.attention.kinds import exact_start
from palimpsest.records import (
    AuditRecord,
    AuditSetting,
    CanaryRecord,
    EffectRecord,
    ForgettingRecord,
    ItemRecord,
    MechanismRecord,
    PerturbationRecord,
    PlaceLossRecord,
    PositionLossRecord,
    ProfileRecord,
    Provenance,
    Record,
    StateCostRecord,
    StepRecord,
    ValidityRecord,
    read_json,
    read_jsonl,
)
from palimpsest.records.turns import TurnRecord
from palimpsest.study.plan import Stage
from palimpsest.study.scorecard.spec import ScorecardSpec
from palimpsest.study.scorecard.texts import CORPUS
from palimpsest.study.scorecard.trainings import trainings
from palimpsest.study.stages import is_done

R = TypeVar("R", bound=Record)

ArmSeed = tuple[str, int]


@dataclass(frozen=True)
class Findings:
    """What was found. Mappings are by the names of the study file, and empty where nothing was done.

    Attributes:
        spec: the study.
        items: answers by the name under ``ask``, with ``reachable_by`` filled in for all arms of the study.
        positions, places, perturbations, forgetting: losses by the name under ``documents``.
        profiles, effects: what heads do, of all arms and seeds.
        costs: what states cost.
        steps: the metrics of every phase of an arm and seed, in order.
        provenance: of the last phase of an arm and seed.
        turns: how far the weights of an arm and seed have turned from where its last phase began.
        mechanism, validity, audited, canaries, audit: as their records say.
        reruns: by arm, the digests of the weights of both trainings.
        failures: sentences on stages that are missing.
    """

    spec: ScorecardSpec
    items: Mapping[str, Sequence[ItemRecord]] = field(default_factory=dict)
    positions: Mapping[str, Sequence[PositionLossRecord]] = field(default_factory=dict)
    places: Mapping[str, Sequence[PlaceLossRecord]] = field(default_factory=dict)
    perturbations: Mapping[str, Sequence[PerturbationRecord]] = field(default_factory=dict)
    forgetting: Mapping[str, Sequence[ForgettingRecord]] = field(default_factory=dict)
    profiles: Sequence[ProfileRecord] = ()
    effects: Sequence[EffectRecord] = ()
    costs: Sequence[StateCostRecord] = ()
    steps: Mapping[ArmSeed, Sequence[Sequence[StepRecord]]] = field(default_factory=dict)
    provenance: Mapping[ArmSeed, Provenance] = field(default_factory=dict)
    turns: Mapping[ArmSeed, Sequence[TurnRecord]] = field(default_factory=dict)
    mechanism: Sequence[MechanismRecord] = ()
    validity: Sequence[ValidityRecord] = ()
    audited: Sequence[AuditRecord] = ()
    canaries: Sequence[CanaryRecord] = ()
    audit: AuditSetting | None = None
    reruns: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    failures: Sequence[str] = ()

    @cached_property
    def bounded_arms(self) -> tuple[str, ...]:
        """The arms whose exact attention does not reach all tokens."""
        return tuple(arm for arm in self.spec.arms if "full" not in self.spec.attention(arm).pattern)

    def memory_only(self, items: Iterable[ItemRecord], arms: Sequence[str] | None = None) -> list[ItemRecord]:
        """Return the items whose needles the exact attention of none of these arms reaches (None: all bounded arms)."""
        compared = set(self.bounded_arms if arms is None else arms)
        return [item for item in items if not compared & set(item.reachable_by)]


def load_findings(spec: ScorecardSpec, stages: Sequence[Stage], root: Path) -> Findings:
    """Read the records of all finished stages.

    Args:
        spec: the study.
        stages: its plan.
        root: the directory that holds one directory per stage.
    """
    found = _Reader(spec, root)
    failures = [f"{stage.name} was not run" for stage in stages if not is_done(stage, root)]
    for stage in stages:
        if is_done(stage, root) and stage.kind not in (CORPUS, "train"):
            found.read(stage)
    for run, phases in _phases(spec, stages).items():
        found.read_phases(run, [root / stage.directory for stage in phases if is_done(stage, root)])
    return Findings(spec=spec, failures=tuple(failures), **found.fields)


def _phases(spec: ScorecardSpec, stages: Sequence[Stage]) -> dict[ArmSeed, list[Stage]]:
    """Return the phases of every arm and seed. Arms that begin alike share them, and a stage names the first arm."""
    by_name = {stage.name: stage for stage in stages}
    last = {(stage.arm, stage.seed): stage for stage in stages if stage.kind == "train"}
    # what is asked of a model names its arm, whoever else was trained like it
    examined = [stage for stage in stages if stage.arm is not None and stage.kind != "train"]
    last |= {
        (stage.arm, stage.seed): by_name[name]
        for stage in examined
        for name in stage.inputs
        if by_name[name].kind == "train"
    }
    found = {}
    for arm in spec.arms:
        for seed in spec.seeds_of(arm):
            if (arm, seed) in last:
                found[arm, seed] = trainings(last[arm, seed], by_name)[-len(spec.arms[arm].phases) :]
    return found


class _Reader:
    """Collects the fields of ``Findings``."""

    def __init__(self, spec: ScorecardSpec, root: Path) -> None:
        self.spec, self.root = spec, root
        self.fields: dict[str, Any] = {
            "items": {},
            "positions": {},
            "places": {},
            "perturbations": {},
            "forgetting": {},
            "profiles": [],
            "effects": [],
            "costs": [],
            "steps": {},
            "provenance": {},
            "turns": {},
            "mechanism": [],
            "validity": [],
            "audited": [],
            "canaries": [],
            "reruns": {},
        }
        self.visible: dict[tuple[str, int], int] = {}

    def read(self, stage: Stage) -> None:
        directory = self.root / stage.directory
        getattr(self, f"_read_{stage.kind}")(stage, directory)

    def read_phases(self, run: ArmSeed, phases: Sequence[Path]) -> None:
        """Read the metrics of the phases of an arm and seed, in order, provenance and turns of the last one."""
        if phases:
            self.fields["steps"][run] = [list(read_jsonl(path / "metrics.jsonl", StepRecord)) for path in phases]
            self.fields["provenance"][run] = Provenance.model_validate(read_json(phases[-1] / "provenance.json"))
            if (path := phases[-1] / "turns.jsonl").exists():
                self.fields["turns"][run] = list(read_jsonl(path, TurnRecord))

    def _read_ask(self, stage: Stage, directory: Path) -> None:
        into = self.fields["items"].setdefault(stage.settings["named"], [])
        for record in read_jsonl(directory / "items.jsonl.gz", ItemRecord):
            into.append(record.model_copy(update={"reachable_by": self._reached(record)}))

    def _reached(self, record: ItemRecord) -> tuple[str, ...]:
        """Return the arms whose exact attention reaches a needle from the token that must produce the answer."""
        at = record.distance + record.needle_end - 1
        return tuple(arm for arm in self.spec.arms if record.needle_end > self._first_visible(arm, at))

    def _first_visible(self, arm: str, at: int) -> int:
        if (arm, at) not in self.visible:
            layers = self.spec.model_of(arm).num_hidden_layers
            self.visible[arm, at] = exact_start(self.spec.attention(arm), layers, at)
        return self.visible[arm, at]

    def _read_documents(self, stage: Stage, directory: Path) -> None:
        kinds: tuple[tuple[str, str, type[Record]], ...] = (
            ("positions", "position_loss", PositionLossRecord),
            ("places", "place_loss", PlaceLossRecord),
            ("perturbations", "perturbation", PerturbationRecord),
            ("forgetting", "forgetting", ForgettingRecord),
        )
        for name, file, kind in kinds:
            path = directory / f"{file}.jsonl.gz"
            if path.exists():
                self.fields[name].setdefault(stage.settings["named"], []).extend(read_jsonl(path, kind))

    def _read_usage(self, stage: Stage, directory: Path) -> None:
        self.fields["profiles"].extend(read_jsonl(directory / "profile.jsonl.gz", ProfileRecord))
        self.fields["effects"].extend(read_jsonl(directory / "effects.jsonl", EffectRecord))

    def _read_cost(self, stage: Stage, directory: Path) -> None:
        self.fields["costs"].extend(read_jsonl(directory / "cost.jsonl", StateCostRecord))

    def _read_mechanism(self, stage: Stage, directory: Path) -> None:
        self.fields["mechanism"].extend(read_jsonl(directory / "mechanism.jsonl.gz", MechanismRecord))

    def _read_validity(self, stage: Stage, directory: Path) -> None:
        self.fields["validity"].extend(read_jsonl(directory / "validity.jsonl", ValidityRecord))

    def _read_audit(self, stage: Stage, directory: Path) -> None:
        self.fields["audited"].extend(read_jsonl(directory / "audit.jsonl", AuditRecord))
        self.fields["canaries"].extend(read_jsonl(directory / "canaries.jsonl", CanaryRecord))
        self.fields["audit"] = AuditSetting.model_validate(read_json(directory / "audit.json"))

    def _read_rerun(self, stage: Stage, directory: Path) -> None:
        found = json.loads((directory / "rerun.json").read_text(encoding="utf-8"))
        self.fields["reruns"][stage.arm] = (found["first"], found["again"])
