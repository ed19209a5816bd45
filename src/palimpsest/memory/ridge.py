"""The ridge memory: the same sums, read by least squares.

Two forms of one memory. ``RidgeMemory`` keeps the normal equations (H, M): sums, cheap to train through.
``RidgeRootMemory`` keeps their square root (R, Y): a QR factorisation per segment, and digits that float32 normal
equations lose after about 100K tokens of repeated text.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.memory.features import FeatureMap, elu1, kept_strength, mapped
from palimpsest.memory.recurrence import additive_prefixes

ACCUMULATED_ROUNDING = 64.0
"""Units of rounding that a sum over very many segments may have gathered."""


class RidgeState(NamedTuple):
    """``gram`` H = sum w phi(k) phi(k)^T ``[B, H, F, F]`` and ``matrix`` M = sum w phi(k) v^T ``[B, H, F, V]``."""

    gram: Tensor
    matrix: Tensor


class RidgeRootState(NamedTuple):
    """``root`` R ``[B, H, F, F]``, upper triangular with R^T R = H + lambda I, and ``target`` Y = R^-T M.

    Y is ``[B, H, F, V]``.
    """

    root: Tensor
    target: Tensor


@dataclass(frozen=True)
class RidgeMemory:
    """Ridge regression from mapped keys to values, in normal equations.

    read:  phi(q) (H + lambda I)^-1 M;   write:  H + sum_t w_t phi(k_t) phi(k_t)^T,  M + sum_t w_t phi(k_t) v_t^T

    The minimiser of sum_t w_t |W^T phi(k_t) - v_t|^2 + lambda |W|^2, where w_t is the strength of token t; least
    squares at token level is the Mesa layer (von Oswald et al. 2023; MesaNet, arXiv 2506.05233), here solved once per
    segment and head.

    Attributes:
        features: the feature map phi.
        ridge: lambda > 0, a number or one per head ``[H]`` (a tensor, through which gradients flow).
    """

    features: FeatureMap = elu1
    ridge: Tensor | float = 1.0

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
        width = self.features.width(d_k)
        return RidgeState(
            torch.zeros(batch, heads, width, width, dtype=dtype, device=device),
            torch.zeros(batch, heads, width, d_v, dtype=dtype, device=device),
        )

    def read(self, state: RidgeState, q: Tensor) -> Tensor:
        """Answer queries with the ridge estimate."""
        phi_q = self.features.apply(q.to(state.gram.dtype))
        return (phi_q @ self.weights(state)).to(q.dtype)

    def write(
        self, state: RidgeState, k: Tensor, v: Tensor, *, keep: Tensor | None = None, strength: Tensor | None = None
    ) -> RidgeState:
        """Add a segment to both sums."""
        phi_k, weighted, v = mapped(self.features, k, v, keep, strength, state.gram.dtype)
        return RidgeState(state.gram + weighted.mT @ phi_k, state.matrix + weighted.mT @ v)

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
        phi_k, weighted, v = mapped(self.features, k, v, keep, strength, state.gram.dtype)
        gram, gram_after = additive_prefixes(state.gram, weighted.mT @ phi_k, reset)
        matrix, matrix_after = additive_prefixes(state.matrix, weighted.mT @ v, reset)
        return RidgeState(gram, matrix), RidgeState(gram_after, matrix_after)

    def weights(self, state: RidgeState) -> Tensor:
        """Return W = (H + lambda I)^-1 M, ``[..., F, V]``."""
        gram, ridge = state.gram, per_head(self.ridge, state.gram)
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        # rounding gives the sums small negative eigenvalues, which lambda must outweigh
        rounding = torch.finfo(gram.dtype).eps * gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        ridge = torch.maximum(ridge, rounding)
        factor, failed = torch.linalg.cholesky_ex(gram + ridge * identity)
        if bool(failed.any()):  # so long a stream that rounding has added up over its segments
            failed = failed[..., None, None] > 0
            ridge = torch.where(failed, ridge + ACCUMULATED_ROUNDING * rounding, ridge)
            factor, failed = torch.linalg.cholesky_ex(gram + ridge * identity)
            # one row that holds NaN must not stop the others, and reads NaN itself
            factor = torch.where(failed[..., None, None] > 0, torch.nan, factor)
        return torch.cholesky_solve(state.matrix, factor)

    def matrix(self, state: RidgeState) -> Tensor:
        """Return M."""
        return state.matrix

    def denominators(self, state: RidgeState, q: Tensor) -> Tensor:
        """Return the eigenvalues of H + lambda I, ``[B, H, F]``, whatever the queries."""
        identity = torch.eye(state.gram.shape[-1], dtype=state.gram.dtype, device=state.gram.device)
        return torch.linalg.eigvalsh(state.gram + per_head(self.ridge, state.gram) * identity)


@dataclass(frozen=True)
class RidgeRootMemory:
    """Ridge regression in square-root form, for long streams.

    read:   phi(q) R^-1 Y
    write:  [R; D^1/2 phi(K)] = Q R',  Y' = Q^T [Y; D^1/2 V],  D the diagonal of the strengths

    Then R'^T R' = R^T R + phi(K)^T D phi(K) and R'^T Y' = R^T Y + phi(K)^T D V: the state is that of ``RidgeMemory``,
    but its condition number is the square root (recursive least squares by QR, Golub & Van Loan section 6.5). lambda
    enters at ``init``: R = sqrt(lambda) I. A strength of exactly zero gets no gradient: no path through a root has one.
    """

    features: FeatureMap = elu1
    ridge: Tensor | float = 1.0

    def init(
        self,
        batch: int,
        heads: int,
        d_k: int,
        d_v: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> RidgeRootState:
        """Return R = sqrt(lambda) I and Y = 0."""
        width = self.features.width(d_k)
        identity = torch.eye(width, dtype=dtype, device=device).expand(batch, heads, width, width)
        return RidgeRootState(
            per_head(self.ridge, identity).sqrt() * identity,
            torch.zeros(batch, heads, width, d_v, dtype=dtype, device=device),
        )

    def read(self, state: RidgeRootState, q: Tensor) -> Tensor:
        """Answer queries with the ridge estimate."""
        phi_q = self.features.apply(q.to(state.root.dtype))
        weights = torch.linalg.solve_triangular(state.root, state.target, upper=True)
        return (phi_q @ weights).to(q.dtype)

    def write(
        self, state: RidgeRootState, k: Tensor, v: Tensor, *, keep: Tensor | None = None, strength: Tensor | None = None
    ) -> RidgeRootState:
        """Fold a segment into the triangular factor."""
        phi_k, _, v = mapped(self.features, k, v, keep, None, state.root.dtype)
        weights = kept_strength(keep, strength, state.root.dtype)
        if weights is not None:
            root_weights = _root(weights).unsqueeze(-1)
            phi_k, v = root_weights * phi_k, root_weights * v
        # [R; phi(K)] has full column rank whatever is written, so the factorisation is also differentiable
        orthogonal, root = torch.linalg.qr(torch.cat([state.root, phi_k], -2))
        return RidgeRootState(root, orthogonal.mT @ torch.cat([state.target, v], -2))

    def matrix(self, state: RidgeRootState) -> Tensor:
        """Return M = R^T Y."""
        return state.root.mT @ state.target

    def denominators(self, state: RidgeRootState, q: Tensor) -> Tensor:
        """Return the eigenvalues of R^T R = H + lambda I, ``[B, H, F]``, whatever the queries."""
        return torch.linalg.svdvals(state.root).square()


def _root(weights: Tensor) -> Tensor:
    """Return the square roots, with gradient zero at zero, where that of the root is infinite."""
    nothing = weights <= 0.0  # False for NaN, which must stay visible
    return torch.where(nothing, 0.0, torch.where(nothing, 1.0, weights).sqrt())


def per_head(ridge: Tensor | float, like: Tensor) -> Tensor:
    """Shape lambda, one per head or one for all, so that it broadcasts over ``[B, H, ...]``."""
    tensor = torch.as_tensor(ridge, dtype=like.dtype, device=like.device)
    return tensor.view(-1, *(1,) * (like.dim() - 2))
