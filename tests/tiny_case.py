"""A tiny model whose weights are drawn so large that every part of it matters, in float64."""

import torch

from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM


def tiny_config(attention: dict, **sizes: int) -> PalimpsestConfig:
    """Return two layers of two heads in segments of 8, where sizes or attention do not say otherwise."""
    usual = {"vocab_size": 17, "hidden_size": 16, "intermediate_size": 16}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
    return PalimpsestConfig(**(usual | layers | sizes), attention={"segment_length": 8} | attention)


def tiny_model(attention: dict, **sizes: int) -> PalimpsestForCausalLM:
    model = PalimpsestForCausalLM(tiny_config(attention, **sizes)).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.5)
    return model
