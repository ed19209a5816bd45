"""What is fixed before a study runs, how it differs from that later, and when the items of its tests were opened."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from palimpsest.records import read_json, write_json
from palimpsest.study.naming import digest

PREREGISTRATION = "prereg.json"
OPENED = "opened.json"

TEST_SEEDS = 10_000
"""Seeds of items from here on are for tests, opened once; those below are for design."""


class Registered(Protocol):
    """What a study must say of itself."""

    @property
    def sha256(self) -> str:
        """Digest of everything that is fixed before the run."""
        ...

    @property
    def item_seeds(self) -> Mapping[str, int]:
        """The seed of the items of every evaluation, by its name."""
        ...


def preregister(spec: BaseModel, sha256: str, out: Path) -> list[str]:
    """Write what is fixed before the run, once, and return how the study differs from it by now."""
    path = out / PREREGISTRATION
    fixed = spec.model_dump(mode="json", exclude={"seeds"})
    if not path.exists():
        write_json(path, {"sha256": sha256, "study": fixed})
        return []
    before = read_json(path)["study"]
    return [
        f"{key} was changed after the first run (SHA-256 of its settings {digest(before.get(key))[:12]} then, "
        f"{digest(value)[:12]} now)"
        for key, value in fixed.items()
        if before.get(key) != value
    ]


def log_opening(study: Registered, out: Path) -> None:
    """Write down, once for every evaluation, when items of a test seed were first made, and under which settings."""
    opened = _read(out)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for name, seed in study.item_seeds.items():
        if seed >= TEST_SEEDS:
            opened.setdefault(f"{name} (seed {seed})", {"when": now, "sha256": study.sha256})
    if opened:
        write_json(out / OPENED, opened)


def openings(study: Registered, out: Path) -> list[str]:
    """Return when items of test seeds were opened, and whether that was before the study was last changed."""
    return [
        f"{name} was opened at {entry['when']}"
        + ("." if entry["sha256"] == study.sha256 else f", under other settings ({entry['sha256'][:12]}).")
        for name, entry in sorted(_read(out).items())
    ]


def _read(out: Path) -> dict[str, dict[str, str]]:
    return read_json(out / OPENED) if (out / OPENED).exists() else {}
