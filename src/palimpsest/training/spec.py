"""The ``training`` block of a recipe: how a model is trained."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from palimpsest.attention.spec import AttentionSpec
from palimpsest.schema import Sparse

Count = Annotated[int, Field(ge=1)]


class TrainingSpec(Sparse):
    """How a model is trained.

    Attributes:
        steps: number of updates.
        batch_size: rows per update, whatever the number of micro-batches.
        accumulation: micro-batches an update is computed in.
        learning_rate: peak rate of all weights but the gates.
        gate_learning_rate: peak rate of gates and of quantities that a memory learns. With 0 they stay where they
            began.
        gate_weight_decay: of the gates, which draws their logits to 0, that is the gates to one half.
        weight_decay: of matrices only; norms and embeddings have none.
        betas: AdamW's decay rates of its two moments.
        warmup_steps: updates of linear warmup, followed by a cosine.
        final_fraction: where the cosine ends, as a fraction of the peak.
        clip_norm: largest norm of all gradients together.
        precision: ``bfloat16`` computes under autocast; weights, moments and memories are float32 in either case.
        checkpoint_every: updates between two checkpoints.
        keep_checkpoints: how many of the newest are kept.
        log_every: updates between two lines of ``metrics.jsonl``.
        max_bad_steps: updates in a row that may be skipped for a loss or gradient that is not finite.
        gradient_checkpointing: recompute activations in the backward pass.
        backpropagate_segments: segments through which gradients flow; see ``palimpsest.training.truncation``. None:
            all of a row.
    """

    later: ClassVar[frozenset[str]] = frozenset({"gate_weight_decay", "backpropagate_segments"})

    steps: Count
    batch_size: Count
    accumulation: Count = 1
    learning_rate: float = Field(gt=0.0)
    gate_learning_rate: float = Field(default=1e-2, ge=0.0)
    weight_decay: float = Field(default=0.1, ge=0.0)
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (0.9, 0.95)
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_fraction: float = Field(default=0.1, ge=0.0, le=1.0)
    clip_norm: float = Field(default=1.0, gt=0.0)
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_every: Count = 500
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    log_every: Count = 10
    max_bad_steps: Count = 10
    gradient_checkpointing: bool = False
    gate_weight_decay: float = Field(default=0.0, ge=0.0)
    backpropagate_segments: Count | None = None

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be divided into {self.accumulation} equal micro-batches "
                "(accumulation)"
            )
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} exceeds steps {self.steps}")
        if self.backpropagate_segments is not None and self.gradient_checkpointing:
            raise ValueError(
                "backpropagate_segments and gradient_checkpointing do not go together: a segment that is recomputed "
                "would be written into the memory twice; truncation bounds the activations already"
            )
        return self


def truncation_fault(attention: AttentionSpec) -> str | None:
    """Return why ``training.backpropagate_segments`` cannot go with a way to attend, None if it can."""
    if not attention.has_own_loss:
        return None
    return (
        "training.backpropagate_segments cannot go with the reconstruction loss of compressive attention, a mean over "
        "all segments of a row; take compressive.compression mean or max, or compressive.reconstruction 0"
    )
