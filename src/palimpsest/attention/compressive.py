"""Compressive Transformer: exact keys and values of the last tokens, compressed ones of the tokens before them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.configuration_llama import LlamaConfig

from palimpsest.attention.base import Facts, expand_heads, softmax_flops
from palimpsest.attention.recent import Recent
from palimpsest.attention.segmentwise import SegmentwiseAttention
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import AttentionSpec, CompressiveSpec
from palimpsest.attention.stream import Stream
from palimpsest.attention.transformer_xl import attend_with_earlier


class CompressiveState(NamedTuple):
    """The memory and, with longer names, the compressed memory before it: a ``Recent`` each."""

    keys: Tensor
    values: Tensor
    held: Tensor
    compressed_keys: Tensor
    compressed_values: Tensor
    compressed_held: Tensor

    @property
    def memory(self) -> Recent:
        """The last M tokens, exactly."""
        return Recent(self.keys, self.values, self.held)

    @property
    def compressed(self) -> Recent:
        """The last C compressed tokens."""
        return Recent(self.compressed_keys, self.compressed_values, self.compressed_held)


class Evicted(NamedTuple):
    """The tokens that leave a store when others are pushed, the oldest first.

    ``keys`` and ``values`` are ``[B, H_kv, N, D]``, of which the first ``tokens`` ``[B]`` have left; the others are
    tokens that have not.
    """

    keys: Tensor
    values: Tensor
    tokens: Tensor


class Convolution(nn.Module):
    """One token of every c: sum_j W_j x_j over the tokens of a block, for keys and for values, per head of keys.

    A convolution over the tokens with kernel and stride c, without bias: of nothing it makes nothing. ``key_weight``
    and ``value_weight`` are ``[H_kv, c, D, D]``; before training all W_j are identity / c, which is mean pooling.
    """

    def __init__(self, ratio: int, heads: int, size: int):
        super().__init__()
        self.ratio = ratio
        self.key_weight = nn.Parameter(torch.empty(heads, ratio, size, size))
        self.value_weight = nn.Parameter(torch.empty(heads, ratio, size, size))

    def initial_values(self) -> dict[str, Tensor]:
        """Return those of mean pooling."""
        weight = self.key_weight
        mean = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device) / self.ratio
        return {"key_weight": mean, "value_weight": mean}

    def forward(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values ``[B, H_kv, N / c, D]`` of tokens ``[B, H_kv, N, D]``."""
        return self._convolve(keys, self.key_weight), self._convolve(values, self.value_weight)

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.ratio)).flatten(-2) @ weight.flatten(1, 2)


class CompressiveAttention(SegmentwiseAttention):
    """softmax(q [compressed; memory; k]^T / sqrt(d)) [compressed; memory; v]  (Rae et al. 2020, arXiv 1911.05507).

    The memory holds the M tokens before the segment. What leaves it is compressed, ratio c to 1 (section 3.1), into the
    compressed memory of C tokens. No gradient flows into either. The convolution learns from the attention
    reconstruction loss alone (section 3.2, algorithm 2), and nothing else does.

    Departures from the paper are told in ``docs/attention/compressive.md``; the chief one is that keys and values are
    compressed, not the hidden states that they are made of.
    """

    facts = Facts(
        "2 G d (C + M + N)",
        "c C + M to c C + M + N tokens a layer",
        "inside the segment; compression by its own loss",
        "constant; a compression every N",
    )

    def __init__(self, config: LlamaConfig, spec: AttentionSpec, layer: int):
        super().__init__(config, spec, layer)
        self.block = block = block_of(spec)
        learned = block.compression == "convolution"
        self.convolution = Convolution(block.ratio, self.sizes.key_heads, self.head_dim) if learned else None
        if self.convolution is not None and not spec.has_own_loss:
            self.convolution.requires_grad_(False)  # nothing else teaches it

    def attend_segment(self, q: Tensor, k: Tensor, v: Tensor, state: tuple, slots: Tensor, stream: Stream) -> Tensor:
        """Attend to both memories and to the segment; see ``SegmentwiseAttention.attend_segment``."""
        assert isinstance(state, CompressiveState)
        keys = torch.cat([state.compressed_keys, state.keys], 2)
        values = torch.cat([state.compressed_values, state.values], 2)
        filled = torch.cat([state.compressed.filled(), state.memory.filled()], 1)
        return attend_with_earlier(q, k, v, keys, values, filled, slots, stream)

    @torch.no_grad()
    def write(self, state: tuple, k: Tensor, v: Tensor, whole: Tensor) -> CompressiveState:
        """Return both memories after a segment."""
        assert isinstance(state, CompressiveState)
        tokens = whole * k.shape[2]
        evicted = evicted_by(state.memory, k, v, tokens)
        keys, values = self.compress(evicted.keys, evicted.values)
        memory = state.memory.push(k, v, tokens)
        return CompressiveState(*memory, *state.compressed.push(keys, values, evicted.tokens // self.block.ratio))

    def own_loss(self, state: tuple, q: Tensor, k: Tensor, v: Tensor, whole: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return how differently the segment's queries attend to what it evicts and to what that is compressed to.

        The mean square of the difference, over queries, heads and the numbers of a head, times ``reconstruction``.
        Attention is by content alone (no rotary embedding), and only the convolution gets a gradient.
        """
        assert isinstance(state, CompressiveState)
        if not self.spec.has_own_loss:
            return None
        with torch.no_grad():
            evicted = evicted_by(state.memory, k, v, whole * k.shape[2])
            exact = attend_by_content(q, *evicted)
        keys, values = self.compress(evicted.keys, evicted.values)
        compressed = attend_by_content(q.detach(), keys, values, evicted.tokens // self.block.ratio)
        error = (compressed - exact).to(torch.promote_types(q.dtype, torch.float32))
        assert self.block.reconstruction is not None  # there is an own loss
        return self.block.reconstruction * error.square().mean((1, 2, 3)), evicted.tokens > 0

    def compress(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``[B, H_kv, N / c, D]`` for ``[B, H_kv, N, D]``."""
        if self.convolution is not None:
            return self.convolution(keys, values)
        blocks = (x.unflatten(2, (-1, self.block.ratio)) for x in (keys, values))
        keys, values = (x.mean(3) if self.block.compression == "mean" else x.amax(3) for x in blocks)
        return keys, values

    @classmethod
    def places(cls, spec: AttentionSpec) -> int:
        """Return the places within both memories and the segment."""
        return sum(lengths_of(spec)) + spec.segment_length

    @classmethod
    def exact_from(cls, spec: AttentionSpec, at: int) -> int:
        """Return the first token of the memory that is not compressed."""
        return max(0, at - at % spec.segment_length - lengths_of(spec)[0])

    @classmethod
    def empty(
        cls, sizes: Sizes, spec: AttentionSpec, batch: int, dtype: torch.dtype, device: torch.device
    ) -> CompressiveState:
        """Return M and C empty places."""
        memory, compressed = (
            Recent.empty(batch, sizes.key_heads, length, sizes.head, dtype=dtype, device=device)
            for length in lengths_of(spec)
        )
        return CompressiveState(*memory, *compressed)

    @classmethod
    def flops(cls, sizes: Sizes, spec: AttentionSpec, tokens: int) -> float:
        """Return 4 d per head and key that is met, and those of the convolution for every token that is evicted.

        The reconstruction loss, which there is in training only, is left out.
        """
        block, segment = block_of(spec), spec.segment_length
        memory, compressed = lengths_of(spec)
        pairs = 0.0
        for start in range(0, tokens, segment):
            length = min(segment, tokens - start)
            earlier = min(start, memory) + min(max(start - memory, 0) // block.ratio, compressed)
            pairs += length * (length + 1) / 2 + length * earlier
        attention = softmax_flops(sizes, pairs / tokens)
        if block.compression != "convolution":
            return attention
        evicted = max(tokens // segment * segment - memory, 0)
        return attention + 2 * sizes.key_heads * 2.0 * sizes.head**2 * evicted / tokens


def evicted_by(memory: Recent, k: Tensor, v: Tensor, tokens: Tensor) -> Evicted:
    """Return what leaves a store when the first ``tokens`` ``[B]`` of keys and values ``[B, H_kv, N, D]`` are pushed.

    Tokens that the store has no room for leave it at once.
    """
    keys, values = torch.cat([memory.keys, k.to(memory.keys.dtype)], 2), torch.cat([memory.values, v], 2)
    first = memory.length - memory.held
    place = torch.arange(k.shape[2], device=k.device)
    index = (first[:, None] + place)[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
    count = (memory.held + tokens - memory.length).clamp_min(0)
    return Evicted(keys.gather(2, index), values.gather(2, index), count)


def attend_by_content(q: Tensor, keys: Tensor, values: Tensor, count: Tensor) -> Tensor:
    """Attend from queries ``[B, H, n, D]`` to the first ``count`` ``[B]`` of keys and values ``[B, H_kv, E, D]``.

    Without positions. A row without any attends to all, so that nothing in it is infinite: its result has no meaning.
    """
    place = torch.arange(keys.shape[2], device=q.device)
    mask = (place < count[:, None]) | (count == 0)[:, None]
    heads = q.shape[1]
    return F.scaled_dot_product_attention(
        q, expand_heads(keys, heads), expand_heads(values, heads), attn_mask=mask[:, None, None, :]
    )


def block_of(spec: AttentionSpec) -> CompressiveSpec:
    """Return what was chosen for this kind."""
    return spec.compressive or CompressiveSpec()


def lengths_of(spec: AttentionSpec) -> tuple[int, int]:
    """Return M and C: the lengths asked for, or the segment length."""
    block = block_of(spec)
    return block.cache_length or spec.segment_length, block.compressed_length or spec.segment_length
