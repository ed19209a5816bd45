"""Transformer-XL: causal attention inside the segment, and to a cache of the tokens before it, without gradient."""

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.attention.base import Facts, expand_heads, rotate, softmax_flops
from palimpsest.attention.recent import Recent
from palimpsest.attention.segmentwise import SegmentwiseAttention
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import AttentionSpec
from palimpsest.attention.stream import Stream


class TransformerXLAttention(SegmentwiseAttention):
    """softmax(q [cache; k]^T / sqrt(d)) [cache; v] (Dai et al. 2019, arXiv 1901.02860, section 3.2).

    The cache holds keys and values of the M tokens before the segment. No gradient flows into it. Positions are
    relative, as in the paper, but by rotary embedding at places counted from the beginning of the cache, in place of
    the paper's own encoding; and what is cached are keys and values, not the hidden states that they are made of.
    """

    facts = Facts("2 G d (M + N)", "M to M + N tokens a layer", "inside the segment, not the cache", "constant")

    def attend_segment(self, q: Tensor, k: Tensor, v: Tensor, state: tuple, slots: Tensor, stream: Stream) -> Tensor:
        """Attend to the cache and to the segment; see ``SegmentwiseAttention.attend_segment``."""
        assert isinstance(state, Recent)
        return attend_with_earlier(q, k, v, state.keys, state.values, state.filled(), slots, stream)

    def write(self, state: tuple, k: Tensor, v: Tensor, whole: Tensor) -> Recent:
        """Return the cache after a segment."""
        assert isinstance(state, Recent)
        return state.push(k.detach(), v.detach(), whole * k.shape[2])

    @classmethod
    def places(cls, spec: AttentionSpec) -> int:
        """Return the places within the cache and the segment."""
        return cache_length_of(spec) + spec.segment_length

    @classmethod
    def exact_from(cls, spec: AttentionSpec, at: int) -> int:
        """Return the first token of the cache."""
        return max(0, at - at % spec.segment_length - cache_length_of(spec))

    @classmethod
    def empty(cls, sizes: Sizes, spec: AttentionSpec, batch: int, dtype: torch.dtype, device: torch.device) -> Recent:
        """Return M empty places."""
        return Recent.empty(batch, sizes.key_heads, cache_length_of(spec), sizes.head, dtype=dtype, device=device)

    @classmethod
    def flops(cls, sizes: Sizes, spec: AttentionSpec, tokens: int) -> float:
        """Return 4 d per head and key: those of its segment so far, and of the M tokens before it."""
        return softmax_flops(sizes, keys_met(tokens, spec.segment_length, cache_length_of(spec)))


def attend_with_earlier(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    earlier_keys: Tensor,
    earlier_values: Tensor,
    filled: Tensor,
    slots: Tensor,
    stream: Stream,
) -> Tensor:
    """Attend from queries of one segment to E earlier tokens and, causally, to the segment.

    Args:
        q: un-rotated queries ``[B, H, n, D]``.
        k: un-rotated keys of the segment ``[B, H_kv, N, D]``.
        v: values of the segment, likewise.
        earlier_keys: un-rotated keys ``[B, H_kv, E, D]`` of the tokens before the segment, the latest last.
        earlier_values: values, likewise.
        filled: ``[B, E]`` bool, which of them there are.
        slots: the slots of the queries in the segment, ``[B or 1, n]``.
        stream: the pass; places are counted from the first of the E tokens.
    """
    earlier, segment = earlier_keys.shape[2], k.shape[2]
    cos, sin = stream.places(earlier + segment)
    at = earlier + slots
    queries = rotate(q, (cos[at].unsqueeze(1), sin[at].unsqueeze(1)))
    keys = rotate(torch.cat([earlier_keys, k], 2), (cos, sin))
    values = torch.cat([earlier_values, v], 2)
    causal = torch.arange(segment, device=q.device) <= slots[..., None]
    batch, queries_count = filled.shape[0], slots.shape[1]
    mask = torch.cat([filled[:, None, :].expand(-1, queries_count, -1), causal.expand(batch, -1, -1)], -1)
    heads = q.shape[1]
    return F.scaled_dot_product_attention(
        queries, expand_heads(keys, heads), expand_heads(values, heads), attn_mask=mask.unsqueeze(1)
    )


def keys_met(tokens: int, segment_length: int, cache_length: int) -> float:
    """Return how many keys a query meets on average: those of its segment so far and of the tokens cached before."""
    total = 0.0
    for start in range(0, tokens, segment_length):
        length = min(segment_length, tokens - start)
        total += length * (length + 1) / 2 + length * min(start, cache_length)
    return total / tokens


def cache_length_of(spec: AttentionSpec) -> int:
    """Return M: the length asked for, or the segment length."""
    block = spec.transformer_xl
    return (block.cache_length if block is not None else None) or spec.segment_length
