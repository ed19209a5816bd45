"""The recipe: one closed YAML file that describes one training run."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from palimpsest.attention.spec import AttentionSpec
from palimpsest.data import CorpusSpec, TokenizerSpec
from palimpsest.data.needles import StoredNeedles
from palimpsest.data.summaries import PairsSpec
from palimpsest.schema import Closed, Sparse, parse_yaml
from palimpsest.tasks import PasskeySpec, TaskSpec
from palimpsest.tasks.needles import IntendedNeedles, PublishedNeedles
from palimpsest.training.spec import TrainingSpec, truncation_fault

Count = Annotated[int, Field(ge=1)]


class ModelSpec(Sparse):
    """Sizes of a new model, with LLaMA's names, and how it attends.

    ``intermediate_size`` is 8/3 of the hidden size, rounded up to a multiple of 8, unless given; ``head_dim`` is the
    hidden size divided by the number of heads, and the number of key-value heads that of the heads. ``vocab_size`` is
    that of the tokenizer unless given, and then at least that. ``residual_initializer_range`` is the standard deviation
    of new weights that add to the residual stream (``o_proj``, ``down_proj``), ``initializer_range`` unless given.
    """

    later: ClassVar[frozenset[str]] = frozenset({"vocab_size", "residual_initializer_range"})

    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    intermediate_size: Count | None = None
    vocab_size: Count | None = None
    rms_norm_eps: float = Field(default=1e-5, gt=0.0)
    rope_theta: float = Field(default=10_000.0, gt=0.0)
    initializer_range: float = Field(default=0.02, gt=0.0)
    residual_initializer_range: float | None = Field(default=None, gt=0.0)
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


class LengthStage(Closed):
    """So many updates on rows of so many tokens."""

    steps: Count
    sequence_length: Annotated[int, Field(ge=2)]


class TextData(Sparse):
    """Running text in rows of ``sequence_length`` tokens.

    Either ``directory``, a corpus that has been prepared, or ``corpus`` and ``tokenizer``, which are prepared when the
    run begins: into ``directory`` if given, else into the run's own directory.

    With a ``curriculum`` the first updates have shorter rows, stage by stage, and the rest those of
    ``sequence_length``. A shorter row is a part of a long one, so that every update has the tokens that it would have
    without a curriculum, in more rows; ``batch_size`` counts the long ones.
    """

    later: ClassVar[frozenset[str]] = frozenset({"curriculum"})

    kind: Literal["text"] = "text"
    sequence_length: Annotated[int, Field(ge=2)]
    directory: Path | None = None
    corpus: CorpusSpec | None = None
    tokenizer: TokenizerSpec | None = None
    curriculum: tuple[LengthStage, ...] = ()

    @model_validator(mode="after")
    def _stages_divide_a_row(self) -> Self:
        for stage in self.curriculum:
            if self.sequence_length % stage.sequence_length or stage.sequence_length == self.sequence_length:
                raise ValueError(
                    f"a stage of the curriculum has rows of {stage.sequence_length} tokens; it must be a proper "
                    f"divisor of sequence_length {self.sequence_length}, so that every update has equally many tokens"
                )
        return self

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

    @model_validator(mode="after")
    def _rows_of_one_length(self) -> Self:
        if self.text.curriculum:
            raise ValueError("text.curriculum is for rows of text alone (kind: text), not for a mixture")
        return self


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


class StoriesSpec(Closed):
    """Stories of at least ``words`` words with their gold summaries; see ``palimpsest.tasks.stories.StorySpec``."""

    kind: Literal["stories"] = "stories"
    words: Count
    people: Count = 4
    rooms: Count = 5
    objects: Count = 4
    event_share: float = Field(default=0.3, gt=0.0, le=1.0)


class SummariesData(Closed):
    """Documents with their summaries, labelled on the summary and its end of text alone.

    Attributes:
        row_length: tokens in a row, which holds one document, the cue and one summary; shorter ones are padded.
        pairs: where documents and summaries come from; held-out groups are left out.
        cue: the text between a document and its summary.
        long_documents: what becomes of a document that does not fit: ``refuse`` the set, ``cut`` the document's end,
            or ``drop`` the pair.
        tokenizer: a directory, such as a checkpoint; by default that of the checkpoint the run starts from.
    """

    kind: Literal["summaries"] = "summaries"
    row_length: Annotated[int, Field(ge=4)]
    pairs: Annotated[PairsSpec | StoriesSpec, Field(discriminator="kind")]
    cue: str = Field(default="\n\nSummary:\n", min_length=1)
    long_documents: Literal["refuse", "cut", "drop"] = "refuse"
    tokenizer: Path | None = None


class NeedlesData(Closed):
    """Needle prompts with their answers, to fine-tune on, in rows of ``sequence_length`` tokens.

    Attributes:
        prompts: a set that exists (``stored``), or one that is generated in the ``published`` or the ``intended`` form.
        packing: ``whole`` puts one prompt in a row and refuses one that does not fit; ``padded`` cuts it; ``packed``
            cuts the stream of all prompts, so that a key and its question may come to lie in different rows, as the
            code of arXiv 2512.23862 does.
        loss: of the ``answer`` alone, or of ``all`` tokens, the filler included, as there.
        end_of_text: whether every prompt is closed by the end-of-text token; there it is not.
        tokenizer: a directory, such as a checkpoint; by default that of the checkpoint the run starts from.
    """

    kind: Literal["needles"] = "needles"
    sequence_length: Annotated[int, Field(ge=2)]
    prompts: Annotated[StoredNeedles | PublishedNeedles | IntendedNeedles, Field(discriminator="kind")]
    packing: Literal["packed", "padded", "whole"] = "whole"
    loss: Literal["all", "answer"] = "answer"
    end_of_text: bool = False
    tokenizer: Path | None = None

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        if self.packing == "whole" and isinstance(self.prompts, IntendedNeedles):
            longest = max(self.prompts.lengths) + self.end_of_text
            if longest > self.sequence_length:
                raise ValueError(
                    f"sequence_length {self.sequence_length} is shorter than the longest prompts, {longest} tokens; "
                    "make it that long, or let packing: padded cut them"
                )
        return self


DataSpec = Annotated[
    TextData | PasskeyData | MixtureData | TasksData | SummariesData | NeedlesData, Field(discriminator="kind")
]


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
        lacking = isinstance(self.data, PasskeyData | SummariesData | NeedlesData) and self.data.tokenizer is None
        if lacking and self.init is None:
            raise ValueError("data.tokenizer is needed, because there is no init whose tokenizer could be used")
        return self

    @model_validator(mode="after")
    def _curriculum_ends(self) -> Self:
        stages = self.data.curriculum if isinstance(self.data, TextData) else ()
        steps = sum(stage.steps for stage in stages)
        if stages and steps >= self.training.steps:
            raise ValueError(
                f"the stages of data.curriculum take {steps} of {self.training.steps} updates (training.steps) and "
                "leave none for rows of sequence_length"
            )
        return self

    @model_validator(mode="after")
    def _truncation_has_no_other_loss(self) -> Self:
        if self.training.backpropagate_segments is not None and self.model is not None:
            fault = truncation_fault(self.model.attention)
            if fault is not None:
                raise ValueError(fault)
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
