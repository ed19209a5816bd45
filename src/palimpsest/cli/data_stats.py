"""``palimpsest data stats``: how long the documents of a prepared corpus are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palimpsest.cli.console import list_of, output
from palimpsest.errors import InputError

if TYPE_CHECKING:
    from palimpsest.data.lengths import CorpusStatistics

LONGER = "1024,8192,32768"


def register(data_app: typer.Typer) -> None:
    """Add the command to ``palimpsest data``."""
    data_app.command("stats", epilog="Example: palimpsest data stats data/sotu --longer 2048,8192")(stats)


def stats(
    corpus: Annotated[Path, typer.Argument(metavar="DIR", help="A prepared corpus.", show_default=False)],
    longer: Annotated[
        str, typer.Option("--longer", metavar="TOKENS", help="Show the share of documents longer than each of these.")
    ] = LONGER,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Count the documents of a prepared corpus, and show how many tokens they have."""
    from palimpsest.data import open_corpus
    from palimpsest.data.lengths import corpus_statistics

    limits = list_of("--longer", longer, int)
    if min(limits) < 0:
        raise InputError(f"--longer {longer!r}: a document has 0 tokens or more, so give such numbers.")
    found = corpus_statistics(open_corpus(corpus), limits)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        lengths_table(found)


def lengths_table(statistics: "CorpusStatistics") -> None:
    """Print the lengths of the documents of a corpus, in tokens."""
    from rich.table import Table

    parts = {"all": statistics.all, "train": statistics.train, "held out": statistics.heldout}
    columns = {name: part for name, part in parts.items() if part is not None}
    table = Table(title="Tokens of a document, end of text not counted", title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    rows = {
        "documents": [f"{part.documents:,}" for part in columns.values()],
        "tokens": [f"{part.tokens:,}" for part in columns.values()],
        "mean": [f"{part.mean:,.1f}" for part in columns.values()],
        "median": [f"{part.median:,.1f}" for part in columns.values()],
        "shortest": [f"{part.shortest:,}" for part in columns.values()],
    }
    rows |= {
        f"{share:.0%} at most": [f"{part.quantiles[share]:,.1f}" for part in columns.values()]
        for share in statistics.all.quantiles
        if share != 0.5
    }
    rows["longest"] = [f"{part.longest:,}" for part in columns.values()]
    rows |= {
        f"longer than {limit:,}": [f"{part.longer[limit]:.2%}" for part in columns.values()]
        for limit in statistics.all.longer
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    output().print(table)
