"""``palimpsest data audit``: does the training text hold what a model is evaluated on?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palimpsest.cli.console import output, progress
from palimpsest.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from palimpsest.data.audit import Audit


def register(data_app: typer.Typer) -> None:
    """Add the command to ``palimpsest data``."""
    example = "Example: palimpsest data audit sotu --heldout-fraction 0.1 --out runs/audit"
    data_app.command("audit", epilog=example)(audit)


def audit(
    train: Annotated[
        str,
        typer.Argument(
            metavar="TRAIN",
            help="A prepared corpus, sotu, or a file or folder of .txt, .jsonl or .parquet.",
            show_default=False,
        ),
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="EVAL",
            help="Evaluated texts: a prepared corpus (its held-out part), or files. May be given several times.",
            show_default="TRAIN's held-out part",
        ),
    ] = None,
    ngram: Annotated[int, typer.Option("--ngram", min=1, help="Words in a row that make a text dirty.")] = 13,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where records and page go.")] = Path("runs/audit"),
    canaries: Annotated[
        int, typer.Option("--canaries", min=0, help="Evaluated passages to plant in a copy of the stream.")
    ] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the planted passages and their places.")] = 0,
    boilerplate: Annotated[
        Path | None,
        typer.Option("--boilerplate", metavar="FILE", help="Passages to cut first, one a line.", show_default=False),
    ] = None,
    heldout_fraction: Annotated[
        float | None,
        typer.Option(
            "--heldout-fraction",
            min=0,
            max=0.99,
            help="Share of a source that is held out.",
            show_default="0.05, or none with --against",
        ),
    ] = None,
    text_column: Annotated[str, typer.Option("--text-column", help="TRAIN's column of the text.")] = "text",
    against_column: Annotated[str, typer.Option("--against-column", help="EVAL's column of the text.")] = "text",
) -> None:
    """Compare evaluated texts with all training text: n-grams, longest match, identifiers, and planted canaries."""
    import palimpsest.models  # noqa: F401 (a tokenizer may lie beside a model, whose type transformers must know)
    from palimpsest.data.audit import AuditOptions, open_evaluated, open_training
    from palimpsest.data.audit import audit as run_audit
    from palimpsest.records import write_json, write_jsonl
    from palimpsest.report.audit import summarise, write_audit_page

    fraction = 0.0 if against and heldout_fraction is None and not _prepared(train) else heldout_fraction
    training = open_training(train, text_column=text_column, heldout_fraction=fraction)
    evaluated = open_evaluated(training, against or [], text_column=against_column)
    options = AuditOptions(ngram, canaries, seed, _lines(boilerplate))
    with progress("MB") as bars:
        bar = bars.add_task("auditing", total=None)
        found = run_audit(training, evaluated, options, lambda size: bars.update(bar, completed=size / 1e6))
    summary = summarise(found.setting, found.records, found.canaries)
    write_jsonl(out / "records" / "audit.jsonl", found.records)
    write_jsonl(out / "records" / "canaries.jsonl", found.canaries)
    write_json(out / "records" / "audit.json", found.setting)
    write_json(out / "summary.json", summary)
    page = write_audit_page(out, found.setting, found.records, found.canaries)
    output().print(_table(found))
    typer.echo(summary.sentence)
    typer.echo(f"Page: {page}")


def _prepared(train: str) -> bool:
    from palimpsest.data.shards import MANIFEST

    return (Path(train) / MANIFEST).is_file()


def _lines(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--boilerplate {path} cannot be read as text: {error}.") from error


def _table(found: "Audit") -> "Table":
    from rich.table import Table as RichTable
    from rich.text import Text

    from palimpsest.report.audit import documents_table
    from palimpsest.report.markup import shortened
    from palimpsest.report.tables import written

    made = documents_table(found.setting, found.records)
    table = RichTable(title=made.caption, title_justify="left")
    for column in made.columns:
        table.add_column(column.name, justify="left" if column.head else "right")
    for row in made.rows:
        cells = zip(made.columns, row, strict=True)
        table.add_row(
            *(
                Text(shortened(value, 48) if isinstance(value, str) else written(float(value), column.unit))
                for column, value in cells
                if isinstance(value, str | int | float)
            )
        )
    return table
