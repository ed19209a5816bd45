"""The ``attention`` block of a configuration: a closed schema that knows which memories and gates there are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from palimpsest.attention.memories import LinearSpec, MemorySpec, ShortFeatures, UnsignedFeatures
from palimpsest.schema import Closed

Kind = Literal[
    "full",
    "segment_local",
    "sliding_window",
    "transformer_xl",
    "compressive",
    "memorizing",
    "linear_attention",
    "delta_net",
    "memory",
]
Count = Annotated[int, Field(ge=1)]


class GateSpec(Closed):
    """The gate between memory and local attention; ``init`` is its logit before training.

    ``sigmoid`` (arXiv 2404.07143, equation 10) and ``hard_sigmoid`` (clip(0.2 b + 0.5, 0, 1), arXiv 2512.23862) have
    one logit per head; ``token`` computes a logit per head from every token.
    """

    kind: Literal["sigmoid", "hard_sigmoid", "token"] = "sigmoid"
    init: float = 0.0


class SlidingWindowSpec(Closed):
    """``SlidingWindowAttention``: a token sees ``window`` tokens, itself included; None: the segment length."""

    window: Count | None = None


class TransformerXLSpec(Closed):
    """``TransformerXLAttention``: ``cache_length`` tokens before the segment; None: the segment length."""

    cache_length: Count | None = None


class CompressiveSpec(Closed):
    """``CompressiveAttention`` (arXiv 1911.05507).

    Attributes:
        cache_length: tokens kept as they are; None: the segment length.
        compressed_length: compressed tokens kept after them; None: the segment length.
        ratio: tokens that become one compressed token.
        compression: how: ``mean``, ``max`` or ``convolution`` (learned, kernel and stride ``ratio``).
        reconstruction: weight of the attention-reconstruction loss, which only the convolution feels; 1 unless given,
            0 leaves it as it began; None without a convolution.
    """

    cache_length: Count | None = None
    compressed_length: Count | None = None
    ratio: Count = 4
    compression: Literal["mean", "max", "convolution"] = "convolution"
    reconstruction: float | None = Field(default=None, ge=0.0)

    @model_validator(mode="before")
    @classmethod
    def _weigh_the_loss_of_a_convolution(cls, value: object) -> object:
        if not isinstance(value, Mapping) or value.get("compression", "convolution") != "convolution":
            return value
        return dict(value) if value.get("reconstruction") is not None else dict(value) | {"reconstruction": 1.0}

    @model_validator(mode="after")
    def _only_a_convolution_has_a_loss(self) -> Self:
        if self.compression != "convolution" and self.reconstruction is not None:
            raise ValueError(f"'reconstruction' is for the compression 'convolution', not for '{self.compression}'")
        return self


class MemorizingSpec(Closed):
    """``MemorizingAttention`` (arXiv 2203.08913): the ``top_k`` of the last ``capacity`` keys, exactly."""

    capacity: Count = 65_536
    top_k: Count = 32


class LinearAttentionSpec(Closed):
    """``LinearAttention`` (arXiv 2006.16236): token-level, computed in chunks of ``chunk_length``."""

    features: UnsignedFeatures = "elu1"
    chunk_length: Count = 64


RULE_DEFAULTS: dict[str, dict[str, str | int]] = {
    "fast_weights": {"features": "dpfp3_sum"},
    "gated": {"convolution": 4},
}
"""What each rule of ``DeltaNetSpec`` has to choose, and what it is unless chosen."""


class DeltaNetSpec(Closed):
    """``DeltaNetAttention``: fast weights with the delta rule, token by token.

    Attributes:
        rule: ``fast_weights`` (Schlag et al. 2021, arXiv 2102.11174): sum-normalised features, a learned write
            strength; ``gated`` (arXiv 2412.06464): short convolutions, SiLU, L2-normalised queries and keys, learned
            write strength and decay, and a gated norm of what is read.
        features: the feature map of ``fast_weights``, whose features have a sum or a norm of one; None with ``gated``.
        convolution: tokens under the short convolution of ``gated``, the token itself included, so that 1 is none;
            None with ``fast_weights``.
        chunk_length: tokens that are computed at once.
    """

    rule: Literal["fast_weights", "gated"] = "gated"
    features: ShortFeatures | None = None
    convolution: Count | None = None
    chunk_length: Count = 64

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_the_rule_has(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        rule = value.get("rule", "gated")
        defaults = RULE_DEFAULTS.get(rule, {}) if isinstance(rule, str) else {}
        return dict(value) | {key: default for key, default in defaults.items() if value.get(key) is None}

    @model_validator(mode="after")
    def _nothing_of_the_other_rule(self) -> Self:
        for rule, its in RULE_DEFAULTS.items():
            for key in its:
                if rule != self.rule and getattr(self, key) is not None:
                    raise ValueError(f"'{key}' is for the rule '{rule}', not for '{self.rule}'")
        return self


class AttentionSpec(Closed):
    """How a model attends.

    Attributes:
        pattern: the kind of each layer, repeated over the layers.
        segment_length: tokens per segment.
        memory: the memory of the layers of kind ``memory``.
        gate: the gate of those layers, and of ``memorizing`` ones.
        first_segment: ``gated`` lets the gate apply while the memory is still empty (the study's code); ``local`` is
            plain local attention until something was written.
        documents: ``carry`` lets attention and memory run on across packed documents (the study); ``reset`` starts
            every document with an empty memory and a segment of its own.
        sliding_window, transformer_xl, compressive, memorizing, linear_attention, delta_net: what there is to choose
            for the layers of that kind; only for kinds that the pattern names.
    """

    pattern: list[Kind] = Field(default=["memory"], min_length=1)
    segment_length: Count = 1024
    memory: MemorySpec = LinearSpec()
    gate: GateSpec = GateSpec()
    first_segment: Literal["gated", "local"] = "gated"
    documents: Literal["carry", "reset"] = "carry"
    sliding_window: SlidingWindowSpec | None = None
    transformer_xl: TransformerXLSpec | None = None
    compressive: CompressiveSpec | None = None
    memorizing: MemorizingSpec | None = None
    linear_attention: LinearAttentionSpec | None = None
    delta_net: DeltaNetSpec | None = None

    @field_validator("pattern", mode="before")
    @classmethod
    def _one_kind(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _fill_in_blocks(cls, value: object) -> object:
        """Give every kind of the pattern its block, so that what is saved is complete."""
        if not isinstance(value, Mapping):
            return value
        pattern = value.get("pattern", [])
        named = [pattern] if isinstance(pattern, str) else pattern
        kinds = BLOCKS & {kind for kind in named if isinstance(kind, str)} if isinstance(named, Sequence) else set()
        return dict(value) | {kind: {} for kind in kinds if value.get(kind) is None}

    @model_validator(mode="after")
    def _blocks_are_used(self) -> Self:
        for kind in sorted(BLOCKS - set(self.pattern)):
            if getattr(self, kind) is not None:
                raise ValueError(f"'{kind}' is given, but no layer of 'pattern' is of that kind")
        return self

    @model_validator(mode="after")
    def _ratio_works(self) -> Self:
        block = self.compressive
        if block is not None:
            lengths = {"segment_length": self.segment_length, "compressive.cache_length": block.cache_length}
            for name, length in lengths.items():
                if length is not None and length % block.ratio:
                    raise ValueError(
                        f"'{name}' ({length}) must be a multiple of 'compressive.ratio' ({block.ratio}), so that no "
                        "token is left over when tokens are compressed"
                    )
        return self

    @model_validator(mode="after")
    def _search_finds(self) -> Self:
        block = self.memorizing
        if block is not None and block.top_k > block.capacity:
            raise ValueError(
                f"'memorizing.top_k' ({block.top_k}) must not be above 'memorizing.capacity' ({block.capacity})"
            )
        return self

    @property
    def has_own_loss(self) -> bool:
        """Whether a layer adds a loss of its own, of all tokens that it is given: padding must be told from them."""
        block = self.compressive
        return block is not None and bool(block.reconstruction)

    def title(self, kind: str) -> str:
        """Return a kind as readers know it, with that of the memory: ``memory (ridge)``."""
        return f"memory ({self.memory.kind})" if kind == "memory" else kind

    def layers(self, count: int) -> str:
        """Return how many layers of each kind a model of so many layers has, as ``2 memory (ridge), 1 full``."""
        kinds = Counter(self.kind(layer) for layer in range(count))
        return ", ".join(f"{number} {self.title(kind)}" for kind, number in kinds.items())

    def kind(self, layer: int) -> Kind:
        """Return the kind of a layer."""
        return self.pattern[layer % len(self.pattern)]


BLOCKS = {"sliding_window", "transformer_xl", "compressive", "memorizing", "linear_attention", "delta_net"}
"""Kinds with a block of their own."""
