"""The delta memory: a segment writes only what the memory does not already answer."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from palimpsest.memory.features import FeatureMap, elu1, mapped, require_unsigned
from palimpsest.memory.linear import (
    LinearMemory,
    LinearState,
    denominators,
    normalised_read,
    safe_divide,
)
from palimpsest.memory.recurrence import additive_prefixes, affine_prefixes

Normaliser = Literal["exclusive", "inclusive"]


@dataclass(frozen=True)
class DeltaMemory:
    """Infini-attention's Linear + Delta memory (arXiv 2404.07143, equations 7 and 9).

    read:   phi(q) M / (phi(q) z)
    write:  M + phi(K)^T W (V - phi(K) M / D),  z + sum_t w_t phi(k_t)

    W is the diagonal of the strengths w_t, one if none are given. With the normaliser ``exclusive``, D = phi(K) z as
    printed: all keys of the segment are compared with the memory before it. The update is then not always a
    contraction: a segment that opens a new direction can be subtracted many times over. With ``inclusive``,
    D = phi(K) (z + sum_t w_t phi(k_t)), and ||I - phi(K)^T W D^-1 phi(K)|| <= 1 always.
    """

    features: FeatureMap = elu1
    normaliser: Normaliser = "exclusive"

    def __post_init__(self) -> None:
        """Refuse features that can be negative."""
        require_unsigned(self.features, "DeltaMemory")

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
        return LinearMemory(self.features).init(batch, heads, d_k, d_v, dtype=dtype, device=device)

    def read(self, state: LinearState, q: Tensor) -> Tensor:
        """Answer queries (equation 7)."""
        return LinearMemory(self.features).read(state, q)

    def write(
        self, state: LinearState, k: Tensor, v: Tensor, *, keep: Tensor | None = None, strength: Tensor | None = None
    ) -> LinearState:
        """Add what the memory did not yet answer (equation 9)."""
        phi_k, weighted, v = mapped(self.features, k, v, keep, strength, state.matrix.dtype)
        normaliser = state.normaliser + weighted.sum(-2)
        known = LinearState(state.matrix, normaliser if self.normaliser == "inclusive" else state.normaliser)
        return LinearState(state.matrix + weighted.mT @ (v - normalised_read(known, phi_k)), normaliser)

    def prefixes(
        self,
        state: LinearState,
        k: Tensor,
        v: Tensor,
        keep: Tensor | None,
        reset: Tensor | None,
        strength: Tensor | None,
    ) -> tuple[LinearState, LinearState]:
        """Return the states before every segment and after the last (see ``palimpsest.memory.parallel``).

        Once z is known for every segment, the write is affine in M:
        M_s = (I - phi(K)^T W D^-1 phi(K)) M_{s-1} + phi(K)^T W V.
        """
        phi_k, weighted, v = mapped(self.features, k, v, keep, strength, state.matrix.dtype)
        increment = weighted.sum(-2)
        normaliser, normaliser_after = additive_prefixes(state.normaliser, increment, reset)
        known = normaliser + increment if self.normaliser == "inclusive" else normaliser
        erased = weighted.mT @ safe_divide(phi_k, denominators(phi_k, known))
        identity = torch.eye(erased.shape[-1], dtype=erased.dtype, device=erased.device)
        matrix, matrix_after = affine_prefixes(state.matrix, identity - erased, weighted.mT @ v, reset)
        return LinearState(matrix, normaliser), LinearState(matrix_after, normaliser_after)

    def matrix(self, state: LinearState) -> Tensor:
        """Return M, in which what the memory already answered was not written again."""
        return state.matrix

    def denominators(self, state: LinearState, q: Tensor) -> Tensor:
        """Return phi(q) z, ``[B, H, T]``."""
        return LinearMemory(self.features).denominators(state, q)
