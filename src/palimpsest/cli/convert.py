"""``palimpsest convert``: a LLaMA checkpoint becomes one of ours."""

import re
from collections import Counter
from collections.abc import Iterable
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
    from palimpsest.models.directory import new_directory, require_free

    require_free(out)
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
    from palimpsest.models.conversion import quietly

    model = convert_llama(llama, block)
    tokenizer = _tokenizer(llama)
    with new_directory(out) as directory, quietly():
        model.save_pretrained(directory)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
    for line in _describe(model, tokenizer, out):
        typer.echo(line)


def _read_block(path: Path) -> dict[str, Any]:
    """Return what an attention block says, without what it leaves to the defaults."""
    from palimpsest.attention.spec import AttentionSpec
    from palimpsest.schema import parse_yaml

    given = parse_yaml(AttentionSpec, path).model_dump(exclude_unset=True)
    return {key: value for key, value in given.items() if value != {}}


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
    weights = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in sizes if name in new)
    total = sum(sizes[name] for name in new)
    yield f"new: {total:,} numbers" if new else "new: nothing"
    yield from (f"  {name} in {count} layer{'s' * (count > 1)}" for name, count in weights.items())
    yield f"layers: {spec.layers(config.num_hidden_layers)}; segments of {spec.segment_length:,} tokens"
    yield "tokenizer: kept" if tokenizer is not None else "tokenizer: none was there; training needs one in OUT"
