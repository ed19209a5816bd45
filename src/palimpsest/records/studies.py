"""Estimates, verdicts, and what a study set out to do."""

from typing import Literal

from palimpsest.records.base import Record

GRIDS = "grids"
"""The folder of the records, and of the pages, of all grids of a study but the first."""


class EstimateRecord(Record):
    """A number with its interval: ``mean`` in [``low``, ``high``] at ``level``, from ``n`` units by ``method``."""

    mean: float
    low: float
    high: float
    n: int
    method: str
    level: float = 0.95


class VerdictRecord(Record):
    """One preregistered claim and what became of it."""

    claim: str
    statement: str
    rule: str
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    estimates: dict[str, EstimateRecord]
    sentence: str
    items: list[str]


class ArmRecord(Record):
    """One arm of a study; ``reach`` is how many tokens back local attention sees, None without a limit."""

    name: str
    kinds: list[str]
    memory: str | None
    reach: int | None
    learning_rate: float


class StudyRecord(Record):
    """What a study set out to do, and with what (``study.json``)."""

    name: str
    question: str
    sha256: str
    arms: list[ArmRecord]
    seeds: list[int]
    segment_length: int
    layers: int
    heads: int
    lengths: list[int]
    depths: list[float]
    trained_length: int
    interventions: list[str]
    deviations: list[str]
