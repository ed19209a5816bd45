"""The Memory protocol and ``scan``, the definition that every faster form is proved equal to.

Shapes used in this package: B batch, H heads, T tokens, S segments, N tokens per segment, K size of a key, F number
of features phi(k), V size of a value.

A memory is read and then written once per segment: the queries of segment s read what segments 0 .. s-1 wrote
(Infini-attention, arXiv 2404.07143, section 2.1), so no token ever sees its own segment through the memory.
"""

from itertools import groupby
from typing import Protocol, TypeVar

import torch
from torch import Tensor

State = TypeVar("State", bound=tuple)


class Memory(Protocol[State]):
    """A fixed-size memory for each head: three pure functions over a NamedTuple of tensors.

    The state is float32 (or float64), whatever the dtype of the inputs. Every leaf of a state has the batch on its
    first and the heads on its second axis. ``read`` also accepts a state and queries that carry a segment axis after
    the heads (``[B, H, S, ...]``), which is how ``parallel`` reads all segments at once.

    A memory may also offer ``prefixes`` (see ``palimpsest.memory.parallel``), the states before every segment without
    a loop over segments.
    """

    def init(
        self,
        batch: int,
        heads: int,
        d_k: int,
        d_v: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> State:
        """Return the empty memory."""
        ...

    def read(self, state: State, q: Tensor) -> Tensor:
        """Answer queries ``[B, H, T, K]`` with values ``[B, H, T, V]`` in their dtype; an empty memory reads zero."""
        ...

    def write(self, state: State, k: Tensor, v: Tensor, *, keep: Tensor | None = None) -> State:
        """Return the state after one segment of keys ``[B, H, N, K]`` and values ``[B, H, N, V]``.

        ``keep`` ``[B, N]`` (bool): where False, nothing is written.
        """
        ...


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which a memory for inputs of this dtype accumulates: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def state_bytes(state: tuple) -> int:
    """Return the size of a state in bytes, all rows and heads together."""
    return sum(leaf.numel() * leaf.element_size() for leaf in state)


def init_like(memory: Memory[State], q: Tensor, v: Tensor) -> State:
    """Return the empty memory for these queries ``[B, H, T, K]`` and values ``[B, H, T, V]``."""
    batch, heads, _, d_k = q.shape
    return memory.init(batch, heads, d_k, v.shape[-1], dtype=state_dtype(q.dtype), device=q.device)


def scan(
    memory: Memory[State],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    segment_length: int,
    state: State | None = None,
    keep: Tensor | None = None,
    document_ids: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run a memory over a stream, one segment after the other: read, then write. This is the definition.

    Args:
        memory: the memory.
        q: queries ``[B, H, T, K]``.
        k: keys ``[B, H, T, K]``.
        v: values ``[B, H, T, V]``.
        segment_length: tokens per segment; the last segment may be shorter.
        state: what was written before the first token; empty if None. To continue a stream exactly, it must have been
            cut at a segment boundary.
        keep: ``[B, T]`` bool; where False the token takes its place in the segment but writes nothing.
        document_ids: ``[B, T]`` integers. Where the id changes, a new document starts with an empty memory and a new
            segment, so that packed documents equal the same documents run alone. Negative ids are padding: those
            tokens read zero, write nothing and take no place in a segment. ``state`` belongs to the first document.

    Returns:
        What was read, ``[B, H, T, V]`` in the dtype of ``q``, and the state after the last token.

    Raises:
        ValueError: shapes that do not fit together.
    """
    check_stream(q, k, v, segment_length=segment_length, keep=keep, document_ids=document_ids)
    state = init_like(memory, q, v) if state is None else state
    if document_ids is None:
        return _scan_document(memory, q, k, v, segment_length, state, keep)
    keeps = [None] * q.shape[0] if keep is None else keep.split(1)
    streams = (q.split(1), k.split(1), v.split(1), _unstack(state), keeps, document_ids.tolist())
    rows = [_scan_row(memory, segment_length, *row) for row in zip(*streams, strict=True)]
    return torch.cat([out for out, _ in rows]), _stack([final for _, final in rows])


def _scan_document(
    memory: Memory[State], q: Tensor, k: Tensor, v: Tensor, segment_length: int, state: State, keep: Tensor | None
) -> tuple[Tensor, State]:
    """Scan rows that hold one document each."""
    outs = []
    # split, not slicing: slicing a long tensor per segment makes the backward pass quadratic in T
    keeps = [None] * len(q.split(segment_length, 2)) if keep is None else keep.split(segment_length, 1)
    for q_s, k_s, v_s, keep_s in zip(
        q.split(segment_length, 2), k.split(segment_length, 2), v.split(segment_length, 2), keeps, strict=True
    ):
        outs.append(memory.read(state, q_s))
        state = memory.write(state, k_s, v_s, keep=keep_s)
    return torch.cat(outs, 2), state


def _scan_row(
    memory: Memory[State],
    segment_length: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: State,
    keep: Tensor | None,
    ids: list[int],
) -> tuple[Tensor, State]:
    """Scan one row ``[1, H, T, ...]`` of packed documents, one document after the other."""
    places, lengths = _documents(ids)
    index = torch.tensor(places, dtype=torch.long, device=q.device)
    # one gather and one split: indexing per document would make the backward pass quadratic in their number
    keeps = [None] * len(lengths) if keep is None else keep[:, index].split(lengths, 1)
    streams = (x.index_select(2, index).split(lengths, 2) for x in (q, k, v))
    outs = []
    for q_d, k_d, v_d, keep_d in zip(*streams, keeps, strict=True):
        if outs:
            state = init_like(memory, q, v)
        out, state = _scan_document(memory, q_d, k_d, v_d, segment_length, state, keep_d)
        outs.append(out)
    padded = v.new_zeros(v.shape, dtype=q.dtype)
    return padded.index_copy(2, index, torch.cat(outs, 2)) if outs else padded, state


def _documents(ids: list[int]) -> tuple[list[int], list[int]]:
    """Return the places of a row's tokens, padding (negative ids) left out, and the length of every document."""
    places = [place for place, document in enumerate(ids) if document >= 0]
    return places, [len(list(run)) for _, run in groupby(ids[place] for place in places)]


def _unstack(state: State) -> list[State]:
    """Return the states of the rows of a batch, each a batch of one."""
    return [type(state)(*leaves) for leaves in zip(*(leaf.split(1) for leaf in state), strict=True)]


def _stack(rows: list[State]) -> State:
    """Return the state of a batch whose rows have these states."""
    return type(rows[0])(*(torch.cat(leaves) for leaves in zip(*rows, strict=True)))


def check_stream(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    segment_length: int,
    keep: Tensor | None,
    document_ids: Tensor | None,
) -> None:
    """Raise ValueError, naming the offending shapes, unless the tensors describe one stream."""
    if q.dim() != 4 or q.shape != k.shape or q.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"expected q and k [B, H, T, K] and v [B, H, T, V], got q {tuple(q.shape)}, k {tuple(k.shape)}, "
            f"v {tuple(v.shape)}"
        )
    if segment_length < 1:
        raise ValueError(f"segment_length must be at least 1, got {segment_length}")
    for name, mask in (("keep", keep), ("document_ids", document_ids)):
        if mask is not None and mask.shape != (q.shape[0], q.shape[2]):
            raise ValueError(f"{name} must be [B, T] = {(q.shape[0], q.shape[2])}, got {tuple(mask.shape)}")
