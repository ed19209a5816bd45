"""How far the weights of a model have turned from those that its training went on from."""

from typing import Literal

from palimpsest.records.base import Record


class TurnRecord(Record):
    """One weight of a model against the same weight before its last training (``turns.jsonl``).

    Attributes:
        weight: its name.
        part: what it belongs to among the parts that can be restored; None for all others.
        cosine: of the angle between both, each taken as one long vector.
        distance: length of the difference over that of the weight before; infinite where that was zero.
    """

    weight: str
    part: Literal["query_key", "gates"] | None
    cosine: float
    distance: float
