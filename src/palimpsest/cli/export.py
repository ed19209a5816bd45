"""``palimpsest export``: a checkpoint becomes a folder for the Hugging Face world, with its code and its card."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palimpsest.cli.models import CheckpointPath

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("export", epilog="Example: palimpsest export runs/tiny-ridge exports/tiny-ridge")(export)


def export(
    checkpoint: CheckpointPath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new directory.", show_default=False)],
    title: Annotated[
        str | None, typer.Option("--title", help="The name in the model card.", show_default="the name of OUT")
    ] = None,
    license_name: Annotated[
        str, typer.Option("--license", metavar="NAME", help="The licence of the weights, as the hub names it.")
    ] = "apache-2.0",
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", metavar="NAME", help="What it was converted from.", show_default=False),
    ] = None,
) -> None:
    """Write a checkpoint with its code and a model card: transformers loads it without this package."""
    import torch
    from transformers.utils import logging

    from palimpsest.cli.training_facts import training_facts
    from palimpsest.models import PalimpsestConfig
    from palimpsest.models.card import CardFacts
    from palimpsest.models.directory import require_free
    from palimpsest.models.export import export as write
    from palimpsest.training import resolve_checkpoint
    from palimpsest.training.state import pretrained_model

    require_free(out)
    logging.disable_progress_bar()  # one for every file that is read or written
    directory = resolve_checkpoint(checkpoint)
    model = pretrained_model(directory)
    torch.nn.Module.to(model, PalimpsestConfig.from_pretrained(directory).dtype)  # as it was saved; it came as float32
    facts = CardFacts(title or out.absolute().name, license_name, base_model, training_facts(directory))
    write(model, out, _tokenizer(directory), facts)
    typer.echo(f"Exported: {out}")


def _tokenizer(directory: Path) -> "PreTrainedTokenizerBase | None":
    """Return the tokenizer beside a model, None if there is none.

    Raises:
        InputError: there is one, but it cannot be loaded.
    """
    from palimpsest.data.tokenizer import TOKENIZER_FILES, load_tokenizer

    there = any(found for pattern in TOKENIZER_FILES for found in directory.glob(pattern))
    return load_tokenizer(directory) if there else None
