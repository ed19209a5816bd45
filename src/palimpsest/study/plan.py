"""``plan_study``: a study file becomes stages, each with a digest of everything that determines its result."""

from dataclasses import dataclass

from pydantic import BaseModel

from palimpsest.probes import applicable
from palimpsest.study.naming import digest
from palimpsest.study.spec import ArmSpec, PasskeyGrid, PositionLossSpec, StudySpec
from palimpsest.tasks import Passkey
from palimpsest.training.recipe import TrainingSpec

RESULTS_VERSION = 1
"""Part of every digest: raise it when the same settings come to mean something else."""

TASK = f"{Passkey.name}@{Passkey.version}"
"""The task and its version, part of the digest of every stage that uses it."""


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
            finetuned = stages.add("finetune", name, seed, _finetune(spec, arm, seed), corpus, pretrained)
            stages.add("passkey", name, seed, _passkey(spec, name, seed), corpus, finetuned)
            if spec.position_loss is not None:
                loss = _evaluation(spec, name, spec.position_loss)
                stages.add("position_loss", name, seed, {"arm": name, "seed": seed, "loss": loss}, corpus, pretrained)
    return stages.in_order


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


def _finetune(spec: StudySpec, arm: ArmSpec, seed: int) -> dict:
    return {
        "seed": seed,
        "task": TASK,
        "passkey": _json(spec.finetune.passkey),
        "training": _training(spec.finetune.training, arm.finetune_learning_rate),
    }


def _passkey(spec: StudySpec, arm: str, seed: int) -> dict:
    return {
        "arm": arm,
        "seed": seed,
        "grid": _evaluation(spec, arm, spec.passkey),
        "task": TASK,
        "passkey": _json(spec.finetune.passkey),
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
