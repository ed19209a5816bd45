"""The recipe: one closed YAML file that describes one training run."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from palimpsest.attention.spec import AttentionSpec
from palimpsest.data import CorpusSpec, TokenizerSpec
from palimpsest.schema import Closed, parse_yaml
from palimpsest.tasks import PasskeySpec, TaskSpec

Count = Annotated[int, Field(ge=1)]


class ModelSpec(Closed):
    """Sizes of a new model, with LLaMA's names, and how it attends. The vocabulary is that of the tokenizer.

    ``intermediate_size`` is 8/3 of the hidden size, rounded up to a multiple of 8, unless given; ``head_dim`` is the
    hidden size divided by the number of heads, and the number of key-value heads that of the heads.
    """

    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    intermediate_size: Count | None = None
    rms_norm_eps: float = Field(default=1e-5, gt=0.0)
    rope_theta: float = Field(default=10_000.0, gt=0.0)
    initializer_range: float = Field(default=0.02, gt=0.0)
    tie_word_embeddings: bool = True
    attention: AttentionSpec = AttentionSpec()

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.key_value_heads}"
            )
        if self.size_of_head % 2:
            raise ValueError(f"head_dim is {self.size_of_head}, but rotary embedding turns pairs: it must be even")
        if len(self.attention.pattern) > self.num_hidden_layers:
            raise ValueError(
                f"attention.pattern names {len(self.attention.pattern)} layers, but num_hidden_layers is "
                f"{self.num_hidden_layers}"
            )
        return self

    @property
    def size_of_head(self) -> int:
        """Size of a query, key or value."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def key_value_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def size_of_mlp(self) -> int:
        """Width of the MLP."""
        return self.intermediate_size or -(-8 * self.hidden_size // 24) * 8


class TextData(Closed):
    """Running text in rows of ``sequence_length`` tokens.

    Either ``directory``, a corpus that has been prepared, or ``corpus`` and ``tokenizer``, which are prepared when the
    run begins: into ``directory`` if given, else into the run's own directory.
    """

    kind: Literal["text"] = "text"
    sequence_length: Annotated[int, Field(ge=2)]
    directory: Path | None = None
    corpus: CorpusSpec | None = None
    tokenizer: TokenizerSpec | None = None

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if (self.corpus is None) != (self.tokenizer is None):
            raise ValueError("corpus and tokenizer belong together: give both, or only directory")
        if self.directory is None and self.corpus is None:
            raise ValueError("give directory (a prepared corpus), or corpus and tokenizer")
        return self


class PasskeyData(PasskeySpec):
    """Passkey prompts in rows of ``max_length`` tokens, labelled on the answer alone.

    ``tokenizer`` is a directory, such as a checkpoint; by default that of the checkpoint the run starts from.
    """

    tokenizer: Path | None = None


class MixtureData(Closed):
    """Rows of text with rows of passkeys among them, evenly spread.

    ``passkey_fraction`` is the share of the rows that are passkeys; ``answer_weight`` is the weight in the loss of one
    labelled token of theirs, where one of the text has weight 1.
    """

    kind: Literal["mixture"] = "mixture"
    text: TextData
    passkey: PasskeyData
    passkey_fraction: float = Field(gt=0.0, lt=1.0)
    answer_weight: float = Field(default=1.0, gt=0.0)


class WeightedTask(Closed):
    """A task, and how often its rows come compared with the others'."""

    weight: float = Field(default=1.0, gt=0.0)
    task: TaskSpec


class TasksData(Closed):
    """Rows of several tasks, and among them documents of symbolic filler and repeated strings.

    Attributes:
        row_length: tokens in a row; shorter ones are padded.
        tasks: what is asked; a row holds one haystack and all its questions, and labels on the answers alone.
        documents: share of the rows that are symbolic documents, with a label at every token.
        repeats: share of the rows that are a random string said again and again, from which a model learns to look
            for what followed last time.
        answer_weight: weight in the loss of one labelled token of a task, where one of a document has weight 1.
        tokenizer: a directory, such as a checkpoint; by default that of the checkpoint the run starts from, or the
            symbolic one.
    """

    kind: Literal["tasks"] = "tasks"
    row_length: Count
    tasks: tuple[WeightedTask, ...] = Field(min_length=1)
    documents: float = Field(default=0.5, ge=0.0, lt=1.0)
    repeats: float = Field(default=0.0, ge=0.0, lt=1.0)
    answer_weight: float = Field(default=1.0, gt=0.0)
    tokenizer: Path | None = None

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        if self.documents + self.repeats >= 1:
            raise ValueError(
                f"documents ({self.documents:g}) and repeats ({self.repeats:g}) leave no rows for the tasks; together "
                "they must be less than 1"
            )
        for each in self.tasks:
            if each.task.max_length > self.row_length:
                raise ValueError(
                    f"the task {each.task.kind} makes rows of up to {each.task.max_length} tokens (max_length), more "
                    f"than row_length {self.row_length}"
                )
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the rows for documents, for repeats, then for each task."""
        rest = (1 - self.documents - self.repeats) / sum(each.weight for each in self.tasks)
        return (self.documents, self.repeats, *(rest * each.weight for each in self.tasks))


DataSpec = Annotated[TextData | PasskeyData | MixtureData | TasksData, Field(discriminator="kind")]


class TrainingSpec(Closed):
    """How a model is trained.

    Attributes:
        steps: number of updates.
        batch_size: rows per update, whatever the number of micro-batches.
        accumulation: micro-batches an update is computed in.
        learning_rate: peak rate of all weights but the gates.
        gate_learning_rate: peak rate of gates and of quantities that a memory learns; they have no weight decay. With
            0 they stay where they began.
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
    """

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

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be divided into {self.accumulation} equal micro-batches "
                "(accumulation)"
            )
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} exceeds steps {self.steps}")
        return self


class Recipe(Closed):
    """One run: a new ``model``, or ``init``, a checkpoint or run directory to start from; ``data``; ``training``.

    Paths are relative to the directory that the command is given in. ``seed`` decides new weights and which rows come.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    model: ModelSpec | None = None
    init: Path | None = None
    data: DataSpec
    training: TrainingSpec

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if (self.model is None) == (self.init is None):
            raise ValueError("give either model (sizes of a new one) or init (a checkpoint to start from)")
        if isinstance(self.data, PasskeyData) and self.data.tokenizer is None and self.init is None:
            raise ValueError("data.tokenizer is needed, because there is no init whose tokenizer could be used")
        return self

    def digest(self) -> str:
        """Return the SHA-256 of the recipe, whatever the layout of the file it was read from."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML file.

    Raises:
        InputError: the file is missing, is not YAML, has an unknown key, or sizes that contradict each other.
    """
    return parse_yaml(Recipe, path)
