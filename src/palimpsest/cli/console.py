"""What the commands share: how they speak, and how they read lists."""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TypeVar

import typer

from palimpsest.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

PLAIN_WIDTH = 160
"""Columns of a table that goes to a file or a pipe, where rich would assume 80."""

T = TypeVar("T", int, float, str)


def say(sentence: str) -> None:
    """Print one line, with the name of the program, on standard error."""
    typer.echo(f"palimpsest: {' '.join(sentence.split())}", err=True)


class EchoHandler(logging.Handler):
    """Says what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say a message."""
        say(record.getMessage())


class _Terminated(KeyboardInterrupt):
    """SIGTERM, treated as Ctrl-C is."""


@contextlib.contextmanager
def resumable(sentence: str) -> Iterator[None]:
    """On Ctrl-C or SIGTERM, say what is kept and how to go on, and exit with 128 plus the number of the signal."""

    def terminate(signum: int, frame: FrameType | None) -> NoReturn:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        say(sentence)
        signum = signal.SIGTERM if isinstance(interrupt, _Terminated) else signal.SIGINT
        raise typer.Exit(128 + signum) from interrupt
    finally:
        signal.signal(signal.SIGTERM, before)


def output() -> "Console":
    """Return a console on standard output."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


@contextlib.contextmanager
def progress(unit: str) -> "Iterator[Progress]":
    """Show bars on standard error, if that is a terminal, with what is done, speed and time left."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}" + f" {unit}"),
        speed_column(unit),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bars:
        yield bars


def speed_column(unit: str) -> "ProgressColumn":
    """Return a column that shows how many units a second are done."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:,.4g} {unit}/s")

    return Speed()


_LISTS = {
    int: "whole numbers separated by commas, such as 160,288",
    float: "numbers separated by commas, such as 0,0.5",
}


def list_of(option: str, text: str, kind: type[T]) -> list[T]:
    """Read a list that is separated by commas.

    Raises:
        InputError: an entry that is not of this kind, or no entry.
    """
    try:
        entries = [entry.strip() for entry in text.split(",")]
        if not all(entries):
            raise ValueError
        return [kind(entry) for entry in entries]
    except ValueError as error:
        expected = _LISTS.get(kind, "names separated by commas")
        raise InputError(f"{option} {text!r}: expected {expected}.") from error


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
