"""``run_study``: execute the stages of a plan in parallel processes, and collect what they found.

Everything is on disk: a stage whose directory is marked complete is not run again, and a training stage that was
interrupted goes on from its last checkpoint. The same command therefore resumes a study, and redoes only what changed.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from palimpsest.errors import InputError
from palimpsest.study.kinds import AnyStudy, plan
from palimpsest.study.plan import Stage
from palimpsest.study.preregistration import log_opening
from palimpsest.study.stages import execute, is_done
from palimpsest.training import Interrupted

STAGES = "stages"
POLL_SECONDS = 0.5


class Event(NamedTuple):
    """Something happened to a stage: ``cached``, ``started``, ``running`` (``steps`` done) or ``finished``."""

    stage: Stage
    what: str
    seconds: float = 0.0
    steps: int = 0


Listener = Callable[[Event], None]


def select(stages: list[Stage], only: Iterable[str]) -> list[Stage]:
    """Return the stages of the named arms or kinds, with everything they need, in the order of the plan.

    Raises:
        InputError: a name that is neither an arm nor a kind of stage.
    """
    wanted = set(only)
    if not wanted:
        return stages
    known = {name for stage in stages for name in (stage.arm, stage.kind) if name}
    if unknown := sorted(wanted - known):
        raise InputError(f"--only {unknown[0]}: no such arm or kind of stage; known: {', '.join(sorted(known))}.")
    by_name = {stage.name: stage for stage in stages}
    arms = {stage.arm for stage in stages if stage.arm} & wanted
    kinds = wanted - arms
    needed: set[str] = set()

    def need(stage: Stage) -> None:
        needed.add(stage.name)
        for name in stage.inputs:
            need(by_name[name])

    for stage in stages:
        if (not arms or stage.arm in arms) and (not kinds or stage.kind in kinds):
            need(stage)
    return [stage for stage in stages if stage.name in needed]


def run_study(
    spec: AnyStudy, out: Path, *, jobs: int, threads: int = 1, only: Iterable[str] = (), listen: Listener
) -> list[Stage]:
    """Run what is not done yet and return the stages of the plan that were asked for.

    Args:
        spec: the study.
        out: its directory.
        jobs: processes that work at the same time.
        threads: threads of each.
        only: arms or kinds of stages to run; all if empty.
        listen: told what happens.

    Raises:
        InputError: a stage met something it cannot use.
        KeyboardInterrupt: after the workers were stopped; everything finished, and the last checkpoints, are kept.
    """
    stages = select(plan(spec), only)
    root = out / STAGES
    log_opening(spec, out, of={stage.settings.get("named", stage.kind) for stage in stages})
    root.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker)
    try:
        _Execution(stages, root, pool, jobs, threads, listen).run()
    except BaseException as error:
        for worker in multiprocessing.active_children():
            worker.terminate()  # SIGTERM: a training stage saves a checkpoint first
        pool.shutdown(wait=True, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise InputError(
                f"a worker of the study was killed (out of memory?); run the same command again to go on from {root}."
            ) from error
        raise
    pool.shutdown()
    return stages


class _Execution:
    """The state of one run: which stages wait, run, and are done."""

    def __init__(
        self, stages: list[Stage], root: Path, pool: ProcessPoolExecutor, jobs: int, threads: int, listen: Listener
    ):
        self.by_name = {stage.name: stage for stage in stages}
        self.root, self.pool, self.jobs, self.threads, self.listen = root, pool, jobs, threads, listen
        self.done: set[str] = set()
        self.waiting: list[Stage] = []
        self.running: dict[Future[float], Stage] = {}
        for stage in stages:
            if is_done(stage, root):
                self.done.add(stage.name)
                listen(Event(stage, "cached"))
            else:
                self.waiting.append(stage)

    def run(self) -> None:
        """Run until everything is done."""
        while self.waiting or self.running:
            self._submit()
            finished, _ = wait(self.running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in finished:
                stage = self.running.pop(future)
                seconds = future.result()
                self.done.add(stage.name)
                self.listen(Event(stage, "finished", seconds))
            for stage in self.running.values():
                self.listen(Event(stage, "running", steps=_steps(self.root / stage.directory)))

    def _submit(self) -> None:
        """Start the stages whose inputs are there."""
        for stage in ready(self.waiting, self.done)[: self.jobs - len(self.running)]:
            self.waiting.remove(stage)
            inputs = {self.by_name[name].kind: self.by_name[name] for name in stage.inputs}
            self.running[self.pool.submit(_work, stage, self.root, inputs, self.threads)] = stage
            self.listen(Event(stage, "started"))


def ready(waiting: Sequence[Stage], done: Set[str]) -> list[Stage]:
    """Return the stages whose inputs are done, those with the most work behind them first."""

    def work_behind(stage: Stage) -> int:
        """Return the updates of this stage and of all that wait for it."""
        return updates(stage) + sum(work_behind(other) for other in waiting if stage.name in other.inputs)

    return sorted((stage for stage in waiting if done >= set(stage.inputs)), key=work_behind, reverse=True)


def _begin_worker() -> None:
    """Let only the parent stop a worker, and only while it works: a worker that dies takes the others with it."""
    os.setpgrp()  # Ctrl-C on the terminal is for the parent alone
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this worker when the parent is gone, killed perhaps: an orphan would hold the stage that it works on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(stage: Stage, root: Path, inputs: Mapping[str, Stage], threads: int) -> float:
    """Execute a stage in a worker; on SIGTERM a training stage saves a checkpoint, others will begin anew."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        return execute(stage, root, inputs, threads)
    except Interrupted as stop:
        # what a worker raises is pickled, and an exception with arguments of its own would not survive that
        raise KeyboardInterrupt(stop.sentence) from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(f"stopped by {signal.Signals(signum).name}")


def updates(stage: Stage) -> int:
    """Return the number of updates of a training stage, 0 for others."""
    return stage.settings["training"]["steps"] if "training" in stage.settings else 0


def _steps(directory: Path) -> int:
    """Return the number of the last step that a training stage has logged."""
    metrics = directory / "metrics.jsonl"
    try:
        with open(metrics, "rb") as lines:
            lines.seek(max(0, os.fstat(lines.fileno()).st_size - 65536))
            complete = lines.read().decode(errors="replace").splitlines()
            return json.loads(complete[-1])["step"] if complete else 0
    except (OSError, ValueError, KeyError):
        return 0  # not begun, or a line being written
