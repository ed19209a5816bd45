"""A run directory: made by one recipe, used by one process at a time."""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import yaml
from pydantic import ValidationError

from palimpsest.errors import InputError
from palimpsest.records import Provenance, StepRecord, read_json, read_jsonl, write_atomic
from palimpsest.schema import first_difference
from palimpsest.training.recipe import Recipe, load_recipe

RECIPE = "recipe.yaml"
PROVENANCE = "provenance.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
DATA = "data"
LOCK = ".lock"


class Written(Protocol):
    """A recipe that a run directory holds a copy of."""

    def digest(self) -> str:
        """Return the SHA-256 of its content."""
        ...

    def model_dump(self, *, mode: Literal["json"]) -> dict[str, Any]:
        """Return its content as JSON."""
        ...


class RunLog(NamedTuple):
    """Where a run came from, and the steps that it logged, at least one."""

    provenance: Provenance
    steps: tuple[StepRecord, ...]

    @property
    def last(self) -> StepRecord:
        """The last logged step."""
        return self.steps[-1]


def run_log(run_dir: Path) -> RunLog:
    """Read what a run directory says about a training that has logged a step.

    Raises:
        InputError: a file is missing or damaged, or no step was logged.
    """
    path = run_dir / PROVENANCE
    try:
        provenance = Provenance.model_validate(read_json(path))
    except ValidationError as error:
        raise InputError(f"{path}: not a {Provenance.__name__}: {error}") from error
    log = run_dir / METRICS
    steps = tuple(read_jsonl(log, StepRecord)) if log.exists() else ()
    if not steps:
        raise InputError(f"{run_dir} has logged no step yet; train on by the same command.")
    return RunLog(provenance, steps)


@contextlib.contextmanager
def claim(run_dir: Path, recipe: Recipe) -> Iterator[None]:
    """Hold a run directory for this process, making it if need be.

    Raises:
        InputError: it belongs to another recipe, holds something else, or another process is training in it.
    """
    with claimed(run_dir, recipe, RECIPE, load_recipe):
        write_recipe(run_dir / RECIPE, recipe)
        yield


@contextlib.contextmanager
def claimed(run_dir: Path, recipe: Written, name: str, load: Callable[[Path], Written]) -> Iterator[None]:
    """Hold a run directory whose recipe, once there is one, is the file ``name``.

    Raises:
        InputError: as ``claim``.
    """
    _require_own(run_dir, recipe, name, load)
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it however the process ends
        except BlockingIOError as error:
            raise InputError(
                f"Another process is training in {run_dir}; wait for it or choose another directory."
            ) from error
        _require_own(run_dir, recipe, name, load)  # it may have been made while we were looking
        yield


def write_recipe(path: Path, recipe: Written) -> None:
    """Write the recipe of a run, unless it is there."""
    if not path.exists():
        text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_atomic(path, text)


def _require_own(run_dir: Path, recipe: Written, name: str, load: Callable[[Path], Written]) -> None:
    if run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"{run_dir} is a file; give a directory for the run.")
    if (run_dir / name).exists():
        there = load(run_dir / name)
        if there.digest() != recipe.digest():
            different = first_difference(there.model_dump(mode="json"), recipe.model_dump(mode="json"))
            assert different is not None  # the digests are of these values
            key, old, new = different
            raise InputError(
                f"{run_dir} belongs to a different recipe: {key} is {old!r} there and {new!r} here; choose another run "
                "directory, or delete this one."
            )
    elif run_dir.exists() and any(not path.name.startswith(".") for path in run_dir.iterdir()):
        raise InputError(f"{run_dir} holds other files and no run; give a new or empty directory.")
