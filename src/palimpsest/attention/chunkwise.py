"""Attention that moves its state with every token, and computes a chunk of tokens at once."""

from abc import abstractmethod

import torch
from torch import Tensor

from palimpsest.attention.base import Attention
from palimpsest.attention.cache import StateCacheLayer
from palimpsest.attention.stream import Stream
from palimpsest.memory.parallel import select


class ChunkwiseAttention(Attention):
    """A loop over chunks: each reads and writes the state, token by token in effect."""

    chunk_length: int

    @abstractmethod
    def prepare(self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream) -> tuple[Tensor, ...]:
        """Return what ``chunk`` needs of every token, each ``[B, *, T, *]``.

        ``hidden`` is ``[B, T, hidden]``, q ``[B, H, T, D]``, k and v ``[B, H_kv, T, D]``, un-rotated. Nothing here may
        depend on other tokens.
        """

    @abstractmethod
    def chunk(self, state: tuple, parts: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, tuple]:
        """Return what a chunk of n tokens reads, ``[B, H, n, D]``, and the state after it.

        ``parts`` are those of ``prepare``, ``[B, *, n, *]``; in each row the first ``tokens`` ``[B]`` of them count,
        the others are zero and must leave the state as it is; what they read is not used.
        """

    def attend(
        self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: object | None
    ) -> tuple[Tensor, None]:
        """Return ``[B, H, T, D]``; see ``Attention.attend``."""
        layer = cache if isinstance(cache, StateCacheLayer) else None
        layout = stream.chunks(self.chunk_length)
        empty = self.empty(self.sizes, self.spec, q.shape[0], k.dtype, q.device)
        state = empty if layer is None or layer.state is None else layer.state
        assert empty is not None  # a kind without a state is not chunkwise
        assert state is not None
        parts = [layout.fold(x).unbind(2) for x in self.prepare(hidden, q, k, v, stream)]
        whole = torch.full((q.shape[0],), layout.segment_length, device=q.device)
        outs = []
        for s, part in enumerate(zip(*parts, strict=True)):
            if layout.reset is not None:
                state = select(layout.reset[:, s], empty, state)
            tokens = whole if layout.occupied is None else layout.occupied[:, s].sum(-1)
            out, state = self.chunk(state, part, tokens)
            outs.append(out)
        if layer is not None:
            layer.hold(state)
        return layout.unfold(torch.stack(outs, 2)), None
