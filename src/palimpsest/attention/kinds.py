"""The kinds of attention by the names that a pattern uses."""

from palimpsest.attention.base import Attention
from palimpsest.attention.compressive import CompressiveAttention
from palimpsest.attention.delta_net import DeltaNetAttention
from palimpsest.attention.full import FullAttention
from palimpsest.attention.linear_attention import LinearAttention
from palimpsest.attention.memorizing import MemorizingAttention
from palimpsest.attention.memory import MemoryAttention
from palimpsest.attention.segment_local import SegmentLocalAttention
from palimpsest.attention.sliding_window import SlidingWindowAttention
from palimpsest.attention.spec import AttentionSpec
from palimpsest.attention.transformer_xl import TransformerXLAttention

KINDS: dict[str, type[Attention]] = {
    "full": FullAttention,
    "segment_local": SegmentLocalAttention,
    "sliding_window": SlidingWindowAttention,
    "transformer_xl": TransformerXLAttention,
    "compressive": CompressiveAttention,
    "memorizing": MemorizingAttention,
    "linear_attention": LinearAttention,
    "delta_net": DeltaNetAttention,
    "memory": MemoryAttention,
}


def exact_reach(spec: AttentionSpec, layers: int) -> int | None:
    """Return how many tokens, itself included, a token can know of through exact attention alone; None: all of them.

    Windows add up over layers, segments do not. What only a summary of fixed size knows (a memory, compressed tokens,
    a recurrent state) is left out.
    """
    kinds = [KINDS[spec.kind(layer)] for layer in range(layers)]
    if "full" in spec.pattern[:layers]:
        return None
    last = FAR * spec.segment_length - 1  # the last token of a segment sees most of it
    first = last
    for kind in reversed(kinds):
        first = kind.exact_from(spec, first)
    return last - first + 1


def exact_start(spec: AttentionSpec, layers: int, at: int) -> int:
    """Return the first position that the token ``at`` can know of through exact attention alone, over all layers."""
    first = at
    for layer in reversed(range(layers)):
        first = max(0, KINDS[spec.kind(layer)].exact_from(spec, first))
    return first


FAR = 1 << 20
"""A segment so late that no reach ends at the beginning of the stream."""
