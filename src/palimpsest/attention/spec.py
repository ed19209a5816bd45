"""The ``attention`` block of a configuration: a closed schema that knows which memories and gates there are."""

from typing import Literal

from pydantic import Field, field_validator

from palimpsest.attention.memories import LinearSpec, MemorySpec
from palimpsest.schema import Closed

Kind = Literal["full", "segment_local", "memory"]


class GateSpec(Closed):
    """The gate between memory and local attention; ``init`` is its logit before training.

    ``sigmoid`` (arXiv 2404.07143, equation 10) and ``hard_sigmoid`` (clip(0.2 b + 0.5, 0, 1), arXiv 2512.23862) have
    one logit per head; ``token`` computes a logit per head from every token.
    """

    kind: Literal["sigmoid", "hard_sigmoid", "token"] = "sigmoid"
    init: float = 0.0


class AttentionSpec(Closed):
    """How a model attends.

    Attributes:
        pattern: the kind of each layer, repeated over the layers.
        segment_length: tokens per segment.
        memory: the memory of the layers of kind ``memory``.
        gate: the gate of those layers.
        first_segment: ``gated`` lets the gate apply while the memory is still empty (the study's code); ``local`` is
            plain local attention until something was written.
        documents: ``carry`` lets attention and memory run on across packed documents (the study); ``reset`` starts
            every document with an empty memory and a segment of its own.
    """

    pattern: list[Kind] = Field(default=["memory"], min_length=1)
    segment_length: int = Field(default=1024, ge=1)
    memory: MemorySpec = LinearSpec()
    gate: GateSpec = GateSpec()
    first_segment: Literal["gated", "local"] = "gated"
    documents: Literal["carry", "reset"] = "carry"

    @field_validator("pattern", mode="before")
    @classmethod
    def _one_kind(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    def kind(self, layer: int) -> Kind:
        """Return the kind of a layer."""
        return self.pattern[layer % len(self.pattern)]
