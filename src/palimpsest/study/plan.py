"""``plan_study``: a study file becomes stages, each with a digest of everything that determines its result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel

from palimpsest.probes import applicable
from palimpsest.records import GRIDS
from palimpsest.study.naming import digest
from palimpsest.study.spec import FINETUNED, ONLY, ArmSpec, PasskeyGrid, PositionLossSpec, StudySpec, Trained
from palimpsest.tasks import Passkey
from palimpsest.tasks.published import PublishedItems, PublishedPasskey
from palimpsest.training.recipe import TrainingSpec

RESULTS_VERSION = 1
"""Part of every digest: raise it when the same settings come to mean something else."""

TASK = f"{Passkey.name}@{Passkey.version}"
"""The task and its version, part of the digest of every stage that uses it."""

PUBLISHED_TASK = f"{PublishedPasskey.name}@{PublishedPasskey.version}"
"""The same of needles as they were published."""


@dataclass(frozen=True)
class Stage:
    """One step of a study: files in, files out.

    Attributes:
        name: unique within the study, for example ``ridge-s0-finetune``.
        kind: what it does.
        arm: the arm it belongs to, None for the corpus.
        seed: the training seed, None for the corpus.
        settings: everything beside the inputs that determines the result, as JSON.
        inputs: names of the stages whose results it reads.
        digest: SHA-256 of kind, settings and the digests of the inputs.
    """

    name: str
    kind: str
    arm: str | None
    seed: int | None
    settings: dict
    inputs: tuple[str, ...]
    digest: str

    @property
    def directory(self) -> str:
        """Name of the stage's directory: what determines the result, and nothing else."""
        return f"{self.kind}-{self.digest[:16]}"


def plan_study(spec: StudySpec) -> list[Stage]:
    """Return the stages of a study, every stage after its inputs. A pure function of the study file.

    Arms whose stages agree in everything (the same pretraining before different fine-tunings, say) share them; a shared
    stage bears the name of the first arm.
    """
    stages = Stages()
    corpus = stages.add("corpus", None, None, {"corpus": _json(spec.corpus), "tokenizer": _json(spec.tokenizer)})
    for seed in spec.seeds:
        for name, arm in spec.arms.items():
            pretrained = stages.add("pretrain", name, seed, _pretrain(spec, arm, seed), corpus)
            finetuned = stages.add("finetune", name, seed, _finetune(spec, name, seed), corpus, pretrained)
            asked = {"pretrained": pretrained, "finetuned": finetuned}
            for each in evaluations(spec):
                settings = _passkey(spec, name, seed, each)
                stages.add("passkey", name, seed, settings, corpus, asked[each.trained], label=each.name)
            if spec.position_loss is not None:
                loss = _evaluation(spec, name, spec.position_loss)
                stages.add("position_loss", name, seed, {"arm": name, "seed": seed, "loss": loss}, corpus, pretrained)
    return stages.in_order


class Evaluation(NamedTuple):
    """The models of all arms, pretrained or fine-tuned, are asked a grid."""

    grid: str
    trained: Trained

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> "Evaluation":
        """Return the evaluation that an item says it belongs to."""
        return cls(facts.get("grid", ONLY), facts.get("trained", FINETUNED))

    @property
    def facts(self) -> dict[str, str]:
        """What its items say of it: nothing, where fine-tuned models are asked an only grid."""
        facts = {} if self.grid == ONLY else {"grid": self.grid}
        return facts if self.trained == FINETUNED else facts | {"trained": self.trained}

    @property
    def name(self) -> str | None:
        """What tells it from other evaluations of an arm, None if nothing has to."""
        return "-".join(self.facts.values()) or None

    def folder(self, main: "Evaluation") -> str:
        """Return where its records lie among those of a study whose main evaluation's lie at the top."""
        return "." if self == main or self.name is None else f"{GRIDS}/{self.name}"


THE_ONE = Evaluation(ONLY, FINETUNED)
"""The evaluation of a study that has only one."""


def evaluations(spec: StudySpec) -> list[Evaluation]:
    """Return the evaluations of a study in the order of its file."""
    return [Evaluation(name, trained) for name, grid in spec.named_grids.items() for trained in grid.trained]


def main_evaluation(spec: StudySpec) -> Evaluation:
    """Return the evaluation that the page of a study begins with: of fine-tuned models, if there is one."""
    every = evaluations(spec)
    return next((each for each in every if each.trained == FINETUNED), every[0])


class Stages:
    """Stages under construction, inputs before those that need them."""

    def __init__(self) -> None:
        self.in_order: list[Stage] = []

    def add(
        self, kind: str, arm: str | None, seed: int | None, settings: dict, *inputs: Stage, label: str | None = None
    ) -> Stage:
        """Add a stage, or return the one that is there already and has the same digest.

        ``label`` tells stages of one kind, arm and seed apart.
        """
        content = {
            "version": RESULTS_VERSION,
            "kind": kind,
            "settings": settings,
            "inputs": [stage.digest for stage in inputs],
        }
        key = digest(content)
        if (same := next((stage for stage in self.in_order if stage.digest == key), None)) is not None:
            return same
        name = "-".join(part for part in (arm, None if seed is None else f"s{seed}", kind, label) if part)
        names = tuple(stage.name for stage in inputs)
        self.in_order.append(Stage(name, kind, arm, seed, settings, names, key))
        return self.in_order[-1]


def _pretrain(spec: StudySpec, arm: ArmSpec, seed: int) -> dict:
    return {
        "seed": seed,
        "model": _json(spec.model.model_copy(update={"attention": arm.attention})),
        "sequence_length": spec.pretrain.sequence_length,
        "training": _training(spec.pretrain.training, arm.pretrain_learning_rate),
    }


def _finetune(spec: StudySpec, arm: str, seed: int) -> dict:
    tuning = spec.finetuning(arm)
    data = {"task": TASK} if tuning.needles is None else {}
    return data | {
        "seed": seed,
        "passkey" if tuning.needles is None else "needles": _json(tuning.data),
        "training": _training(tuning.training, spec.arms[arm].finetune_learning_rate),
    }


def _passkey(spec: StudySpec, arm: str, seed: int, evaluation: Evaluation) -> dict:
    grid = spec.named_grids[evaluation.grid]
    items = spec.items(grid)
    facts = {"facts": evaluation.facts} if evaluation.facts else {}
    return facts | {
        "arm": arm,
        "seed": seed,
        "grid": _evaluation(spec, arm, grid),
        "task": PUBLISHED_TASK if isinstance(items, PublishedItems) else TASK,
        "passkey": _json(items),
        "segment_length": spec.segment_length,
    }


def _training(training: TrainingSpec, learning_rate: float) -> dict:
    return _json(training.model_copy(update={"learning_rate": learning_rate}))


def _evaluation(spec: StudySpec, arm: str, evaluation: PasskeyGrid | PositionLossSpec) -> dict:
    """Return the settings of an evaluation, without interventions that would change nothing in an arm."""
    possible = applicable(evaluation.interventions, spec.arms[arm].attention.pattern)
    return _json(evaluation.model_copy(update={"interventions": possible}))


def _json(model: BaseModel) -> dict:
    return model.model_dump(mode="json")
