"""Read the records of a study, finished or not."""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import TypeAdapter

from palimpsest.errors import InputError
from palimpsest.records import (
    GRIDS,
    LINES,
    ArmRecord,
    CostRecord,
    ItemRecord,
    PositionLossRecord,
    Provenance,
    Record,
    StepRecord,
    StudyRecord,
    VerdictRecord,
    line_files,
    read_jsonl,
)

INTACT = "none"
STAGE_NAMES: Mapping[str, str] = {"pretrain": "pretraining", "finetune": "fine-tuning"}
STAGES = tuple(STAGE_NAMES)

R = TypeVar("R", bound=Record)
T = TypeVar("T")
A = TypeVar("A", ItemRecord, PositionLossRecord)


class Run(NamedTuple):
    """One trained model."""

    arm: str
    seed: int


class Stage(NamedTuple):
    """One stage of training of one model."""

    arm: str
    seed: int
    stage: str


class Condition(NamedTuple):
    """One model, intact (``"none"``) or under an intervention."""

    arm: str
    seed: int
    intervention: str


@dataclass(frozen=True)
class StudyResults:
    """All records of one study.

    Attributes:
        directory: where the records lie.
        study: what the study set out to do.
        verdicts: the judged claims, None where the study has not come to them.
        items: the answers of each model and intervention.
        losses: held-out loss by position of each model and intervention.
        metrics: logged steps of each stage of training, in order.
        costs: what each model costs.
        provenance: where each stage of training came from.
    """

    directory: Path
    study: StudyRecord
    verdicts: Sequence[VerdictRecord] | None
    items: Mapping[Condition, Sequence[ItemRecord]]
    losses: Mapping[Condition, Sequence[PositionLossRecord]]
    metrics: Mapping[Stage, Sequence[StepRecord]]
    costs: Mapping[Run, CostRecord]
    provenance: Mapping[Stage, Provenance]

    @property
    def is_further_grid(self) -> bool:
        """Whether this is another grid of a study, whose claims are judged with its first."""
        return self.directory.absolute().parent.name == GRIDS and self.verdicts is None

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the order of the study."""
        return [arm.name for arm in self.study.arms]

    @property
    def memory_arms(self) -> list[str]:
        """Names of the arms that have a memory."""
        return [arm.name for arm in self.study.arms if arm.memory is not None]

    @property
    def seeds(self) -> list[int]:
        """Seeds of which there is an item, or else the planned ones."""
        return sorted({condition.seed for condition in self.items}) or sorted(self.study.seeds)

    def arm(self, name: str) -> ArmRecord:
        """Return the arm of this name."""
        return next(arm for arm in self.study.arms if arm.name == name)

    def interventions(self, arm: str) -> list[str]:
        """Return the interventions made on an arm: first those of the plan, then others."""
        made = {c.intervention for c in (*self.items, *self.losses) if c.arm == arm} - {INTACT}
        planned = [name for name in self.study.interventions if name in made]
        return planned + sorted(made - set(planned))


def load_records(directory: Path) -> StudyResults:
    """Read the records directory of a study. Only ``study.json`` must exist; what else is missing stays empty.

    Raises:
        InputError: no study there, a damaged file, or an answer or loss that is recorded twice.
    """
    study_file = directory / "study.json"
    if not study_file.is_file():
        raise InputError(f"{directory} is not the records directory of a study: it has no study.json.")
    verdicts_file = directory / "verdicts.json"
    verdicts = _read_json(verdicts_file, list[VerdictRecord]) if verdicts_file.is_file() else None
    return StudyResults(
        directory=directory,
        study=_read_json(study_file, StudyRecord),
        verdicts=verdicts,
        items=_items(directory / "items"),
        losses=_losses(directory / "position_loss"),
        metrics=_metrics(directory / "metrics"),
        costs=_costs(directory / "cost"),
        provenance={
            _stage(path, path.stem): _read_json(path, Provenance)
            for path in sorted((directory / "provenance").glob("*.json"))
        },
    )


def find_lines(path: Path) -> Path | None:
    """Return the existing file of this name, which may leave out its ending (``palimpsest.records.LINES``)."""
    candidates = (path, *(path.with_name(path.name + suffix) for suffix in LINES))
    # unlike Path.is_file, os.path.isfile says no to a name that no file can have
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def _read_json(path: Path, kind: type[T]) -> T:
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValueError as error:
        name = getattr(kind, "__name__", str(kind))
        raise InputError(f"{path}: not a {name}: {error}") from error


def _items(directory: Path) -> dict[Condition, list[ItemRecord]]:
    return _by_condition(directory, ItemRecord, lambda item: f"item {item.item_id} of {item.task}")


def _losses(directory: Path) -> dict[Condition, list[PositionLossRecord]]:
    return _by_condition(
        directory, PositionLossRecord, lambda loss: f"document {loss.document_id} at position {loss.position_start}"
    )


def _by_condition(directory: Path, kind: type[A], name: Callable[[A], str]) -> dict[Condition, list[A]]:
    """Return the records of a folder by condition; ``name`` tells what a record is about.

    Raises:
        InputError: two records of one condition are about the same.
    """
    found: dict[Condition, list[A]] = defaultdict(list)
    seen: set[tuple[Condition, str]] = set()
    for path in line_files(directory).values():
        for record in read_jsonl(path, kind):
            condition = Condition(record.arm, record.seed, record.intervention)
            about = name(record)
            if (condition, about) in seen:
                raise InputError(
                    f"{path}: {about} of arm '{record.arm}', seed {record.seed}, intervention "
                    f"'{record.intervention}' is recorded twice; keep the answers of one checkpoint."
                )
            seen.add((condition, about))
            found[condition].append(record)
    return dict(found)


def _metrics(directory: Path) -> dict[Stage, list[StepRecord]]:
    return {_stage(path, name): list(read_jsonl(path, StepRecord)) for name, path in line_files(directory).items()}


def _costs(directory: Path) -> dict[Run, CostRecord]:
    records = [_read_json(path, CostRecord) for path in sorted(directory.glob("*.json"))]
    return {Run(record.arm, record.seed): record for record in records}


def _stage(path: Path, name: str) -> Stage:
    """Take ``<arm>-s<seed>-<stage>`` apart; an arm's name may itself contain such parts."""
    run, _, stage = name.rpartition("-")
    arm, mark, seed = run.rpartition("-s")
    if not (arm and mark and seed.isdecimal() and stage in STAGES):
        known = " or ".join(STAGES)
        raise InputError(f"{path}: expected a name like ARM-s0-STAGE with a stage {known}.")
    return Stage(arm, int(seed), stage)
