"""``palimpsest probe``: what a memory holds, what a model makes of it, and what is lost without it."""

from typing import Annotated

import typer
from typer.core import TyperGroup

from palimpsest.cli import probe_memory, probe_perplexity, probe_profile, probe_text
from palimpsest.cli.console import output
from palimpsest.cli.models import (
    CheckpointPath,
    Depths,
    Items,
    ItemSeed,
    Lengths,
    Out,
    ShardText,
    Tasks,
    answers,
    grid_of,
)

DEFAULT = "checkpoint"


class _Default(TyperGroup):
    """A group whose first argument, where it names no command, belongs to the command ``checkpoint``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put the default command before a path, or before a path's options."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


probe_app = typer.Typer(
    cls=_Default,
    no_args_is_help=True,
    help="Look into a memory: fill it without training (memory), take it away before the answer (CHECKPOINT), see what "
    "heads do with it (profile), what a prefix is worth (text), or how well it predicts whole documents (perplexity).",
    epilog="Example: palimpsest probe runs/tiny-ridge-passkey --interventions swap,zero",
)


@probe_app.command(DEFAULT, epilog="Example: palimpsest probe checkpoint runs/tiny-ridge-passkey --interventions swap")
def checkpoint_probe(
    checkpoint: CheckpointPath,
    interventions: Annotated[
        str | None,
        typer.Option(
            "--interventions",
            metavar="NAME,...",
            help="swap: the memory of another item; zero: an empty one; gate_closed: no reading; and any expression of "
            "docs/probes.md.",
            show_default="all that can change something",
        ),
    ] = None,
    tasks: Tasks = None,
    lengths: Lengths = None,
    depths: Depths = None,
    items: Items = 20,
    seed: ItemSeed = 0,
    shard: ShardText = None,
    out: Out = None,
) -> None:
    """Take the memory away before the answer, and show what is lost, paired by item."""
    from palimpsest.cli.evaluation import Checkpoint, possible_interventions
    from palimpsest.cli.item_tables import probe_table
    from palimpsest.probes import split_interventions

    wanted = None if interventions is None else split_interventions(interventions)

    def choose(opened: Checkpoint) -> list[str]:
        return possible_interventions(opened, wanted)

    for asked, answered in answers(checkpoint, tasks, grid_of(lengths, depths, items, seed), shard, out, choose):
        output().print(probe_table(answered.records, asked.setting.interventions, asked.wanted.text))
        typer.echo(f"Items: {answered.path}")


probe_profile.register(probe_app)
probe_text.register(probe_app)
probe_perplexity.register(probe_app)
probe_memory.register(probe_app)
