"""What an intervention costs on running text, and what each head is to blame for."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.errors import InputError
from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.probes.expressions import parse_intervention
from palimpsest.probes.hooks import gated_layers
from palimpsest.probes.interventions import Intervention, Rows
from palimpsest.probes.usage import contributions


class HeadEffect(NamedTuple):
    """One head: how far its gate is open, its share of memory, and what the intervention costs in it.

    Attributes:
        layer: its layer.
        head: its number.
        gate: the mean gate.
        rho: see ``usage``.
        effect: for every row, the mean rise of the loss in nats per token, over what the second and later segments
            predict.
    """

    layer: int
    head: int
    gate: float
    rho: float
    effect: tuple[float, ...]


def gate_effect(model: PalimpsestForCausalLM, tokens: Tensor, intervention: str = "swap") -> list[HeadEffect]:
    """Make an intervention in one head after the other, on tokens ``[B, T]``, and compare its effect with its gate.

    Raises:
        InputError: as ``usage``; or an intervention that acts on no single head, or needs more rows.
    """
    seen = contributions(model, tokens)
    whole = parse_intervention(intervention)
    able = [layer for layer in gated_layers(model) if isinstance(layer, whole.only(heads=[0]).needs)]
    if intervention == "none" or not able:
        raise InputError(f"The intervention '{intervention}' changes no single head of this model.")
    if len(tokens) < whole.needs_rows:
        raise InputError(f"The intervention '{intervention}' needs {whole.needs_rows} documents, got {len(tokens)}.")
    places = [(layer.layer, head) for layer in able for head in range(layer.heads)]
    parts = [parse_intervention("none"), *(whole.only([layer], [head]) for layer, head in places)]
    first = model.config.attention_spec.segment_length
    losses = losses_under(model, tokens, parts)[:, :, first:].mean(-1)
    rise = (losses[1:] - losses[0]).tolist()
    found = []
    for (layer, head), effect in zip(places, rise, strict=True):
        share = seen[layer].over_rows()
        found.append(HeadEffect(layer, head, float(share.gate[head]), float(share.rho[head]), tuple(effect)))
    return found


@torch.no_grad()
def losses_under(
    model: PalimpsestForCausalLM, tokens: Tensor, interventions: Sequence[Intervention], rows: Rows | None = None
) -> Tensor:
    """Return the loss of every token but the first under every intervention, ``[I, B, T - 1]``, in nats.

    One that must be in force throughout is, from the first token on. Any other comes into force at the boundary of
    each segment anew, with all that came before intact: so ``swap`` gives every segment the memory of one other
    document, and not of one document after the other.
    """
    out = tokens.new_zeros((len(interventions), len(tokens), tokens.shape[1] - 1), dtype=torch.float64)
    for number, each in enumerate(interventions):
        if each.throughout:
            with each.apply(model, rows):
                out[number] = _losses(model(tokens, use_cache=False).logits, tokens[:, 1:])
    local = [number for number, each in enumerate(interventions) if not each.throughout]
    length, past = model.config.attention_spec.segment_length, PalimpsestCache(model.config)
    for start in range(0, tokens.shape[1], length) if local else ():
        piece, following = tokens[:, start : start + length], tokens[:, start + 1 : start + length + 1]
        for number in local:
            with interventions[number].apply(model, rows):
                logits = model(piece, past_key_values=past.clone(), use_cache=True).logits
            out[number, :, start : start + following.shape[1]] = _losses(logits, following)
        model.model(piece, past_key_values=past, use_cache=True)
    return out


def _losses(logits: Tensor, following: Tensor) -> Tensor:
    """Return ``[B, n]``, for logits of at least n tokens and the n tokens that follow them."""
    kept = logits[:, : following.shape[1]].double()
    return F.cross_entropy(kept.transpose(1, 2), following, reduction="none")
