"""The linear memory: a sum of outer products, read with a normaliser."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.memory.features import FeatureMap, elu1
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

    read:  phi(q) M / (phi(q) z);   write:  M + sum_t phi(k_t) v_t^T,  z + sum_t phi(k_t)
    """

    features: FeatureMap = elu1

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

    def write(self, state: LinearState, k: Tensor, v: Tensor, *, keep: Tensor | None = None) -> LinearState:
        """Add a segment (equation 8)."""
        phi_k, v = mapped(self.features, k, v, keep, state.matrix.dtype)
        return LinearState(state.matrix + phi_k.mT @ v, state.normaliser + phi_k.sum(-2))

    def prefixes(
        self, state: LinearState, k: Tensor, v: Tensor, keep: Tensor | None, reset: Tensor | None
    ) -> tuple[LinearState, LinearState]:
        """Return the states before every segment and after the last (see ``palimpsest.memory.parallel``)."""
        phi_k, v = mapped(self.features, k, v, keep, state.matrix.dtype)
        matrix, matrix_after = additive_prefixes(state.matrix, phi_k.mT @ v, reset)
        normaliser, normaliser_after = additive_prefixes(state.normaliser, phi_k.sum(-2), reset)
        return LinearState(matrix, normaliser), LinearState(matrix_after, normaliser_after)


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
    return torch.where(empty, 0.0, numerator / torch.where(empty, 1.0, denominator))


def mapped(
    features: FeatureMap, k: Tensor, v: Tensor, keep: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return phi(k) and v in the dtype of the state, phi(k) zero where ``keep`` is False.

    ``k`` is ``[B, H, N, K]`` with ``keep`` ``[B, N]``, or ``[B, H, S, N, K]`` with ``keep`` ``[B, S, N]``.
    """
    phi_k = features.apply(k.to(dtype))
    if keep is not None:
        # where, not a product: a token that is not kept may hold anything, even NaN
        phi_k = torch.where(keep[:, None, ..., None], phi_k, 0.0)
        v = torch.where(keep[:, None, ..., None], v, 0.0)
    return phi_k, v.to(dtype)
