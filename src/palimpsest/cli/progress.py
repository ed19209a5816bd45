"""What ``study run`` shows while it runs: live bars on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from palimpsest.cli.console import speed_column
from palimpsest.study import Event, Stage
from palimpsest.study.run import Listener, updates

LINE_SECONDS = 30.0
"""Without a terminal, how often a running stage says how far it is."""


@contextlib.contextmanager
def study_listener(stages: Sequence[Stage]) -> Iterator[Listener]:
    """Return what shows the events of a study with these stages."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainLines(len(stages))
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"),
        speed_column("steps"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield LiveBars(bars, len(stages))


class PlainLines:
    """One line when a stage starts and when it ends, and one now and then while it trains."""

    def __init__(self, stages: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.stages = stages
        self.clock = clock
        self.done = 0
        self.began: dict[str, tuple[float, int]] = {}
        self.told: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Say what happened."""
        name, now = event.stage.name, self.clock()
        if event.what in ("cached", "finished"):
            self.done += 1
            how = "already done" if event.what == "cached" else f"{event.seconds:.0f} s"
            typer.echo(f"[{self.done}/{self.stages}] {name}: {how}", err=True)
        elif event.what == "started":
            self.told[name] = now
            typer.echo(f"{name}: started", err=True)
        elif event.steps:
            since, first = self.began.setdefault(name, (now, event.steps))
            if now - self.told[name] >= LINE_SECONDS and event.steps > first:
                self.told[name] = now
                speed = (event.steps - first) / (now - since)
                left = (updates(event.stage) - event.steps) / speed
                typer.echo(
                    f"{name}: {event.steps}/{updates(event.stage)} steps, {speed:.3g} steps/s, {_minutes(left)} left",
                    err=True,
                )


class LiveBars:
    """A bar for every running stage and one for the study; a line for every stage that is done."""

    def __init__(self, bars: Progress, stages: int) -> None:
        self.bars = bars
        self.stages = stages
        self.all = bars.add_task("study", total=stages, count=f"0/{stages} stages")
        self.tasks: dict[str, TaskID] = {}
        self.resumed: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Show what happened."""
        name, total = event.stage.name, updates(event.stage)
        if event.what in ("cached", "finished"):
            self.bars.advance(self.all)
            done = int(self.bars.tasks[self.bars.task_ids.index(self.all)].completed)
            self.bars.update(self.all, count=f"{done}/{self.stages} stages")
            if name in self.tasks:
                self.bars.remove_task(self.tasks.pop(name))
            how = "already done" if event.what == "cached" else f"{event.seconds:.0f} s"
            self.bars.console.print(f"{name}: {how}", highlight=False)
        elif event.what == "started":
            self.tasks[name] = self.bars.add_task(name, total=total or None, count=f"0/{total}" if total else "")
        elif event.steps:
            count = f"{event.steps}/{total}"
            if name not in self.resumed:  # what an earlier run did is no part of the speed of this one
                self.resumed.add(name)
                self.bars.reset(self.tasks[name], completed=event.steps, count=count)
            self.bars.update(self.tasks[name], completed=event.steps, count=count)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
