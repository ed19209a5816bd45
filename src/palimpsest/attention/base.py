"""What all kinds of attention share: LLaMA's projections and rotary embedding, and the form of a layer."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin
from transformers.models.llama.configuration_llama import LlamaConfig

from palimpsest.attention.cache import StateCacheLayer
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import AttentionSpec
from palimpsest.attention.stream import Rotary, Stream
from palimpsest.memory import state_bytes


class Facts(NamedTuple):
    """What a reader of the table of kinds wants to know of one of them, in words and formulas.

    N is the segment length, T the context, d the size of a head, G the heads of keys and values.

    Attributes:
        state: what is kept of a context of T tokens.
        reach: how many tokens back a layer can look.
        gradient: which way back the loss has to earlier tokens.
        streaming: what one more token costs.
    """

    state: str
    reach: str
    gradient: str
    streaming: str


class Attention(nn.Module, ABC):
    """Projections with LLaMA's names (so that its weights load), around an ``attend`` that each kind defines.

    Attributes:
        facts: what the table of kinds says of it.
        rotates_by_document: whether it needs the rotary embedding of places in the document (``Stream.rotary``).
    """

    facts: ClassVar[Facts]
    rotates_by_document: ClassVar[bool] = False

    def __init__(self, config: LlamaConfig, spec: AttentionSpec, layer: int):
        super().__init__()
        self.layer = layer
        self.spec = spec
        self.sizes = sizes = Sizes.of(config)
        self.heads, self.head_dim = sizes.heads, sizes.head
        bias = config.attention_bias
        self.q_proj = nn.Linear(sizes.hidden, sizes.heads * sizes.head, bias=bias)
        self.k_proj = nn.Linear(sizes.hidden, sizes.key_heads * sizes.head, bias=bias)
        self.v_proj = nn.Linear(sizes.hidden, sizes.key_heads * sizes.head, bias=bias)
        self.o_proj = nn.Linear(sizes.heads * sizes.head, sizes.hidden, bias=bias)

    def forward(self, hidden: Tensor, stream: Stream, cache: object | None) -> tuple[Tensor, Tensor | None]:
        """Return ``[B, T, hidden]`` for tokens ``[B, T, hidden]``, and the layer's own loss if it has one.

        ``cache`` is this layer's cache, updated.
        """
        q, k, v = (
            projection(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        out, loss = self.attend(hidden, q, k, v, stream, cache)
        return self.o_proj(out.transpose(1, 2).flatten(2)), loss

    @abstractmethod
    def attend(
        self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: object | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return ``[B, H, T, D]`` for un-rotated q ``[B, H, T, D]`` and k, v ``[B, H_kv, T, D]``.

        The second result is a loss of the layer itself, to be added to that of the model, or None.
        """

    @classmethod
    def places(cls, spec: AttentionSpec) -> int:
        """Return how many relative places its rotary embedding tells apart; 0 if none."""
        return 0

    @classmethod
    def exact_from(cls, spec: AttentionSpec, at: int) -> int:
        """Return the first token that the token at this place attends to exactly, not through a summary: itself."""
        return at

    @classmethod
    def cache_layer(cls, sizes: Sizes, spec: AttentionSpec) -> CacheLayerMixin:
        """Return an empty cache for a layer of this kind."""
        empty = cls.empty(sizes, spec, 1, torch.float32, torch.device("meta"))
        return StateCacheLayer(None if empty is None else type(empty))

    @classmethod
    def empty(
        cls, sizes: Sizes, spec: AttentionSpec, batch: int, dtype: torch.dtype, device: torch.device
    ) -> tuple | None:
        """Return the state before the first token, for keys and values of this dtype; None if there is none."""
        return None

    @classmethod
    def state_bytes(cls, sizes: Sizes, spec: AttentionSpec, dtype: torch.dtype, tokens: int) -> int:
        """Return the bytes of one row's state after so many tokens, with keys and values of this dtype."""
        empty = cls.empty(sizes, spec, 1, dtype, torch.device("meta"))
        fixed = 0 if empty is None else state_bytes(empty)
        return fixed + cls.bytes_per_token(sizes, dtype.itemsize) * tokens

    @classmethod
    def open_segment_bytes(cls, sizes: Sizes, spec: AttentionSpec, element: int) -> int:
        """Return the bytes of the open segment of one row, with ``element`` bytes per number; 0 if there is none."""
        return 0

    @classmethod
    def bytes_per_token(cls, sizes: Sizes, element: int) -> int:
        """Return by how many bytes the state of one row grows with every token; 0 if it is bounded."""
        return 0

    @classmethod
    @abstractmethod
    def flops(cls, sizes: Sizes, spec: AttentionSpec, tokens: int) -> float:
        """Return the operations per token of a row of ``tokens``, forward, all heads, projections left out."""

    @classmethod
    def weights(cls, sizes: Sizes, spec: AttentionSpec) -> int:
        """Return how many weights of matrices of its own a token is multiplied with, beside the four projections."""
        return 0


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Apply rotary embedding (RoFormer, LLaMA's layout) to ``[..., D]``; cosine and sine broadcast against it."""
    cos, sin = rotary
    left, right = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([-right, left], -1) * sin.to(x.dtype)


def expand_heads(x: Tensor, heads: int) -> Tensor:
    """Repeat grouped key or value heads ``[B, H_kv, ...]`` to the query heads ``[B, H, ...]``."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def causal_pairs(tokens: int, block: int) -> float:
    """Return how many keys a query meets on average, in causal blocks of ``block`` tokens over ``tokens``."""
    whole, rest = divmod(tokens, block)
    return (whole * block * (block + 1) / 2 + rest * (rest + 1) / 2) / tokens


def softmax_flops(sizes: Sizes, keys: float) -> float:
    """Return the operations of all heads of one query that meets so many keys: 2 d a score and 2 d a value."""
    return sizes.heads * 4.0 * sizes.head * keys
