"""Answers to items, and items as a reader sees them."""

from typing import Literal

from pydantic import Field

from palimpsest.records.base import Record

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
    facts: dict[str, float | str] = Field(default_factory=dict)
    contains: bool = False
    recall: float = 0.0


class ShownPart(Record):
    """A run of words of a prompt; the ``text`` of a gap says how much was left out."""

    kind: Literal["text", "gap", "needle", "question"]
    text: str


class ShownOutput(Record):
    """What one model said to an item under one intervention; ``palimpsest.tasks.Score`` explains the scores."""

    intervention: str
    output: str
    exact: bool
    error_class: ErrorClass
    rank: int
    candidates: int
    answer_logprob: float


class ShownItemRecord(Record):
    """One item as a reader sees it (``items/<ask>.samples.jsonl``): the prompt around its needles, and what was said.

    ``parts`` make up the prompt in its order; ``outputs`` are those of one trained model, intact (``"none"``) first.
    ``knobs`` are the settings that made the item, as in ``ItemRecord.facts``.
    """

    task: str
    item_id: str
    arm: str
    seed: int
    length: int
    distance: int
    compressions: int
    locally_reachable: bool
    answer: str
    parts: tuple[ShownPart, ...]
    outputs: tuple[ShownOutput, ...]
    knobs: dict[str, float | str] = Field(default_factory=dict)
