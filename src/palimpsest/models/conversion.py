"""Conversion: a LLaMA model becomes a memory model; every weight it has is kept, and gates begin closed."""

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, GgufConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as hf_logging
from transformers.utils.import_utils import is_accelerate_available, is_gguf_available

from palimpsest.attention.spec import AttentionSpec
from palimpsest.errors import InputError
from palimpsest.models.configuration import PalimpsestConfig
from palimpsest.models.modeling import PalimpsestForCausalLM
from palimpsest.records import read_json
from palimpsest.schema import parse

ARCHITECTURE = "LlamaForCausalLM"
CLOSED = {"sigmoid": -4.0, "token": -4.0, "hard_sigmoid": -2.25}
"""Where the gate of a converted model begins, by its kind; see ``closed_attention``."""

IDENTITY = {
    "_model_name_or_path",
    "_name_or_path",
    "architectures",
    "attention",
    "auto_map",
    "dtype",
    "model_type",
    "quantization_config",
    "transformers_version",
}
"""What a configuration says of its own checkpoint, and not of how the model computes."""

UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, SafetensorError, StrictDataclassError)
"""What transformers raises for files that are missing, damaged, or not what their names say."""


def convert_llama(
    model_or_path: LlamaForCausalLM | Path | str, attention: Mapping[str, Any] | None = None, *, seed: int = 0
) -> PalimpsestForCausalLM:
    """Make a memory model of a LLaMA model.

    Every weight is kept bit for bit and in its dtype, and so are grouped-query heads, tied embeddings, rotary
    parameters, biases, special tokens and settings of generation. What LLaMA has no weight for (``new_weights``) begins
    as in a new model. With the defaults of ``closed_attention``, layers of kind ``memory`` compute for a text of at
    most one segment exactly what LLaMA computes, and beyond it attend to their own segment and, a little, to memory.

    Args:
        model_or_path: a model; the directory of one, with safetensors; or a ``.gguf`` file, which is dequantised.
        attention: an attention block (see ``palimpsest.attention.AttentionSpec``), completed by ``closed_attention``.
        seed: decides new weights that begin at random, which those of gates and memories do not.

    Raises:
        InputError: a model of another architecture, or a quantised one; files that are missing or cannot be read;
            weights that are missing, left over or of another shape; an attention block that does not fit.
    """
    block = closed_attention(attention)
    llama = _open(model_or_path)
    config = PalimpsestConfig(**_settings(llama.config), attention=block)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = PalimpsestForCausalLM(config)
    _keep_weights(model, llama)
    model.generation_config = copy.deepcopy(llama.generation_config)
    model.config.dtype = llama.dtype
    return cast(PalimpsestForCausalLM, model.train(llama.training))


def closed_attention(attention: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return an attention block in which the first segment is local and gates begin closed, unless it says otherwise.

    "Closed" has to mean two things at once: that nothing is changed, and that it can be learned when to open.
    ``first_segment: local`` gives the first exactly: while nothing has been written, the gate is not applied at all. So
    the gate itself need not be zero, and must not be: with out = (1 - g) local + g read, the gradient of its logit b is
    g' (read - local), where g' is g (1 - g) for a sigmoid.

    * b = -4 mixes g = 0.018 of what is read into later segments, and g' = 0.018 is a fourteenth of the largest slope,
      1/4. AdamW divides a gradient by its own size, so that such a gate moves as fast as one at 0.
    * b = -40 has g' = 4e-18: the gradient is lost below AdamW's epsilon (1e-8), and the gate never opens.
    * b = -2 mixes 0.12 of a read for which no weight of LLaMA was made.
    * ``hard_sigmoid`` is 0, without a slope, for b below -2.5: a gate on that edge may close for ever with the first
      update. It begins a step inside, at -2.25, where g = 0.05.

    Raises:
        InputError: a block that does not fit its schema.
    """
    block: dict[str, Any] = {"first_segment": "local"}
    given = {} if attention is None else attention
    parse(AttentionSpec, given, "attention")
    block |= given
    gate = dict(block.get("gate", {}))
    gate.setdefault("init", CLOSED[gate.get("kind", "sigmoid")])
    return block | {"gate": gate}


def new_weights(config: PalimpsestConfig) -> tuple[str, ...]:
    """Return the names of the weights that LLaMA does not have: gates, and what else a kind of attention learns."""
    with torch.device("meta"):
        ours, theirs = PalimpsestForCausalLM(config), LlamaForCausalLM(LlamaConfig(**_settings(config)))
    kept = theirs.state_dict()
    return tuple(name for name in ours.state_dict() if name not in kept)


def _settings(config: LlamaConfig) -> dict[str, Any]:
    """Return what a LLaMA configuration says of the model, its own checkpoint apart."""
    return {name: value for name, value in config.to_dict().items() if name not in IDENTITY}


@torch.no_grad()
def _keep_weights(model: PalimpsestForCausalLM, llama: LlamaForCausalLM) -> None:
    """Copy weights and buffers; what is new takes the dtype and the device of the rest."""
    kept = llama.state_dict()
    for name, parameter in model.named_parameters():
        if name in kept:
            parameter.data = kept[name].detach().clone()
        else:
            parameter.data = parameter.to(llama.device, llama.dtype)
    # rotary frequencies are no weights, but a model that was cast as a whole computes with rounded ones
    for name, buffer in llama.named_buffers():
        model.get_buffer(name).data = buffer.detach().clone()


def _open(model_or_path: object) -> LlamaForCausalLM:
    """Return the LLaMA model that is meant."""
    if isinstance(model_or_path, str | Path):
        path = Path(model_or_path)
        model = _read_gguf(path) if path.suffix == ".gguf" else _read_directory(path)
    elif isinstance(model_or_path, LlamaForCausalLM):
        model = model_or_path
    else:
        raise InputError(
            f"The model is a {type(model_or_path).__name__}, not a {ARCHITECTURE}; only LLaMA models (or the path of "
            "one) can be converted."
        )
    packed = next((name for name, weight in model.state_dict().items() if not weight.is_floating_point()), None)
    if packed is not None:
        raise InputError(
            f"The model is quantised ({packed} does not hold numbers to compute with); dequantise it first."
        )
    return model


def _read_directory(path: Path) -> LlamaForCausalLM:
    if not path.is_dir():
        state = "is a file" if path.exists() else "does not exist"
        raise InputError(f"{path} {state}; give the directory of a LLaMA checkpoint, or a .gguf file.")
    if not (path / "config.json").is_file():
        raise InputError(f"{path} is no checkpoint: there is no config.json in it.")
    config = read_json(path / "config.json")
    config = config if isinstance(config, dict) else {}
    architectures = config.get("architectures") or [ARCHITECTURE]
    _require_llama(path, config.get("model_type"), architectures)
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "an unnamed method")
        raise InputError(f"{path} is quantised ({method}); dequantise it, save it with safetensors, and convert that.")
    options = {"dtype": "auto", "local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    return _load(path, path, options)


def _read_gguf(path: Path) -> LlamaForCausalLM:
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the directory of a LLaMA checkpoint, or a .gguf file.")
    if not (is_gguf_available() and is_accelerate_available()):
        raise InputError(
            f"{path}: a .gguf file needs the packages gguf and accelerate; install them with the extra 'gguf' "
            "(pip install 'palimpsest-lm[gguf]')."
        )
    try:
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    except UNREADABLE as error:
        raise InputError(f"{path} holds no model that transformers can read: {_reason(error)}") from error
    _require_llama(path, config.model_type, config.architectures or [ARCHITECTURE])
    # without this, a machine with the right kernels would keep the blocks of the file in place of weights
    options = {"gguf_file": path.name, "local_files_only": True, "quantization_config": GgufConfig(dequantize=True)}
    return _load(path, path.parent, options)


def _require_llama(path: Path, model_type: object, architectures: Iterable[str]) -> None:
    named = ", ".join(map(str, architectures))
    if model_type != "llama" or named != ARCHITECTURE:
        kind = f"is a {model_type} model" if model_type else "names no model_type in its config.json"
        called = f" ({named})" if named != ARCHITECTURE else ""
        raise InputError(f"{path} {kind}{called}, not LLaMA ({ARCHITECTURE}); only LLaMA models can be converted.")


def _load(path: Path, directory: Path, options: dict[str, Any]) -> LlamaForCausalLM:
    """Load a LLaMA model all of whose weights are there.

    Raises:
        InputError: it cannot be read, or weights are missing, left over, or of another shape.
    """
    try:
        with torch.random.fork_rng(devices=[]), quietly():
            loaded = LlamaForCausalLM.from_pretrained(
                directory, ignore_mismatched_sizes=True, output_loading_info=True, **options
            )
    except UNREADABLE as error:
        raise InputError(f"{path} holds no LLaMA model that can be read: {_reason(error)}") from error
    model, report = cast(tuple[LlamaForCausalLM, dict[str, Any]], loaded)
    if report["mismatched_keys"]:
        name, found, expected = min(report["mismatched_keys"])
        raise InputError(f"{path}: {name} is {list(found)}, but by its config.json it should be {list(expected)}.")
    for what, names in (("lacks", report["missing_keys"]), ("has, beside those of LLaMA,", report["unexpected_keys"])):
        if names:
            raise InputError(f"{path} {what} the weights {', '.join(sorted(names))}.")
    return model


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from drawing bars, and from listing what a sentence of our own will say."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
