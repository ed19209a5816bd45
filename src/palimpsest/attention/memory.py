"""Infini-attention: local attention inside the segment, a memory of all segments before it, and a gate between them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.models.llama.configuration_llama import LlamaConfig

from palimpsest.attention.base import Facts, causal_pairs, expand_heads, softmax_flops
from palimpsest.attention.cache import SegmentCacheLayer
from palimpsest.attention.gated import GatedAttention
from palimpsest.attention.segments import (
    Segments,
    close_step,
    fold_segments,
    local_attention,
    step_attention,
    step_segment,
    store_open_segment,
)
from palimpsest.attention.segmentwise import SegmentStateAttention
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import AttentionSpec
from palimpsest.attention.stream import Stream
from palimpsest.memory import Memory
from palimpsest.memory.base import init_like, state_dtype
from palimpsest.memory.parallel import segment_states, select, stack_states


class LearnedQuantities(nn.ParameterDict):
    """What a memory learns, one number per head ``[H]`` under each name; ``initial`` are the values before training."""

    def __init__(self, initial: dict[str, float], heads: int):
        super().__init__({name: nn.Parameter(torch.empty(heads)) for name in initial})
        self.initial = initial

    def initial_values(self) -> dict[str, Tensor]:
        """Return the values before training."""
        return {name: torch.tensor(value) for name, value in self.initial.items()}


class WriteStrength(nn.Module):
    """How strongly each token is written: sigmoid(W x + b) per head (Schlag et al. 2021, the beta of fast weights)."""

    def __init__(self, heads: int, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, hidden_size))
        self.bias = nn.Parameter(torch.empty(heads))

    def initial_values(self) -> dict[str, Tensor]:
        """Return a strength of one half for every token."""
        return {"weight": torch.tensor(0.0), "bias": torch.tensor(0.0)}

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``[B, H, T]`` in (0, 1) for tokens ``[B, T, hidden]``."""
        return nn.functional.linear(hidden, self.weight, self.bias).mT.sigmoid()


class MemoryAttention(GatedAttention, SegmentStateAttention):
    """out = g * memory(q) + (1 - g) * local(q, k, v)  (arXiv 2404.07143, equations 7 to 10).

    The memory reads and writes un-rotated q and k; local attention rotates them by their place in the segment. Grouped
    keys and values are repeated to the query heads before the write.
    """

    facts = Facts("2 G d N, and H heads of the memory", "everything", "through all writes", "constant; a write every N")

    def __init__(self, config: LlamaConfig, spec: AttentionSpec, layer: int):
        super().__init__(config, spec, layer)
        self.memory = LearnedQuantities(spec.memory.learned(), self.heads)
        self.strength = WriteStrength(self.heads, config.hidden_size) if spec.memory.strength == "token" else None

    def attend(
        self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: object | None
    ) -> tuple[Tensor, None]:
        """Return ``[B, H, T, D]``; see ``Attention.attend``."""
        layer = cache if isinstance(cache, SegmentCacheLayer) else None
        strength = None if self.strength is None else self.strength(hidden)
        # autocast would write and read the memory in the lower precision; q, k and v are in it already
        with torch.autocast(q.device.type, enabled=False):
            if layer is not None and stream.is_step:
                read, local = self._read_step(Segments(q, k, v, strength), stream, layer)
            else:
                segments = fold_segments(q, k, v, stream, layer, strength)
                read, local = self._read_segments(segments, stream, layer)
        return self.mix(hidden, read, local, stream), None

    def build_memory(self) -> Memory:
        """Return the memory with what has been learned."""
        return self.spec.memory.build(dict(self.memory.items()))

    def _read_segments(
        self, segments: Segments, stream: Stream, cache: SegmentCacheLayer | None
    ) -> tuple[Tensor, Tensor]:
        """Process all segments of a pass at once."""
        memory = self.build_memory()
        local = stream.layout.unfold(local_attention(segments, stream))
        keep = stream.occupied
        if cache is not None:
            # the open segment is written when it is complete
            order = torch.arange(stream.layout.segments, device=local.device)
            complete = (order < stream.complete[:, None])[:, :, None]
            keep = complete.expand(-1, -1, stream.segment_length) if keep is None else keep & complete
        before, after = self._states(memory, segments, keep, stream, cache)
        if cache is not None:
            cache.hold(after)
            store_open_segment(segments, stream, cache)
        return stream.layout.unfold(memory.read(before, segments.q)), local

    def _states(
        self, memory: Memory, segments: Segments, keep: Tensor | None, stream: Stream, cache: SegmentCacheLayer | None
    ) -> tuple[tuple, tuple]:
        """Return the memory before every segment and after the last."""
        k, v = expand_heads(segments.k, self.heads), expand_heads(segments.v, self.heads)
        empty = init_like(memory, segments.q[:, :, 0], v[:, :, 0])
        state = empty if cache is None or cache.state is None else cache.state

        reset = stream.layout.reset
        if self.probe is None and self.write_probe is None:
            return segment_states(memory, state, k, v, keep, reset, segments.strength)
        states = []
        for s, (k_s, v_s) in enumerate(zip(k.unbind(2), v.unbind(2), strict=True)):
            if reset is not None:
                state = select(reset[:, s], empty, state)
            state = self.probed(state, empty, stream, s)
            states.append(state)
            strength = None if segments.strength is None else segments.strength[:, :, s]
            write = self._write_of(memory, state, k_s, None if keep is None else keep[:, s], strength)
            state = self.written(state, v_s, write, empty, stream, s)
        return stack_states(states), state

    @staticmethod
    def _write_of(
        memory: Memory, state: tuple, k: Tensor, keep: Tensor | None, strength: Tensor | None
    ) -> Callable[[Tensor], tuple]:
        """Return the write of a segment as a function of its values."""
        return lambda v: memory.write(state, k, v, keep=keep, strength=strength)

    def _read_step(self, token: Segments, stream: Stream, cache: SegmentCacheLayer) -> tuple[Tensor, Tensor]:
        """Process one token per row after a cache."""
        memory = self.build_memory()
        opened = step_segment(token, stream, cache)
        empty = init_like(memory, token.q, expand_heads(token.v, self.heads))
        state = self.probed(empty if cache.state is None else cache.state, empty, stream, 0)
        read = memory.read(state, token.q)
        if stream.completes:
            keep = (stream.complete > 0)[:, None].expand(-1, stream.segment_length)
            k, v = expand_heads(opened.k, self.heads), expand_heads(opened.v, self.heads)
            write = self._write_of(memory, state, k, keep, opened.strength)
            state = self.written(state, v, write, empty, stream, 0)
        cache.hold(state)
        close_step(opened, stream, cache)
        return read, step_attention(opened, stream)

    @classmethod
    def empty(cls, sizes: Sizes, spec: AttentionSpec, batch: int, dtype: torch.dtype, device: torch.device) -> tuple:
        """Return the empty memory of a layer that has learned nothing: float32 whatever the dtype, unless float64."""
        learned = {name: torch.zeros(sizes.heads, device=device) for name in spec.memory.learned()}
        memory = spec.memory.build(learned)
        return memory.init(batch, sizes.heads, sizes.head, sizes.head, dtype=state_dtype(dtype), device=device)

    @classmethod
    def open_segment_bytes(cls, sizes: Sizes, spec: AttentionSpec, element: int) -> int:
        """Return the bytes of one row's open segment: keys, values, and write strengths if they are learned."""
        strengths = spec.segment_length * sizes.heads * element if spec.memory.strength == "token" else 0
        return super().open_segment_bytes(sizes, spec, element) + strengths

    @classmethod
    def flops(cls, sizes: Sizes, spec: AttentionSpec, tokens: int) -> float:
        """Return those of local attention, and those of the memory (``palimpsest.attention.memories``)."""
        segments = -(-tokens // spec.segment_length)
        local = softmax_flops(sizes, causal_pairs(tokens, spec.segment_length))
        return local + sizes.heads * spec.memory.flops(sizes.head, tokens / segments)

    @classmethod
    def weights(cls, sizes: Sizes, spec: AttentionSpec) -> int:
        """Return the weights of gates and write strengths that are computed from every token."""
        learned = (spec.gate.kind == "token") + (spec.memory.strength == "token")
        return learned * sizes.hidden * sizes.heads
