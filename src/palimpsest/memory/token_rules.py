"""Token-level rules: memories that every token writes and reads at once, its own write included.

Each rule has two forms with the same arguments and numbers: ``*_recurrence``, a loop over tokens, is the definition;
``*_chunk`` takes the same tokens in a few matrix products and one triangular solve. A stream may be cut into chunks
anywhere, each continuing from the state the last one left. A chunk of N tokens needs matrices of N x N, so a long
stream is taken in chunks of about 64.

Keys and queries come already mapped and scaled: q and k are ``[B, H, N, F]``, v ``[B, H, N, V]``, ``strength`` and
``log_decay`` ``[B, H, N]``, ``keep`` ``[B, N]``. A token that is not kept neither writes nor ages the memory, may hold
anything, even NaN, and reads zero. Everything is computed in the dtype of the state.
"""

import torch
from torch import Tensor

from palimpsest.memory.hebbian import FastWeights
from palimpsest.memory.linear import LinearState, safe_divide


def linear_recurrence(
    state: LinearState, q: Tensor, k: Tensor, v: Tensor, *, normalise: bool = True, keep: Tensor | None = None
) -> tuple[Tensor, LinearState]:
    """Run linear attention token by token; the definition.

    M_t = M_{t-1} + k_t v_t^T,  z_t = z_{t-1} + k_t,  y_t = q_t M_t / (q_t z_t), or q_t M_t without ``normalise``.

    Source: Katharopoulos et al. 2020, arXiv 2006.16236, equations 16 to 20.

    Returns:
        y ``[B, H, N, V]`` in the dtype of ``q``, zero where the denominator is negligible, and the state after.
    """
    dtype, (matrix, normaliser) = q.dtype, state
    q, k, v = (_kept(x.to(matrix.dtype), keep) for x in (q, k, v))
    outs = [v[..., :0, :]]  # what an empty stream reads
    for q_t, k_t, v_t in zip(*(x.unbind(-2) for x in (q, k, v)), strict=True):
        matrix = matrix + _outer(k_t, v_t)
        normaliser = normaliser + k_t
        out = _applied(q_t, matrix)
        outs.append((safe_divide(out, (q_t * normaliser).sum(-1, keepdim=True)) if normalise else out).unsqueeze(-2))
    return torch.cat(outs, -2).to(dtype), LinearState(matrix, normaliser)


def linear_chunk(
    state: LinearState, q: Tensor, k: Tensor, v: Tensor, *, normalise: bool = True, keep: Tensor | None = None
) -> tuple[Tensor, LinearState]:
    """Run linear attention over a chunk at once; see ``linear_recurrence``."""
    dtype, (matrix, normaliser) = q.dtype, state
    q, k, v = (_kept(x.to(matrix.dtype), keep) for x in (q, k, v))
    weights = (q @ k.mT).tril()
    out = q @ matrix + weights @ v
    if normalise:
        out = safe_divide(out, q @ normaliser.unsqueeze(-1) + weights.sum(-1, keepdim=True))
    return out.to(dtype), LinearState(matrix + k.mT @ v, normaliser + k.sum(-2))


def delta_recurrence(
    state: FastWeights,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    strength: Tensor | None = None,
    log_decay: Tensor | None = None,
    *,
    keep: Tensor | None = None,
) -> tuple[Tensor, FastWeights]:
    """Run the (gated) delta rule token by token; the definition.

    M_t = a_t (I - b_t k_t k_t^T) M_{t-1} + b_t k_t v_t^T,  y_t = q_t M_t

    A key is first forgotten, then written: with |k| = 1 and b = 1, k_t M_t = v_t. It is stable while b |k|^2 <= 2.

    Args:
        state: the memory before the first token.
        q: queries ``[B, H, N, F]``.
        k: keys ``[B, H, N, F]``.
        v: values ``[B, H, N, V]``.
        strength: b ``[B, H, N]``; 1 if None.
        log_decay: log a <= 0 ``[B, H, N]``, down to -inf; 0 if None.
        keep: ``[B, N]`` bool; where False the token neither writes nor ages the memory, and reads zero.

    Source: Schlag et al. 2021, arXiv 2102.11174; with decay Yang et al. 2025, arXiv 2412.06464. Both write M^T.

    Returns:
        y ``[B, H, N, V]`` in the dtype of ``q``, and the state after.
    """
    matrix = state.matrix
    queries = _kept(q.to(matrix.dtype), keep)
    k, v, strength, log_decay = _prepared(matrix.dtype, k, v, strength, log_decay, keep)
    log_decay = torch.zeros_like(strength) if log_decay is None else log_decay
    outs = [v[..., :0, :]]  # what an empty stream reads
    tokens = (*(x.unbind(-2) for x in (queries, k, v)), *(x.unbind(-1) for x in (strength, log_decay)))
    for q_t, k_t, v_t, b_t, log_a_t in zip(*tokens, strict=True):
        matrix = log_a_t.exp()[..., None, None] * matrix
        matrix = matrix + _outer(k_t, b_t.unsqueeze(-1) * (v_t - _applied(k_t, matrix)))
        outs.append(_applied(q_t, matrix).unsqueeze(-2))
    return torch.cat(outs, -2).to(q.dtype), FastWeights(matrix)


def delta_chunk(
    state: FastWeights,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    strength: Tensor | None = None,
    log_decay: Tensor | None = None,
    *,
    keep: Tensor | None = None,
) -> tuple[Tensor, FastWeights]:
    """Run the (gated) delta rule over a chunk at once; see ``delta_recurrence``.

    Let D_ij be what a write of token j is worth after token i, and u_t = b_t (v_t - a_t k_t M_{t-1}) what token t adds
    to the memory. Then M_i = D_i0 M_0 + sum_{j <= i} D_ij k_j u_j^T, and u follows from a unit triangular system (the
    WY form of Yang et al. 2024, arXiv 2406.06484; with decay arXiv 2412.06464):

    (I + strictly lower(diag(b) (K K^T * D))) U = diag(b) (V - diag(D_i0) K M_0)
    """
    matrix = state.matrix
    queries = _kept(q.to(matrix.dtype), keep)
    k, added, worth = _writes(matrix, k, v, strength, log_decay, keep)
    out = worth[..., 1:, :1] * (queries @ matrix) + (queries @ k.mT * worth[..., 1:, 1:]).tril() @ added
    return out.to(q.dtype), FastWeights(_after(matrix, k, added, worth))


def delta_write(
    state: FastWeights,
    k: Tensor,
    v: Tensor,
    strength: Tensor | None = None,
    log_decay: Tensor | None = None,
    *,
    keep: Tensor | None = None,
) -> FastWeights:
    """Return the state that ``delta_chunk`` leaves, without reading."""
    return FastWeights(_after(state.matrix, *_writes(state.matrix, k, v, strength, log_decay, keep)))


def delta_transition(
    k: Tensor,
    v: Tensor,
    strength: Tensor | None = None,
    log_decay: Tensor | None = None,
    *,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return A ``[..., F, F]`` and B ``[..., F, V]`` with M_after = A M_before + B, in the dtype of ``k``.

    The chunks may carry further axes: k ``[B, H, ..., N, F]``, v ``[B, H, ..., N, V]``, strength and log_decay
    ``[B, H, ..., N]``, keep ``[B, ..., N]``.
    """
    k, v, strength, log_decay = _prepared(k.dtype, k, v, strength, log_decay, keep)
    worth = _worth(log_decay, like=k)
    # one solve for both: what the tokens add to a memory M is U_v - U_k M
    added = _added(k, torch.cat([v, worth[..., 1:, :1] * k], -1), strength, worth)
    added_v, added_k = added.split([v.shape[-1], k.shape[-1]], -1)
    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    nothing = v.new_zeros(k.shape[-1], v.shape[-1])
    return _after(identity, k, -added_k, worth), _after(nothing, k, added_v, worth)


def _writes(
    matrix: Tensor, k: Tensor, v: Tensor, strength: Tensor | None, log_decay: Tensor | None, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return K, U and D of a chunk that is written to the memory M; see ``delta_chunk``."""
    k, v, strength, log_decay = _prepared(matrix.dtype, k, v, strength, log_decay, keep)
    worth = _worth(log_decay, like=k)
    return k, _added(k, v - worth[..., 1:, :1] * (k @ matrix), strength, worth), worth


def _added(k: Tensor, novel: Tensor, strength: Tensor, worth: Tensor) -> Tensor:
    """Return U, what every token adds to the memory: ``novel``, less what the tokens before it in the chunk added."""
    strength = strength.unsqueeze(-1)
    system = (strength * (k @ k.mT) * worth[..., 1:, 1:]).tril(-1)
    return torch.linalg.solve_triangular(system, strength * novel, upper=False, unitriangular=True)


def _after(matrix: Tensor, k: Tensor, added: Tensor, worth: Tensor) -> Tensor:
    """Return the memory after the last token."""
    last = worth[..., -1, :]
    return last[..., :1, None] * matrix + (last[..., 1:, None] * k).mT @ added


def _worth(log_decay: Tensor | None, like: Tensor) -> Tensor:
    """Return D ``[..., N + 1, N + 1]``: how much of what stood after token j is left after token i, for 0 <= j <= i.

    Token 0 stands for the state before the chunk; D is zero where j > i. Without decay D needs no batch and is
    ``[N + 1, N + 1]``.
    """
    tokens = like.shape[-2]
    ones = torch.ones(tokens + 1, tokens + 1, dtype=like.dtype, device=like.device)
    if log_decay is None:
        return ones.tril()
    # each sum is added up from its own terms, all <= 0: the difference of two cumulative sums would lose the digits of
    # mild decays beside a strong one, and be NaN for two of -inf
    terms = torch.nn.functional.pad(log_decay, (1, 0)).unsqueeze(-1)
    return torch.where(ones.tril(-1).bool(), terms, 0.0).cumsum(-2).exp().tril()


def _prepared(
    dtype: torch.dtype, k: Tensor, v: Tensor, strength: Tensor | None, log_decay: Tensor | None, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return what is written in the dtype of the state, with tokens that are not kept made to do nothing."""
    k, v = _kept(k.to(dtype), keep), _kept(v.to(dtype), keep)
    strength = k.new_ones(k.shape[:-1]) if strength is None else _kept(strength.to(dtype), keep, features=False)
    return k, v, strength, None if log_decay is None else _kept(log_decay.to(dtype), keep, features=False)


def _kept(x: Tensor, keep: Tensor | None, *, features: bool = True) -> Tensor:
    """Return x ``[B, H, ..., N, D]``, or ``[B, H, ..., N]`` without ``features``, zero where ``keep`` is False."""
    if keep is None:
        return x
    # where, not a product: a token that is not kept may hold anything, even NaN
    return torch.where(keep[:, None, ..., None] if features else keep[:, None], x, 0.0)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """Return a b^T for each row and head."""
    return a.unsqueeze(-1) * b.unsqueeze(-2)


def _applied(x: Tensor, matrix: Tensor) -> Tensor:
    """Return x M for each row and head, x ``[..., F]`` and M ``[..., F, V]``."""
    return (x.unsqueeze(-2) @ matrix).squeeze(-2)
