"""Checkpoint directories: published whole or not at all, verified when read, never losing the newest good one.

A checkpoint is written to ``step-N.tmp``; its files are synced, then a manifest with the size and SHA-256 of each, then
the directory is renamed to ``step-N`` and its parent synced. Whatever the moment of a crash, every ``step-N`` was
complete when it got its name. What happened to it later (a bad disk, a stray copy) shows in the manifest's hashes.
"""

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from palimpsest.errors import InputError
from palimpsest.records import sync, write_json
from palimpsest.schema import Closed

MANIFEST = "manifest.json"
PARTIAL = ".tmp"
DAMAGED = ".damaged"
STEP = re.compile(r"step-(\d+)")

logger = logging.getLogger(__name__)


class FileEntry(Closed):
    """Size and content of one file."""

    bytes: int
    sha256: str


class Manifest(Closed):
    """What a checkpoint consists of (``manifest.json``), the manifest apart."""

    format: Literal[1] = 1
    step: int
    files: dict[str, FileEntry]


class Checkpoint(NamedTuple):
    """A checkpoint on disk."""

    step: int
    path: Path


class Checkpoints:
    """The checkpoints of a run.

    Attributes:
        directory: where they are, as ``step-N``.
        keep: how many of the newest are kept.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory = directory
        self.keep = keep

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step is or will be."""
        return self.directory / f"step-{step}"

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Publish a checkpoint and drop those that are too old.

        Args:
            step: its number; there must be no checkpoint of this number.
            write: writes its files into the directory it is given.

        Raises:
            InputError: the disk is full; what had been written of this checkpoint is removed, the others stay.
        """
        final = self.path(step)
        partial = final.with_name(final.name + PARTIAL)
        try:
            with disk_full_as_input_error(final):
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                write(partial)
                seal(partial, step)
                os.rename(partial, final)
                sync(self.directory)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._retire(step)
        return final

    def newest_valid(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole, None if there is none at all; say so if newer ones are damaged.

        Raises:
            InputError: there are checkpoints, and all are damaged.
        """
        damages = []
        for checkpoint in reversed(self._published()):
            damage = damage_of(checkpoint.path)
            if damage is None:
                for sentence in damages:
                    logger.warning("%s Falling back to %s.", sentence, checkpoint.path)
                return checkpoint
            damages.append(damage)
        if damages:
            raise InputError(
                f"No checkpoint in {self.directory} is whole: {damages[0]} Restore one from a copy, or choose another "
                "run directory."
            )
        return None

    def begin_after(self, step: int) -> None:
        """Clear the way for saving after ``step``: what a crash left unfinished goes, damaged ones are set aside."""
        if not self.directory.exists():
            return
        for leftover in self.directory.glob(f"step-*{PARTIAL}"):
            shutil.rmtree(leftover)
        for checkpoint in self._published():
            if checkpoint.step > step:
                aside = checkpoint.path.with_name(checkpoint.path.name + DAMAGED)
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(checkpoint.path, aside)

    def _published(self) -> list[Checkpoint]:
        """List the checkpoints, oldest first."""
        found = [
            Checkpoint(int(match[1]), path)
            for path in self.directory.glob("step-*")
            if (match := STEP.fullmatch(path.name)) and path.is_dir()
        ]
        return sorted(found)

    def _retire(self, newest: int) -> None:
        """Delete all but the newest ``keep`` checkpoints up to ``newest``, which has just been written and synced."""
        for checkpoint in [c for c in self._published() if c.step <= newest][: -self.keep]:
            doomed = checkpoint.path.with_name(checkpoint.path.name + PARTIAL)
            os.rename(checkpoint.path, doomed)  # a crash must not leave half of it under its own name
            shutil.rmtree(doomed, ignore_errors=True)


def seal(directory: Path, step: int) -> None:
    """Sync the files of a directory, write its manifest, and sync that and the directory."""
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            sync(path)
            files[path.relative_to(directory).as_posix()] = FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))
        else:
            sync(path)
    write_json(directory / MANIFEST, Manifest(step=step, files=files))
    sync(directory)


def damage_of(directory: Path) -> str | None:
    """Return one sentence on what is wrong with a checkpoint, or None if it is what was written."""
    path = directory / MANIFEST
    try:
        content = path.read_bytes()
        manifest = Manifest.model_validate_json(content)
    except OSError:
        return f"{directory} is no whole checkpoint: it has no {MANIFEST}."
    except ValidationError:
        return f"{path} is damaged."
    if not content.endswith(b"\n"):
        return f"{path} is truncated."
    match = STEP.fullmatch(directory.name)
    if match and int(match[1]) != manifest.step:
        return f"{path} is damaged: it speaks of step {manifest.step}."
    for name, entry in manifest.files.items():
        file = directory / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry.bytes:
            state = "is missing" if size is None else f"has {size} bytes instead of {entry.bytes}"
            return f"{file} {state}."
        if sha256_of(file) != entry.sha256:
            return f"{file} is damaged: its SHA-256 is not that of the manifest."
    return None


def resolve_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a path names: itself, or the newest whole one of a run directory.

    A directory without a manifest, such as one that ``save_pretrained`` wrote, is taken as it is.

    Raises:
        InputError: there is no checkpoint, or it is damaged.
    """
    if (path / "checkpoints").is_dir():
        newest = Checkpoints(path / "checkpoints", keep=2).newest_valid()
        if newest is None:
            raise InputError(f"{path} is a run directory without a checkpoint; finish the run first.")
        return newest.path
    if not (path / "config.json").is_file():
        raise InputError(f"{path} is no checkpoint: there is no config.json in it.")
    if (path / MANIFEST).exists() or STEP.fullmatch(path.name):
        damage = damage_of(path)
        if damage is not None:
            raise InputError(f"{damage} Restore it from a copy, or name another checkpoint.")
    return path


@contextlib.contextmanager
def disk_full_as_input_error(target: Path) -> Iterator[None]:
    """Turn the system's "no space left" into one sentence about ``target``.

    Raises:
        InputError: the disk, or the user's share of it, is full.
    """
    try:
        yield
    except Exception as error:
        if not _is_disk_full(error):
            raise
        raise InputError(
            f"The disk is full: {target} could not be written, and the checkpoints before it are untouched; free some "
            "space and run the same command again to continue from the newest."
        ) from error


def _is_disk_full(error: Exception) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT)
    # safetensors and tokenizers write from Rust and give the system's error number as text, in exceptions of any class
    return getattr(error, "errno", None) in full or any(f"os error {number})" in str(error) for number in full)


def weights_sha256(directory: Path) -> str:
    """Return the SHA-256 of the weights; of those in several files, that of the files' digests in order."""
    digests = [sha256_of(path) for path in sorted(directory.glob("*.safetensors"))]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
