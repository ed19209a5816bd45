"""The decayed ridge memory: least squares in which what was written long ago counts for less."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.memory.features import FeatureMap, elu1, mapped
from palimpsest.memory.recurrence import fading_prefixes
from palimpsest.memory.ridge import RidgeMemory, RidgeState, per_head


@dataclass(frozen=True)
class DecayedRidgeMemory:
    """Exponentially weighted ridge regression from mapped keys to values.

    read:   phi(q) (H + lambda I)^-1 M
    write:  H <- a H + w_t phi(k_t) phi(k_t)^T,  M <- a M + w_t phi(k_t) v_t^T,  for every kept token t

    The recursion of recursive least squares with a forgetting factor a (Haykin, Adaptive Filter Theory, chapter on
    RLS), and of MesaNet (arXiv 2506.05233), in the sums themselves. Time is counted in kept tokens, so that the state
    does not depend on where segments are cut: a token that is not kept neither writes nor ages, one written with
    strength zero ages. lambda does not fade, so that an untouched direction is read ever more cautiously.

    Attributes:
        features: the feature map phi.
        ridge: lambda > 0, a number or one per head ``[H]`` (a tensor, through which gradients flow).
        log_decay: log a <= 0, a number or one per head ``[H]``; the weight of a token halves every -log 2 / log a
            tokens. All powers of a are taken as exp(n log a) with n >= 0: they may vanish but never overflow.
    """

    features: FeatureMap = elu1
    ridge: Tensor | float = 1.0
    log_decay: Tensor | float = -math.log(2.0) / 4096

    def init(
        self,
        batch: int,
        heads: int,
        d_k: int,
        d_v: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> RidgeState:
        """Return H = 0 and M = 0."""
        return self._ridge().init(batch, heads, d_k, d_v, dtype=dtype, device=device)

    def read(self, state: RidgeState, q: Tensor) -> Tensor:
        """Answer queries with the ridge estimate."""
        return self._ridge().read(state, q)

    def write(
        self, state: RidgeState, k: Tensor, v: Tensor, *, keep: Tensor | None = None, strength: Tensor | None = None
    ) -> RidgeState:
        """Let both sums age by the kept tokens of a segment and add what is left of each of these."""
        faded, gram, matrix = self._segment(k, v, keep, strength, state.gram.dtype)
        faded = faded[..., None, None]
        return RidgeState(faded * state.gram + gram, faded * state.matrix + matrix)

    def prefixes(
        self,
        state: RidgeState,
        k: Tensor,
        v: Tensor,
        keep: Tensor | None,
        reset: Tensor | None,
        strength: Tensor | None,
    ) -> tuple[RidgeState, RidgeState]:
        """Return the states before every segment and after the last (see ``palimpsest.memory.parallel``)."""
        faded, grams, matrices = self._segment(k, v, keep, strength, state.gram.dtype)
        gram, gram_after = fading_prefixes(state.gram, faded, grams, reset)
        matrix, matrix_after = fading_prefixes(state.matrix, faded, matrices, reset)
        return RidgeState(gram, matrix), RidgeState(gram_after, matrix_after)

    def matrix(self, state: RidgeState) -> Tensor:
        """Return M."""
        return state.matrix

    def denominators(self, state: RidgeState, q: Tensor) -> Tensor:
        """Return the eigenvalues of H + lambda I, ``[B, H, F]``, whatever the queries."""
        return self._ridge().denominators(state, q)

    def _ridge(self) -> RidgeMemory:
        """Return the memory that reads the same sums and lets none of them fade."""
        return RidgeMemory(self.features, self.ridge)

    def _segment(
        self, k: Tensor, v: Tensor, keep: Tensor | None, strength: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is left of older sums after each segment, ``[B, H, ...]``, and what it adds to H and M."""
        phi_k, weighted, v = mapped(self.features, k, v, keep, strength, dtype)
        kept = k.new_ones(1, *k.shape[2:-1], dtype=dtype) if keep is None else keep.to(dtype)
        rank, count = kept.cumsum(-1).unsqueeze(1), kept.sum(-1, keepdim=True).unsqueeze(1)
        # counted backwards from the end of the segment, where the latest token has age zero
        weighted = self._faded(count - rank).unsqueeze(-1) * weighted
        return self._faded(count).squeeze(-1).expand(k.shape[:-2]), weighted.mT @ phi_k, weighted.mT @ v

    def _faded(self, age: Tensor) -> Tensor:
        """Return a^age, ``[B, H, ...]``, for ages ``[B, 1, ...]`` in kept tokens."""
        return (age * per_head(self.log_decay, age)).exp()
