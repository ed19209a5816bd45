"""``palimpsest data``: prepare, stats, needles, audit and benchmarks."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from palimpsest.cli.console import progress, resumable
from palimpsest.cli.data_audit import register as register_audit
from palimpsest.cli.data_benchmarks import register as register_benchmarks
from palimpsest.cli.data_needles import register as register_needles
from palimpsest.cli.data_stats import lengths_table
from palimpsest.cli.data_stats import register as register_stats

if TYPE_CHECKING:
    from rich.progress import Progress

    from palimpsest.data.tokenising import Estimate

LINE_SECONDS = 30.0
"""Without a terminal, how often a preparation says how far it is."""

data_app = typer.Typer(
    no_args_is_help=True,
    help="Turn documents into tokens on disk, describe them, write needles, fetch benchmarks, audit training text.",
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
    split: Annotated[str, typer.Option("--split", help="Split of a hub dataset.")] = "train",
    text_column: Annotated[str, typer.Option("--text-column", help="The column that holds the text.")] = "text",
    id_column: Annotated[
        str,
        typer.Option("--id-column", help="The column that names a document; rows of one name are held out together."),
    ] = "id",
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Keep the first N documents.", show_default=False)
    ] = None,
    heldout_fraction: Annotated[
        float, typer.Option("--heldout-fraction", help="Share of documents that is never trained on.")
    ] = 0.05,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", metavar="N", min=1, help="Processes that tokenise; 1: this one, with a thread a core."
        ),
    ] = 1,
) -> None:
    """Tokenise a corpus once, into memory-mapped shards with document boundaries and a held-out part.

    What was interrupted goes on where it was when the same command is given again.
    """
    import palimpsest.models  # noqa: F401 (a tokenizer may lie beside a model, whose type transformers must know)
    from palimpsest.data import CorpusSpec, TokenizerSpec, prepare_corpus
    from palimpsest.data.lengths import corpus_statistics
    from palimpsest.schema import parse

    corpus = {"source": source, "config": config, "split": split, "text_column": text_column, "id_column": id_column}
    corpus |= {"limit": limit, "heldout_fraction": heldout_fraction}
    specs = (
        parse(CorpusSpec, corpus, "data prepare"),
        parse(TokenizerSpec, {"path": tokenizer, "vocab_size": vocab_size}, "data prepare"),
    )
    with resumable("Interrupted; run the same command again to go on."), _listener() as listener:
        prepared = prepare_corpus(*specs, out, workers=workers, announce=listener.announce, progress=listener.advance)
    made = prepared.manifest
    typer.echo(f"Corpus: {out}")
    for name, part in (("train", made.train), ("held out", made.heldout)):
        typer.echo(f"{name}: {part.documents:,} documents, {part.tokens:,} tokens")
    typer.echo(f"vocabulary: {made.vocab_size:,} tokens; fingerprint {made.fingerprint[:12]}")
    lengths_table(corpus_statistics(prepared))


class Listener(Protocol):
    """What shows how far a preparation is."""

    def announce(self, estimate: "Estimate") -> None:
        """Say what it will come to."""
        ...

    def advance(self, documents: int, tokens: int) -> None:
        """Say what has been written."""
        ...


@contextlib.contextmanager
def _listener() -> Iterator[Listener]:
    """Return a bar on a terminal, and what prints a line now and then elsewhere."""
    with progress("tokens") as bars:
        yield Lines() if bars.disable else Bar(bars)


class Lines:
    """A line with the estimate, and one every half minute with what is done, how fast, and how long it still takes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._told = clock()
        self._before = 0
        self._total: int | None = None

    def announce(self, estimate: "Estimate") -> None:
        """Print what it will come to."""
        typer.echo(estimate_line(estimate))
        self._total = estimate.tokens
        self._before = estimate.done_tokens
        self._began = self._told = self._clock()

    def advance(self, documents: int, tokens: int) -> None:
        """Print what has been written, if that is due."""
        now = self._clock()
        if now - self._told < LINE_SECONDS:
            return
        self._told = now
        speed = (tokens - self._before) / (now - self._began)
        line = f"{documents:,} documents, {tokens:,} tokens, {speed:,.0f} tokens/s"
        if self._total is not None and speed > 0:
            line += f", about {max(self._total - tokens, 0) / speed / 60:.0f} min left"
        typer.echo(line, err=True)


class Bar:
    """A line with the estimate, and a bar."""

    def __init__(self, bars: "Progress") -> None:
        self._bars = bars
        self._bar = bars.add_task("tokenising", total=None)

    def announce(self, estimate: "Estimate") -> None:
        """Print what it will come to."""
        self._bars.console.print(estimate_line(estimate), highlight=False)
        # what an earlier run did is no part of the speed of this one
        self._bars.reset(self._bar, total=estimate.tokens, completed=estimate.done_tokens)

    def advance(self, documents: int, tokens: int) -> None:
        """Show what has been written."""
        self._bars.update(self._bar, completed=tokens, description=f"{documents:,} documents")


def estimate_line(estimate: "Estimate") -> str:
    """Return the estimate as a sentence."""
    free = f"free: {estimate.free / 1e9:,.1f} GB"
    if estimate.bytes is None or estimate.tokens is None or estimate.documents is None:
        line = f"Estimated: unknown, the source does not tell its size; {free}"
    else:
        line = (
            f"Estimated: {estimate.documents:,} documents, {estimate.tokens:,} tokens, {estimate.bytes / 1e9:,.1f} GB "
            f"of tokens; {free}"
        )
    if estimate.done_documents:
        line += f". Going on after {estimate.done_documents:,} documents, {estimate.done_tokens:,} tokens"
    return f"{line}."


register_stats(data_app)
register_audit(data_app)
register_benchmarks(data_app)
register_needles(data_app)
