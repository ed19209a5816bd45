"""Which token sits where in which segment, when rows hold padding, several documents or a segment already begun.

A stream ``[B, T]`` becomes slots ``[B, S * N]``: every document starts at the first slot of a segment, tokens of a
document follow one another without gaps, and padding has no slot. All segments can then be processed at once as
``[B, S, N]``.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Layout(NamedTuple):
    """Slots of a stream of T tokens in S segments of N slots.

    ``slots`` is None where the layout is plain: token t in slot t, empty slots only after the last token.

    Attributes:
        tokens: T.
        segments: S.
        segment_length: N.
        slots: ``[B, T]``, the slot of every token, S * N for padding; or None.
        occupied: ``[B, S, N]`` bool, the slots that hold a token of this stream; or None if all do.
        reset: ``[B, S]`` bool, segments with which a new document starts (not the first one of a row); or None.
    """

    tokens: int
    segments: int
    segment_length: int
    slots: Tensor | None
    occupied: Tensor | None
    reset: Tensor | None

    def fold(self, x: Tensor) -> Tensor:
        """Move ``[B, H, T, D]`` into slots ``[B, H, S, N, D]``; empty slots are zero."""
        if self.slots is None:
            padded = F.pad(x, (0, 0, 0, self.segments * self.segment_length - self.tokens))
        else:
            size = self.segments * self.segment_length
            index = self.slots[:, None, :, None].expand(x.shape)
            padded = x.new_zeros(*x.shape[:2], size + 1, x.shape[3]).scatter(2, index, x)[:, :, :size]
        return padded.unflatten(2, (self.segments, self.segment_length))

    def unfold(self, x: Tensor) -> Tensor:
        """Move slots ``[B, H, S, N, D]`` back to tokens ``[B, H, T, D]``; padding is zero."""
        flat = x.flatten(2, 3)
        if self.slots is None:
            return flat[:, :, : self.tokens]
        padded = F.pad(flat, (0, 0, 0, 1))
        return padded.gather(2, self.slots[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[-1]))

    def fold_mask(self, mask: Tensor) -> Tensor:
        """Move a bool ``[B, T]`` into slots ``[B, S, N]``; empty slots are False."""
        return self.fold(mask[:, None, :, None].to(torch.uint8))[:, 0, :, :, 0].bool()


def plain_layout(tokens: int, segment_length: int, batch: int, device: torch.device) -> Layout:
    """Return the layout of rows of one document each, without padding."""
    segments = max(1, -(-tokens // segment_length))
    occupied = None
    if segments * segment_length != tokens:
        slot = torch.arange(segments * segment_length, device=device)
        occupied = (slot < tokens).view(1, segments, segment_length).expand(batch, -1, -1)
    return Layout(tokens, segments, segment_length, None, occupied, None)


def segment_layout(document_ids: Tensor, segment_length: int, fill: Tensor | None = None) -> Layout:
    """Return the layout of rows with documents and padding.

    Args:
        document_ids: ``[B, T]`` integers; a change starts a new document, negative ids are padding.
        segment_length: N.
        fill: ``[B]``, how many tokens of each row's first segment came before this stream (0 <= fill < N); the first
            document of the row then continues there.
    """
    batch, tokens = document_ids.shape
    device = document_ids.device
    real = document_ids >= 0
    number = real.cumsum(1) - 1  # place of a token among the row's real tokens
    starts = _document_starts(document_ids, real)
    start = torch.where(starts, number, 0).cummax(1).values
    begun = torch.zeros(batch, 1, dtype=torch.long, device=device) if fill is None else fill.long()[:, None]
    in_first_document = starts.cumsum(1) == 0
    offset = (number - start + torch.where(in_first_document, begun, 0)) % segment_length
    segment = (real & (offset == 0)).cumsum(1) - 1 + (begun > 0).long()
    segments = max(1, int(segment.max()) + 1) if tokens else 1
    size = segments * segment_length
    slots = torch.where(real, segment * segment_length + offset, size)
    occupied = torch.zeros(batch, size + 1, dtype=torch.bool, device=device).scatter(1, slots, True)
    reset = torch.zeros(batch, segments + 1, dtype=torch.bool, device=device)
    reset = reset.scatter(1, torch.where(starts, segment, segments), True)
    return Layout(
        tokens,
        segments,
        segment_length,
        slots,
        occupied[:, :size].unflatten(1, (segments, segment_length)),
        reset[:, :segments] if bool(starts.any()) else None,
    )


def document_numbers(document_ids: Tensor) -> Tensor:
    """Number the documents of each row 0, 1, ..., also where an id comes back later; padding is -1. Both ``[B, T]``."""
    real = document_ids >= 0
    return torch.where(real, _document_starts(document_ids, real).cumsum(1), -1)


def _document_starts(document_ids: Tensor, real: Tensor) -> Tensor:
    """Return ``[B, T]`` bool, the tokens with which a new document starts (not the first one of a row)."""
    # the id of the last real token before t: its place, looked up
    place = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    last = torch.where(real, place, -1).cummax(1).values
    before = F.pad(last, (1, 0), value=-1)[:, :-1]
    previous = torch.where(before >= 0, document_ids.gather(1, before.clamp_min(0)), document_ids)
    return real & (before >= 0) & (previous != document_ids)
