"""What one forward pass knows about its tokens: where they sit in segments, which are padding, what came before.

Computed once per forward pass and shared by all layers.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from palimpsest.memory.layout import Layout, plain_layout, segment_layout

Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Progress:
    """How far each row of a cache has come.

    Attributes:
        seen: ``[B]``, tokens so far, padding not counted.
    """

    seen: Tensor


@dataclass(frozen=True)
class Stream:
    """The tokens ``[B, T]`` of one forward pass.

    Attributes:
        segment_length: N.
        real: ``[B, T]`` bool, False for padding; None if there is none.
        documents: ``[B, T]`` numbers of the documents of a row, -1 for padding; None if every row is one document
            without padding.
        layout: slots of the tokens in segments.
        fill: ``[B]``, tokens of each row's open segment that came before; None without a cache.
        closed: ``[B]``, segments of each row that were written before; None without a cache.
        table: cosine and sine ``[P, D]`` of the first P relative places, as many as any layer tells apart.
        positions: ``[B, T]``, the place of every token in its document.
        rotary: cosine and sine ``[B, T, D]`` of these; None unless a layer needs them.
    """

    segment_length: int
    real: Tensor | None
    documents: Tensor | None
    layout: Layout
    fill: Tensor | None
    closed: Tensor | None
    table: Rotary
    positions: Tensor
    rotary: Rotary | None
    _chunks: dict[int, Layout] = field(default_factory=dict, repr=False)

    @property
    def batch(self) -> int:
        """B."""
        return self.positions.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tokens are."""
        return self.positions.device

    def places(self, count: int) -> Rotary:
        """Return cosine and sine ``[count, D]`` of the first relative places."""
        cos, sin = self.table
        return cos[:count], sin[:count]

    def document_rotary(self) -> Rotary:
        """Return cosine and sine ``[B, 1, T, D]`` of the places in the document, which a layer has asked for."""
        assert self.rotary is not None  # ``rotates_by_document`` of its kind says so
        cos, sin = self.rotary
        return cos.unsqueeze(1), sin.unsqueeze(1)

    def chunks(self, length: int) -> Layout:
        """Return the slots of this pass's tokens in chunks of ``length`` (fewer if T is), whatever came before.

        The first chunk begins with the first token of the pass, and a chunk with every new document.
        """
        length = max(1, min(length, self.layout.tokens))
        if length not in self._chunks:
            if self.documents is None:
                self._chunks[length] = plain_layout(self.layout.tokens, length, self.batch, self.device)
            else:
                self._chunks[length] = segment_layout(self.documents, length)
        return self._chunks[length]

    @property
    def is_step(self) -> bool:
        """Whether this is one token per row after a cache, the fast path of generation."""
        return self.fill is not None and self.layout.tokens == 1

    @cached_property
    def occupied(self) -> Tensor | None:
        """``[B, S, N]`` bool, the slots that hold a token of this pass or of the open segment; None if all do."""
        occupied = self.layout.occupied
        if self.fill is None or occupied is None:
            return occupied
        slot = torch.arange(self.segment_length, device=occupied.device)
        earlier = (slot < self.fill[:, None]).unsqueeze(1)
        return torch.cat([occupied[:, :1] | earlier, occupied[:, 1:]], 1)

    def begins(self, segment: int) -> Tensor:
        """Return ``[B]`` bool, the rows in which this segment of the pass begins with a token of the pass."""
        if self.layout.occupied is None:
            return torch.ones(self.batch, dtype=torch.bool, device=self.device)
        return self.layout.occupied[:, segment, 0]

    def whole(self, segment: int) -> Tensor:
        """Return ``[B]`` bool, the rows in which this segment of the pass is complete: only then is it written.

        What an incomplete segment would write is never read: after it comes another document, or another pass.
        """
        if self.occupied is None:
            return torch.ones(self.batch, dtype=torch.bool, device=self.device)
        return self.occupied[:, segment].all(-1)

    @cached_property
    def writes(self) -> list[bool]:
        """For every segment of the pass, whether it is complete in any row: asked once, not once per layer."""
        if self.occupied is None:
            return [True] * self.layout.segments
        if self.layout.slots is None:  # the same in every row: nothing to ask the device
            return [segment < self.layout.tokens // self.segment_length for segment in range(self.layout.segments)]
        return self.occupied.all(-1).any(0).tolist()

    @cached_property
    def complete(self) -> Tensor:
        """``[B]``, how many segments each row completes in this pass (with a cache only)."""
        assert self.fill is not None
        filled = self.fill + (self.layout.tokens if self.real is None else self.real.sum(1))
        return filled // self.segment_length

    @cached_property
    def completes(self) -> bool:
        """Whether any row completes a segment in this pass: asked of the device once, not once per layer."""
        return bool(self.complete.any())

    @cached_property
    def unwritten(self) -> Tensor:
        """``[B, 1, T, 1]`` bool: while this token is read nothing of its document has been written."""
        segments = self.layout.segments
        reset = self.layout.reset
        shape, device = (self.batch, segments), self.device
        first = torch.zeros(shape, dtype=torch.bool, device=device) if reset is None else reset
        start = torch.ones(self.batch, dtype=torch.bool, device=device) if self.closed is None else self.closed == 0
        first = torch.cat([(first[:, 0] | start)[:, None], first[:, 1:]], 1)
        slots = first[:, None, :, None, None].expand(-1, 1, -1, self.segment_length, 1)
        return self.layout.unfold(slots.to(torch.uint8)).bool()


def describe(
    documents: Tensor | None,
    batch: int,
    tokens: int,
    segment_length: int,
    progress: Progress | None,
    device: torch.device,
) -> tuple[Layout, Tensor | None, Tensor | None, Tensor]:
    """Place tokens in segments and in their documents.

    Returns:
        The layout; ``fill`` and ``closed`` ``[B]`` (None without a cache); and the place of every token in its
        document, ``[B, T]``, which continues from the cache for the first document of a row.
    """
    fill = closed = None
    if progress is not None:
        fill, closed = progress.seen % segment_length, progress.seen // segment_length
    if documents is None and (fill is None or not bool(fill.any())):
        layout = plain_layout(tokens, segment_length, batch, device)
    else:
        ids = torch.zeros(batch, tokens, dtype=torch.long, device=device) if documents is None else documents
        layout = segment_layout(ids, segment_length, fill)
    return layout, fill, closed, _positions(documents, batch, tokens, progress, device)


def _positions(
    documents: Tensor | None, batch: int, tokens: int, progress: Progress | None, device: torch.device
) -> Tensor:
    seen = torch.zeros(batch, dtype=torch.long, device=device) if progress is None else progress.seen
    if documents is None:
        return seen[:, None] + torch.arange(tokens, device=device)
    whole = segment_layout(documents, tokens + int(seen.max()) + 1, seen)
    assert whole.slots is not None
    return torch.where(documents >= 0, whole.slots % whole.segment_length, 0)
