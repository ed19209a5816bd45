"""Truncated back-propagation: a row is processed part by part through a cache, and no gradient leaves a part.

A stream of tokens (a document, or a whole row where memory runs on across documents) is cut, from its first token on,
into parts of N segments. What is computed forward is that of the whole stream; the gradient of a part's loss takes the
state with which the part began for a constant, as Transformer-XL does with its cache (Dai et al. 2019, arXiv
1901.02860, section 3.2, where N = 1). So activations are kept for one part at a time, and where no stream has more than
N segments the gradient is that of the whole.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from palimpsest.data import IGNORED
from palimpsest.memory.layout import document_numbers
from palimpsest.models import PalimpsestCache
from palimpsest.training.data import Batch
from palimpsest.training.rows import PADDING_DOCUMENT

T = TypeVar("T")


class Passage(NamedTuple):
    """Tokens ``[R, T]`` that one forward and one backward pass are made of.

    Attributes:
        input_ids: the tokens; anything at all in places of padding.
        targets: what is to be predicted after each token, IGNORED where there is no label.
        weights: the weight of each target in the loss.
        document_ids: what the model needs to be told of documents and padding; None: nothing.
        begins: whether every row begins here; else row i goes on where row i of the passage before it ended.
        goes_on: how many rows, the first ones, go on in the next passage.
    """

    input_ids: Tensor
    targets: Tensor
    weights: Tensor
    document_ids: Tensor | None
    begins: bool = True
    goes_on: int = 0

    def to(self, device: torch.device) -> "Passage":
        """Return the passage on a device."""
        input_ids, targets, weights = (x.to(device, non_blocking=True) for x in self[:3])
        documents = None if self.document_ids is None else self.document_ids.to(device, non_blocking=True)
        return Passage(input_ids, targets, weights, documents, self.begins, self.goes_on)


def whole(batch: Batch, document_ids: Tensor | None) -> Passage:
    """Return all of a batch as one passage, of whose documents the model is told ``document_ids``."""
    targets = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED)
    return Passage(batch.input_ids, targets, batch.weights[:, None].expand_as(targets), document_ids)


def passages(batch: Batch, length: int, *, reset: bool) -> Iterator[Passage]:
    """Cut a batch into passages of at most B x ``length`` tokens.

    Every token is in one passage, with the label of the token after it, also where that is in the next passage.
    Streams that are longer than ``length`` are processed part by part, at most B at a time; of the others, documents
    are packed anew, and rows stay as they are.

    Args:
        batch: the batch ``[B, T]``; padding may be anywhere.
        length: tokens through which gradients flow, whole segments.
        reset: whether every document is a stream of its own.
    """
    tokens = whole(batch, None)
    rows = len(batch.input_ids)
    streams = sorted(_streams(batch.document_ids, reset=reset), key=len, reverse=True)
    long = [stream for stream in streams if len(stream) > length]
    for group in _groups(long, rows):
        for start in range(0, len(group[0]), length):
            parts = [[stream[start : start + length]] for stream in group if len(stream) > start]
            goes_on = sum(len(stream) > start + length for stream in group)
            yield _gathered(tokens, parts)._replace(begins=start == 0, goes_on=goes_on)
    short = streams[len(long) :]
    bins = _packed(short, length) if reset else [[stream] for stream in short]
    for group in _groups(bins, rows):
        yield _gathered(tokens, group)


def longest_stream(batch: Batch, *, reset: bool) -> int:
    """Return the tokens of the longest stream of a batch."""
    return max((len(stream) for stream in _streams(batch.document_ids, reset=reset)), default=0)


def cut(cache: PalimpsestCache, rows: int) -> None:
    """Keep the first rows of a cache, as constants: no gradient flows into what was before."""
    for layer in cache.layers:
        layer.load({name: x[:rows].detach() for name, x in layer.tensors().items()})
    assert cache.seen is not None  # something was read
    cache.seen = cache.seen[:rows]


def _streams(document_ids: Tensor, *, reset: bool) -> list[Tensor]:
    """Return the places in the flat batch of the tokens of every stream, padding left out, in order."""
    numbers = document_numbers(document_ids) if reset else torch.where(document_ids >= 0, 0, PADDING_DOCUMENT)
    batch, tokens = document_ids.shape
    places = (numbers >= 0).flatten().nonzero()[:, 0]
    row = torch.arange(batch, device=numbers.device)[:, None] * tokens
    _, counts = torch.unique_consecutive((row + numbers).flatten()[places], return_counts=True)
    return list(places.split(counts.tolist()))


def _packed(streams: Sequence[Tensor], length: int) -> list[list[Tensor]]:
    """Return streams in rows of at most ``length`` tokens, the longest first, each in the first row that has room."""
    rows: list[list[Tensor]] = []
    room: list[int] = []
    for stream in streams:
        fits = next((row for row, left in enumerate(room) if left >= len(stream)), None)
        if fits is None:
            rows.append([stream])
            room.append(length - len(stream))
        else:
            rows[fits].append(stream)
            room[fits] -= len(stream)
    return rows


def _groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _gathered(tokens: Passage, rows: Sequence[Sequence[Tensor]]) -> Passage:
    """Return rows of one or several streams each, given by their places, padded on the right."""
    places = pad_sequence([torch.cat(list(row)) for row in rows], batch_first=True, padding_value=-1)
    there, index = places >= 0, places.clamp_min(0)
    documents = None
    if any(len(row) > 1 for row in rows):
        numbers = [torch.cat([torch.full_like(stream, i) for i, stream in enumerate(row)]) for row in rows]
        documents = pad_sequence(numbers, batch_first=True, padding_value=PADDING_DOCUMENT)
    input_ids, targets, weights = (column.flatten()[index] for column in tokens[:3])
    return Passage(input_ids, targets.where(there, IGNORED), weights, documents)
