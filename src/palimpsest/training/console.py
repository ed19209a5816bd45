"""What training shows and hears while it runs: a progress bar on a terminal, and the wish to stop."""

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

from palimpsest.training.state import Progress

logger = logging.getLogger(__name__)


class Interrupted(SystemExit):
    """Training was asked to stop by a signal and has saved what it did; the exit code is 128 plus the signal's number.

    Attributes:
        sentence: what happened and how to continue.
    """

    def __init__(self, signum: int, sentence: str) -> None:
        super().__init__(128 + signum)
        self.sentence = sentence


class StopRequest:
    """The signal that asked for a stop, None as long as there was none."""

    signum: int | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Let SIGINT and SIGTERM ask for a stop instead of causing one; a second one acts as usual.

    Outside the main thread, where Python hears no signals, the request never comes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    def ask(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        restore()

    for signum in previous:
        signal.signal(signum, ask)
    try:
        yield request
    finally:
        restore()


class Report(Protocol):
    """Called after every update with how far the run is and the update's loss."""

    def __call__(self, progress: Progress, loss: float) -> None:
        """Show it."""
        ...


@contextlib.contextmanager
def progress_bar(name: str, steps: int, begin: Progress, *, wanted: bool) -> Iterator[Report]:
    """Show updates, loss, tokens per second and the time left, if that is wanted and standard error is a terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda progress, loss: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(name, total=steps, completed=begin.step, loss=float("nan"), speed=0.0)

        def report(progress: Progress, loss: float) -> None:
            seconds = progress.seconds - begin.seconds
            speed = (progress.tokens - begin.tokens) / seconds if seconds > 0 else 0.0
            bars.update(task, completed=progress.step, loss=loss, speed=speed)

        yield report
