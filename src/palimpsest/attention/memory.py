"""Infini-attention: local attention inside the segment, a memory of all segments before it, and a gate between them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.models.llama.configuration_llama import LlamaConfig

from palimpsest.attention.base import Attention, expand_heads
from palimpsest.attention.gate import Gate
from palimpsest.attention.segment_local import (
    SegmentCacheLayer,
    Segments,
    close_step,
    fold_segments,
    local_attention,
    step_attention,
    step_segment,
    store_open_segment,
)
from palimpsest.attention.spec import AttentionSpec
from palimpsest.attention.stream import Stream
from palimpsest.memory import Memory
from palimpsest.memory.base import init_like
from palimpsest.memory.parallel import segment_states, select, stack_states


class Site(NamedTuple):
    """Where a memory is about to be read, at the beginning of a segment.

    Attributes:
        layer: the number of the layer.
        segment: ``[B]``, how many segments each row has written before; -1 in rows that do not begin a segment here,
            for which the probe's answer is not used.
        empty: the state of an empty memory.
    """

    layer: int
    segment: Tensor
    empty: tuple


Probe = Callable[[Site, tuple], tuple]


class LearnedQuantities(nn.ParameterDict):
    """What a memory learns, one number per head ``[H]`` under each name; ``initial`` are the values before training."""

    def __init__(self, initial: dict[str, float], heads: int):
        super().__init__({name: nn.Parameter(torch.empty(heads)) for name in initial})
        self.initial = initial


class MemoryAttention(Attention):
    """out = g * memory(q) + (1 - g) * local(q, k, v)  (arXiv 2404.07143, equations 7 to 10).

    The memory reads and writes un-rotated q and k; local attention rotates them by their place in the segment. Grouped
    keys and values are repeated to the query heads before the write.

    Attributes:
        probe: an intervention on the memory (see ``palimpsest.probes.intervene``), None in ordinary use.
        gate_override: a value that replaces every gate, None in ordinary use.
    """

    def __init__(self, config: LlamaConfig, spec: AttentionSpec, layer: int):
        super().__init__(config, layer)
        self.spec = spec
        self.gate = Gate(spec.gate, self.heads, config.hidden_size)
        self.memory = LearnedQuantities(spec.memory.learned(), self.heads)
        self.probe: Probe | None = None
        self.gate_override: float | None = None

    def attend(self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: object | None) -> Tensor:
        """Return ``[B, H, T, D]``; see ``Attention.attend``."""
        layer = cache if isinstance(cache, SegmentCacheLayer) else None
        memory = self.spec.memory.build(dict(self.memory.items()))
        # autocast would write and read the memory in the lower precision; q, k and v are in it already
        with torch.autocast(q.device.type, enabled=False):
            if layer is not None and stream.is_step:
                read, local = self._step(memory, q, k, v, stream, layer)
            else:
                read, local = self._segments(memory, q, k, v, stream, layer)
        return self._mix(hidden, read, local, stream)

    def _mix(self, hidden: Tensor, read: Tensor, local: Tensor, stream: Stream) -> Tensor:
        gate = self.gate(hidden) if self.gate_override is None else local.new_tensor(self.gate_override)
        if self.spec.first_segment == "local":
            gate = torch.where(stream.unwritten, 0.0, gate)
        gate = gate.to(local.dtype)
        return gate * read + (1.0 - gate) * local

    def _segments(
        self, memory: Memory, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: SegmentCacheLayer | None
    ) -> tuple[Tensor, Tensor]:
        """Process all segments of a pass at once."""
        segments = fold_segments(q, k, v, stream, cache)
        local = stream.layout.unfold(local_attention(segments, stream))
        keep = stream.occupied
        if cache is not None:
            # the open segment is written when it is complete
            order = torch.arange(stream.layout.segments, device=q.device)
            complete = (order < stream.complete[:, None])[:, :, None]
            keep = complete.expand(-1, -1, stream.segment_length) if keep is None else keep & complete
        before, after = self._states(memory, segments, keep, stream, cache)
        if cache is not None:
            cache.memory = after
            store_open_segment(segments, stream, cache)
        return stream.layout.unfold(memory.read(before, segments.q)), local

    def _states(
        self, memory: Memory, segments: Segments, keep: Tensor | None, stream: Stream, cache: SegmentCacheLayer | None
    ) -> tuple[tuple, tuple]:
        """Return the memory before every segment and after the last."""
        k, v = expand_heads(segments.k, self.heads), expand_heads(segments.v, self.heads)
        empty = init_like(memory, segments.q[:, :, 0], v[:, :, 0])
        state = empty if cache is None or cache.memory is None else cache.memory
        reset = stream.layout.reset
        if self.probe is None:
            return segment_states(memory, state, k, v, keep, reset)
        states = []
        for s, (k_s, v_s) in enumerate(zip(k.unbind(2), v.unbind(2), strict=True)):
            if reset is not None:
                state = select(reset[:, s], empty, state)
            state = self._probed(state, empty, stream, s)
            states.append(state)
            state = memory.write(state, k_s, v_s, keep=None if keep is None else keep[:, s])
        return stack_states(states), state

    def _probed(self, state: tuple, empty: tuple, stream: Stream, segment: int) -> tuple:
        """Apply the probe in the rows that begin this segment now."""
        if self.probe is None:
            return state
        begins = stream.begins(segment)
        if not bool(begins.any()):
            return state
        number = segment if stream.closed is None else stream.closed + segment
        site = Site(self.layer, torch.where(begins, number, -1), empty)
        return select(begins, self.probe(site, state), state)

    def _step(
        self, memory: Memory, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: SegmentCacheLayer
    ) -> tuple[Tensor, Tensor]:
        """Process one token per row after a cache."""
        keys, values = step_segment(k, v, stream, cache)
        local = step_attention(q, keys, values, stream)
        empty = init_like(memory, q, expand_heads(v, self.heads))
        state = self._probed(empty if cache.memory is None else cache.memory, empty, stream, 0)
        read = memory.read(state, q)
        if stream.completes:
            keep = (stream.complete > 0)[:, None].expand(-1, stream.segment_length)
            state = memory.write(state, expand_heads(keys, self.heads), expand_heads(values, self.heads), keep=keep)
        cache.memory = state
        close_step(keys, values, stream, cache)
        return read, local
