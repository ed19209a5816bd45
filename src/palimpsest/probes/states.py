"""Pure functions on the states of memories: what interventions are made of."""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.attention import Site
from palimpsest.errors import InputError
from palimpsest.memory.parallel import select

State = TypeVar("State", bound=tuple)


def zero(site: Site, state: tuple) -> tuple:
    """Empty the memory: it reads zero, and the gate still applies."""
    return site.empty


def swap(site: Site, state: tuple) -> tuple:
    """Give every row the memory of the next row: the same statistics, the content of another document.

    Meant for rows of equal length, which begin their segments together, and for one boundary: at every boundary in
    turn the memory becomes one of several documents, after as many boundaries as there are rows of the row's own.

    Raises:
        InputError: a batch of one row, which has no other document.
    """
    if state[0].shape[0] < 2:
        raise InputError("the swap probe needs a batch of at least 2 documents, got 1.")
    return type(state)(*(leaf.roll(-1, 0) for leaf in state))


def rounded(state: State, dtype: torch.dtype) -> State:
    """Round every number to what ``dtype`` can hold; counts stay as they are, and so does the dtype of the state."""
    leaves = (leaf.to(dtype).to(leaf.dtype) if leaf.is_floating_point() else leaf for leaf in state)
    return type(state)(*leaves)


def kept(rows: Tensor, before: State, after: State) -> State:
    """Return the state before a write in these rows ``[B]``, and the state after it in the others."""
    # a store of tokens that grows has got more places, the new ones in front
    leaves = zip(before, after, strict=True)
    padded = (b if b.shape == a.shape else F.pad(b, (0, 0, a.shape[2] - b.shape[2], 0)) for b, a in leaves)
    return select(rows, type(before)(*padded), after)


def shuffled(v: Tensor, seed: int) -> Tensor:
    """Permute the tokens of values ``[B, H, N, D]`` so that none keeps its own: one random cycle of all of them.

    Every such cycle is as likely (Sattolo 1986). It follows from the seed and N alone, so that rows, heads, layers and
    segments of one length are all permuted alike. One token alone has no other value to take.
    """
    order = torch.randperm(v.shape[2], generator=torch.Generator().manual_seed(seed))
    source = torch.empty_like(order)
    source[order] = order.roll(-1)
    return v[:, :, source.to(v.device)]


def state_of_heads(heads: Tensor, yes: State, no: State) -> State:
    """Return the state that is ``yes`` in these heads ``[H]`` (bool) and ``no`` in the others.

    For states of which every leaf is ``[B, H, ...]``.
    """
    return type(no)(*(of_heads(heads, a, b) for a, b in zip(yes, no, strict=True)))


def of_heads(heads: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Return ``yes`` in these heads ``[H]`` (bool) and ``no`` in the others, both broadcastable to ``[B, H, ...]``."""
    return torch.where(heads.view(1, -1, *(1,) * (no.dim() - 2)), yes, no)
