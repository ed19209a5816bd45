"""Memorizing Transformer: local attention, and the nearest keys of an exact store of closed segments, with a gate."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.llama.configuration_llama import LlamaConfig

from palimpsest.attention.base import Facts, causal_pairs, softmax_flops
from palimpsest.attention.gated import GatedAttention
from palimpsest.attention.memory import LearnedQuantities
from palimpsest.attention.recent import Recent
from palimpsest.attention.segments import Segments, local_attention, step_attention
from palimpsest.attention.segmentwise import SegmentwiseAttention
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import AttentionSpec, MemorizingSpec
from palimpsest.attention.stream import Stream
from palimpsest.memory import state_bytes

SEARCH_NUMBERS = 2**25
"""How many numbers a search may hold at once (128 MiB in float32), unless those of one query are more already."""

KEYS_AT_ONCE = 8192
"""How many keys are scored, and held in float32, at once."""


class MemorizingAttention(GatedAttention, SegmentwiseAttention):
    """out = g * nearest + (1 - g) * local  (Wu et al. 2022, arXiv 2203.08913, section 3.1).

    nearest = softmax over the k best of tau q^T K, times their V, where q and the stored K have length 1, the search is
    exact, and K, V are the last ``capacity`` keys and values of closed segments, of each head of keys. tau is learned
    per query head as its logarithm, and begins at sqrt(d): for numbers of variance 1 this is the usual 1 / sqrt(d)
    without the norms. An empty store reads zero. No position, and no gradient but through the query.

    Attributes:
        search: ``log_scale`` ``[H]``, log tau.
    """

    facts = Facts(
        "2 G d (min(C, T) + N), C the capacity",
        "C to C + N tokens a layer, the k nearest of them",
        "inside the segment; queries of the store, not the store",
        "constant; a search among C keys",
    )

    def __init__(self, config: LlamaConfig, spec: AttentionSpec, layer: int):
        super().__init__(config, spec, layer)
        self.block = block_of(spec)
        self.search = LearnedQuantities({"log_scale": 0.5 * math.log(self.head_dim)}, self.heads)

    def attend(
        self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: object | None
    ) -> tuple[Tensor, None]:
        """Return ``[B, H, T, D]``; see ``Attention.attend``."""
        both, _ = super().attend(hidden, q, k, v, stream, cache)
        read, local = both.chunk(2, -1)
        return self.mix(hidden, read, local, stream), None

    def attend_segment(self, q: Tensor, k: Tensor, v: Tensor, state: tuple, slots: Tensor, stream: Stream) -> Tensor:
        """Return what is read and what local attention says, side by side, ``[B, H, n, 2 D]``, still to be mixed."""
        assert isinstance(state, Recent)
        if stream.is_step:
            local = step_attention(Segments(q, k, v), stream)
        else:
            local = local_attention(Segments(*(x.unsqueeze(2) for x in (q, k, v))), stream).squeeze(2)
        # autocast would score in the lower precision; q, k and v are in it already
        with torch.autocast(q.device.type, enabled=False):
            scale = self.search["log_scale"].exp()[:, None, None]
            read = read_nearest(_unit(q) * scale, state, self.block.top_k)
        return torch.cat([read.to(v.dtype), local], -1)

    def write(self, state: tuple, k: Tensor, v: Tensor, whole: Tensor) -> Recent:
        """Return the store after a segment."""
        assert isinstance(state, Recent)
        places = min(state.length + k.shape[2], self.block.capacity)
        return state.push(_unit(k.detach()), v.detach(), whole * k.shape[2], places)

    def begin(self, q: Tensor, k: Tensor) -> Recent:
        """Return a store without a place: it grows with what is written, up to the capacity."""
        return Recent.empty(q.shape[0], k.shape[1], 0, self.head_dim, dtype=k.dtype, device=k.device)

    @classmethod
    def exact_from(cls, spec: AttentionSpec, at: int) -> int:
        """Return the first token of the store."""
        return max(0, at - at % spec.segment_length - block_of(spec).capacity)

    @classmethod
    def empty(cls, sizes: Sizes, spec: AttentionSpec, batch: int, dtype: torch.dtype, device: torch.device) -> Recent:
        """Return as many empty places as there ever are."""
        capacity = block_of(spec).capacity
        return Recent.empty(batch, sizes.key_heads, capacity, sizes.head, dtype=dtype, device=device)

    @classmethod
    def state_bytes(cls, sizes: Sizes, spec: AttentionSpec, dtype: torch.dtype, tokens: int) -> int:
        """Return the bytes of one row's store: of the closed segments, up to the capacity."""
        places = min(tokens - tokens % spec.segment_length, block_of(spec).capacity)
        meta = torch.device("meta")
        return state_bytes(Recent.empty(1, sizes.key_heads, places, sizes.head, dtype=dtype, device=meta))

    @classmethod
    def flops(cls, sizes: Sizes, spec: AttentionSpec, tokens: int) -> float:
        """Return those of local attention, 2 d per head and key that is searched, and 2 d per value that is found."""
        block, segment = block_of(spec), spec.segment_length
        searched = found = 0
        for start in range(0, tokens, segment):
            length, stored = min(segment, tokens - start), min(start, block.capacity)
            searched += length * stored
            found += length * min(stored, block.top_k)
        local = softmax_flops(sizes, causal_pairs(tokens, segment))
        return local + sizes.heads * 2.0 * sizes.head * (searched + found) / tokens

    @classmethod
    def weights(cls, sizes: Sizes, spec: AttentionSpec) -> int:
        """Return the weights of gates that are computed from every token."""
        return sizes.hidden * sizes.heads if spec.gate.kind == "token" else 0


def read_nearest(q: Tensor, store: Recent, top_k: int) -> Tensor:
    """Return ``[B, H, n, D]``: the values of the nearest keys, weighted by a softmax; zero where the store is empty.

    Queries are processed in blocks, as many at once as ``SEARCH_NUMBERS`` allows. For the backward pass, the keys and
    values that were found are kept: 2 k D numbers for every query.

    Args:
        q: queries ``[B, H, n, D]``, scaled.
        store: keys and values of H_kv heads, each for H / H_kv heads of queries.
        top_k: k, or all that the store holds if that is less.
    """
    if store.length == 0:
        return torch.zeros_like(q)
    groups, filled = store.keys.shape[1], store.filled()[:, None, None, :]
    grouped = q.unflatten(1, (groups, -1))
    found = min(top_k, store.length)
    a_query = q.shape[0] * groups * (store.length + 2 * found * q.shape[-1])
    reads = []
    for block in grouped.flatten(2, 3).split(max(1, SEARCH_NUMBERS // a_query), 2):
        index, there = nearest(block, store.keys, filled, found)
        reads.append(recall(block, store, index, there))
    return torch.cat(reads, 2).unflatten(2, grouped.shape[2:4]).flatten(1, 2)


@torch.no_grad()
def nearest(q: Tensor, keys: Tensor, filled: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return the places of the ``top_k`` best keys of every query, in any order, and which of them hold a key.

    Both are ``[B, G, n, top_k]``, for queries ``[B, G, n, D]``, keys ``[B, G, M, D]`` and ``filled`` ``[B, 1, 1, M]``.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)  # in a lower precision like keys would tie
    parts = [q.to(dtype) @ block.to(dtype).mT for block in keys.split(KEYS_AT_ONCE, 2)]
    scores, index = torch.cat(parts, -1).masked_fill_(~filled, -torch.inf).topk(top_k, sorted=False)
    return index, scores != -torch.inf  # what is not a number stays visible


def recall(q: Tensor, store: Recent, index: Tensor, there: Tensor) -> Tensor:
    """Return ``[B, G, n, D]``: softmax(q^T K) V over the places that ``nearest`` returned, zero where there is none."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    places = index.flatten(2).unsqueeze(-1).expand(-1, -1, -1, q.shape[-1])
    keys, values = (x.gather(2, places).unflatten(2, index.shape[2:]).to(dtype) for x in store[:2])
    scores = (keys @ q.to(dtype).unsqueeze(-1)).squeeze(-1)
    # the lowest number and not minus infinity: the softmax of a row without any key must be one, if of no use
    weights = scores.masked_fill(~there, torch.finfo(dtype).min).softmax(-1)
    return (torch.where(there, weights, 0.0).unsqueeze(-2) @ values).squeeze(-2)


def _unit(x: Tensor) -> Tensor:
    """Return x divided by its length, in float32 at least: in float16 the smallest length would be none."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def block_of(spec: AttentionSpec) -> MemorizingSpec:
    """Return what was chosen for this kind."""
    return spec.memorizing or MemorizingSpec()
