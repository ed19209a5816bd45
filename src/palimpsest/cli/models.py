"""Commands on one recipe or one checkpoint: train, eval, generate, info."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palimpsest.cli.console import list_of, output, resumable, say
from palimpsest.cli.generate import generate

if TYPE_CHECKING:
    from palimpsest.cli.evaluation import Answered, Asked, Checkpoint

ANYWHERE = "anywhere"

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
Tasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        metavar="NAME[KNOB=VALUE],...",
        help="What to ask, such as sym_multikey[needles=16],niah_single_1; 'palimpsest eval --list' shows all.",
        show_default="passkey, or sym_passkey",
    ),
]
Depths = Annotated[
    str | None,
    typer.Option(
        "--depths",
        metavar="0,0.5,1",
        help="Places of the needle: 0 is first, 1 next to the question; or 'anywhere'.",
        show_default="0,0.25,0.5,0.75,1 for passkey, else anywhere",
    ),
]
Items = Annotated[
    int, typer.Option("--items", min=1, help="Items for each length and depth, rounded up to whole haystacks.")
]
ItemSeed = Annotated[
    int, typer.Option("--seed", min=0, help="Seed of the items; keep 10,000 and above for final tests.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where items/ is written, and read again.", show_default="runs/eval"),
]
ShardText = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Answer only every N-th batch, from the I-th on; a call without it joins all that are there.",
        show_default="all batches",
    ),
]


def _show_tasks(wanted: bool) -> None:
    if wanted:
        from palimpsest.cli.task_names import tasks_table

        output().print(tasks_table())
        raise typer.Exit


RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe.", show_default=False)]
RunDirectory = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The run directory.", show_default="runs/NAME")
]


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command("train", epilog="Example: palimpsest train recipes/tiny-ridge.yaml")(train)
    app.command("eval", epilog="Example: palimpsest eval runs/tiny-ridge-passkey --lengths 160,288")(evaluate)
    app.command("generate", epilog="Example: palimpsest generate runs/tiny-ridge --prompt-file book.txt")(generate)
    app.command("info", epilog="Example: palimpsest info recipes/tiny-ridge.yaml")(info)


def train(
    recipe: RecipePath,
    out: RunDirectory = None,
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
    tasks: Tasks = None,
    lengths: Lengths = None,
    depths: Depths = None,
    items: Items = 20,
    seed: ItemSeed = 0,
    shard: ShardText = None,
    out: Out = None,
    show: Annotated[
        bool,
        typer.Option("--list", callback=_show_tasks, is_eager=True, help="Show all tasks and exit."),
    ] = False,
) -> None:
    """Ask a checkpoint what it was told far back, and show how many answers are right, with intervals."""
    from palimpsest.cli.item_tables import answers_table

    for asked, answered in answers(checkpoint, tasks, grid_of(lengths, depths, items, seed), shard, out):
        title = f"{asked.wanted.text}, version {asked.task.version}"
        output().print(answers_table(answered.records, asked.task, title, asked.setting.depths))
        typer.echo(f"Items: {answered.path}")


def grid_of(lengths: str | None, depths: str | None, items: int, seed: int) -> dict[str, Any]:
    """Return the grid of items that the options describe, to be checked by its schema."""
    places = None if depths is None else [] if depths == ANYWHERE else list_of("--depths", depths, float)
    asked = [] if lengths is None else list_of("--lengths", lengths, int)
    return {"lengths": asked, "depths": places, "items": items, "seed": seed}


def answers(
    checkpoint: Path,
    tasks: str | None,
    grid: dict[str, Any],
    shard: str | None,
    out: Path | None,
    choose: "Callable[[Checkpoint], list[str]] | None" = None,
) -> "Iterator[tuple[Asked, Answered]]":
    """Answer each task that was asked for, and yield those whose answers are all there.

    Args:
        checkpoint, tasks, grid, shard, out: the options.
        choose: which interventions are made on the memory of a checkpoint; none if None.
    """
    from palimpsest.cli.task_names import parse_tasks

    wanted = None if tasks is None else parse_tasks(tasks)
    from palimpsest.cli.evaluation import Grid, Shard, answer, ask, open_checkpoint, wanted_tasks
    from palimpsest.schema import parse

    part = Shard() if shard is None else Shard.parse(shard)
    opened = open_checkpoint(checkpoint)
    interventions = [] if choose is None else choose(opened)
    checked = parse(Grid, grid | {"interventions": interventions}, "The items")
    folder = out or Path("runs/eval")
    asked = [ask(opened, task, checked) for task in wanted_tasks(opened, wanted)]
    with resumable(f"Stopped; finished batches are kept in {folder}; the same command continues."):
        for each in asked:
            found = answer(opened.subject, each, folder, part, say)
            name, done = each.wanted.text, found.batches - found.missing
            if found.missing:
                say(
                    f"{name}: {done} of {found.batches} batches are answered; the other shards answer the rest, "
                    "or this command without --shard."
                )
                continue
            if found.before == found.batches:
                say(f"{name}: already answered.")
            elif found.before:
                say(f"{name}: {found.before} of {found.batches} batches had been answered before.")
            yield each, found


def info(
    source: Annotated[
        Path,
        typer.Argument(metavar="RECIPE_OR_CHECKPOINT", help="A recipe, a checkpoint or a run.", show_default=False),
    ],
) -> None:
    """Show what a model is, what it or its training costs, and what any other kind of attention would keep and cost."""
    from rich.table import Table

    from palimpsest.cli.cost_tables import accelerators_table, compression_table
    from palimpsest.cli.info import describe_checkpoint, describe_recipe
    from palimpsest.cli.tables import kinds_table

    description = (describe_checkpoint if source.is_dir() else describe_recipe)(source)
    table = Table(show_header=False, box=None)
    for name, value in description.rows:
        table.add_row(name, value)
    output().print(table)
    if description.cost is not None and description.cost.bfloat16:
        output().print(accelerators_table(description.cost))
    if description.compression is not None:
        output().print(compression_table(description.compression, description.lengths))
    output().print(kinds_table(description.kinds, description.lengths))
