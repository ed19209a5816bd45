"""The delta rule, token by token: fast weights (Schlag et al. 2021) and Gated DeltaNet (Yang et al. 2025)."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.configuration_llama import LlamaConfig

from palimpsest.attention.base import Facts, expand_heads
from palimpsest.attention.chunkwise import ChunkwiseAttention
from palimpsest.attention.short_convolution import ShortConvolution
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import AttentionSpec, DeltaNetSpec
from palimpsest.attention.stream import Stream
from palimpsest.memory import FEATURE_MAPS, FastWeights, FeatureMap, identity_l2
from palimpsest.memory.base import state_dtype
from palimpsest.memory.token_rules import delta_chunk

RATES = (1.0, 16.0)
"""A of a new layer is uniform in this range (Mamba-2, arXiv 2405.21060: ``A_init_range`` of its code)."""
STEPS = (1e-3, 1e-1)
"""Softplus of a new ``dt_bias`` is log-uniform in this range (``dt_min`` and ``dt_max`` there)."""


class GatedState(NamedTuple):
    """``matrix`` M ``[B, H, D, D]``, and the last ``inputs`` of the convolution ``[B, H + 2 H_kv, W - 1, D]``.

    M is float32 (or float64); the inputs are in the dtype of queries, keys and values, which they are.
    """

    matrix: Tensor
    inputs: Tensor


class Decay(nn.Module):
    """log a = -A softplus(x + b) per head, with A = exp(``A_log``) and b = ``dt_bias``, both ``[H]``."""

    def __init__(self, heads: int):
        super().__init__()
        self.A_log = nn.Parameter(torch.empty(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads))

    def forward(self, x: Tensor) -> Tensor:
        """Return the log of how much of the memory is left, for logits ``[B, T, H]``."""
        dtype = state_dtype(x.dtype)
        return -self.A_log.to(dtype).exp() * F.softplus(x.to(dtype) + self.dt_bias.to(dtype))

    def initial_values(self) -> dict[str, Tensor]:
        """Draw new rates and steps; see ``RATES`` and ``STEPS``."""
        rates = torch.empty_like(self.A_log).uniform_(*RATES)
        shortest, longest = STEPS
        steps = torch.empty_like(self.dt_bias).uniform_(math.log(shortest), math.log(longest)).exp()
        inverse_softplus = steps + (-torch.expm1(-steps)).log()
        return {"A_log": rates.log(), "dt_bias": inverse_softplus}


class GatedRMSNorm(nn.Module):
    """w x / rms(x) * SiLU(gate) over the last axis, with ``weight`` w ``[D]``."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """Return ``[..., D]`` in the dtype of ``gate``, for x and gate ``[..., D]``."""
        dtype = state_dtype(gate.dtype)
        normed = F.rms_norm(x.to(dtype), self.weight.shape, self.weight.to(dtype), self.eps)
        return (normed * F.silu(gate.to(dtype))).to(gate.dtype)


class DeltaRule(nn.Module, ABC):
    """One way to make queries, keys and values for the delta rule, and to use what is read."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes
        self.b_proj = nn.Linear(sizes.hidden, sizes.heads, bias=False)

    def strength(self, hidden: Tensor) -> Tensor:
        """Return b, ``[B, H, T, 1]`` in (0, 1), for tokens ``[B, T, hidden]``."""
        logits = self.b_proj(hidden)
        return logits.to(state_dtype(logits.dtype)).sigmoid().mT.unsqueeze(-1)

    @abstractmethod
    def prepare(self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """Return what ``chunk`` needs of every token; see ``ChunkwiseAttention.prepare``."""

    @abstractmethod
    def chunk(self, state: tuple, parts: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, tuple]:
        """Read and write a chunk; see ``ChunkwiseAttention.chunk``."""

    def finish(self, hidden: Tensor, read: Tensor) -> Tensor:
        """Return the output ``[B, H, T, D]`` for what was read, likewise."""
        return read

    @staticmethod
    @abstractmethod
    def features(block: DeltaNetSpec) -> FeatureMap:
        """Return the map of queries and keys."""

    @classmethod
    @abstractmethod
    def empty(
        cls, sizes: Sizes, block: DeltaNetSpec, batch: int, dtype: torch.dtype, device: torch.device
    ) -> FastWeights | GatedState:
        """Return the state before the first token."""

    @classmethod
    def matrix(cls, sizes: Sizes, block: DeltaNetSpec, batch: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return M = 0, float32 whatever the dtype, unless float64."""
        width = cls.features(block).width(sizes.head)
        return torch.zeros(batch, sizes.heads, width, sizes.head, dtype=state_dtype(dtype), device=device)

    @classmethod
    def weights(cls, sizes: Sizes) -> int:
        """Return how many weights a token is multiplied with."""
        return sizes.hidden * sizes.heads


class FastWeightsRule(DeltaRule):
    """Queries and keys are features whose sum is one, and nothing decays (arXiv 2102.11174, section 4.2)."""

    def __init__(self, sizes: Sizes, block: DeltaNetSpec, eps: float):
        super().__init__(sizes)
        self.apply_features = self.features(block).apply

    def prepare(self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """Return phi(q) and phi(k) in the dtype of the state, v, and b."""
        dtype = state_dtype(q.dtype)
        return self.apply_features(q.to(dtype)), self.apply_features(k.to(dtype)), v, self.strength(hidden)

    def chunk(self, state: tuple, parts: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, FastWeights]:
        """Read and write a chunk: a strength of zero leaves the state as it is."""
        assert isinstance(state, FastWeights)
        q, k, v, strength = parts
        k, v = expand_heads(k, self.sizes.heads), expand_heads(v, self.sizes.heads)
        out, state = delta_chunk(state, q, k, v, strength.squeeze(-1))
        return out.to(v.dtype), state

    @staticmethod
    def features(block: DeltaNetSpec) -> FeatureMap:
        """Return phi."""
        assert block.features is not None  # filled in by the schema
        return FEATURE_MAPS[block.features]

    @classmethod
    def empty(
        cls, sizes: Sizes, block: DeltaNetSpec, batch: int, dtype: torch.dtype, device: torch.device
    ) -> FastWeights:
        """Return M = 0."""
        return FastWeights(cls.matrix(sizes, block, batch, dtype, device))


class GatedRule(DeltaRule):
    """Gated DeltaNet (arXiv 2412.06464, section 3, and the block of its figure 1).

    q, k and v go through a short convolution and SiLU; q and k are divided by their norms, and q by sqrt(d); what is
    read is normalised and gated, head by head.
    """

    def __init__(self, sizes: Sizes, block: DeltaNetSpec, eps: float):
        super().__init__(sizes)
        length = _convolution(block)
        self.convolution = ShortConvolution(_channel_heads(sizes), length, sizes.head) if length > 1 else None
        self.a_proj = nn.Linear(sizes.hidden, sizes.heads, bias=False)
        self.decay = Decay(sizes.heads)
        self.g_proj = nn.Linear(sizes.hidden, sizes.heads * sizes.head, bias=False)
        self.o_norm = GatedRMSNorm(sizes.head, eps)

    def prepare(self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """Return q, k and v side by side, b, and log a."""
        return torch.cat([q, k, v], 1), self.strength(hidden), self.decay(self.a_proj(hidden)).mT.unsqueeze(-1)

    def chunk(self, state: tuple, parts: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, GatedState]:
        """Convolve, read and write a chunk: a strength and a log decay of zero leave M as it is."""
        assert isinstance(state, GatedState)
        x, strength, log_decay = parts
        heads, key_heads, size, _ = self.sizes
        dtype, inputs = state.matrix.dtype, state.inputs
        if self.convolution is None:
            x = F.silu(x.to(dtype))
        else:
            x, inputs = self.convolution(x, inputs, tokens, dtype)
        q, k, v = x.split([heads, key_heads, key_heads], 1)
        q, k = identity_l2.apply(q) * size**-0.5, expand_heads(identity_l2.apply(k), heads)
        weights = FastWeights(state.matrix)
        out, weights = delta_chunk(weights, q, k, expand_heads(v, heads), strength.squeeze(-1), log_decay.squeeze(-1))
        return out, GatedState(weights.matrix, inputs)

    def finish(self, hidden: Tensor, read: Tensor) -> Tensor:
        """Normalise and gate what was read."""
        gate = self.g_proj(hidden).unflatten(-1, (self.sizes.heads, -1)).transpose(1, 2)
        return self.o_norm(read, gate)

    @staticmethod
    def features(block: DeltaNetSpec) -> FeatureMap:
        """Return the division by the norm."""
        return identity_l2

    @classmethod
    def empty(
        cls, sizes: Sizes, block: DeltaNetSpec, batch: int, dtype: torch.dtype, device: torch.device
    ) -> GatedState:
        """Return M = 0 and inputs of zero."""
        shape = (batch, _channel_heads(sizes), _convolution(block) - 1, sizes.head)
        inputs = torch.zeros(shape, dtype=dtype, device=device)
        return GatedState(cls.matrix(sizes, block, batch, dtype, device), inputs)

    @classmethod
    def weights(cls, sizes: Sizes) -> int:
        """Return those of strength, decay and output gate."""
        return sizes.hidden * sizes.heads * (2 + sizes.head)


RULES: dict[str, type[FastWeightsRule | GatedRule]] = {"fast_weights": FastWeightsRule, "gated": GatedRule}


class DeltaNetAttention(ChunkwiseAttention):
    """y_t = M_t^T q_t,  M_t = a_t (I - b_t k_t k_t^T) M_{t-1} + b_t k_t v_t^T,  b_t = sigmoid(W_b x_t) per head.

    What q, k, v, the decay a and the output are is a matter of the rule: ``FastWeightsRule`` or ``GatedRule``. Nothing
    is rotated. Grouped keys and values are repeated to the query heads.
    """

    facts = Facts("H F d, and (H + 2 G) d (W - 1) of the convolution", "everything", "through all writes", "constant")

    def __init__(self, config: LlamaConfig, spec: AttentionSpec, layer: int):
        super().__init__(config, spec, layer)
        block = block_of(spec)
        self.chunk_length = block.chunk_length
        self.rule = RULES[block.rule](self.sizes, block, config.rms_norm_eps)

    def attend(
        self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: object | None
    ) -> tuple[Tensor, None]:
        """Return ``[B, H, T, D]``; see ``Attention.attend``."""
        read, _ = super().attend(hidden, q, k, v, stream, cache)
        return self.rule.finish(hidden, read), None

    def prepare(self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream) -> tuple[Tensor, ...]:
        """Return what the rule needs of every token."""
        return self.rule.prepare(hidden, q, k, v)

    def chunk(self, state: tuple, parts: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, tuple]:
        """Read and write a chunk; see ``ChunkwiseAttention.chunk``."""
        # autocast would write and read the state in the lower precision
        with torch.autocast(parts[0].device.type, enabled=False):
            return self.rule.chunk(state, parts, tokens)

    @classmethod
    def empty(
        cls, sizes: Sizes, spec: AttentionSpec, batch: int, dtype: torch.dtype, device: torch.device
    ) -> FastWeights | GatedState:
        """Return the state before the first token."""
        block = block_of(spec)
        return RULES[block.rule].empty(sizes, block, batch, dtype, device)

    @classmethod
    def flops(cls, sizes: Sizes, spec: AttentionSpec, tokens: int) -> float:
        """Return 6 F d per head, for M^T k, k v^T and M^T q; and 2 W per channel of a convolution."""
        block = block_of(spec)
        width = RULES[block.rule].features(block).width(sizes.head)
        length = _convolution(block)
        convolution = 2.0 * length * _channel_heads(sizes) * sizes.head if length > 1 else 0.0
        return 6.0 * sizes.heads * width * sizes.head + convolution

    @classmethod
    def weights(cls, sizes: Sizes, spec: AttentionSpec) -> int:
        """Return those of the rule."""
        return RULES[block_of(spec).rule].weights(sizes)


def block_of(spec: AttentionSpec) -> DeltaNetSpec:
    """Return what there is to choose, as it was chosen."""
    return spec.delta_net or DeltaNetSpec()


def _convolution(block: DeltaNetSpec) -> int:
    """Return W, the tokens under the convolution; 1 if there is none."""
    return block.convolution or 1


def _channel_heads(sizes: Sizes) -> int:
    """Return how many heads the convolution runs over: those of queries, keys and values."""
    return sizes.heads + 2 * sizes.key_heads
