"""A directory for a model: it appears when all of it is written, and never replaces anything."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from palimpsest.errors import InputError
from palimpsest.records import sync


def require_free(directory: Path) -> None:
    """Check that a model can be written to a directory.

    Raises:
        InputError: it is a file, or is not empty.
    """
    if directory.is_file():
        raise InputError(f"{directory} is a file; give a new directory for the model.")
    if directory.is_dir() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty; give a new directory for the model.")


@contextlib.contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """Give a directory to write to, which takes the name ``directory`` when the block ends and all of it is synced.

    Raises:
        InputError: the directory is not free, or could not be written; then nothing is left of it.
    """
    require_free(directory)
    directory = directory.absolute()
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in partial.rglob("*"):
            sync(path)
        os.replace(partial, directory)
        sync(directory.parent)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{directory} could not be written, and nothing is left of it: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
