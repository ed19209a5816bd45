"""Causal attention inside each segment, nothing across: the local half of Infini-attention, its barest baseline."""

from torch import Tensor

from palimpsest.attention.base import Facts, causal_pairs, softmax_flops
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
from palimpsest.attention.segmentwise import SegmentAttention
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import AttentionSpec
from palimpsest.attention.stream import Stream


class SegmentLocalAttention(SegmentAttention):
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
    def flops(cls, sizes: Sizes, spec: AttentionSpec, tokens: int) -> float:
        """Return 2 d (N + 1) per head for whole segments: a query meets (N + 1) / 2 keys on average."""
        return softmax_flops(sizes, causal_pairs(tokens, spec.segment_length))
