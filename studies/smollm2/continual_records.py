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
    weights_sha256: str


class ArmCost(Record):
    """What an arm was trained with, and what it holds after a row of ``tokens`` tokens.

    Operations are by formula; seconds, commits and hardware are those of each training.
    """

    arm: str
    steps: int
    tokens: int
    flops: float
    flops_per_token: float
    seconds: tuple[float, ...]
    commits: tuple[str, ...]
    hardware: tuple[str, ...]
    state_bytes: int
    open_segment_bytes: int


class Results(Measurement):
    """All that was found; versions, machine, commit and day are those of the report, trainings have their own."""

    what: str
    settings: Settings
    costs: tuple[ArmCost, ...]
    losses: tuple[DocumentLossRecord, ...]
    positions: tuple[PositionLossRecord, ...]
    data_fingerprint: str
