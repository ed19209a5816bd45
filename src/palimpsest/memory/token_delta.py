"""The token delta memory: every token first takes out what its key answered before, then writes its value."""

from dataclasses import dataclass
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.memory.features import FeatureMap, identity_l2
from palimpsest.memory.hebbian import FastWeights, HebbianMemory
from palimpsest.memory.recurrence import affine_prefixes
from palimpsest.memory.token_rules import delta_transition, delta_write

CHUNK_LENGTH = 64
"""Tokens that are written at once."""


@dataclass(frozen=True)
class TokenDeltaMemory:
    """The delta rule of fast weights, run over the tokens of a segment one after the other.

    read:   phi(q) M, what earlier segments wrote; no normaliser
    write:  for t = 1 .. N:  M <- a (I - b_t phi(k_t) phi(k_t)^T) M + b_t phi(k_t) v_t^T

    With |phi(k)| = 1 and strength b = 1 a key that is written again has its old value replaced exactly. The segment is
    written at once, in the WY form (see ``palimpsest.memory.token_rules.delta_chunk``).

    Source: Schlag et al. 2021, arXiv 2102.11174; with decay Yang et al. 2025, arXiv 2412.06464. There a token reads
    its own write and those just before it; here, as in every memory, it reads what earlier segments wrote.

    Attributes:
        features: the feature map phi; the rule is stable while b |phi(k)|^2 <= 2.
        log_decay: log a <= 0 per head ``[H]`` (a tensor, through which gradients flow): the memory ages with every
            token that is kept, whatever its strength. None: it does not age.
    """

    features: FeatureMap = identity_l2
    log_decay: Tensor | None = None

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
        return HebbianMemory(self.features).init(batch, heads, d_k, d_v, dtype=dtype, device=device)

    def read(self, state: FastWeights, q: Tensor) -> Tensor:
        """Answer queries with phi(q) M."""
        return HebbianMemory(self.features).read(state, q)

    def write(
        self, state: FastWeights, k: Tensor, v: Tensor, *, keep: Tensor | None = None, strength: Tensor | None = None
    ) -> FastWeights:
        """Write a segment, token after token."""
        phi = self.features.apply(k.to(state.matrix.dtype))
        streams = [(phi, 2), (v, 2), (strength, 2), (self._decays(phi), 2), (keep, 1)]
        split = [repeat(None) if x is None else x.split(CHUNK_LENGTH, axis) for x, axis in streams]
        for phi_c, v_c, strength_c, decays_c, keep_c in zip(*split, strict=False):
            state = delta_write(state, phi_c, v_c, strength_c, decays_c, keep=keep_c)
        return state

    def prefixes(
        self,
        state: FastWeights,
        k: Tensor,
        v: Tensor,
        keep: Tensor | None,
        reset: Tensor | None,
        strength: Tensor | None,
    ) -> tuple[FastWeights, FastWeights]:
        """Return the states before every segment and after the last (see ``palimpsest.memory.parallel``).

        Long segments are taken in chunks, for the triangular system of a chunk grows with the square of its tokens.
        """
        phi, segment = self.features.apply(k.to(state.matrix.dtype)), k.shape[3]
        if segment > CHUNK_LENGTH:
            if keep is None:
                keep = torch.ones(k.shape[0], k.shape[2], segment, dtype=torch.bool, device=k.device)
            phi, v = _chunks(phi, 3), _chunks(v, 3)
            keep, strength = _chunks(keep, 2), None if strength is None else _chunks(strength, 3)
            reset = None if reset is None else _first_of_chunks(reset, phi.shape[2] // k.shape[2])
        transitions, increments = delta_transition(phi, v, strength, self._decays(phi), keep=keep)
        before, after = affine_prefixes(state.matrix, transitions, increments, reset)
        return FastWeights(before[:, :, :: before.shape[2] // k.shape[2]]), FastWeights(after)

    def matrix(self, state: FastWeights) -> Tensor:
        """Return M."""
        return state.matrix

    def denominators(self, state: FastWeights, q: Tensor) -> None:
        """Return None: nothing is divided."""

    def _decays(self, phi: Tensor) -> Tensor | None:
        """Return the decay of the head for every token, ``[B, H, ..., N]`` for features ``[B, H, ..., N, F]``."""
        if self.log_decay is None:
            return None
        return self.log_decay.to(phi.dtype).view(-1, *(1,) * (phi.dim() - 3)).expand(phi.shape[:-1])


def _chunks(x: Tensor, axis: int) -> Tensor:
    """Cut segments ``[..., S, N, ...]`` of tokens on this axis into chunks, ``[..., S * C, CHUNK_LENGTH, ...]``.

    The last chunk of a segment is filled up with zeros, which for a mask are tokens that are not kept.
    """
    missing = -x.shape[axis] % CHUNK_LENGTH
    padded = F.pad(x, (0, 0) * (x.dim() - axis - 1) + (0, missing))
    return padded.unflatten(axis, (-1, CHUNK_LENGTH)).flatten(axis - 1, axis)


def _first_of_chunks(reset: Tensor, chunks: int) -> Tensor:
    """Return ``[B, S * chunks]``: what ``reset`` ``[B, S]`` says of a segment is said of its first chunk."""
    return F.pad(reset.unsqueeze(-1), (0, chunks - 1)).flatten(1)
