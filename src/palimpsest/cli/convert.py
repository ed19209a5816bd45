"""``palimpsest convert``: a LLaMA checkpoint becomes one of ours."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palimpsest.cli.console import list_of
from palimpsest.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from palimpsest.models import PalimpsestForCausalLM


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("convert", epilog="Example: palimpsest convert SmolLM2-135M runs/smollm2-ridge --memory ridge")(convert)


def convert(
    llama: Annotated[
        Path,
        typer.Argument(metavar="LLAMA_DIR", help="A LLaMA checkpoint, or a .gguf file.", show_default=False),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new directory.", show_default=False)],
    segment_length: Annotated[
        int | None, typer.Option("--segment-length", metavar="N", help="Tokens per segment.", show_default="1024")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="KIND", help="The kind of memory.", show_default="linear")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", metavar="A,B,C", help="Kinds of layers, repeated.", show_default="memory"),
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option("--attention", metavar="BLOCK.yaml", help="A whole attention block.", show_default=False),
    ] = None,
    gate_init: Annotated[
        float | None,
        typer.Option("--gate-init", metavar="X", help="Logit at which gates begin.", show_default="closed"),
    ] = None,
) -> None:
    """Turn a LLaMA checkpoint into a memory model: all its weights are kept, gates begin closed."""
    _require_free(out)
    block = {} if attention is None else _read_block(attention)
    if segment_length is not None:
        block["segment_length"] = segment_length
    if memory is not None and block.get("memory", {}).get("kind") != memory:
        block["memory"] = {"kind": memory}
    if pattern is not None:
        block["pattern"] = list_of("--pattern", pattern, str)
    if gate_init is not None:
        block["gate"] = {**block.get("gate", {}), "init": gate_init}
    from palimpsest.models import convert_llama

    model = convert_llama(llama, block)
    tokenizer = _tokenizer(llama)
    _publish(out, lambda directory: _save(directory, model, tokenizer))
    for line in _describe(model, tokenizer, out):
        typer.echo(line)


def _read_block(path: Path) -> dict[str, Any]:
    """Return what an attention block says, without what it leaves to the defaults."""
    from palimpsest.attention.spec import AttentionSpec
    from palimpsest.schema import parse_yaml

    given = parse_yaml(AttentionSpec, path).model_dump(exclude_unset=True)
    return {key: value for key, value in given.items() if value != {}}


def _require_free(out: Path) -> None:
    if out.is_file():
        raise InputError(f"{out} is a file; give a new directory for the converted model.")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; give a new directory for the converted model.")


def _tokenizer(llama: Path) -> "PreTrainedTokenizerBase | None":
    """Return the tokenizer beside a checkpoint, or inside a ``.gguf`` file; None if there is none.

    Raises:
        InputError: there is one, but transformers cannot load it.
    """
    from transformers import AutoTokenizer

    from palimpsest.data.tokenizer import TOKENIZER_FILES

    inside = llama.suffix == ".gguf"
    if not inside and not any(found for pattern in TOKENIZER_FILES for found in llama.glob(pattern)):
        return None
    directory, file = (llama.parent, {"gguf_file": llama.name}) if inside else (llama, {})
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False, **file)
    except Exception as error:  # damaged files surface as whatever the parsers stumble on
        raise InputError(
            f"{llama} holds a tokenizer that transformers cannot load; restore it, or move it away."
        ) from (error)


def _save(directory: Path, model: "PalimpsestForCausalLM", tokenizer: "PreTrainedTokenizerBase | None") -> None:
    from palimpsest.models.conversion import quietly

    with quietly():
        model.save_pretrained(directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)


def _publish(out: Path, write: Callable[[Path], None]) -> None:
    """Make a directory that appears only when all its files are written and synced.

    Raises:
        InputError: it could not be written; nothing is left of it.
    """
    from safetensors import SafetensorError

    from palimpsest.training.checkpoint import sync

    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        write(partial)
        for path in partial.rglob("*"):
            sync(path)
        os.replace(partial, out)
        sync(out.parent)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{out} could not be written, and nothing is left of it: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _describe(model: "PalimpsestForCausalLM", tokenizer: "PreTrainedTokenizerBase | None", out: Path) -> Iterable[str]:
    """Say what has become of a LLaMA model."""
    from palimpsest.models import new_weights

    config, spec = model.config, model.config.attention_spec
    new = set(new_weights(config))
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    kept = [name for name in sizes if name not in new]
    dtype = str(model.dtype).removeprefix("torch.")
    yield f"Checkpoint: {out}"
    yield f"kept: {len(kept)} weights, {sum(sizes[name] for name in kept):,} numbers in {dtype}, bit for bit"
    layers = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in sizes if name in new)
    total = sum(sizes[name] for name in new)
    yield f"new: {total:,} numbers" if new else "new: nothing"
    yield from (f"  {name} in {count} layer{'s' * (count > 1)}" for name, count in layers.items())
    kinds = Counter(spec.kind(layer) for layer in range(config.num_hidden_layers))
    names = {"memory": f"memory ({spec.memory.kind})"}
    listed = ", ".join(f"{count} {names.get(kind, kind)}" for kind, count in kinds.items())
    yield f"layers: {listed}; segments of {spec.segment_length:,} tokens"
    yield "tokenizer: kept" if tokenizer is not None else "tokenizer: none was there; training needs one in OUT"
