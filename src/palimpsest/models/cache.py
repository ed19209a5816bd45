"""The cache of generation: bounded, whatever the length of the context, but for layers of kind ``full``."""

import copy

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from palimpsest.attention import FullCacheLayer, StateCacheLayer
from palimpsest.attention.kinds import KINDS
from palimpsest.attention.sizes import Sizes
from palimpsest.models.configuration import PalimpsestConfig


class PalimpsestCache(Cache):
    """One cache layer per model layer, and how far each row has come.

    Attributes:
        layers: the cache layers.
        spec: the attention that it was made for.
        columns: tokens and padding processed so far, the same for all rows.
        seen: ``[B]``, tokens (without padding) of each row so far; None before the first pass.
    """

    layers: list[FullCacheLayer | StateCacheLayer]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: PalimpsestConfig):
        spec = config.attention_spec
        sizes = Sizes.of(config)
        kinds = [KINDS[spec.kind(layer)] for layer in range(config.num_hidden_layers)]
        super().__init__(layers=[kind.cache_layer(sizes, spec) for kind in kinds])
        self.spec = spec
        self.columns = 0
        self.seen: Tensor | None = None

    def begin(self, batch: int, device: torch.device) -> Tensor:
        """Return ``seen``, zero before the first pass."""
        if self.seen is None:
            self.seen = torch.zeros(batch, dtype=torch.long, device=device)
        return self.seen

    def advance(self, tokens: int, real: Tensor | None) -> None:
        """Count a pass over ``[B, T]`` columns, of which ``real`` were tokens (all, if None)."""
        assert self.seen is not None
        self.columns += tokens
        self.seen = self.seen + (tokens if real is None else real.sum(1))

    def clone(self) -> "PalimpsestCache":
        """Return an independent copy: read a long text once, continue from it many times.

        The copy holds the same tensors until it moves on: a pass replaces tensors and never changes one in place.
        """
        branch = copy.copy(self)
        branch.layers = [copy.copy(layer) for layer in self.layers]
        return branch

    def bytes(self) -> tuple[int, int]:
        """Return the bytes of the states of closed segments, and of the keys and values beside them."""
        memory = local = 0
        for layer in self.layers:
            in_memory, in_segment = layer.bytes()
            memory, local = memory + in_memory, local + in_segment
        return memory, local

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of columns so far, padding included, as ``generate`` counts them."""
        return self.columns

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.columns, self.seen = 0, None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the rows, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row, for several return sequences."""
        for layer in self.layers:
            layer.batch_repeat_interleave(repeats)
        if self.seen is not None:
            self.seen = self.seen.repeat_interleave(repeats, 0)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows, in this order."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.batch_select_indices(indices)
        if self.seen is not None:
            self.seen = self.seen.index_select(0, indices.to(self.seen.device))
