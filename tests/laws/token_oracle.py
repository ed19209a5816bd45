"""What oracles of attention share: the heads of a layer as numpy arrays, and attention of one query to some keys."""

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from palimpsest.attention import Attention
from palimpsest.models import PalimpsestForCausalLM

Array = NDArray[np.float64]


class CaughtLayer:
    """The only attention layer of a model, its input, queries, keys, values and output, caught while the model runs."""

    def __init__(self, model: PalimpsestForCausalLM):
        (block,) = model.model.layers
        attention = block.self_attn
        assert isinstance(attention, Attention)
        self.attention = attention
        self.size = attention.head_dim
        self.group = attention.heads // attention.sizes.key_heads
        self._caught: dict[str, torch.Tensor] = {}
        for name in ("q", "k", "v"):
            projection = attention.get_submodule(f"{name}_proj")
            projection.register_forward_hook(lambda _, __, out, name=name: self._caught.update({name: out}))
        attention.o_proj.register_forward_pre_hook(lambda _, inputs: self._caught.update({"out": inputs[0]}))
        attention.q_proj.register_forward_pre_hook(lambda _, inputs: self._caught.update({"hidden": inputs[0]}))
        self._rotary = LlamaRotaryEmbedding(config=model.config)

    @property
    def out(self) -> torch.Tensor:
        """``[B, T, H D]``, before the output projection."""
        return self._caught["out"]

    def hidden(self) -> Array:
        """Return ``[B, T, hidden]``."""
        return self._caught["hidden"].detach().numpy()

    def heads(self, name: str) -> Array:
        """Return q ``[B, H, T, D]``, or k or v ``[B, H_kv, T, D]``, un-rotated."""
        return self._caught[name].detach().unflatten(-1, (-1, self.size)).transpose(1, 2).numpy()

    def rotated(self, x: Array, place: int) -> Array:
        """Return one query or key ``[D]``, rotated by its place."""
        # cosines and sines are float32, as LLaMA's are, so that the oracle has to round them alike
        cos, sin = (c[0, 0].double().numpy() for c in self._rotary(torch.zeros(1).double(), torch.tensor([[place]])))
        left, right = np.split(x, 2)
        return x * cos + np.concatenate([-right, left]) * sin


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def attend(q: Array, keys: list[Array], values: list[Array]) -> Array:
    """Return softmax(q K^T / sqrt(d)) V of one query ``[D]``."""
    return softmax(np.stack(keys) @ q / np.sqrt(len(q))) @ np.stack(values)


def joined(heads: Array) -> torch.Tensor:
    """Return ``[B, T, H D]`` of ``[B, H, T, D]``."""
    return torch.from_numpy(heads).transpose(1, 2).flatten(2)
