"""Attention that takes a stream segment by segment: what is kept of closed segments changes only when one closes."""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.models.llama.configuration_llama import LlamaConfig

from palimpsest.attention.base import Attention
from palimpsest.attention.cache import SegmentCacheLayer
from palimpsest.attention.segments import Segments, close_step, fold_segments, step_segment, store_open_segment
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import AttentionSpec
from palimpsest.attention.stream import Stream
from palimpsest.memory.parallel import select


class Site(NamedTuple):
    """Where a state is about to be read, at the beginning of a segment.

    Attributes:
        layer: the number of the layer.
        segment: ``[B]``, how many segments each row has written before; -1 in rows that do not begin a segment here
            (or, for a ``WriteProbe``, complete one), for which the probe's answer is not used.
        empty: the state before anything was written.
    """

    layer: int
    segment: Tensor
    empty: tuple


Probe = Callable[[Site, tuple], tuple]


class WriteProbe(NamedTuple):
    """An intervention on what a segment writes; either part may be None.

    Attributes:
        values: ``values(site, v) -> v``: the values ``[B, H, N, D]`` that the keys of the segment are bound to.
        state: ``state(site, before, after) -> state``: what is kept, for the states before and after the write.
    """

    values: Callable[[Site, Tensor], Tensor] | None = None
    state: Callable[[Site, tuple, tuple], tuple] | None = None


class SegmentAttention(Attention):
    """Attention that begins anew, or looks into a state, with every segment, and so keeps the one that is open."""

    @classmethod
    def places(cls, spec: AttentionSpec) -> int:
        """Return the places within a segment."""
        return spec.segment_length

    @classmethod
    def exact_from(cls, spec: AttentionSpec, at: int) -> int:
        """Return the first token of the segment."""
        return at - at % spec.segment_length

    @classmethod
    def cache_layer(cls, sizes: Sizes, spec: AttentionSpec) -> SegmentCacheLayer:
        """Return an empty cache for a layer of this kind."""
        empty = cls.empty(sizes, spec, 1, torch.float32, torch.device("meta"))
        return SegmentCacheLayer(None if empty is None else type(empty))

    @classmethod
    def open_segment_bytes(cls, sizes: Sizes, spec: AttentionSpec, element: int) -> int:
        """Return the bytes of the keys and values of one row's open segment."""
        return 2 * spec.segment_length * sizes.key_heads * sizes.head * element


class SegmentStateAttention(SegmentAttention):
    """Attention with a state that changes only when a segment closes, and that a probe can look at and change.

    Attributes:
        probe: an intervention on the state (see ``palimpsest.probes.intervene``), None in ordinary use.
        write_probe: an intervention on writes, None in ordinary use.
    """

    def __init__(self, config: LlamaConfig, spec: AttentionSpec, layer: int):
        super().__init__(config, spec, layer)
        self.probe: Probe | None = None
        self.write_probe: WriteProbe | None = None

    def probed(self, state: tuple, empty: tuple, stream: Stream, segment: int) -> tuple:
        """Return the state after the probe, which acts in the rows that begin this segment now."""
        if self.probe is None:
            return state
        begins = stream.begins(segment)
        if not bool(begins.any()):
            return state
        site = self._site(begins, empty, stream, segment)
        return select(begins, self.probe(site, state), state)

    def written(
        self, state: tuple, v: Tensor, write: Callable[[Tensor], tuple], empty: tuple, stream: Stream, segment: int
    ) -> tuple:
        """Return the state after ``write(v)``, or what the write probe makes of it in the rows that write."""
        if self.write_probe is None:
            return write(v)
        site = self._site(stream.whole(segment), empty, stream, segment)
        values, settled = self.write_probe
        after = write(v if values is None else values(site, v))
        return after if settled is None else select(site.segment >= 0, settled(site, state, after), after)

    def _site(self, rows: Tensor, empty: tuple, stream: Stream, segment: int) -> Site:
        """Return where a probe acts, in these rows ``[B]``."""
        number = segment if stream.closed is None else stream.closed + segment
        return Site(self.layer, torch.where(rows, number, -1), empty)


class SegmentwiseAttention(SegmentStateAttention):
    """A loop over segments: attend from a segment to itself and the state, then write the segment into the state."""

    @abstractmethod
    def attend_segment(self, q: Tensor, k: Tensor, v: Tensor, state: tuple, slots: Tensor, stream: Stream) -> Tensor:
        """Return ``[B, H, n, D]``.

        Args:
            q: un-rotated queries ``[B, H, n, D]``.
            k: un-rotated keys of their segment ``[B, H_kv, N, D]``, those of earlier and later slots alike.
            v: values, likewise.
            state: what earlier segments have written.
            slots: the slots of the queries in the segment, ``[B or 1, n]``: a query must not see a later one.
            stream: the pass.
        """

    @abstractmethod
    def write(self, state: tuple, k: Tensor, v: Tensor, whole: Tensor) -> tuple:
        """Return the state after a segment of keys and values ``[B, H_kv, N, D]``.

        ``whole`` is ``[B]`` bool: a row whose segment is not complete keeps its state.
        """

    def own_loss(self, state: tuple, q: Tensor, k: Tensor, v: Tensor, whole: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the layer's own loss for a segment that is about to be written, in training; None if it has none.

        The arguments are those of ``write``, and un-rotated queries ``[B, H, N, D]``.

        Returns:
            The loss of every row ``[B]``, and ``[B]`` bool, the rows that have one.
        """
        return None

    def attend(
        self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: object | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return ``[B, H, T, D]`` and the layer's own loss; see ``Attention.attend``."""
        layer = cache if isinstance(cache, SegmentCacheLayer) else None
        if layer is not None and stream.is_step:
            return self._step(q, k, v, stream, layer), None
        return self._segments(q, k, v, stream, layer)

    def _segments(
        self, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: SegmentCacheLayer | None
    ) -> tuple[Tensor, Tensor | None]:
        """Process a pass of any length."""
        segments = fold_segments(q, k, v, stream, cache)
        state = self.begin(q, k) if cache is None or cache.state is None else cache.state
        reset, slots = stream.layout.reset, torch.arange(stream.segment_length, device=q.device)[None]
        outs, losses = [], []
        for s, (q_s, k_s, v_s) in enumerate(zip(*(x.unbind(2) for x in segments[:3]), strict=True)):
            if reset is not None:
                state = select(reset[:, s], emptied(state), state)
            state = state if self.probe is None else self.probed(state, emptied(state), stream, s)
            outs.append(self.attend_segment(q_s, k_s, v_s, state, slots, stream))
            whole = stream.whole(s)
            losses.append(self.own_loss(state, q_s, k_s, v_s, whole) if self.training else None)
            if stream.writes[s]:
                state = self._closed(state, k_s, v_s, whole, stream, s)
        if cache is not None:
            cache.hold(state)
            store_open_segment(segments, stream, cache)
        told = [loss for loss in losses if loss is not None]
        return stream.layout.unfold(torch.stack(outs, 2)), mean_of_rows(told) if told else None

    def _step(self, q: Tensor, k: Tensor, v: Tensor, stream: Stream, cache: SegmentCacheLayer) -> Tensor:
        """Process one token per row after a cache."""
        assert stream.fill is not None
        opened = step_segment(Segments(q, k, v), stream, cache)
        state = self.begin(q, k) if cache.state is None else cache.state
        state = state if self.probe is None else self.probed(state, emptied(state), stream, 0)
        out = self.attend_segment(q, opened.k, opened.v, state, stream.fill[:, None], stream)
        if stream.completes:
            state = self._closed(state, opened.k, opened.v, stream.complete > 0, stream, 0)
        cache.hold(state)
        close_step(opened, stream, cache)
        return out

    def _closed(self, state: tuple, k: Tensor, v: Tensor, whole: Tensor, stream: Stream, segment: int) -> tuple:
        """Return the state after a segment, under a write probe if there is one."""
        if self.write_probe is None:
            return self.write(state, k, v, whole)
        return self.written(
            state, v, lambda values: self.write(state, k, values, whole), emptied(state), stream, segment
        )

    def begin(self, q: Tensor, k: Tensor) -> tuple:
        """Return the state before the first token of a stream with such queries and keys: all zero."""
        empty = self.empty(self.sizes, self.spec, q.shape[0], k.dtype, q.device)
        assert empty is not None  # a kind without a state is not segmentwise
        return empty


def emptied(state: tuple) -> tuple:
    """Return an empty state of the same shape: every store of tokens is empty when it is zero."""
    return type(state)(*(torch.zeros_like(leaf) for leaf in state))


def mean_of_rows(losses: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the mean over rows of each row's mean over the segments that have a loss; see ``own_loss``.

    A row in which no segment has one counts as zero. So the mean over a batch is that of its parts, weighted by their
    rows, however it is divided.
    """
    values, there = (torch.stack(x) for x in zip(*losses, strict=True))
    rows = torch.where(there, values, 0.0).sum(0) / there.sum(0).clamp_min(1)
    return rows.mean()
