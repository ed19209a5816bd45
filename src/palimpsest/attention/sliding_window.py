"""Sliding-window attention: every token sees the W tokens that end with itself."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.llama.configuration_llama import LlamaConfig

from palimpsest.attention.base import Facts, expand_heads, rotate, softmax_flops
from palimpsest.attention.chunkwise import ChunkwiseAttention
from palimpsest.attention.recent import Recent
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import AttentionSpec
from palimpsest.attention.stream import Stream

CHUNK_LENGTH = 512
"""Queries that are computed at once: few against a large window, so that little is computed that no query sees."""


class SlidingWindowAttention(ChunkwiseAttention):
    """softmax(q k^T / sqrt(d)) v over the last W tokens (Beltagy et al. 2020; Mistral, arXiv 2310.06825).

    Queries and keys are rotated by their place in the document, as Mistral does. The state is the last W - 1 tokens.
    """

    rotates_by_document = True
    facts = Facts("2 G d (W - 1)", "W tokens a layer", "to the W tokens", "constant")

    def __init__(self, config: LlamaConfig, spec: AttentionSpec, layer: int):
        super().__init__(config, spec, layer)
        self.window = window_of(spec)
        self.chunk_length = min(self.window, CHUNK_LENGTH)

    def prepare(self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream) -> tuple[Tensor, ...]:
        """Return rotated q and k, and v."""
        rotary = stream.document_rotary()
        return rotate(q, rotary), rotate(k, rotary), v

    def chunk(self, state: tuple, parts: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, Recent]:
        """Attend from a chunk to itself and to the W - 1 tokens before it; see ``ChunkwiseAttention.chunk``."""
        assert isinstance(state, Recent)
        q, k, v = parts
        earlier, length = state.length, q.shape[2]
        keys, values = torch.cat([state.keys, k], 2), torch.cat([state.values, v], 2)
        place = torch.arange(earlier + length, device=q.device)
        distance = place[earlier:, None] - place
        mask = (distance >= 0) & (distance < self.window)
        filled = F.pad(state.filled(), (0, length), value=True)
        out = F.scaled_dot_product_attention(
            q,
            expand_heads(keys, self.heads),
            expand_heads(values, self.heads),
            attn_mask=mask & filled[:, None, None, :],
        )
        return out, state.push(k, v, tokens)

    @classmethod
    def exact_from(cls, spec: AttentionSpec, at: int) -> int:
        """Return the first token of the window."""
        return max(0, at - window_of(spec) + 1)

    @classmethod
    def empty(cls, sizes: Sizes, spec: AttentionSpec, batch: int, dtype: torch.dtype, device: torch.device) -> Recent:
        """Return W - 1 empty places."""
        return Recent.empty(batch, sizes.key_heads, window_of(spec) - 1, sizes.head, dtype=dtype, device=device)

    @classmethod
    def flops(cls, sizes: Sizes, spec: AttentionSpec, tokens: int) -> float:
        """Return 4 d per head and key: a query meets W of them, fewer at the beginning."""
        window = min(window_of(spec), tokens)
        pairs = window * (window + 1) / 2 + (tokens - window) * window
        return softmax_flops(sizes, pairs / tokens)


def window_of(spec: AttentionSpec) -> int:
    """Return W: the window asked for, or the segment length."""
    block = spec.sliding_window
    return (block.window if block is not None else None) or spec.segment_length
