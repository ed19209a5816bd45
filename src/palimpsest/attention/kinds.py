"""The kinds of attention by the names that a pattern uses."""

from palimpsest.attention.base import Attention
from palimpsest.attention.full import FullAttention
from palimpsest.attention.memory import MemoryAttention
from palimpsest.attention.segment_local import SegmentLocalAttention
from palimpsest.attention.sliding_window import SlidingWindowAttention
from palimpsest.attention.transformer_xl import TransformerXLAttention

KINDS: dict[str, type[Attention]] = {
    "full": FullAttention,
    "segment_local": SegmentLocalAttention,
    "sliding_window": SlidingWindowAttention,
    "transformer_xl": TransformerXLAttention,
    "memory": MemoryAttention,
}
