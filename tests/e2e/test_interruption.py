"""Training is killed with SIGKILL, at random moments and at every system call of a save, and ends with the same bits.

Each training is a process forked from a server that has imported everything, so that a kill costs little time.
"""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from palimpsest.training import Recipe, train
from training_case import assert_same_run, prepare_texts, recipe

pytestmark = pytest.mark.e2e

STEPS = 12
TIMEOUT = 120.0
KILLED = -signal.SIGKILL
POINTS = ("fsync", "rename", "replace", "rmdir")


def train_in_child(recipe: Recipe, run_dir: Path) -> None:
    torch.set_num_threads(1)
    train(recipe, run_dir)


def train_and_die_at(recipe: Recipe, run_dir: Path, point: int, reached: "multiprocessing.SimpleQueue") -> None:
    """Train, and die just before the ``point``-th system call of those that matter to a save (from 0)."""
    calls = iter(range(10**9))

    def deadly(name):
        original = getattr(os, name)

        def call(*arguments, **options):
            if next(calls) == point:
                reached.put(name)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call

    for name in POINTS:
        setattr(os, name, deadly(name))
    train_in_child(recipe, run_dir)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServerContext]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["palimpsest.training", "palimpsest.models", "test_interruption"])
    with pytest.MonkeyPatch.context() as patch:
        # the server must find the modules of the tests as pytest does
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        yield context


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict:
    prepared = prepare_texts(tmp_path_factory.mktemp("prepared"))
    return {"kind": "text", "sequence_length": 96, "directory": str(prepared.directory)}


@pytest.fixture(scope="module")
def case(data) -> Recipe:
    return recipe(data, steps=STEPS, checkpoint_every=1)


@pytest.fixture(scope="module")
def uninterrupted(case, server, tmp_path_factory) -> tuple[Path, float]:
    """Return a run that nothing disturbs, and how many seconds it took."""
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    start_and_wait(server, case, run_dir.with_name("first"))  # the first fork starts the server
    began = time.monotonic()
    start_and_wait(server, case, run_dir)
    return run_dir, time.monotonic() - began


def start_and_wait(server, case, run_dir) -> None:
    child = server.Process(target=train_in_child, args=(case, run_dir))
    child.start()
    child.join(TIMEOUT)
    assert child.exitcode == 0


def kill_at_random(server, case, run_dir: Path, latest: float, random_moment: random.Random) -> bool:
    """Start or continue a run and kill it after up to ``latest`` seconds; False if it had finished before."""
    child = server.Process(target=train_in_child, args=(case, run_dir))
    child.start()
    child.join(random_moment.uniform(0.0, latest))
    child.kill()
    child.join(TIMEOUT)
    assert child.exitcode in (0, KILLED)
    return child.exitcode == KILLED


class Tally(NamedTuple):
    """Kills, how many of them fell into a save, and how many runs were finished and compared."""

    kills: int
    saving: int
    runs: int


def interrupt(server, case, uninterrupted, tmp_path, kills: int) -> Tally:
    """Kill runs ``kills`` times in all, always continuing, and compare each with the reference when it is done."""
    reference, seconds = uninterrupted
    random_moment = random.Random(0)
    killed = saving = runs = 0
    while killed < kills:
        run_dir = tmp_path / str(runs)
        # short lives, so that a run is killed several times before it is done
        if kill_at_random(server, case, run_dir, seconds / 2, random_moment):
            killed += 1
            saving += any((run_dir / "checkpoints").glob("step-*.tmp"))
            if killed < kills:
                continue
            start_and_wait(server, case, run_dir)
        assert_same_run(reference, run_dir, steps=STEPS)
        shutil.rmtree(run_dir)
        runs += 1
    return Tally(killed, saving, runs)


def test_three_kills_at_random_moments(server, case, uninterrupted, tmp_path):
    assert interrupt(server, case, uninterrupted, tmp_path, 3).kills == 3


@pytest.mark.slow
def test_a_hundred_kills_at_random_moments(server, case, uninterrupted, tmp_path):
    tally = interrupt(server, case, uninterrupted, tmp_path, 100)
    print(tally)
    assert tally.kills == 100
    assert 0 < tally.saving < 100


@pytest.mark.slow
def test_a_kill_before_every_system_call_that_matters(server, data, tmp_path):
    """Two checkpoints are kept, so that the third save also retires one."""
    case = recipe(data, steps=4, checkpoint_every=1)
    reference = tmp_path / "reference"
    start_and_wait(server, case, reference)
    reached = server.SimpleQueue()
    died = []
    for point in itertools.count():
        run_dir = tmp_path / str(point)
        child = server.Process(target=train_and_die_at, args=(case, run_dir, point, reached))
        child.start()
        child.join(TIMEOUT)
        if child.exitcode == 0:
            break
        assert child.exitcode == KILLED
        died.append(reached.get())
        start_and_wait(server, case, run_dir)
        assert_same_run(reference, run_dir, steps=4)
        shutil.rmtree(run_dir)
    print(f"died before: { {name: died.count(name) for name in POINTS} }")
    assert set(died) == set(POINTS)
