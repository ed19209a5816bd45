"""What kinds of attention share that mix a memory with local attention: the gate, and when it applies."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.models.llama.configuration_llama import LlamaConfig

from palimpsest.attention.base import Attention
from palimpsest.attention.gate import Gate
from palimpsest.attention.spec import AttentionSpec
from palimpsest.attention.stream import Stream


class Mixture(NamedTuple):
    """What is mixed: ``gate`` g, broadcastable to ``[B, H, T, 1]``, and ``read`` and ``local``, ``[B, H, T, D]``."""

    gate: Tensor
    read: Tensor
    local: Tensor


MixProbe = Callable[[Mixture, Stream], Mixture]


class GatedAttention(Attention):
    """out = g * memory + (1 - g) * local  (arXiv 2404.07143, equation 10).

    Attributes:
        gate: g.
        gate_override: a value that replaces every gate, None in ordinary use.
        mix_probe: a look at, or an intervention on, what is mixed; None in ordinary use.
    """

    def __init__(self, config: LlamaConfig, spec: AttentionSpec, layer: int):
        super().__init__(config, spec, layer)
        self.gate = Gate(spec.gate, self.heads, config.hidden_size)
        self.gate_override: float | None = None
        self.mix_probe: MixProbe | None = None

    def mix(self, hidden: Tensor, read: Tensor, local: Tensor, stream: Stream) -> Tensor:
        """Mix what the memory and local attention say, ``[B, H, T, D]`` each, for tokens ``[B, T, hidden]``."""
        gate = self.gate(hidden) if self.gate_override is None else local.new_full((1, 1, 1, 1), self.gate_override)
        if self.mix_probe is not None:
            gate, read, local = self.mix_probe(Mixture(gate, read, local), stream)
        if self.spec.first_segment == "local":
            gate = torch.where(stream.unwritten, 0.0, gate)
        gate = gate.to(local.dtype)
        return gate * read + (1.0 - gate) * local
