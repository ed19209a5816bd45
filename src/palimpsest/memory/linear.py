"""The linear memory: a sum of outer products, read with a normaliser."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.memory.features import FeatureMap, elu1, mapped, require_unsigned
from palimpsest.memory.recurrence import additive_prefixes

NEGLIGIBLE = 1e-12
"""A denominator below this is an empty memory: reading it gives zero, and no gradient is divided by it."""


class LinearState(NamedTuple):
    """``matrix`` M ``[B, H, F, V]`` and ``normaliser`` z ``[B, H, F]``."""

    matrix: Tensor
    normaliser: Tensor


@dataclass(frozen=True)
class LinearMemory:
    """Infini-attention's Linear memory (arXiv 2404.07143, equations 7 and 8).

    read:  phi(q) M / (phi(q) z);   write:  M + sum_t w_t phi(k_t) v_t^T,  z + sum_t w_t phi(k_t)

    w_t is the strength of token t, one if none is given.

    Raises:
        ValueError: features that can be negative, by whose sum nothing can be divided.
    """

    features: FeatureMap = elu1

    def __post_init__(self) -> None:
        """Refuse features that can be negative."""
        require_unsigned(self.features, "LinearMemory")

    def init(
        self,
        batch: int,
        heads: int,
        d_k: int,
        d_v: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> LinearState:
        """Return M = 0 and z = 0."""
        width = self.features.width(d_k)
        return LinearState(
            torch.zeros(batch, heads, width, d_v, dtype=dtype, device=device),
            torch.zeros(batch, heads, width, dtype=dtype, device=device),
        )

    def read(self, state: LinearState, q: Tensor) -> Tensor:
        """Answer queries (equation 7)."""
        phi_q = self.features.apply(q.to(state.matrix.dtype))
        return normalised_read(state, phi_q).to(q.dtype)

    def write(
        self, state: LinearState, k: Tensor, v: Tensor, *, keep: Tensor | None = None, strength: Tensor | None = None
    ) -> LinearState:
        """Add a segment (equation 8)."""
        _, weighted, v = mapped(self.features, k, v, keep, strength, state.matrix.dtype)
        return LinearState(state.matrix + weighted.mT @ v, state.normaliser + weighted.sum(-2))

    def prefixes(
        self,
        state: LinearState,
        k: Tensor,
        v: Tensor,
        keep: Tensor | None,
        reset: Tensor | None,
        strength: Tensor | None,
    ) -> tuple[LinearState, LinearState]:
        """Return the states before every segment and after the last (see ``palimpsest.memory.parallel``)."""
        _, weighted, v = mapped(self.features, k, v, keep, strength, state.matrix.dtype)
        matrix, matrix_after = additive_prefixes(state.matrix, weighted.mT @ v, reset)
        normaliser, normaliser_after = additive_prefixes(state.normaliser, weighted.sum(-2), reset)
        return LinearState(matrix, normaliser), LinearState(matrix_after, normaliser_after)

    def matrix(self, state: LinearState) -> Tensor:
        """Return M."""
        return state.matrix

    def denominators(self, state: LinearState, q: Tensor) -> Tensor:
        """Return phi(q) z, ``[B, H, T]``."""
        return denominators(self.features.apply(q.to(state.normaliser.dtype)), state.normaliser).squeeze(-1)


def denominators(phi: Tensor, normaliser: Tensor) -> Tensor:
    """Return phi z, ``[..., T, 1]``, for features ``[..., T, F]`` and normalisers ``[..., F]``."""
    return phi @ normaliser.unsqueeze(-1)


def normalised_read(state: tuple, phi: Tensor) -> Tensor:
    """Return phi M / (phi z), zero where the denominator is negligible."""
    matrix, normaliser = state
    return safe_divide(phi @ matrix, denominators(phi, normaliser))


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return numerator / denominator, and zero, with zero gradient, where the denominator is negligible."""
    empty = denominator <= NEGLIGIBLE  # False for NaN, so that a poisoned memory does not read as an empty one
    # zero times the numerator: features that do not overlap with any that were written must not hide poison either
    return torch.where(empty, 0.0 * numerator, numerator / torch.where(empty, 1.0, denominator))
