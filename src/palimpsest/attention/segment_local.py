"""Causal attention inside each segment, nothing across: the local half of Infini-attention, its barest baseline."""

import torch
from torch import Tensor

from palimpsest.attention.base import Attention, Facts, causal_pairs, softmax_flops
from palimpsest.attention.cache import SegmentCacheLayer
from palimpsest.attention.segments import (
    Segments,
    close_step,
    fold_segments,
    local_attention,
    step_attention,
    step_segment,
    store_open_segment,
)
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import AttentionSpec
from palimpsest.attention.stream import Stream


class SegmentLocalAttention(Attention):
    """softmax(q k^T / sqrt(d)) v over the earlier tokens of the same segment."""

    facts = Facts("2 G d N", "to the beginning of the segment", "inside the segment", "constant")

    def attend(
        self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: object | None
    ) -> tuple[Tensor, None]:
        """Return ``[B, H, T, D]``; see ``Attention.attend``."""
        layer = cache if isinstance(cache, SegmentCacheLayer) else None
        if layer is not None and stream.is_step:
            opened = step_segment(Segments(q, k, v), stream, layer)
            close_step(opened, stream, layer)
            return step_attention(opened, stream), None
        segments = fold_segments(q, k, v, stream, layer)
        if layer is not None:
            store_open_segment(segments, stream, layer)
        return stream.layout.unfold(local_attention(segments, stream)), None

    @classmethod
    def places(cls, spec: AttentionSpec) -> int:
        """Return the places within a segment."""
        return spec.segment_length

    @classmethod
    def cache_layer(cls, sizes: Sizes, spec: AttentionSpec) -> SegmentCacheLayer:
        """Return an empty cache for a layer of this kind."""
        return SegmentCacheLayer()

    @classmethod
    def exact_from(cls, spec: AttentionSpec, at: int) -> int:
        """Return the first token of the segment."""
        return at - at % spec.segment_length

    @classmethod
    def empty(
        cls, sizes: Sizes, spec: AttentionSpec, batch: int, dtype: torch.dtype, device: torch.device
    ) -> tuple | None:
        """Return None: nothing is kept of closed segments."""
        return None

    @classmethod
    def open_segment_bytes(cls, sizes: Sizes, spec: AttentionSpec, element: int) -> int:
        """Return the bytes of the keys and values of one row's open segment."""
        return 2 * spec.segment_length * sizes.key_heads * sizes.head * element

    @classmethod
    def flops(cls, sizes: Sizes, spec: AttentionSpec, tokens: int) -> float:
        """Return 2 d (N + 1) per head for whole segments: a query meets (N + 1) / 2 keys on average."""
        return softmax_flops(sizes, causal_pairs(tokens, spec.segment_length))
