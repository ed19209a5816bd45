"""One attention layer of a model, its inputs and outputs caught while the model runs."""

import torch
from torch import Tensor, nn

from palimpsest.attention import Attention, StateCacheLayer
from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM

from .model_cases import single


class Layer:
    """The attention of a model of one layer.

    Attributes:
        hidden: ``[B, T, hidden]``, what came in.
        out: ``[B, T, H * D]``, what went to the last projection.
    """

    hidden: Tensor
    out: Tensor

    def __init__(self, attention: dict):
        self.model: PalimpsestForCausalLM = single(attention)
        module = self.model.model.layers[0].self_attn
        assert isinstance(module, Attention)
        self.attention = module
        module.q_proj.register_forward_pre_hook(lambda _, inputs: setattr(self, "hidden", inputs[0]))
        module.o_proj.register_forward_pre_hook(lambda _, inputs: setattr(self, "out", inputs[0]))

    def run(self, x: Tensor, **options: object) -> tuple[Tensor, Tensor]:
        """Return ``hidden`` and ``out`` of a pass over tokens ``[B, T]`` without a cache."""
        self.model(x, use_cache=False, **options)
        return self.hidden, self.out

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the weights that ``out`` depends on."""
        named = self.attention.named_parameters()
        return {name: parameter for name, parameter in named if not name.startswith("o_proj.")}

    def heads(self, name: str, x: Tensor) -> Tensor:
        """Project ``[B, T, hidden]`` and return ``[B, H, T, D]``, grouped heads repeated."""
        weight = self.attention.get_parameter(f"{name}.weight")
        projected = (x @ weight.T).unflatten(-1, (-1, self.attention.head_dim)).transpose(1, 2)
        return projected.repeat_interleave(self.attention.heads // projected.shape[1], 1)

    def merged(self, heads: Tensor) -> Tensor:
        """Return ``[B, T, H * D]`` for ``[B, H, T, D]``, as ``out`` has it."""
        return heads.transpose(1, 2).flatten(2)

    def gradients(self, out: Tensor) -> dict[str, Tensor]:
        """Return the gradients of a weighted sum of ``out`` with respect to ``parameters``."""
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=out.dtype)
        parameters = self.parameters()
        found = torch.autograd.grad((out * weights).sum(), list(parameters.values()), retain_graph=True)
        return dict(zip(parameters, found, strict=True))


def state_of(past: PalimpsestCache) -> tuple:
    """Return the state of a model of one layer."""
    (layer,) = past.layers
    assert isinstance(layer, StateCacheLayer)
    assert layer.state is not None
    return layer.state


def replaced(module: nn.Module, value: Tensor | float) -> None:
    """Let a projection give this, whatever the token."""
    module.register_forward_hook(lambda _, __, out: torch.zeros_like(out) + value)
