"""Linear attention: a sum of outer products that every token writes, and reads at once."""

import torch
from torch import Tensor
from transformers.models.llama.configuration_llama import LlamaConfig

from palimpsest.attention.base import Facts, expand_heads
from palimpsest.attention.chunkwise import ChunkwiseAttention
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import AttentionSpec, LinearAttentionSpec
from palimpsest.attention.stream import Stream
from palimpsest.memory import FEATURE_MAPS, FeatureMap, LinearMemory, LinearState
from palimpsest.memory.base import state_dtype
from palimpsest.memory.token_rules import linear_chunk


class LinearAttention(ChunkwiseAttention):
    """y_t = phi(q_t) M_t / (phi(q_t) z_t), M_t = sum_{j <= t} phi(k_j) v_j^T, z_t = sum_{j <= t} phi(k_j).

    Katharopoulos et al. 2020, arXiv 2006.16236, equations 16 to 20. Nothing is rotated: what lies how far back is not
    told apart. Grouped keys and values are repeated to the query heads.
    """

    facts = Facts("H (F d + F)", "everything", "through all writes", "constant")

    def __init__(self, config: LlamaConfig, spec: AttentionSpec, layer: int):
        super().__init__(config, spec, layer)
        self.chunk_length = block_of(spec).chunk_length
        self.features = features_of(spec)

    def prepare(self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream) -> tuple[Tensor, ...]:
        """Return phi(q) and phi(k) in the dtype of the state, and v."""
        dtype = state_dtype(q.dtype)
        return self.features.apply(q.to(dtype)), self.features.apply(k.to(dtype)), v

    def chunk(self, state: tuple, parts: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, LinearState]:
        """Read and write a chunk; see ``ChunkwiseAttention.chunk``. Features of zero leave the state as it is."""
        assert isinstance(state, LinearState)
        q, k, v = parts
        # autocast would write and read the state in the lower precision
        with torch.autocast(q.device.type, enabled=False):
            out, state = linear_chunk(state, q, expand_heads(k, self.heads), expand_heads(v, self.heads))
        return out.to(v.dtype), state

    @classmethod
    def empty(
        cls, sizes: Sizes, spec: AttentionSpec, batch: int, dtype: torch.dtype, device: torch.device
    ) -> LinearState:
        """Return M = 0 and z = 0: float32 whatever the dtype, unless float64."""
        memory = LinearMemory(features_of(spec))
        return memory.init(batch, sizes.heads, sizes.head, sizes.head, dtype=state_dtype(dtype), device=device)

    @classmethod
    def flops(cls, sizes: Sizes, spec: AttentionSpec, tokens: int) -> float:
        """Return 4 F d + 2 F per head: phi(k) v^T, phi(q) M and phi(q) z."""
        width = features_of(spec).width(sizes.head)
        return sizes.heads * (4.0 * width * sizes.head + 2.0 * width)


def block_of(spec: AttentionSpec) -> LinearAttentionSpec:
    """Return what there is to choose, as it was chosen."""
    return spec.linear_attention or LinearAttentionSpec()


def features_of(spec: AttentionSpec) -> FeatureMap:
    """Return phi."""
    return FEATURE_MAPS[block_of(spec).features]
