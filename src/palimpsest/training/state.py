"""What a run is made of between two updates, and how it goes to and from a checkpoint directory. No pickle anywhere."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file
from torch.optim import AdamW
from transformers.utils import logging as hf_logging

from palimpsest.errors import InputError
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.records import write_json
from palimpsest.schema import Closed
from palimpsest.training.optimizer import load_optimizer_tensors, optimizer_tensors
from palimpsest.training.recipe import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
WEIGHTS = "model.safetensors"
ONE_FILE = "1TB"
RESIDUAL = (".o_proj", ".down_proj")
"""Projections whose outputs are added to the residual stream."""


class Progress(Closed):
    """How far a run has come (``state.json``). There is no random state: every row is a function of (seed, step).

    Attributes:
        step: updates taken or skipped.
        tokens: input tokens so far, padding not counted.
        skipped: updates skipped because loss or gradient was not finite.
        bad_in_a_row: of these, the last ones without a good one after them.
        seconds: seconds of training so far, interruptions not counted.
    """

    step: int = 0
    tokens: int = 0
    skipped: int = 0
    bad_in_a_row: int = 0
    seconds: float = 0.0


class Learner(NamedTuple):
    """What learns: the model, and the optimizer over its parameters."""

    model: PalimpsestForCausalLM
    optimizer: AdamW


def model_config(
    spec: ModelSpec, vocab_size: int, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> PalimpsestConfig:
    """Return the configuration of a new model, with the special tokens of a tokenizer if one is given.

    Args:
        spec: the sizes.
        vocab_size: what the tokenizer needs; the model has this, or more where ``spec`` says so.
        tokenizer: the tokenizer.

    Raises:
        InputError: the vocabulary that ``spec`` states is too small for the tokenizer.
    """
    if spec.vocab_size is not None and spec.vocab_size < vocab_size:
        raise InputError(
            f"model.vocab_size is {spec.vocab_size}, but the tokenizer has {vocab_size} tokens; make it at least that, "
            "or leave it out."
        )
    return PalimpsestConfig(
        vocab_size=spec.vocab_size or vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.size_of_mlp,
        num_hidden_layers=spec.num_hidden_layers,
        num_attention_heads=spec.num_attention_heads,
        num_key_value_heads=spec.key_value_heads,
        head_dim=spec.size_of_head,
        rms_norm_eps=spec.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        initializer_range=spec.initializer_range,
        residual_initializer_range=spec.residual_initializer_range,
        tie_word_embeddings=spec.tie_word_embeddings,
        bos_token_id=_special_token(tokenizer, "bos_token_id"),
        eos_token_id=_special_token(tokenizer, "eos_token_id"),
        pad_token_id=_special_token(tokenizer, "pad_token_id"),
        attention=spec.attention.model_dump(),
    )


def _special_token(tokenizer: "PreTrainedTokenizerBase | None", name: str) -> int | None:
    token = getattr(tokenizer, name, None)
    return token if isinstance(token, int) else None


def new_model(config: PalimpsestConfig, seed: int) -> PalimpsestForCausalLM:
    """Return a model with fresh weights, a pure function of (configuration, seed).

    Every module draws from a stream of its own, named after it, so that models of different kinds of attention begin
    with equal weights wherever their shapes agree.
    """
    with torch.random.fork_rng(devices=[]):
        model = PalimpsestForCausalLM(config)
        for name, module in model.named_modules():
            if config.tie_word_embeddings and module is model.lm_head:
                continue  # the embedding, already drawn
            torch.default_generator.manual_seed(_stream(seed, name))
            model._init_weights(module)
            if config.residual_initializer_range is not None and name.endswith(RESIDUAL):
                module.get_parameter("weight").data.mul_(config.residual_initializer_range / config.initializer_range)
    return model


def _stream(seed: int, name: str) -> int:
    """Return the seed of a named stream of random numbers."""
    return int.from_bytes(hashlib.blake2b(f"{seed}|{name}".encode(), digest_size=8).digest()) >> 1


def pretrained_model(checkpoint: Path) -> PalimpsestForCausalLM:
    """Return the model of a checkpoint, in float32.

    Raises:
        InputError: it cannot be read, or lacks weights that its configuration asks for.
    """
    try:
        with torch.random.fork_rng(devices=[]), _no_bars():
            loaded, report = cast(
                tuple[PalimpsestForCausalLM, dict],
                PalimpsestForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True),
            )
            model = PalimpsestForCausalLM(loaded.config)
    except InputError:  # which says already what is wrong, and where
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{checkpoint} holds no palimpsest model that can be read: {reason}") from error
    if report["missing_keys"]:
        raise InputError(f"{checkpoint} lacks the weights {', '.join(sorted(report['missing_keys']))}.")
    model.load_state_dict(loaded.state_dict())
    return model


def write_checkpoint(
    directory: Path, learner: Learner, tokenizer: "PreTrainedTokenizerBase", progress: Progress
) -> None:
    """Write all files of a checkpoint into a directory."""
    with _no_bars():
        learner.model.save_pretrained(directory, max_shard_size=ONE_FILE)
    tokenizer.save_pretrained(directory)
    save_file(optimizer_tensors(learner.optimizer, learner.model), directory / OPTIMIZER)
    write_json(directory / STATE, progress)


def read_checkpoint(directory: Path, learner: Learner) -> Progress:
    """Restore a run from a checkpoint.

    Weights and state are copied into memory of our own: a tensor mapped from a file may lie at an address that kernels
    treat differently, and then no resume were exact.

    Raises:
        InputError: a file is missing, damaged, or of another model.
    """
    try:
        load_model(learner.model, directory / WEIGHTS)
        progress = Progress.model_validate_json((directory / STATE).read_bytes())
        tensors = load_file(directory / OPTIMIZER)
    except (OSError, RuntimeError, SafetensorError, ValidationError) as error:
        raise InputError(f"{directory} is not a checkpoint that training can continue from: {error}") from error
    load_optimizer_tensors(learner.optimizer, learner.model, tensors)
    return progress


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers from drawing a progress bar for every checkpoint."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
