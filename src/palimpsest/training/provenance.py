"""Where a run comes from: versions, hardware, commit, seeds, data, cost."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch

from palimpsest.models import PalimpsestForCausalLM
from palimpsest.models.flops import flops_per_token
from palimpsest.records import Measurement, Origin, Provenance
from palimpsest.training.data import BatchSource
from palimpsest.training.recipe import Recipe

PACKAGES = ("palimpsest-lm", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def provenance(recipe: Recipe, model: PalimpsestForCausalLM, source: BatchSource) -> Provenance:
    """Describe a run that is about to begin; ``flops`` is what all its updates will cost, padding included."""
    rows = source.rows
    tokens = recipe.training.steps * recipe.training.batch_size * rows.row_length
    return Provenance(
        **dict(origin()),
        recipe_sha256=recipe.digest(),
        data_fingerprint=rows.fingerprint,
        seeds={"recipe": recipe.seed},
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=tokens * flops_per_token(model.config, rows.row_length),
        started=_now(),
    )


def origin(*also: str) -> Origin:
    """Describe this process: versions of the usual packages and of ``also``, machine and commit."""
    commit, dirty = git_state(Path(__file__).parent)
    return Origin(
        versions={
            "python": platform.python_version(),
            **{name: _version(name) for name in (*PACKAGES, *also)},
        },
        hardware=hardware(),
        cores=cores(),
        git_commit=commit,
        git_dirty=dirty,
    )


def measurement(*also: str, threads: int | None = None) -> Measurement:
    """Describe a measurement that is about to begin; ``threads`` are those of torch, of this process by default."""
    return Measurement(**dict(origin(*also)), date=_now(), threads=threads or torch.get_num_threads())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(name: str) -> str:
    """Return the version of a distribution; a package may also lie on the path without one."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def hardware() -> str:
    """Name the accelerator if there is one, else the processor."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
            return next(models, "") or platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_state(directory: Path) -> tuple[str, bool]:
    """Return the commit of the working tree that holds the package and whether it was changed since.

    The commit is empty for an installed package outside a repository, and for a repository without commits.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "--verify", "HEAD")
    # a package inside somebody else's repository (say, in its .venv) is not tracked there and has no commit of its own
    if not commit or git("ls-files", "--error-unmatch", "__init__.py") is None:
        return "", False
    return commit, bool(git("status", "--porcelain", "--untracked-files=no"))
