"""The study file: arms, stages, evaluation and claims, all written down before the run."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from palimpsest.attention import AttentionSpec
from palimpsest.data import CorpusSpec, TokenizerSpec
from palimpsest.probes import INTERVENTIONS
from palimpsest.schema import Closed
from palimpsest.statistics import Rule
from palimpsest.study.naming import Name, digest
from palimpsest.tasks import PasskeySpec
from palimpsest.training.recipe import ModelSpec, TrainingSpec


class ArmSpec(Closed):
    """One way to build and train the model.

    Attributes:
        attention: what differs between the arms.
        learning_rate: the peak learning rates of this arm, tuned for it.
    """

    attention: AttentionSpec
    pretrain_learning_rate: float = Field(gt=0)
    finetune_learning_rate: float = Field(gt=0)


class PretrainSpec(Closed):
    """Language modelling on the corpus."""

    sequence_length: int = Field(ge=2)
    training: TrainingSpec


class FinetuneSpec(Closed):
    """Fine-tuning on passkeys, the loss on the answer's digits only."""

    passkey: PasskeySpec
    training: TrainingSpec


class PasskeyGrid(Closed):
    """Passkey items to evaluate: every length at every depth.

    Attributes:
        lengths: exact lengths in tokens, answer included.
        depths: from 0 (the needle first) to 1 (next to the question).
        items_per_cell: items for each length and depth.
        seed: seed of the items; 10,000 and above are for tests, opened once.
        interventions: what is done to the memory before the last segment, on the same items.
        intervened_lengths: the lengths at which interventions are made; all of them if empty.
        batch_size: items processed together.
    """

    lengths: list[int] = Field(min_length=1)
    depths: list[float] = Field(min_length=1)
    items_per_cell: int = Field(ge=1)
    seed: int = Field(ge=0)
    interventions: tuple[str, ...] = ()
    intervened_lengths: tuple[int, ...] = ()
    batch_size: int = Field(default=25, ge=2)

    @field_validator("interventions")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in INTERVENTIONS or name == "none":
                known = ", ".join(sorted(set(INTERVENTIONS) - {"none"}))
                raise ValueError(f"unknown intervention '{name}'; known: {known}")
        return value

    @field_validator("depths")
    @classmethod
    def _fractions(cls, value: list[float]) -> list[float]:
        if any(not 0 <= depth <= 1 for depth in value):
            raise ValueError("depths are fractions from 0 to 1")
        return value

    @model_validator(mode="after")
    def _subset(self) -> "PasskeyGrid":
        unknown = sorted(set(self.intervened_lengths) - set(self.lengths))
        if unknown:
            raise ValueError(f"intervened_lengths {unknown} are not among the lengths {self.lengths}")
        return self


class PositionLossSpec(Closed):
    """Held-out loss by position, on the pretrained model.

    Attributes:
        documents: how many held-out documents, the longest first.
        tokens: tokens read of each; shorter documents are left out.
        interventions: what is done to the memory at every segment boundary.
    """

    documents: int = Field(ge=1)
    tokens: int = Field(ge=2)
    interventions: tuple[Literal["swap", "zero", "gate_closed"], ...] = ()


class ClaimSpec(Closed):
    """One claim, its numbers and its rule, fixed before the run.

    ``estimate`` is the accuracy (or loss) of ``arm``; ``difference`` is that of ``arm`` minus that of ``against``, or,
    with ``intervention``, intact minus intervened; ``intervened`` is that under the intervention. Accuracy counts only
    items that local attention cannot reach unless ``memory_only`` is False.

    Attributes:
        lengths: the lengths that count, all if empty (accuracy only).
        from_position: the first token position that counts (loss only).
    """

    id: Name
    statement: str
    measure: Literal["accuracy", "loss"] = "accuracy"
    arm: str
    against: str | None = None
    intervention: str | None = None
    lengths: tuple[int, ...] = ()
    memory_only: bool = True
    from_position: int = 0
    rule: Rule


class StudySpec(Closed):
    """A whole study.

    Raises:
        ValueError: parts that contradict each other.
    """

    name: Name
    question: str
    corpus: CorpusSpec
    tokenizer: TokenizerSpec
    model: ModelSpec
    arms: dict[Name, ArmSpec] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    pretrain: PretrainSpec
    finetune: FinetuneSpec
    passkey: PasskeyGrid
    position_loss: PositionLossSpec | None = None
    claims: tuple[ClaimSpec, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "StudySpec":
        segment_lengths = {arm.attention.segment_length for arm in self.arms.values()}
        if len(segment_lengths) > 1:
            raise ValueError(f"all arms must have one segment_length, got {sorted(segment_lengths)}")
        for claim in self.claims:
            for arm in (claim.arm, claim.against):
                if arm is not None and arm not in self.arms:
                    raise ValueError(f"claim '{claim.id}' names the arm '{arm}'; there are {', '.join(self.arms)}")
            wanted = {need.quantity for need in claim.rule.requires.values()}
            if unknown := sorted(wanted - {"estimate", "difference", "intervened"}):
                raise ValueError(
                    f"claim '{claim.id}': its rule asks for {', '.join(unknown)}, which a claim does not estimate"
                )
            if (claim.against is None) == (claim.intervention is None) and "difference" in wanted:
                raise ValueError(f"claim '{claim.id}' needs either 'against' or 'intervention' for a difference")
            unmeasured = sorted(set(claim.lengths) - set(self.passkey.lengths))
            if unmeasured:
                raise ValueError(f"claim '{claim.id}' names lengths {unmeasured} that are not evaluated")
            if claim.measure == "loss" and self.position_loss is None:
                raise ValueError(f"claim '{claim.id}' is about loss, and the study has no position_loss")
        return self

    @property
    def segment_length(self) -> int:
        """Tokens per segment, the same in all arms."""
        return next(iter(self.arms.values())).attention.segment_length

    @property
    def item_seeds(self) -> dict[str, int]:
        """The seed of the items."""
        return {"passkey": self.passkey.seed}

    @property
    def sha256(self) -> str:
        """Digest of everything that is fixed before the run; seeds may be added later."""
        return digest(self.model_dump(mode="json", exclude={"seeds"}))
