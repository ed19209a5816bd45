"""``palimpsest probe memory``: what each memory holds by itself, with synthetic keys and values."""

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.cli.console import list_of, output, progress

Kinds = Annotated[
    str | None,
    typer.Option("--kinds", metavar="KIND,...", help="Kinds of memory, as in a configuration.", show_default="all"),
]
FeatureMaps = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="NAME,...",
        help="Feature maps of keys.",
        show_default="those of each kind; for capacity, all",
    ),
]
Sizes = Annotated[
    str | None,
    typer.Option("--sizes", metavar="N,...", help="Sizes of keys and values.", show_default="16,32,64,128"),
]
Tests = Annotated[
    str | None,
    typer.Option(
        "--tests",
        metavar="NAME,...",
        help="capacity, features, interference, overwriting, age, compressions, filler, precision, bytes.",
        show_default="all",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to its group."""
    app.command("memory", epilog="Example: palimpsest probe memory --kinds linear,ridge --sizes 32,64 --quick")(
        memory_probe
    )


def memory_probe(
    kinds: Kinds = None,
    features: FeatureMaps = None,
    sizes: Sizes = None,
    tests: Tests = None,
    out: Annotated[Path, typer.Option("--out", help="Directory of the records and the page.")] = Path("runs/mechanism"),
    seed: Annotated[int, typer.Option("--seed", help="Seed of keys and values.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Size 64, fewer draws and loads: some seconds.")] = False,
) -> None:
    """Fill memories with random pairs, without training, and show why they fade: records, and one page."""
    wanted = None if tests is None else list_of("--tests", tests, str)
    chosen = None if kinds is None else list_of("--kinds", kinds, str)
    maps = None if features is None else list_of("--features", features, str)
    widths = None if sizes is None else list_of("--sizes", sizes, int)
    from palimpsest.cli.mechanism_tables import mechanism_tables
    from palimpsest.probes.mechanism import jobs
    from palimpsest.records import write_jsonl
    from palimpsest.report.mechanism import RECORDS, write_mechanism_report

    work = jobs(wanted, chosen, maps, widths, seed, quick)
    records = []
    with progress("tests") as bars:
        task = bars.add_task("Memories", total=len(work))
        for job in work:
            bars.update(task, description=job.name)
            records += job.records()
            bars.advance(task)
    write_jsonl(out / RECORDS, records)
    page = write_mechanism_report(out / RECORDS, out)
    for table in mechanism_tables(records):
        output().print(table)
    typer.echo(f"Records: {out / RECORDS} ({len(records):,})")
    typer.echo(f"Page: {page}")
