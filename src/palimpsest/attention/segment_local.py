"""Causal attention inside each segment, nothing across: the local half of Infini-attention, its barest baseline."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from palimpsest.attention.base import Attention, expand_heads, rotate
from palimpsest.attention.stream import Stream
from palimpsest.memory import state_bytes


class SegmentCacheLayer(CacheLayerMixin):
    """The open segment's keys and values, un-rotated, and the memory of the segments before it: of bounded size.

    Attributes:
        keys: ``[B, H_kv, N, D]``, zero in slots that are not filled yet; None before the first token.
        values: likewise.
        memory: the state of the memory, or None (no memory, or nothing written yet).
    """

    supports_early_init = False
    is_croppable = False

    def __init__(self) -> None:
        super().__init__()
        self.memory: tuple | None = None

    def open(self, k: Tensor, v: Tensor, segment_length: int) -> tuple[Tensor, Tensor]:
        """Return the open segment, empty at first, for new keys and values ``[B, H_kv, T, D]``."""
        if self.keys is None or self.values is None:
            shape = (k.shape[0], k.shape[1], segment_length)
            return k.new_zeros(*shape, k.shape[-1]), v.new_zeros(*shape, v.shape[-1])
        return self.keys, self.values

    def store(self, keys: Tensor, values: Tensor) -> None:
        """Keep the open segment."""
        self.keys, self.values, self.is_initialized = keys, values, True

    def bytes(self) -> tuple[int, int]:
        """Return the bytes of the memory and of the open segment."""
        memory = 0 if self.memory is None else state_bytes(self.memory)
        return memory, sum(x.numel() * x.element_size() for x in (self.keys, self.values) if x is not None)

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = self.memory = None
        self.is_initialized = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the rows, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row, for several return sequences."""
        if self.keys is not None:
            self.batch_select_indices(torch.arange(self.keys.shape[0]).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows, in this order."""
        if self.keys is None or self.values is None:
            return
        indices = indices.to(self.keys.device)
        self.keys, self.values = self.keys.index_select(0, indices), self.values.index_select(0, indices)
        if self.memory is not None:
            self.memory = type(self.memory)(*(leaf.index_select(0, indices) for leaf in self.memory))

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the layer is filled by the attention that owns it."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Refuse: only the attention that owns this layer knows when a segment closes."""
        raise NotImplementedError("a segment cache is written by its own attention layer")

    def get_seq_length(self) -> int:
        """Return 0: a segment cache does not know; ``PalimpsestCache`` counts."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys a query can meet, and where they start."""
        return query_length, 0

    def get_max_length(self) -> int:
        """Return -1: there is no maximum."""
        return -1


class Segments(NamedTuple):
    """Queries, keys and values in slots ``[B, H or H_kv, S, N, D]``, un-rotated, the open segment included."""

    q: Tensor
    k: Tensor
    v: Tensor


class SegmentLocalAttention(Attention):
    """softmax(q k^T / sqrt(d)) v over the earlier tokens of the same segment."""

    def attend(self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: object | None) -> Tensor:
        """Return ``[B, H, T, D]``; see ``Attention.attend``."""
        layer = cache if isinstance(cache, SegmentCacheLayer) else None
        if layer is not None and stream.is_step:
            keys, values = step_segment(k, v, stream, layer)
            close_step(keys, values, stream, layer)
            return step_attention(q, keys, values, stream)
        segments = fold_segments(q, k, v, stream, layer)
        if layer is not None:
            store_open_segment(segments, stream, layer)
        return stream.layout.unfold(local_attention(segments, stream))


def fold_segments(q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: SegmentCacheLayer | None) -> Segments:
    """Move tokens into segments, after the tokens that the open segment holds already."""
    layout = stream.layout
    folded = Segments(layout.fold(q), layout.fold(k), layout.fold(v))
    if cache is None or cache.keys is None:
        return folded
    return Segments(
        folded.q,
        *(
            torch.cat([x[:, :, :1] + opened.unsqueeze(2), x[:, :, 1:]], 2)  # the slots of one are empty in the other
            for x, opened in zip(folded[1:], cache.open(k, v, stream.segment_length), strict=True)
        ),
    )


def local_attention(segments: Segments, stream: Stream) -> Tensor:
    """Attend causally inside each segment: ``[B, H, S, N, D]``.

    Filled slots come first in every segment, so that the causal mask also hides the empty ones from them.
    """
    heads = segments.q.shape[1]
    q, k, v = (
        expand_heads(x, heads).transpose(1, 2).flatten(0, 1)
        for x in (
            rotate(segments.q, stream.segment_rotary),
            rotate(segments.k, stream.segment_rotary),
            segments.v,
        )
    )
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.unflatten(0, (-1, stream.layout.segments)).transpose(1, 2)


def store_open_segment(segments: Segments, stream: Stream, cache: SegmentCacheLayer) -> None:
    """Keep the segment that each row leaves unfinished."""
    row = stream.complete
    beyond = row >= stream.layout.segments  # the row ends with a segment's last token
    index = row.clamp_max(stream.layout.segments - 1)

    def opened(x: Tensor) -> Tensor:
        batch = torch.arange(x.shape[0], device=x.device)
        return torch.where(beyond[:, None, None, None], 0.0, x[batch, :, index])

    cache.store(opened(segments.k), opened(segments.v))


def step_segment(k: Tensor, v: Tensor, stream: Stream, cache: SegmentCacheLayer) -> tuple[Tensor, Tensor]:
    """Return the open segment with one more token per row, ``[B, H_kv, N, D]``."""
    assert stream.fill is not None
    slot = torch.arange(stream.segment_length, device=k.device)
    here = slot == stream.fill[:, None]
    if stream.real is not None:
        here = here & stream.real
    here = here[:, None, :, None]
    keys, values = cache.open(k, v, stream.segment_length)
    return torch.where(here, k, keys), torch.where(here, v, values)


def step_attention(q: Tensor, keys: Tensor, values: Tensor, stream: Stream) -> Tensor:
    """Attend from one token per row ``[B, H, 1, D]`` to the open segment that holds it."""
    assert stream.fill is not None
    heads = q.shape[1]
    slot = torch.arange(stream.segment_length, device=q.device)
    mask = (slot <= stream.fill[:, None])[:, None, None, :]
    cos, sin = stream.segment_rotary
    q = rotate(q, (cos[stream.fill][:, None, None], sin[stream.fill][:, None, None]))
    k = expand_heads(rotate(keys, (cos, sin)), heads)
    return F.scaled_dot_product_attention(q, k, expand_heads(values, heads), attn_mask=mask)


def close_step(keys: Tensor, values: Tensor, stream: Stream, cache: SegmentCacheLayer) -> None:
    """Keep the open segment, emptied in the rows that have just completed it."""
    closed = (stream.complete > 0)[:, None, None, None]
    cache.store(torch.where(closed, 0.0, keys), torch.where(closed, 0.0, values))
