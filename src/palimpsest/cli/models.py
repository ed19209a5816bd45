"""Commands on one recipe or one checkpoint: train, eval, generate, info."""

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.cli.console import list_of, output, resumable
from palimpsest.cli.generate import generate
from palimpsest.errors import InputError, nearest

TASKS = ("passkey",)
DEPTHS = "0,0.25,0.5,0.75,1"

CheckpointPath = Annotated[
    Path,
    typer.Argument(metavar="CHECKPOINT", help="A checkpoint, or a run directory (its newest).", show_default=False),
]
Lengths = Annotated[
    str | None,
    typer.Option(
        "--lengths",
        metavar="160,288",
        help="Exact lengths in tokens, answer included.",
        show_default="1, 2 and 4 times the trained length",
    ),
]
Depths = Annotated[
    str, typer.Option("--depths", metavar="0,0.5,1", help="Places of the needle: 0 is first, 1 next to the question.")
]
Items = Annotated[int, typer.Option("--items", min=1, help="Items for each length and depth.")]
ItemSeed = Annotated[
    int, typer.Option("--seed", min=0, help="Seed of the items; keep 10,000 and above for final tests.")
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where items/ is written.", show_default="runs/eval")
]


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command("train", epilog="Example: palimpsest train recipes/tiny-ridge.yaml")(train)
    app.command("eval", epilog="Example: palimpsest eval runs/tiny-ridge-passkey --tasks passkey --lengths 160,288")(
        evaluate
    )
    app.command("generate", epilog="Example: palimpsest generate runs/tiny-ridge --prompt-file book.txt")(generate)
    app.command("info", epilog="Example: palimpsest info recipes/tiny-ridge.yaml")(info)


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run directory.", show_default="runs/NAME")
    ] = None,
) -> None:
    """Train by a recipe; the same command resumes an interrupted run and ends with the same weights."""
    from palimpsest.training import load_recipe
    from palimpsest.training import train as run_training

    loaded = load_recipe(recipe)
    run_dir = out or Path("runs") / loaded.name
    with resumable(f"Stopped; checkpoints, if there are any, are in {run_dir}; the same command continues."):
        typer.echo(f"Checkpoint: {run_training(loaded, run_dir, progress=True)}")


def evaluate(
    checkpoint: CheckpointPath,
    tasks: Annotated[str, typer.Option("--tasks", metavar="NAME,...", help="What to ask.")] = "passkey",
    lengths: Lengths = None,
    depths: Depths = DEPTHS,
    items: Items = 20,
    seed: ItemSeed = 0,
    out: Out = None,
) -> None:
    """Ask a checkpoint for keys told far back, and show how many it retrieves, with intervals."""
    for name in list_of("--tasks", tasks, str):
        if name not in TASKS:
            raise InputError(f"--tasks: there is no task '{name}'.{nearest(name, TASKS)}")
    from palimpsest.cli.evaluation import Grid, open_checkpoint
    from palimpsest.cli.evaluation import evaluate as answer
    from palimpsest.cli.tables import passkey_table

    grid = Grid(lengths_of(lengths), list_of("--depths", depths, float), items, seed, [])
    records, path = answer(open_checkpoint(checkpoint), grid, out or Path("runs/eval"))
    output().print(passkey_table(records))
    typer.echo(f"Items: {path}")


def lengths_of(text: str | None) -> list[int]:
    """Return the lengths that the user named, none if none."""
    return [] if text is None else list_of("--lengths", text, int)


def info(
    source: Annotated[
        Path,
        typer.Argument(metavar="RECIPE_OR_CHECKPOINT", help="A recipe, a checkpoint or a run.", show_default=False),
    ],
) -> None:
    """Show what a model is and costs, and what it would keep and cost with any other kind of attention."""
    from rich.table import Table

    from palimpsest.cli.info import describe_checkpoint, describe_recipe
    from palimpsest.cli.tables import kinds_table

    description = (describe_checkpoint if source.is_dir() else describe_recipe)(source)
    table = Table(show_header=False, box=None)
    for name, value in description.rows:
        table.add_row(name, value)
    output().print(table)
    output().print(kinds_table(description.kinds, description.lengths))
