"""The Memory protocol and ``scan``, the definition that every faster form is proved equal to.

Shapes used in this package: B batch, H heads, T tokens, S segments, N tokens per segment, K size of a key, F number
of features phi(k), V size of a value.

A memory is read and then written once per segment: the queries of segment s read what segments 0 .. s-1 wrote
(Infini-attention, arXiv 2404.07143, section 2.1), so no token ever sees its own segment through the memory.
"""

from itertools import groupby, repeat
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

State = TypeVar("State", bound=tuple)


class Memory(Protocol[State]):
    """A fixed-size memory for each head: pure functions over a NamedTuple of tensors.

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

    def write(
        self, state: State, k: Tensor, v: Tensor, *, keep: Tensor | None = None, strength: Tensor | None = None
    ) -> State:
        """Return the state after one segment of keys ``[B, H, N, K]`` and values ``[B, H, N, V]``.

        ``keep`` ``[B, N]`` (bool): where False, nothing is written, whatever the token holds. ``strength``
        ``[B, H, N]`` in [0, 1]: how much of each token is written, all of it if None; gradients flow to it.
        """
        ...

    def matrix(self, state: State) -> Tensor:
        """Return what associates features with values, ``[B, H, F, V]``, to be described: M of the equations."""
        ...

    def denominators(self, state: State, q: Tensor) -> Tensor | None:
        """Return what the reads of queries ``[B, H, T, K]`` divide by, ``[B, H, any number]``, to be described.

        The eigenvalues where that is a matrix, None where nothing is divided.
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
    strength: Tensor | None = None,
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
        strength: ``[B, H, T]`` in [0, 1], how much of each token is written; all of it if None.

    Returns:
        What was read, ``[B, H, T, V]`` in the dtype of ``q``, and the state after the last token.

    Raises:
        ValueError: shapes that do not fit together.
    """
    check_stream(q, k, v, segment_length=segment_length, keep=keep, document_ids=document_ids, strength=strength)
    state = init_like(memory, q, v) if state is None else state
    tokens = Tokens(q, k, v, keep, strength)
    if document_ids is None:
        return _scan_document(memory, tokens, segment_length, state)
    streams = zip(tokens.rows(), _unstack(state), document_ids.tolist(), strict=True)
    rows = [_scan_row(memory, row, segment_length, row_state, ids) for row, row_state, ids in streams]
    return torch.cat([out for out, _ in rows]), _stack([final for _, final in rows])


class Tokens(NamedTuple):
    """The tokens of a stream, with the arguments of ``scan`` that belong to each of them."""

    q: Tensor
    k: Tensor
    v: Tensor
    keep: Tensor | None
    strength: Tensor | None

    def split(self, lengths: int | list[int]) -> list["Tokens"]:
        """Cut the stream into parts of these lengths."""
        # split, not slicing: slicing a long tensor per segment makes the backward pass quadratic in T
        return self._cut(lengths, (2, 2, 2, 1, 2))

    def rows(self) -> list["Tokens"]:
        """Return every row as a batch of one."""
        return self._cut(1, (0, 0, 0, 0, 0))

    def at(self, places: Tensor) -> "Tokens":
        """Return the tokens at these places ``[T']``."""
        keep = None if self.keep is None else self.keep[:, places]
        strength = None if self.strength is None else self.strength.index_select(2, places)
        q, k, v = (x.index_select(2, places) for x in (self.q, self.k, self.v))
        return Tokens(q, k, v, keep, strength)

    def _cut(self, lengths: int | list[int], axes: tuple[int, ...]) -> list["Tokens"]:
        """Split every tensor that is there along its own axis."""
        parts = (repeat(None) if x is None else x.split(lengths, axis) for x, axis in zip(self, axes, strict=True))
        return [Tokens(*part) for part in zip(*parts, strict=False)]


def _scan_document(memory: Memory[State], tokens: Tokens, segment_length: int, state: State) -> tuple[Tensor, State]:
    """Scan rows that hold one document each."""
    outs = []
    for q, k, v, keep, strength in tokens.split(segment_length):
        outs.append(memory.read(state, q))
        state = memory.write(state, k, v, keep=keep, strength=strength)
    return torch.cat(outs, 2), state


def _scan_row(
    memory: Memory[State], row: Tokens, segment_length: int, state: State, ids: list[int]
) -> tuple[Tensor, State]:
    """Scan one row ``[1, H, T, ...]`` of packed documents, one document after the other."""
    places, lengths = _documents(ids)
    index = torch.tensor(places, dtype=torch.long, device=row.q.device)
    outs = []
    # one gather and one split: indexing per document would make the backward pass quadratic in their number
    for document in row.at(index).split(lengths):
        if outs:
            state = init_like(memory, row.q, row.v)
        out, state = _scan_document(memory, document, segment_length, state)
        outs.append(out)
    padded = row.v.new_zeros(row.v.shape, dtype=row.q.dtype)
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
    strength: Tensor | None,
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
    if strength is not None and strength.shape != q.shape[:3]:
        raise ValueError(f"strength must be [B, H, T] = {tuple(q.shape[:3])}, got {tuple(strength.shape)}")
