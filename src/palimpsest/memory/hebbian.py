"""The Hebbian memory: a sum of outer products, read as it is."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.memory.features import FeatureMap, identity_l2, mapped
from palimpsest.memory.recurrence import additive_prefixes


class FastWeights(NamedTuple):
    """``matrix`` M ``[B, H, F, V]``, the weights of a linear map from keys to values."""

    matrix: Tensor


@dataclass(frozen=True)
class HebbianMemory:
    """The correlation matrix memory (Kohonen 1972; Anderson 1972), fast weights without a normaliser.

    read:  phi(q) M;   write:  M + sum_t w_t phi(k_t) v_t^T

    Nothing is divided, so that features may be negative: those of two random keys then cancel on average instead of
    adding up. w_t is the strength of token t, one if none is given.
    """

    features: FeatureMap = identity_l2

    def init(
        self,
        batch: int,
        heads: int,
        d_k: int,
        d_v: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> FastWeights:
        """Return M = 0."""
        return FastWeights(torch.zeros(batch, heads, self.features.width(d_k), d_v, dtype=dtype, device=device))

    def read(self, state: FastWeights, q: Tensor) -> Tensor:
        """Answer queries."""
        return (self.features.apply(q.to(state.matrix.dtype)) @ state.matrix).to(q.dtype)

    def write(
        self, state: FastWeights, k: Tensor, v: Tensor, *, keep: Tensor | None = None, strength: Tensor | None = None
    ) -> FastWeights:
        """Add a segment."""
        _, weighted, v = mapped(self.features, k, v, keep, strength, state.matrix.dtype)
        return FastWeights(state.matrix + weighted.mT @ v)

    def prefixes(
        self,
        state: FastWeights,
        k: Tensor,
        v: Tensor,
        keep: Tensor | None,
        reset: Tensor | None,
        strength: Tensor | None,
    ) -> tuple[FastWeights, FastWeights]:
        """Return the states before every segment and after the last (see ``palimpsest.memory.parallel``)."""
        _, weighted, v = mapped(self.features, k, v, keep, strength, state.matrix.dtype)
        matrix, matrix_after = additive_prefixes(state.matrix, weighted.mT @ v, reset)
        return FastWeights(matrix), FastWeights(matrix_after)

    def matrix(self, state: FastWeights) -> Tensor:
        """Return M."""
        return state.matrix

    def denominators(self, state: FastWeights, q: Tensor) -> None:
        """Return None: nothing is divided."""
