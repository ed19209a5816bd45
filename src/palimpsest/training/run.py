"""A run directory: made by one recipe, used by one process at a time."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import yaml

from palimpsest.errors import InputError
from palimpsest.records import write_atomic
from palimpsest.schema import first_difference
from palimpsest.training.recipe import Recipe, load_recipe

RECIPE = "recipe.yaml"
PROVENANCE = "provenance.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
DATA = "data"
LOCK = ".lock"


@contextlib.contextmanager
def claim(run_dir: Path, recipe: Recipe) -> Iterator[None]:
    """Hold a run directory for this process, making it if need be.

    Raises:
        InputError: it belongs to another recipe, holds something else, or another process is training in it.
    """
    _require_own(run_dir, recipe)
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it however the process ends
        except BlockingIOError as error:
            raise InputError(
                f"Another process is training in {run_dir}; wait for it or choose another directory."
            ) from error
        _require_own(run_dir, recipe)  # it may have been made while we were looking
        if not (run_dir / RECIPE).exists():
            text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            write_atomic(run_dir / RECIPE, text)
        yield


def _require_own(run_dir: Path, recipe: Recipe) -> None:
    if run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"{run_dir} is a file; give a directory for the run.")
    if (run_dir / RECIPE).exists():
        there = load_recipe(run_dir / RECIPE)
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
