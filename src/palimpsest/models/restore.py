"""Put some weights of a model back to what they were before it was trained on, and tell how far weights have turned."""

import math
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from palimpsest.errors import InputError

Part = Literal["query_key", "gates"]
"""What can be put back: the projections W_Q and W_K; the gates, with whatever else a memory learns for itself."""

PARTS: tuple[Part, ...] = get_args(Part)

NAMES: dict[Part, tuple[str, ...]] = {
    "query_key": (".self_attn.q_proj.", ".self_attn.k_proj."),
    "gates": (".self_attn.gate.", ".self_attn.memory.", ".self_attn.strength.", ".self_attn.search."),
}
"""How the weights of each part are named."""


class Turn(NamedTuple):
    """How far one weight has turned from that of another model.

    Attributes:
        name: of the weight.
        cosine: of the angle between both, each taken as one long vector; 1 where both are zero, 0 where one is.
        distance: Euclidean length of the difference, divided by that of the other model's weight.
    """

    name: str
    cosine: float
    distance: float


def part_of(name: str) -> Part | None:
    """Return the part that a weight belongs to, None if it is never put back."""
    return next((part for part, names in NAMES.items() if any(each in name for each in names)), None)


def restore(model: Mapping[str, Tensor], base: Mapping[str, Tensor], parts: Collection[Part]) -> dict[str, Tensor]:
    """Return the weights of a model with some parts taken from the one that its training went on from.

    QK-Restore is ``parts=["query_key"]``: fine-tuning on short texts bends W_Q and W_K towards what is near, and their
    old values bring back what is far (Attention Amnesia, arXiv 2606.11052).

    Args:
        model: weights by name, as ``state_dict`` gives them; they are left as they are.
        base: those of the other model.
        parts: what to take from it.

    Raises:
        InputError: the two are not of the same shape, or the model has nothing of a part.
    """
    _require_alike(model, base)
    for part in parts:
        if not any(part_of(name) == part for name in model):
            raise InputError(f"There is nothing to restore: the model has no weights of the part '{part}'.")
    return {name: base[name] if part_of(name) in parts else weight for name, weight in model.items()}


def turns(model: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> list[Turn]:
    """Return how far every weight of a model has turned from that of another one, computed in float64.

    Raises:
        InputError: the two are not of the same shape.
    """
    _require_alike(model, base)
    return [_turn(name, weight, base[name]) for name, weight in model.items()]


def _turn(name: str, weight: Tensor, other: Tensor) -> Turn:
    now, then = (each.detach().double().flatten() for each in (weight, other.to(weight.device)))
    length, former, change = float(now.norm()), float(then.norm()), float((now - then).norm())
    if change == 0:
        return Turn(name, 1.0, 0.0)
    if 0.0 in (length, former):
        return Turn(name, 0.0, change / former if former else math.inf)
    cosine = float(torch.dot(now, then)) / (length * former)
    return Turn(name, max(-1.0, min(1.0, cosine)), change / former)


def _require_alike(model: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    for name in dict.fromkeys([*model, *base]):
        if name not in model or name not in base:
            lacking = "model" if name not in model else "base"
            raise InputError(f"The two models do not belong together: the {lacking} has no weight {name}.")
        if model[name].shape != base[name].shape:
            raise InputError(
                f"The two models do not belong together: {name} is {tuple(model[name].shape)} in one and "
                f"{tuple(base[name].shape)} in the other."
            )
