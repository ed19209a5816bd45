"""Compressive models for the tests of their definition and of their reconstruction loss."""

import torch
from torch import Tensor

from palimpsest.models import PalimpsestForCausalLM
from palimpsest.models.modeling import PalimpsestCausalLMOutput

from .model_cases import HEAD_DIM

LENGTH = 31
"""Seven segments, and three tokens of an eighth."""
CONVOLUTION = ".self_attn.convolution."


def block(memory: int, compressed: int, ratio: int, **more: object) -> dict:
    chosen = {"cache_length": memory, "compressed_length": compressed, "ratio": ratio} | more
    return {"pattern": "compressive", "compressive": chosen}


def trained(model: PalimpsestForCausalLM, x: Tensor, **options: object) -> PalimpsestCausalLMOutput:
    """Return what a model in training makes of a batch."""
    return model.train()(x, labels=x, **options)


def auxiliary(model: PalimpsestForCausalLM, x: Tensor, **options: object) -> Tensor:
    loss = trained(model, x, **options).auxiliary_loss
    assert loss is not None
    return loss.detach()


def keep_identity(model: PalimpsestForCausalLM) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if CONVOLUTION in name:
                weight.copy_(torch.eye(HEAD_DIM).expand_as(weight))
