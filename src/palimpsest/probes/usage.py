"""How much of what a layer says comes from its memory, on given text."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.attention import GatedAttention
from palimpsest.attention.gated import MixProbe, Mixture
from palimpsest.attention.stream import Stream
from palimpsest.errors import InputError
from palimpsest.memory.base import state_dtype
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.probes.hooks import Parts, gated_layers, in_force
from palimpsest.probes.interventions import places_in_segment


class Contributions(NamedTuple):
    """Means over the tokens before which something was written, ``[B, H]`` each.

    Attributes:
        memory: |g A_mem W_O|, the length of what the memory adds to the residual stream.
        local: |(1 - g) A_dot W_O|, likewise of local attention.
        read: |A_mem|, of what is read, before the gate.
        gate: g.
    """

    memory: Tensor
    local: Tensor
    read: Tensor
    gate: Tensor

    @property
    def rho(self) -> Tensor:
        """The share of the memory, memory / (memory + local)."""
        return self.memory / (self.memory + self.local)

    def over_rows(self) -> "Contributions":
        """The means over all rows, ``[H]`` each, for rows of equal length."""
        return Contributions(*(x.mean(0) for x in self))


def usage(model: PalimpsestForCausalLM, tokens: Tensor) -> Tensor:
    """Return rho ``[layers, heads]``, the share of what a head says that comes from memory, on tokens ``[B, T]``.

    rho = E|g A_mem W_O| / (E|g A_mem W_O| + E|(1 - g) A_dot W_O|), with the rows of W_O that belong to the head, and E
    over all tokens after the first segment: before it there is nothing to read. NaN in layers without a gate.

    Raises:
        InputError: no layer mixes a memory with local attention, or the text is shorter than two segments.
    """
    seen = contributions(model, tokens)
    rho = torch.full((model.config.num_hidden_layers, model.config.num_attention_heads), torch.nan)
    for layer, found in seen.items():
        rho[layer] = found.over_rows().rho.to(rho)
    return rho


@torch.no_grad()
def contributions(model: PalimpsestForCausalLM, tokens: Tensor) -> dict[int, Contributions]:
    """Return what memory and local attention contribute to tokens ``[B, T]``, by layer.

    Raises:
        InputError: as ``usage``.
    """
    check_readable(model, tokens)
    seen: dict[int, Contributions] = {}
    with in_force((layer, Parts(mix=observe(layer, seen))) for layer in gated_layers(model)):
        model.model(tokens, use_cache=False)
    return seen


def observe(layer: GatedAttention, into: dict[int, Contributions]) -> MixProbe:
    """Return a probe that changes nothing and notes what a layer mixes in a pass without a cache."""

    def look(mixture: Mixture, stream: Stream) -> Mixture:
        dtype = state_dtype(mixture.local.dtype)
        gate, read, local = (x.to(dtype) for x in mixture)
        weight = layer.o_proj.weight.to(dtype).unflatten(1, (layer.heads, layer.head_dim))
        gram = torch.einsum("xhd,xhe->hde", weight, weight)
        gate = gate.expand(*local.shape[:3], 1)

        def mean(x: Tensor) -> Tensor:
            return (
                torch.where(stream.unwritten.squeeze(-1), 0.0, x).sum(-1) / (~stream.unwritten).sum((1, 2, 3))[:, None]
            )

        def length(x: Tensor) -> Tensor:
            """|x W_O|, by x W_O W_O^T x^T: without a number for every head and dimension of the residual stream."""
            return ((x @ gram) * x).sum(-1).clamp_min(0.0).sqrt()

        into[layer.layer] = Contributions(
            mean(length(gate * read)),
            mean(length((1.0 - gate) * local)),
            mean(read.norm(dim=-1)),
            mean(gate.squeeze(-1)),
        )
        return mixture

    return look


@torch.no_grad()
def mean_reads(model: PalimpsestForCausalLM, token_batches: Iterable[Tensor]) -> dict[int, Tensor]:
    """Return the mean of what is read in each head at each place in the segment, by layer, ``[H, N, D]`` each.

    Over all rows of all batches ``[B, T]``, from the second segment on. The intervention ``mean`` gives it back: it
    keeps what every text has in common, and takes away what was told in this one.

    Raises:
        InputError: as ``usage``; or no batch.
    """
    sums: dict[int, Tensor] = {}
    counts: dict[int, Tensor] = {}

    def adding(layer: GatedAttention) -> MixProbe:
        def look(mixture: Mixture, stream: Stream) -> Mixture:
            read = mixture.read.to(torch.float64)
            batch, heads, _, size = read.shape
            there = ~stream.unwritten.view(batch, -1)
            places = places_in_segment(stream)[there]
            total = sums.setdefault(layer.layer, read.new_zeros(stream.segment_length, heads, size))
            count = counts.setdefault(layer.layer, read.new_zeros(stream.segment_length))
            total.index_add_(0, places, read.transpose(1, 2)[there])
            count.index_add_(0, places, torch.ones_like(places, dtype=count.dtype))
            return mixture

        return look

    for tokens in token_batches:
        check_readable(model, tokens)
        with in_force((layer, Parts(mix=adding(layer))) for layer in gated_layers(model)):
            model.model(tokens, use_cache=False)
    if not sums:
        raise InputError("The mean of reads needs at least one batch of text, got none.")
    return {layer: (total / counts[layer][:, None, None]).transpose(0, 1) for layer, total in sums.items()}


def check_readable(model: PalimpsestForCausalLM, tokens: Tensor) -> None:
    """Refuse a model that mixes in no memory, and text in which nothing could be read.

    Raises:
        InputError: as ``usage``.
    """
    spec = model.config.attention_spec
    if not gated_layers(model):
        kinds = ", ".join(dict.fromkeys(spec.pattern))
        raise InputError(
            f"The model has layers of kind {kinds}, none of which mixes a memory with local attention; there is "
            "nothing to profile in it."
        )
    if tokens.shape[1] < 2 * spec.segment_length:
        raise InputError(
            f"The text has {tokens.shape[1]} tokens, less than two segments of {spec.segment_length}: nothing is read "
            "from the memory before the second one."
        )
