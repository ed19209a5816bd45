"""``palimpsest bench``."""

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.cli.console import output, say


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command("bench", epilog="Example: palimpsest bench --out benchmarks/results")(bench)


def bench(
    case: Annotated[
        str | None, typer.Option("--case", metavar="NAME", help="One case only.", show_default="all")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Also write the results here.", show_default=False)
    ] = None,
) -> None:
    """Prove that the fast forms equal the definition, then time them; a red proof reports no time."""
    from palimpsest.bench import CASES, LINEAR, run_case
    from palimpsest.cli.tables import bench_tables

    for name in [case] if case is not None else list(CASES):
        record = run_case(name)
        typer.echo(f"{name} on {record.hardware}, {record.threads} thread, load {record.load_average[0]:.1f}")
        typer.echo(f"allocator: {record.allocator}")
        for table in bench_tables(record):
            output().print(table)
        if out is not None:
            typer.echo(f"Results: {record.save(out, name)}")
        if not record.holds:
            say("The forms differ, so no time is reported.")
            raise typer.Exit(1)
        slow = [timing for timing in record.timings if timing.form == "parallel" and timing.ratio > LINEAR]
        for timing in slow:
            say(f"{timing.memory}: {timing.ratio:.2f} times the cost for four times the tokens, above {LINEAR}.")
