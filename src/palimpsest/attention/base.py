"""What all kinds of attention share: LLaMA's projections and rotary embedding, and the form of a layer."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from transformers.models.llama.configuration_llama import LlamaConfig

from palimpsest.attention.stream import Rotary, Stream


class Attention(nn.Module, ABC):
    """Projections with LLaMA's names (so that its weights load), around an ``attend`` that each kind defines."""

    def __init__(self, config: LlamaConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.heads = config.num_attention_heads
        self.key_heads = config.num_key_value_heads or self.heads
        self.head_dim = config.head_dim or config.hidden_size // self.heads
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, self.key_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, self.key_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=bias)

    def forward(self, hidden: Tensor, stream: Stream, cache: object | None) -> Tensor:
        """Return ``[B, T, hidden]`` for tokens ``[B, T, hidden]``; ``cache`` is this layer's cache, updated."""
        q, k, v = (
            projection(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = self.attend(hidden, q, k, v, stream, cache)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    @abstractmethod
    def attend(self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: object | None) -> Tensor:
        """Return ``[B, H, T, D]`` for un-rotated q ``[B, H, T, D]`` and k, v ``[B, H_kv, T, D]``."""


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Apply rotary embedding (RoFormer, LLaMA's layout) to ``[..., D]``; cosine and sine broadcast against it."""
    cos, sin = rotary
    left, right = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([-right, left], -1) * sin.to(x.dtype)


def expand_heads(x: Tensor, heads: int) -> Tensor:
    """Repeat grouped key or value heads ``[B, H_kv, ...]`` to the query heads ``[B, H, ...]``."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)
