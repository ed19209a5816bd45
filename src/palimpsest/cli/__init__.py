"""The command line: thin, and quick to start, for everything heavy is imported by the command that needs it."""

import errno
import logging
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from palimpsest.cli.align import register as register_align
from palimpsest.cli.console import EchoHandler, say
from palimpsest.cli.convert import register as register_convert
from palimpsest.cli.data import data_app
from palimpsest.cli.export import register as register_export
from palimpsest.cli.models import register as register_models
from palimpsest.cli.probe import probe_app
from palimpsest.cli.study import study_app
from palimpsest.cli.tools import register as register_tools
from palimpsest.errors import InputError

USER_FAULTS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""Errors of the system that a user can mend and a traceback would not explain."""


class _Group(TyperGroup):
    """The root command: whatever happens below ends in one sentence and an exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command that was asked for."""
        _listen_to_warnings()
        try:
            return super().invoke(ctx)
        except InputError as error:
            say(str(error))
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            say("Interrupted; run the same command again to start over.")
            raise typer.Exit(130) from error
        except OSError as error:
            if error.errno not in USER_FAULTS:
                raise
            where = f"{error.filename} cannot be used" if error.filename else "A file cannot be used"
            say(f"{where}: {error.strerror}.")
            raise typer.Exit(2) from error


def _listen_to_warnings() -> None:
    """Show what the package logs as lines of the same form as errors."""
    logger = logging.getLogger("palimpsest")
    if not any(isinstance(handler, EchoHandler) for handler in logger.handlers):
        logger.addHandler(EchoHandler())
        logger.propagate = False


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"palimpsest {version('palimpsest-lm')}")
        raise typer.Exit


app = typer.Typer(
    name="palimpsest",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Example: palimpsest study run studies/laptop.yaml",
)
app.add_typer(study_app, name="study")
register_models(app)
register_align(app)
app.add_typer(probe_app, name="probe")
register_convert(app)
register_export(app)
app.add_typer(data_app, name="data")
register_tools(app)


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train small language models on a bounded memory, and measure how much of the old writing can still be read."""


def main() -> None:
    """Run the command line."""
    app()
