"""Losses on running text, by position, by place, and with spoilt prefixes; and the forgetting curve."""

from typing import Literal

from palimpsest.records.base import Record


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
