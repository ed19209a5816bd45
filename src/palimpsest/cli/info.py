"""What a model is and costs, from its configuration alone: no weights are made or read."""

from pathlib import Path
from typing import NamedTuple

import torch

from palimpsest.attention.kinds import KINDS
from palimpsest.attention.sizes import Sizes
from palimpsest.data import TokenizerSpec, load_tokenizer, open_corpus
from palimpsest.data.tokenizer import vocabulary_size
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.models.comparison import KindRow, compare, layer_bytes
from palimpsest.models.flops import flops_per_token, forward_flops_per_token
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
from palimpsest.training.recipe import TasksData
from palimpsest.training.state import STATE, Progress

DTYPE = torch.float32
"""Keys, values and memories are float32 unless a model is cast."""
LONGER = 64
"""The kinds are compared at the length of a row, and at so many times that length."""

Row = tuple[str, str]


class Description(NamedTuple):
    """What there is to say of a model or a run, and all kinds of attention at its sizes, at these lengths."""

    rows: list[Row]
    kinds: list[KindRow]
    lengths: tuple[int, ...]


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
    ]
    lengths = (row, row * LONGER)
    return Description(rows, compare(config, lengths, DTYPE), lengths)


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
    segment = config.attention_spec.segment_length
    per_token = forward_flops_per_token(config, segment * LONGER)
    rows.append(("forward per token", f"{per_token:,.0f} operations at {segment * LONGER:,} tokens"))
    lengths = (segment, segment * LONGER)
    return Description(rows, compare(config, lengths, DTYPE), lengths)


def recipe_config(recipe: Recipe) -> PalimpsestConfig:
    """Return the configuration of the model that a recipe trains.

    Raises:
        InputError: the checkpoint it starts from, its corpus or its tokenizer cannot be read.
    """
    if recipe.init is not None:
        return _config_of(resolve_checkpoint(recipe.init))
    assert recipe.model is not None  # the schema sees to it
    return model_config(recipe.model, _vocabulary(recipe))


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
    if isinstance(data, PasskeyData):
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
    if isinstance(data, TasksData):
        return data.row_length
    return data.sequence_length if isinstance(data, TextData) else data.max_length


def _describe(config: PalimpsestConfig) -> list[Row]:
    spec = config.attention_spec
    layers = range(config.num_hidden_layers)
    with torch.device("meta"):
        parameters = PalimpsestForCausalLM(config).num_parameters()
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
        ("parameters", f"{parameters:,}"),
        ("layers", spec.layers(config.num_hidden_layers)),
        ("width", f"{config.hidden_size}, {config.num_attention_heads} heads, vocabulary {config.vocab_size:,}"),
        ("segment", f"{spec.segment_length:,} tokens"),
        ("state per sequence", ", ".join(f"{size:,} {what}" for size, what in parts if size)),
    ]
