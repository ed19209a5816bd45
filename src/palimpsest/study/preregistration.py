"""What is fixed before a study runs, how it differs from that later, and when the items of its tests were opened."""

import contextlib
import fcntl
from collections.abc import Container, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from palimpsest.records import read_json, write_json
from palimpsest.study.naming import digest

PREREGISTRATION = "prereg.json"
OPENED = "opened.json"
LOCK = ".opened.lock"

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
    fixed = spec.model_dump(mode="json")
    seeds = fixed.pop("seeds", None)
    if not path.exists():
        write_json(path, {"sha256": sha256, "study": fixed, "seeds": seeds})
        return []
    first = read_json(path)
    before = first["study"]
    return [
        f"{where} was changed after the first run (SHA-256 of its settings {digest(then)[:12]} then, "
        f"{digest(now)[:12]} now)"
        for key in {**before, **fixed}
        for where, then, now in _changes(key, before.get(key), fixed.get(key))
    ] + _seeds(first.get("seeds", seeds), seeds)


def _changes(key: str, then: object, now: object) -> list[tuple[str, object, object]]:
    """Return what differs under a key: the named parts of a mapping, the rows of a list by their ids, or the whole."""
    if then == now:
        return []
    parts, others = _named(then), _named(now)
    if parts is None or others is None:
        return [(key, then, now)]
    changed = [name for name in {**parts, **others} if parts.get(name) != others.get(name)]
    return [(f"{key}.{name}", parts.get(name), others.get(name)) for name in changed] or [
        (f"the order of {key}", then, now)
    ]


def _named(value: object) -> Mapping[str, object] | None:
    """Return the parts of a setting by name, None if they have none."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list) and all(isinstance(each, Mapping) and "id" in each for each in value):
        return {str(each["id"]): each for each in value}
    return None


def _seeds(then: Sequence[int] | None, now: Sequence[int] | None) -> list[str]:
    """Say which seeds of training were added or left out: both can be done with an eye on the results."""
    if then == now or then is None or now is None:
        return []
    changes = (("added", set(now) - set(then)), ("left out", set(then) - set(now)))
    said = [f"{', '.join(map(str, sorted(which)))} {what}" for what, which in changes if which]
    return [f"the training seeds were changed after the first run: {'; '.join(said)}"] if said else []


def log_opening(study: Registered, out: Path, *, of: Container[str] | None = None) -> None:
    """Write down, once for every evaluation, when items of a test seed were first made, and under which settings.

    Processes that share the work of one directory write one after the other, so that none loses what another wrote.

    Args:
        study: the study.
        out: its directory.
        of: names of the evaluations that are run; all of them if None.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    out.mkdir(parents=True, exist_ok=True)
    with _held(out):
        opened = _read(out)
        for name, seed in study.item_seeds.items():
            if seed >= TEST_SEEDS and (of is None or name in of):
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


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Wait for the directory, and hold it; the system lets go of it however the process ends."""
    with open(directory / LOCK, "w") as lock:  # open for writing: network file systems demand it of an exclusive lock
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(out: Path) -> dict[str, dict[str, str]]:
    return read_json(out / OPENED) if (out / OPENED).exists() else {}
