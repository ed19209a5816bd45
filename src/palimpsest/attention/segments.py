"""The open and the closed segments of a pass: how tokens get into them, and causal attention inside each."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.attention.base import expand_heads, rotate
from palimpsest.attention.cache import SegmentCacheLayer
from palimpsest.attention.stream import Stream


class Segments(NamedTuple):
    """Queries, keys and values in slots ``[B, H or H_kv, S, N, D]``, un-rotated, the open segment included.

    ``strength`` ``[B, H, S, N]`` is that with which a token will be written; None if all are alike. One segment alone
    has no axis S.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    strength: Tensor | None = None


def fold_segments(
    q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: SegmentCacheLayer | None, strength: Tensor | None = None
) -> Segments:
    """Move tokens ``[B, H or H_kv, T, D]``, strengths ``[B, H, T]``, behind those that the open segment holds."""
    layout = stream.layout
    keys, values = layout.fold(k), layout.fold(v)
    strengths = None if strength is None else layout.fold(strength.unsqueeze(-1))[..., 0]
    if cache is not None and cache.keys is not None:
        opened_keys, opened_values = cache.open(k, v, stream.segment_length)
        keys, values = _add_first(keys, opened_keys), _add_first(values, opened_values)
        if strength is not None and strengths is not None:
            strengths = _add_first(strengths, cache.open_strength(strength, stream.segment_length))
    return Segments(layout.fold(q), keys, values, strengths)


def _add_first(slots: Tensor, opened: Tensor) -> Tensor:
    """Add the open segment to the first one: the slots of one are empty in the other."""
    return torch.cat([slots[:, :, :1] + opened.unsqueeze(2), slots[:, :, 1:]], 2)


def local_attention(segments: Segments, stream: Stream) -> Tensor:
    """Attend causally inside each segment: ``[B, H, S, N, D]``.

    Filled slots come first in every segment, so that the causal mask also hides the empty ones from them. In a pass of
    less than one segment the empty slots are left out, so that what is computed is bit for bit what LLaMA computes.
    """
    heads, rotary, layout = segments.q.shape[1], stream.places(stream.segment_length), stream.layout
    q, k, v = (
        expand_heads(x, heads).transpose(1, 2).flatten(0, 1)
        for x in (rotate(segments.q, rotary), rotate(segments.k, rotary), segments.v)
    )
    if layout.slots is None and layout.segments == 1:
        q, k, v = (x[:, :, : layout.tokens] for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    out = F.pad(out, (0, 0, 0, layout.segment_length - out.shape[2]))
    return out.unflatten(0, (-1, segments.q.shape[2])).transpose(1, 2)


def store_open_segment(segments: Segments, stream: Stream, cache: SegmentCacheLayer) -> None:
    """Keep the segment that each row leaves unfinished."""
    row = stream.complete
    beyond = row >= stream.layout.segments  # the row ends with a segment's last token
    index = row.clamp_max(stream.layout.segments - 1)

    def opened(x: Tensor) -> Tensor:
        batch = torch.arange(x.shape[0], device=x.device)
        return torch.where(beyond.view(-1, *(1,) * (x.dim() - 2)), 0.0, x[batch, :, index])

    strength = None if segments.strength is None else opened(segments.strength)
    cache.store(opened(segments.k), opened(segments.v), strength)


def step_segment(token: Segments, stream: Stream, cache: SegmentCacheLayer) -> Segments:
    """Return the open segment with one more token per row.

    The token is ``[B, H or H_kv, 1, D]``, its strength ``[B, H, 1]``. Queries stay those of the token, keys and values
    become ``[B, H_kv, N, D]``, strengths ``[B, H, N]``.
    """
    assert stream.fill is not None
    slot = torch.arange(stream.segment_length, device=token.k.device)
    here = slot == stream.fill[:, None]
    if stream.real is not None:
        here = here & stream.real
    place = here[:, None, :, None]
    keys, values = cache.open(token.k, token.v, stream.segment_length)
    strength = token.strength
    if strength is not None:
        strength = torch.where(here[:, None], strength, cache.open_strength(strength, stream.segment_length))
    return Segments(token.q, torch.where(place, token.k, keys), torch.where(place, token.v, values), strength)


def step_attention(opened: Segments, stream: Stream) -> Tensor:
    """Attend from one token per row ``[B, H, 1, D]`` to the open segment that holds it."""
    assert stream.fill is not None
    heads = opened.q.shape[1]
    slot = torch.arange(stream.segment_length, device=opened.q.device)
    mask = (slot <= stream.fill[:, None])[:, None, None, :]
    cos, sin = stream.places(stream.segment_length)
    q = rotate(opened.q, (cos[stream.fill][:, None, None], sin[stream.fill][:, None, None]))
    k = expand_heads(rotate(opened.k, (cos, sin)), heads)
    return F.scaled_dot_product_attention(q, k, expand_heads(opened.v, heads), attn_mask=mask)


def close_step(opened: Segments, stream: Stream, cache: SegmentCacheLayer) -> None:
    """Keep the open segment, emptied in the rows that have just completed it."""
    closed = (stream.complete > 0)[:, None, None]
    strength = None if opened.strength is None else torch.where(closed, 0.0, opened.strength)
    closed = closed.unsqueeze(-1)
    cache.store(torch.where(closed, 0.0, opened.k), torch.where(closed, 0.0, opened.v), strength)
