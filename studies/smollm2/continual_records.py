"""What continual pretraining is run with, what it costs, and all that was found."""

from typing import Literal

from palimpsest.records import PositionLossRecord, Record
from palimpsest.study.perplexity import DocumentLossRecord


class Settings(Record):
    """What the study is run with; a folder holds the results of one choice.

    ``equal`` says what all arms have alike: the ``tokens`` that they are trained on, or the ``flops`` of the first arm,
    for which the others get more or fewer updates of the last stage.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    corpus: str
    segment_length: int
    tokens: int
    curriculum: tuple[tuple[int, int], ...]
    backpropagate_segments: int | None
    equal: Literal["tokens", "flops"]
    steps: int
    batch_size: int
    learning_rate: float
    gate_learning_rate: float
    precision: Literal["float32", "bfloat16"]
    documents: int
    words: int


class ArmCost(Record):
    """What an arm was trained with: updates, tokens, operations by formula, and seconds of its trainings."""

    arm: str
    steps: int
    tokens: int
    flops: float
    flops_per_token: float
    seconds: tuple[float, ...]


class Results(Record):
    """All that was found."""

    what: str
    settings: Settings
    costs: tuple[ArmCost, ...]
    losses: tuple[DocumentLossRecord, ...]
    positions: tuple[PositionLossRecord, ...]
    hardware: str
    cores: int
    threads: int
    versions: dict[str, str]
    git_commit: str
    git_dirty: bool
    original_sha256: str
    data_fingerprint: str
    date: str
