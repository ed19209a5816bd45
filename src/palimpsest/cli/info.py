"""What a model is and costs, from its configuration alone: no weights are made or read."""

from pathlib import Path
from typing import NamedTuple

import torch

from palimpsest.attention.kinds import KINDS
from palimpsest.attention.sizes import Sizes
from palimpsest.data import TokenizerSpec, load_tokenizer, open_corpus
from palimpsest.data.tokenizer import vocabulary_size
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestConfig
from palimpsest.models.budget import TrainingMemory, parameter_count, training_memory
from palimpsest.models.comparison import KindRow, compare, layer_bytes
from palimpsest.models.compression import Compression, compression
from palimpsest.models.flops import flops_per_token, forward_flops_per_token
from palimpsest.tasks.needles import IntendedNeedles
from palimpsest.tasks.symbolic.vocabulary import SIZE
from palimpsest.training import (
    MixtureData,
    PasskeyData,
    Recipe,
    TextData,
    load_recipe,
    model_config,
    resolve_checkpoint,
)
from palimpsest.training.alignment import load_alignment
from palimpsest.training.alignment.directory import ALIGNMENT
from palimpsest.training.recipe import NeedlesData, SummariesData, TasksData
from palimpsest.training.state import STATE, Progress

DTYPE = torch.float32
"""Keys, values and memories are float32 unless a model is cast."""
LONGER = 64
"""The kinds are compared at the length of a row, and at so many times that length."""

Row = tuple[str, str]


class Cost(NamedTuple):
    """What a run takes: operations in all, memory on a device with the whole model; whether it is in ``bfloat16``."""

    operations: float
    memory: TrainingMemory
    bfloat16: bool


class Description(NamedTuple):
    """What there is to say of a model or a run, at these lengths of a context.

    Attributes:
        rows: facts.
        kinds: all kinds of attention at its sizes.
        lengths: tokens of a context.
        compression: what its memories are smaller than, if it has any.
        cost: what the run takes, if it is a recipe.
    """

    rows: list[Row]
    kinds: list[KindRow]
    lengths: tuple[int, ...]
    compression: Compression | None
    cost: Cost | None = None


def describe_recipe(path: Path) -> Description:
    """Describe the run of a recipe.

    Raises:
        InputError: the recipe is wrong, or what it names cannot be read.
    """
    recipe = load_recipe(path)
    config = recipe_config(recipe)
    training, row = recipe.training, row_length(recipe)
    tokens = training.steps * training.batch_size * row
    per_token = flops_per_token(config, row)
    cost = _cost(recipe, config, tokens * per_token)
    rows = [
        ("recipe", recipe.name),
        *_describe(config),
        ("forward per token", f"{forward_flops_per_token(config, row):,.0f} operations at {row:,} tokens a row"),
        ("training per token", f"{per_token:,.0f} operations"),
        (
            "run",
            f"{training.steps:,} updates of {training.batch_size} rows: {tokens:,} tokens, "
            f"{tokens * per_token:.3g} operations",
        ),
        ("memory of training", _memory_sentence(cost.memory, training.batch_size // training.accumulation)),
    ]
    lengths = (row, row * LONGER)
    return Description(rows, compare(config, lengths, DTYPE), lengths, compression(config, lengths, DTYPE), cost)


def _cost(recipe: Recipe, config: PalimpsestConfig, operations: float) -> Cost:
    training, tokens = recipe.training, row_length(recipe)
    rows, bfloat16 = training.batch_size // training.accumulation, training.precision == "bfloat16"
    if training.backpropagate_segments is not None:
        tokens = min(tokens, training.backpropagate_segments * config.attention_spec.segment_length)
    memory = training_memory(
        config,
        rows,
        tokens,
        min(rows * tokens, rows * _labels(recipe)),
        bfloat16=bfloat16,
        recompute=training.gradient_checkpointing,
    )
    return Cost(operations, memory, bfloat16)


def _labels(recipe: Recipe) -> int:
    """Return how many tokens of a row have a label: all, unless the data have them on one answer alone."""
    data = recipe.data
    if isinstance(data, PasskeyData):
        return data.key_digits
    if isinstance(data, NeedlesData) and data.loss == "answer" and isinstance(data.prompts, IntendedNeedles):
        return data.prompts.key_digits
    return row_length(recipe)


def _memory_sentence(memory: TrainingMemory, rows: int) -> str:
    parts = ", ".join(f"{name} {_gigabytes(size)}" for name, size in memory._asdict().items())
    return f"{_gigabytes(memory.total)} GB at {rows} {'row' if rows == 1 else 'rows'} at a time: {parts}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g}"


def describe_checkpoint(path: Path) -> Description:
    """Describe a checkpoint, or the newest of a run directory.

    Raises:
        InputError: there is none, or it is damaged.
    """
    directory = resolve_checkpoint(path)
    config = _config_of(directory)
    rows = [("checkpoint", str(directory)), *_describe(config)]
    if (directory / STATE).is_file():
        progress = Progress.model_validate_json((directory / STATE).read_bytes())
        rows.append(("trained", f"{progress.step:,} updates, {progress.tokens:,} tokens, {progress.seconds:,.0f} s"))
    if (alignment := directory.parent.parent / ALIGNMENT).is_file():
        taught = load_alignment(alignment)
        rows.append(("aligned", f"{taught.method.kind} on {taught.data.kind}, from {taught.init}"))
    segment = config.attention_spec.segment_length
    per_token = forward_flops_per_token(config, segment * LONGER)
    rows.append(("forward per token", f"{per_token:,.0f} operations at {segment * LONGER:,} tokens"))
    lengths = (segment, segment * LONGER)
    return Description(rows, compare(config, lengths, DTYPE), lengths, compression(config, lengths, DTYPE))


def recipe_config(recipe: Recipe) -> PalimpsestConfig:
    """Return the configuration of the model that a recipe trains.

    Raises:
        InputError: the checkpoint it starts from, its corpus or its tokenizer cannot be read.
    """
    if recipe.init is not None:
        return _config_of(resolve_checkpoint(recipe.init))
    assert recipe.model is not None  # the schema sees to it
    return model_config(recipe.model, recipe.model.vocab_size or _vocabulary(recipe))


def _config_of(checkpoint: Path) -> PalimpsestConfig:
    try:
        return PalimpsestConfig.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise InputError(f"{checkpoint} holds no palimpsest model: {error}") from error


def _vocabulary(recipe: Recipe) -> int:
    """Return the size of the vocabulary of a new model; one still to be trained may come out smaller."""
    data = recipe.data.text if isinstance(recipe.data, MixtureData) else recipe.data
    if isinstance(data, TasksData):
        return SIZE if data.tokenizer is None else vocabulary_size(load_tokenizer(str(data.tokenizer)))
    if isinstance(data, PasskeyData | SummariesData | NeedlesData):
        return vocabulary_size(load_tokenizer(str(data.tokenizer)))
    if data.tokenizer is None:
        assert data.directory is not None  # the schema sees to it
        return open_corpus(data.directory).manifest.vocab_size
    return _planned_vocabulary(data.tokenizer)


def _planned_vocabulary(spec: TokenizerSpec) -> int:
    return spec.vocab_size or vocabulary_size(load_tokenizer(str(spec.path)))


def row_length(recipe: Recipe) -> int:
    """Return the tokens in a row of a recipe's data."""
    data = recipe.data
    if isinstance(data, MixtureData):
        return max(data.text.sequence_length, data.passkey.max_length)
    if isinstance(data, TasksData | SummariesData):
        return data.row_length
    return data.sequence_length if isinstance(data, TextData | NeedlesData) else data.max_length


def _describe(config: PalimpsestConfig) -> list[Row]:
    spec = config.attention_spec
    layers = range(config.num_hidden_layers)
    sizes = Sizes.of(config)
    fixed = [layer_bytes(sizes, spec, spec.kind(layer), DTYPE) for layer in layers]
    memory, local = (sum(parts) for parts in zip(*fixed, strict=True))
    growing = sum(KINDS[spec.kind(layer)].bytes_per_token(sizes, DTYPE.itemsize) for layer in layers)
    parts = [
        (memory, "bytes of state"),
        (local, "bytes of keys and values of the open segment"),
        (growing, "bytes for every token of the context"),
    ]
    return [
        ("parameters", f"{parameter_count(config):,}"),
        ("layers", spec.layers(config.num_hidden_layers)),
        ("width", f"{config.hidden_size}, {config.num_attention_heads} heads, vocabulary {config.vocab_size:,}"),
        ("segment", f"{spec.segment_length:,} tokens"),
        ("state per sequence", ", ".join(f"{size:,} {what}" for size, what in parts if size)),
    ]
