"""Where a result comes from: the software, the machine and the commit that made it, and when."""

import re
from pathlib import Path

from palimpsest.records.base import Record
from palimpsest.records.files import write_json


class Origin(Record):
    """The software, the machine and the commit that made a result.

    ``git_commit`` is empty for an installed package outside a repository.
    """

    versions: dict[str, str]
    hardware: str
    cores: int
    git_commit: str
    git_dirty: bool

    @property
    def commit(self) -> str:
        """The commit, and whether the tree was changed since."""
        return f"{self.git_commit}{' with uncommitted changes' if self.git_dirty else ''}"


class Measurement(Origin):
    """Base of what a script or a benchmark measured: the day too, and the threads of torch where they were recorded."""

    date: str
    threads: int | None = None

    def save(self, directory: Path, name: str) -> Path:
        """Write ``NAME_HARDWARE_DATE.json`` and return its path."""
        hardware = re.sub(r"[^A-Za-z0-9.]+", "-", self.hardware).strip("-").lower()
        path = directory / f"{name}_{hardware}_{self.date[:10]}.json"
        write_json(path, self)
        return path
