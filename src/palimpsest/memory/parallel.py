"""``parallel``: all segments at once, equal to ``scan`` in outputs, final state and gradients.

A memory takes part by offering, beside the protocol,

    prefixes(state, k, v, keep, reset, strength) -> (states before every segment, state after the last)

with k ``[B, H, S, N, K]``, v ``[B, H, S, N, V]``, keep ``[B, S, N]`` or None, reset ``[B, S]`` or None (True: the
memory is empty before that segment), strength ``[B, H, S, N]`` or None, and every leaf of the first result carrying a
segment axis after the heads.
"""

from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from palimpsest.memory.base import Memory, check_stream, init_like
from palimpsest.memory.layout import plain_layout, segment_layout

State = TypeVar("State", bound=tuple)


@runtime_checkable
class HasPrefixes(Protocol[State]):
    """A memory whose states before every segment can be had without a loop over segments."""

    def prefixes(
        self,
        state: State,
        k: Tensor,
        v: Tensor,
        keep: Tensor | None,
        reset: Tensor | None,
        strength: Tensor | None,
    ) -> tuple[State, State]:
        """Return the states before every segment and the state after the last."""
        ...


def parallel(
    memory: Memory[State],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    segment_length: int,
    state: State | None = None,
    keep: Tensor | None = None,
    document_ids: Tensor | None = None,
    strength: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run a memory over a stream, all segments at once. Arguments and results are those of ``scan``."""
    check_stream(q, k, v, segment_length=segment_length, keep=keep, document_ids=document_ids, strength=strength)
    state = init_like(memory, q, v) if state is None else state
    layout = (
        plain_layout(q.shape[2], segment_length, q.shape[0], q.device)
        if document_ids is None
        else segment_layout(document_ids, segment_length)
    )
    occupied = layout.occupied
    if keep is not None:
        occupied = layout.fold_mask(keep)
    folded = None if strength is None else layout.fold(strength.unsqueeze(-1)).squeeze(-1)
    before, after = segment_states(memory, state, layout.fold(k), layout.fold(v), occupied, layout.reset, folded)
    return layout.unfold(memory.read(before, layout.fold(q))), after


def segment_states(
    memory: Memory[State],
    state: State,
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    reset: Tensor | None,
    strength: Tensor | None = None,
) -> tuple[State, State]:
    """Return the states before every segment and after the last; see the module's docstring for shapes.

    A memory without ``prefixes`` is written segment by segment.
    """
    if isinstance(memory, HasPrefixes):
        return memory.prefixes(state, k, v, keep, reset, strength)
    empty = memory.init(k.shape[0], k.shape[1], k.shape[-1], v.shape[-1], dtype=state[0].dtype, device=k.device)
    states = []
    # unbind, not indexing: see Tokens.split
    strengths = [None] * k.shape[2] if strength is None else strength.unbind(2)
    for s, (k_s, v_s, strength_s) in enumerate(zip(k.unbind(2), v.unbind(2), strengths, strict=True)):
        if reset is not None:
            state = select(reset[:, s], empty, state)
        states.append(state)
        state = memory.write(state, k_s, v_s, keep=None if keep is None else keep[:, s], strength=strength_s)
    return stack_states(states), state


def select(rows: Tensor, yes: State, no: State) -> State:
    """Return the state that is ``yes`` in the rows where ``rows`` ``[B]`` is True and ``no`` elsewhere."""
    leaves = [torch.where(rows.view(-1, *(1,) * (a.dim() - 1)), a, b) for a, b in zip(yes, no, strict=True)]
    return type(no)(*leaves)


def stack_states(states: list[State]) -> State:
    """Stack states along a segment axis after the heads."""
    return type(states[0])(*(torch.stack(leaves, 2) for leaves in zip(*states, strict=True)))


__all__ = ["HasPrefixes", "parallel", "segment_states", "select", "stack_states"]
