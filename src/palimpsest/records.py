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


class MechanismSetting(Record):
    """What was done to one memory in one cell of a mechanism test: synthetic keys and values, nothing trained.

    Attributes:
        test: the name of the test.
        kind: the kind of memory, as in a configuration.
        memory: the kind, with the option that differs from its defaults.
        features: the feature map.
        keys: the distribution of a key's numbers, as in ``N(0,1)`` (mean, variance).
        size: d, of keys and of values.
        segment_length: tokens per segment.
        load: pairs, or tokens, that were written.
        codes: V, how many values there are; the answer is the one that has the largest product with the read. None
            where nothing is decoded.
        unit_codes: whether values have length one; otherwise their numbers are normal with variance 1 / d.
        decoding: ``raw``, or ``centred``: the mean read is taken away first.
        age: writes since the pair was written.
        rewrites: how often every key was written again, with another value.
        similarity: cosine between two keys.
        filler: whether the load is pairs that never come again, or a few that are repeated.
        strength: how much of each token of the load was written.
        updates: segments that were written.
        state: the precision that the state was rounded to after every write.
    """

    test: str
    kind: str
    memory: str
    features: str
    keys: str
    size: int
    segment_length: int
    load: int
    codes: int | None = None
    unit_codes: bool = True
    decoding: Literal["raw", "centred"] | None = None
    age: int | None = None
    rewrites: int | None = None
    similarity: float | None = None
    filler: Literal["novel", "repeated"] | None = None
    strength: float | None = None
    updates: int | None = None
    state: Literal["float32", "bfloat16"] = "float32"


class MechanismRecord(MechanismSetting):
    """What was measured in that cell (``records/mechanism.jsonl``), and what theory says.

    Attributes:
        measure: what ``mean`` is the mean of.
        mean: over all draws, in [``low``, ``high``] at 95 %.
        n: outcomes behind the mean.
        draws: the mean of each independent draw of keys and values, the unit that was sampled.
        method: of the interval.
        theory: the prediction, None without one.
        law: the name of the prediction.
    """

    measure: str
    mean: float
    low: float
    high: float
    n: int
    draws: tuple[float, ...]
    method: str
    theory: float | None = None
    law: str | None = None


class SharedPassage(Record):
    """A run of words that an evaluated text shares with a training document, as it is written in each of them.

    ``words`` is how many in a row are the same but for case and punctuation; it begins with word ``start`` (from 0).
    """

    training_document: str
    start: int
    words: int
    evaluated_text: str
    training_text: str


class AuditRecord(Record):
    """What one evaluated text shares with the training text (``audit.jsonl``).

    Attributes:
        document_id: of the evaluated text.
        source: where it is from.
        words: in it, normalised.
        tokens: in it, in the unit of the audit.
        ngrams: word n-grams in it, n as in the audit (13).
        hits: those that stand in a training document.
        covered: share of its words inside such an n-gram.
        eightgrams_seen: share of its word 8-grams that stand in a training document.
        longest_words: longest run of words that stands in a training document.
        longest_tokens: longest run of tokens, exactly as written.
        same_id: whether a training document carries the same identifier.
        boilerplate_cuts: passages of the list of boilerplate that were cut from it.
        reasons: why it counts as dirty; empty for a clean one.
        offending: training documents that hold its hits and its longest match, most hits first.
        passages: the longest shared passages.
    """

    document_id: str
    source: str
    words: int
    tokens: int
    ngrams: int
    hits: int
    covered: float
    eightgrams_seen: float
    longest_words: int
    longest_tokens: int
    same_id: bool
    boilerplate_cuts: int
    reasons: tuple[Literal["ngram", "coverage", "longest_match", "same_id"], ...]
    offending: tuple[str, ...]
    passages: tuple[SharedPassage, ...]


class CanaryRecord(Record):
    """A passage of an evaluated text that was planted in the training stream (``canaries.jsonl``), and its discovery.

    ``longest_words`` and ``longest_tokens`` are the longest matches of the passage with the document it was planted in.
    """

    document_id: str
    host: str
    perturbation: str
    words: int
    longest_words: int
    longest_tokens: int
    found: bool


class RepeatedPassage(Record):
    """An n-gram that ``documents`` evaluated texts share with the training text: a formula rather than a copy."""

    text: str
    documents: int


class AuditSetting(Record):
    """What was audited, how, and how fast (``audit.json``)."""

    training: str
    evaluated: tuple[str, ...]
    training_documents: int
    training_bytes: int
    ngram: int
    unit: str
    longest_allowed: int
    seed: int
    seconds: float
    repeated: tuple[RepeatedPassage, ...]


class PlaceLossRecord(Record):
    """Held-out loss of one document at some places of its segments, the first segment left out.

    The place is that of the token that predicts, from 0: so many tokens of its segment come before it. ``nll`` is
    summed over ``tokens`` predictions, in nats, of which ``not_finite`` are not finite (and so is the sum, if there are
    any).
    """

    arm: str
    seed: int
    checkpoint: str
    intervention: str
    document_id: str
    segment_length: int
    place_start: int
    place_end: int
    nll: float
    tokens: int
    not_finite: int


class ForgettingRecord(Record):
    """How much of a text a model says right after it has read the same text, or another one, of the same length.

    Scored are the ``tokens`` of the last half of the target, each after those before it: ``correct`` were likeliest,
    ``nll`` is their loss summed in nats, and ``not_finite`` of them had logits that are not finite, which are not
    correct. ``separator`` stands before the prefix and before the target.
    """

    arm: str
    seed: int
    checkpoint: str
    condition: Literal["copy", "lm"]
    length: int
    segment_length: int
    repeat: int
    target_id: str
    target_start: int
    prefix_id: str
    prefix_start: int
    separator: str
    tokens: int
    correct: int
    nll: float
    not_finite: int


class PerturbationRecord(Record):
    """Loss of the last ``tokens`` of a document when the text further back than ``distance`` tokens is not its own.

    ``condition`` says what stands there: the ``true`` text, that of ``other`` documents, its ``sentences`` or its
    ``tokens`` in random order, or nothing (``dropped``). ``context`` counts the tokens before those that are scored, in
    the true text; its ``distance`` is all of them. ``nll`` is a sum in nats, over predictions of which ``not_finite``
    are not finite (and so is the sum, if there are any).
    """

    arm: str
    seed: int
    checkpoint: str
    condition: Literal["true", "other", "sentences", "tokens", "dropped"]
    document_id: str
    other_id: str
    context: int
    distance: int
    segment_length: int
    tokens: int
    nll: float
    not_finite: int


class ProfileRecord(Record):
    """What one head with a gate does on one document (``profile.jsonl``); None where a kind of layer has no such thing.

    The memory is that before the last segment of the document, where it is fullest while still being read. Means are
    over the tokens after the first segment. ``palimpsest.probes`` defines what is measured.

    Attributes:
        tokens: read of the document.
        layers: of the model; ``layer`` counts from 0.
        memory: the kind of memory, with ``features``.
        state_bytes: bytes that the head holds.
        gate: the mean gate; ``gate_initial`` is that before training, ``gate_shift`` how far its logit has moved.
        memory_output: mean length of what the memory adds to the residual stream; ``local_output`` of local attention.
        rho: memory_output / (memory_output + local_output).
        read_norm: mean length of a read, before the gate.
        write_strength: mean strength w of the tokens that were written; ``load`` is the sum of w^2.
        memory_norm: Frobenius norm of M; ``effective_rank`` of M is exp of the entropy of its singular values.
        denominator_min: the smallest number that a read divides by; ``denominator_max`` the largest.
        width: F, the number of features of a key.
        key_dimension: d_eff of the mapped keys; ``common_mode`` is kappa.
        n50: predicted pairs of which half are recalled; ``n50_common_mode`` if the common mode is in the way.
        effect: rise of the loss in nats per token under an intervention on this head alone, ``intervention``.
    """

    arm: str
    seed: int
    checkpoint: str
    document_id: str
    tokens: int
    segment_length: int
    layer: int
    layers: int
    head: int
    kind: str
    memory: str | None
    features: str | None
    state_bytes: int
    gate: float
    gate_initial: float
    gate_shift: float
    memory_output: float
    local_output: float
    rho: float
    read_norm: float
    write_strength: float | None = None
    load: float | None = None
    memory_norm: float | None = None
    effective_rank: float | None = None
    denominator_min: float | None = None
    denominator_max: float | None = None
    width: int | None = None
    key_dimension: float | None = None
    common_mode: float | None = None
    n50: float | None = None
    n50_common_mode: float | None = None
    intervention: str | None = None
    effect: float | None = None


class EffectRecord(Record):
    """What it costs a model to read another document's memory in one head alone (``effects.jsonl``).

    ``effect`` has one number per document: the mean rise of the loss in nats per token, after the first segment.
    """

    arm: str
    seed: int
    checkpoint: str
    layer: int
    head: int
    gate: float
    rho: float
    effect: tuple[float, ...]


class StateCostRecord(Record):
    """What one sequence keeps after ``context`` tokens, and what the next tokens take (``cost.jsonl``)."""

    arm: str
    seed: int
    context: int
    memory_bytes: int
    local_bytes: int
    seconds_per_token: float
    flops_per_token: float
    parameters: int


class ValidityRecord(Record):
    """How a reference answerer did on a task (``validity.jsonl``): ``exact`` of ``n`` items.

    ``last_segment`` was asked only what lies before the last segment. ``first`` counts right answers ranked first;
    ``floor`` and ``ceiling`` are the shares of exact answers that the task names.
    """

    task: str
    knobs: str
    responder: str
    n: int
    exact: int
    first: int
    floor: float
    ceiling: float


class Series(Record):
    """One line, or the points, of a figure: ``y`` at ``x``, in [``low``, ``high``] where there is an interval."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    points: bool = False


class FigureRecord(Record):
    """The figure of one row of a scorecard, as numbers; ``marks`` are named values on the axis of x."""

    title: str
    caption: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    share: bool = False
    marks: dict[str, float] = {}


class RowRecord(Record):
    """One row of a scorecard and what became of it (``scorecard.json``).

    Attributes:
        id: E01 to E31.
        demand: what the reviewer asked for.
        claim: what is claimed; ``verdict`` says what became of it, ``sentence`` why.
        published: the published claim that the row tests, and its source.
        rule: the decision rule in words.
        estimates: the numbers that the rule asked for; ``facts`` others worth knowing.
        sources: names of the record files behind the numbers.
        prereg: SHA-256 of the study file that fixed the row.
        tested: False for a row that this study cannot test; ``note`` says why.
    """

    id: str
    demand: str
    claim: str
    published: str | None
    rule: str
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    sentence: str
    estimates: dict[str, EstimateRecord]
    facts: dict[str, EstimateRecord]
    figure: FigureRecord | None
    sources: tuple[str, ...]
    note: str
    prereg: str
    primary: bool
    tested: bool


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
