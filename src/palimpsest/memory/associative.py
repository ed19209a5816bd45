"""The associative memory: the delta rule once per segment, with a normaliser that counts every key once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.memory.features import FEATURE_MAPS, FeatureMap, mapped, require_unsigned
from palimpsest.memory.linear import LinearMemory, LinearState, normalised_read, safe_divide
from palimpsest.memory.recurrence import affine_prefixes


@dataclass(frozen=True)
class AssociativeMemory:
    """The memory of the Associative Recurrent Memory Transformer (Rodkin et al. 2024, arXiv 2407.04841).

    read:   phi(q) M / (phi(q) z)
    write:  M + sum_t b_t phi(k_t) (v_t - phi(k_t) M / (phi(k_t) z))^T,  z + sum_t gamma_t phi(k_t)
            gamma_t = clip(1 - phi(k_t) z / |phi(k_t)|^2, 0, 1)

    M and z on the right are those before the segment. gamma is what is new in a key: one that z has counted already is
    not counted again, so z does not grow with what is repeated. As in the original the strength b scales what is
    written to M alone: a token that is kept is counted in z even if its strength is zero.

    The original writes a few memory tokens per segment, here every token is written. It adds 1e-5 to denominators,
    here a negligible denominator reads zero. Its code stops the gradient at gamma, here it flows.

    Raises:
        ValueError: features that can be negative, by whose sum nothing can be divided.
    """

    features: FeatureMap = FEATURE_MAPS["dpfp3_l2"]

    def __post_init__(self) -> None:
        """Refuse features that can be negative."""
        require_unsigned(self.features, "AssociativeMemory")

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
        """Answer queries."""
        return LinearMemory(self.features).read(state, q)

    def write(
        self, state: LinearState, k: Tensor, v: Tensor, *, keep: Tensor | None = None, strength: Tensor | None = None
    ) -> LinearState:
        """Add what the memory did not yet answer, and count the keys it did not yet know."""
        phi, weighted, v = mapped(self.features, k, v, keep, strength, state.matrix.dtype)
        novel = v - normalised_read(state, phi)
        return LinearState(state.matrix + weighted.mT @ novel, state.normaliser + _new_keys(phi, state.normaliser))

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

        The recurrence of z is not linear: it takes a loop over segments, of one product with a vector each. Once z is
        known the write is affine in M: M_s = (I - phi(K)^T B D^-1 phi(K)) M_{s-1} + phi(K)^T B V.
        """
        phi, weighted, v = mapped(self.features, k, v, keep, strength, state.matrix.dtype)
        normaliser, normaliser_after = _normalisers(state.normaliser, phi, reset)
        erased = weighted.mT @ safe_divide(phi, phi @ normaliser.unsqueeze(-1))
        identity = torch.eye(erased.shape[-1], dtype=erased.dtype, device=erased.device)
        matrix, matrix_after = affine_prefixes(state.matrix, identity - erased, weighted.mT @ v, reset)
        return LinearState(matrix, normaliser), LinearState(matrix_after, normaliser_after)

    def matrix(self, state: LinearState) -> Tensor:
        """Return M."""
        return state.matrix

    def denominators(self, state: LinearState, q: Tensor) -> Tensor:
        """Return phi(q) z, ``[B, H, T]``."""
        return LinearMemory(self.features).denominators(state, q)


def _normalisers(initial: Tensor, phi: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return z before every segment ``[B, H, S, F]`` and after the last ``[B, H, F]``."""
    normaliser, before = initial, []
    # unbind, not indexing: slicing a long tensor per segment makes the backward pass quadratic in T
    for s, phi_s in enumerate(phi.unbind(2)):
        if reset is not None:
            normaliser = torch.where(reset[:, s, None, None], 0.0, normaliser)
        before.append(normaliser)
        normaliser = normaliser + _new_keys(phi_s, normaliser)
    return torch.stack(before, 2), normaliser


def _new_keys(phi: Tensor, normaliser: Tensor) -> Tensor:
    """Return sum_t gamma_t phi(k_t), what a segment adds to z."""
    known = safe_divide(phi @ normaliser.unsqueeze(-1), phi.square().sum(-1, keepdim=True))
    return ((1.0 - known).clamp(0.0, 1.0) * phi).sum(-2)
