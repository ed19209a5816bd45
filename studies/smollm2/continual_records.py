"""What continual pretraining is run with, what it costs, and all that was found."""

from typing import Literal

from palimpsest.records import Measurement, PositionLossRecord, Record
from palimpsest.study.perplexity import DocumentLossRecord


class Settings(Record):
    """What the study is run with; a folder holds results of one choice, for any arms and seeds.

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
    """What an arm was trained with: updates, tokens, operations by formula; of each training, seconds and commit."""

    arm: str
    steps: int
    tokens: int
    flops: float
    flops_per_token: float
    seconds: tuple[float, ...]
    commits: tuple[str, ...]


class Results(Measurement):
    """All that was found; the commit and the day are those of the report."""

    what: str
    settings: Settings
    costs: tuple[ArmCost, ...]
    losses: tuple[DocumentLossRecord, ...]
    positions: tuple[PositionLossRecord, ...]
    original_sha256: str
    data_fingerprint: str
