"""The schemas that every stage writes and every report reads.

Stages exchange files only, and these are the rows of those files. All models are closed (an unknown key is an
error) and carry no torch, so that ``palimpsest.report`` and ``palimpsest.statistics`` work without it.
"""

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from palimpsest.errors import InputError


class Record(BaseModel):
    """Base of all records: immutable, closed, strict about types."""

    # strings: JSON has no infinity, and an interval that is not defined has infinite bounds
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


ErrorClass = Literal["correct", "other_number", "no_number", "other_value", "absent_value", "not_finite"]
"""What an answer is: right; for numbers, another number or none; otherwise a value that the context gives for something
else (a binding error) or one that it does not give at all; or logits that are not finite."""


class ItemRecord(Record):
    """One evaluation item answered by one checkpoint under one intervention (``items/*.jsonl``).

    Positions count true tokens from 0. ``compressions`` is the number of segment boundaries between the nearest needle
    and the last segment, that is, how often the memory was written from the needle's segment on before the answer.
    ``reachable_by`` names the arms of the study whose exact attention reaches a needle; ``cluster`` is shared by items
    with one haystack. Scores are explained by ``palimpsest.tasks.Score``.
    """

    task: str
    version: int
    item_id: str
    arm: str
    seed: int
    checkpoint: str
    intervention: str
    length: int
    depth: float
    segment_length: int
    needle_start: int
    needle_end: int
    question_start: int
    distance: int
    compressions: int
    segments: int
    locally_reachable: bool
    answer: str
    output: str
    exact: bool
    error_class: ErrorClass
    rank: int
    candidates: int
    answer_logprob: float
    cluster: str = ""
    needles: tuple[tuple[int, int], ...] = ()
    reachable_by: tuple[str, ...] = ()
    facts: dict[str, float | str] = {}
    contains: bool = False
    recall: float = 0.0


class PositionLossRecord(Record):
    """Held-out loss of one document in one bucket of positions, nats summed over ``tokens`` predicted tokens."""

    arm: str
    seed: int
    checkpoint: str
    intervention: str
    document_id: str
    position_start: int
    position_end: int
    nll: float
    tokens: int


class LayerMetrics(Record):
    """State of one layer at one logged step.

    ``gates``, ``memory_norm`` (Frobenius norm of M) and ``normaliser_min`` / ``normaliser_max`` (smallest and largest
    denominator of a read) have one value per head and are empty for layers and memories that have none.
    """

    layer: int
    kind: str
    grad_norm: float
    gates: tuple[float, ...] = ()
    memory_norm: tuple[float, ...] = ()
    normaliser_min: tuple[float, ...] = ()
    normaliser_max: tuple[float, ...] = ()


class StepRecord(Record):
    """One line of ``metrics.jsonl``: the optimizer step with this number has been taken (or skipped).

    ``loss`` is in nats per labelled token, before the update; ``tokens`` counts input tokens since the run began.
    """

    step: int
    tokens: int
    loss: float
    learning_rate: float
    gate_learning_rate: float
    grad_norm: float
    skipped: int
    seconds: float
    layers: tuple[LayerMetrics, ...] = ()


class CostRecord(Record):
    """What one arm costs (``cost.json``): parameters, floating-point operations, bytes of state, seconds.

    ``state_bytes`` is the size of the cache after ``context`` tokens for one sequence, memory and open segment apart.
    """

    arm: str
    seed: int
    parameters: int
    flops_per_token: float
    training_tokens: int
    training_seconds: float
    context: int
    memory_bytes: int
    local_bytes: int


class Provenance(Record):
    """Where a result came from (``provenance.json``)."""

    versions: dict[str, str]
    hardware: str
    cores: int
    git_commit: str
    git_dirty: bool
    recipe_sha256: str
    data_fingerprint: str
    seeds: dict[str, int]
    parameters: int
    flops: float
    started: str


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


R = TypeVar("R", bound=Record)


def read_jsonl(path: Path, kind: type[R]) -> Iterator[R]:
    """Yield the records of a JSON-lines file (``.jsonl``, or compressed, ``.jsonl.gz``).

    Raises:
        InputError: a line that is not a record of this kind, with file and line number.
    """
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield kind.model_validate_json(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: not a {kind.__name__}: {error}") from error


def read_json(path: Path) -> Any:
    """Read a JSON value.

    Raises:
        InputError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error}).") from error


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines (``.jsonl``, or compressed, ``.jsonl.gz``), atomically."""
    text = "".join(record.model_dump_json() + "\n" for record in records)
    if path.suffix == ".gz":
        _write_bytes(path, gzip.compress(text.encode(), mtime=0))  # without the time: same records, same bytes
    else:
        write_atomic(path, text)


def write_json(path: Path, value: object) -> None:
    """Write a JSON value (or a record) with sorted keys, atomically."""
    plain = json.loads(value.model_dump_json()) if isinstance(value, BaseModel) else value
    write_atomic(path, json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that at any moment either the old or the new content is there, never a part."""
    _write_bytes(path, text.encode())


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file, or the entries of a directory, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
