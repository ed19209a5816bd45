"""``palimpsest align`` and ``palimpsest restore``: teach a checkpoint to answer, and put back what that has bent."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palimpsest.cli.console import list_of, output, resumable
from palimpsest.cli.models import CheckpointPath, RecipePath, RunDirectory

if TYPE_CHECKING:
    from rich.table import Table

    from palimpsest.models.restore import Turn


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command("align", epilog="Example: palimpsest align chat.yaml")(align)
    app.command("restore", epilog="Example: palimpsest restore runs/chat runs/tiny-ridge runs/chat-restored")(restore)


def align(
    recipe: RecipePath,
    out: RunDirectory = None,
) -> None:
    """Fine-tune a checkpoint on chats (SFT) or preferences (DPO); the same command resumes an interrupted run."""
    from palimpsest.training.alignment import align as run_alignment
    from palimpsest.training.alignment import load_alignment

    loaded = load_alignment(recipe)
    run_dir = out or Path("runs") / loaded.name
    with resumable(f"Stopped; checkpoints, if there are any, are in {run_dir}; the same command continues."):
        typer.echo(f"Checkpoint: {run_alignment(loaded, run_dir, progress=True)}")


def restore(
    checkpoint: CheckpointPath,
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="The checkpoint that it was trained from.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new directory.", show_default=False)],
    parts: Annotated[
        str,
        typer.Option("--parts", metavar="A,B", help="What gets its old weights back: query_key, gates, or both."),
    ] = "query_key",
) -> None:
    """Put some weights back to what they were before a training, and show how far all had turned."""
    from transformers.utils import logging

    from palimpsest.errors import InputError, nearest
    from palimpsest.models.directory import require_free
    from palimpsest.models.restore import PARTS, turns
    from palimpsest.training import resolve_checkpoint
    from palimpsest.training.alignment import write_restored
    from palimpsest.training.state import pretrained_model

    wanted = list_of("--parts", parts, str)
    if unknown := [part for part in wanted if part not in PARTS]:
        raise InputError(f"--parts {unknown[0]}: no such part.{nearest(unknown[0], PARTS)}")
    require_free(out)
    logging.disable_progress_bar()  # one for every file that is read or written
    now, then = (pretrained_model(resolve_checkpoint(path)).state_dict() for path in (checkpoint, base))
    output().print(_turned(turns(now, then)))
    write_restored(checkpoint, base, [part for part in PARTS if part in wanted], out)
    typer.echo(f"Checkpoint: {out}")


def _turned(found: "list[Turn]") -> "Table":
    """Return one row per part: how far the weights of the checkpoint have turned from those of the base."""
    from rich.table import Table

    from palimpsest.models.restore import PARTS, part_of

    table = Table("part", title="Weights before anything is put back, against the base", title_justify="left")
    for heading in ("weights", "mean cosine", "lowest cosine", "mean distance"):
        table.add_column(heading, justify="right")
    for part in (*PARTS, None):
        of = [turn for turn in found if part_of(turn.name) == part]
        if of:
            cosines = [turn.cosine for turn in of]
            table.add_row(
                part or "all others",
                str(len(of)),
                f"{sum(cosines) / len(of):.6f}",
                f"{min(cosines):.6f}",
                f"{sum(turn.distance for turn in of) / len(of):.4g}",
            )
    return table
