"""``palimpsest data needles``."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def register(data_app: typer.Typer) -> None:
    """Add the command to the group ``data``."""
    data_app.command(
        "needles",
        epilog="Example: palimpsest data needles needles.jsonl --form published --lengths 32768 --tokenizer gpt2",
    )(needles)


def needles(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new .jsonl or .jsonl.gz file.", show_default=False)],
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", metavar="DIR", help="A tokenizer's directory or hub name.", show_default=False)
    ],
    form: Annotated[
        Literal["published", "intended"],
        typer.Option("--form", help="As nanotron's sets, lengths in characters, or the passkey task, in tokens."),
    ] = "intended",
    lengths: Annotated[
        str, typer.Option("--lengths", metavar="N,...", help="Context lengths, in the units of the form.")
    ] = "1024,2048,4096,8192",
    count: Annotated[int, typer.Option("--count", metavar="N", help="Number of prompts.")] = 1000,
    split: Annotated[
        Literal["training", "evaluation"],
        typer.Option("--split", help="Prompts end with the answer for training, with the question for evaluation."),
    ] = "training",
    segment_length: Annotated[
        int, typer.Option("--segment-length", metavar="N", help="Tokens per segment (intended form).")
    ] = 1024,
    row_length: Annotated[
        int, typer.Option("--row-length", metavar="N", help="Rows in which keys are counted that lie apart.")
    ] = 4096,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the keys.")] = 0,
) -> None:
    """Write needle prompts to fine-tune on or to test with, in the schema of the public sets."""
    import palimpsest.models  # noqa: F401 (a tokenizer may lie beside a model, whose type transformers must know)
    from palimpsest.cli.console import list_of
    from palimpsest.data import load_tokenizer
    from palimpsest.errors import InputError
    from palimpsest.schema import parse
    from palimpsest.tasks.needles import IntendedNeedles, PublishedNeedles
    from palimpsest.training.needles import write_needles

    if out.suffixes[-1:] != [".jsonl"] and out.suffixes[-2:] != [".jsonl", ".gz"]:
        raise InputError(f"'{out}' should be a .jsonl or .jsonl.gz file.")
    if out.exists():
        raise InputError(f"{out} is there already; choose another name, or delete it.")
    if row_length < 1:
        raise InputError(f"--row-length should be 1 or more (got {row_length}).")
    kind = PublishedNeedles if form == "published" else IntendedNeedles
    values = {"number": count, "lengths": list_of("--lengths", lengths, int), "seed": seed}
    spec = parse(kind, values, "data needles")
    written = write_needles(
        out, spec, load_tokenizer(tokenizer), split=split, segment_length=segment_length, row_length=row_length
    )
    typer.echo(f"Needles: {out}")
    typer.echo(f"{written.prompts:,} prompts of {written.shortest:,} to {written.longest:,} tokens")
    typer.echo(
        f"in a stream cut every {row_length:,} tokens, {written.apart:.1%} of the keys are told in one row and asked "
        "for in another"
    )
