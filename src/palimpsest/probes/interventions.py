"""What can be done to the memories of a model, where, and when it has to be in force.

Every intervention is made of pure functions of what a layer holds, which are asked for the time of a ``with`` block;
after it the model is as before. ``docs/probes.md`` says what each of them isolates.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from palimpsest.attention import GatedAttention, MemoryAttention, SegmentStateAttention, Site
from palimpsest.attention.gated import MixProbe, Mixture
from palimpsest.attention.segmentwise import WriteProbe
from palimpsest.attention.stream import Stream
from palimpsest.errors import InputError
from palimpsest.probes.hooks import Parts, in_force
from palimpsest.probes.states import kept, of_heads, rounded, shuffled, state_of_heads, swap, zero

Layer = SegmentStateAttention | GatedAttention
Classes = tuple[type[nn.Module], ...]

_GATED: Classes = (GatedAttention,)
_STATEFUL: Classes = (SegmentStateAttention,)


class Rows(NamedTuple):
    """What an intervention may have to know of the rows of a batch.

    A pass over several copies of every row, one after the other (candidates that are ranked), belongs to the same rows.

    Attributes:
        needle_segments: ``[B, 2]``, the first and the last segment of the needle of each row.
        reads: what memories read on average, by layer, ``[H, N, D]`` each; see ``mean_reads``.
    """

    needle_segments: Tensor | None = None
    reads: Mapping[int, Tensor] | None = None


class Span(NamedTuple):
    """Segments from the first to the last, both included; without a last one to the end of the stream."""

    first: int
    last: int | None

    def __str__(self) -> str:
        """As in an expression."""
        if self.last == self.first:
            return str(self.first)
        return f"{self.first}-{'' if self.last is None else self.last}"


NEEDLE = "needle"
Segments = Span | None
"""Some segments, None: those of each row's needle."""

Build = Callable[[Layer, Rows], Parts]


@dataclass(frozen=True)
class Place:
    """Where an intervention acts: in these layers and heads, None: in all."""

    layers: frozenset[int] | None = None
    heads: frozenset[int] | None = None


@dataclass(frozen=True)
class Intervention:
    """Something that is done to the memories of a model.

    Attributes:
        name: an expression that ``parse_intervention`` reads.
        build: what it does to a layer.
        needs: classes of layers; without a layer of one of them it changes nothing.
        throughout: whether it must be in force from the first token on. If not, it is enough, and usual, that it comes
            into force at the boundary where the segment with the question begins, so that it shares its past with the
            intact model.
        needs_rows: how many rows a batch must have.
        needs_needle: whether ``Rows.needle_segments`` must be given.
        needs_reads: whether ``Rows.reads`` must be given.
        places: what it names must be in the model.
    """

    name: str
    build: Build
    needs: Classes
    throughout: bool = False
    needs_rows: int = 1
    needs_needle: bool = False
    needs_reads: bool = False
    places: tuple[Place, ...] = ()

    def __call__(self, model: nn.Module) -> AbstractContextManager[None]:
        """Put it in force inside a ``with`` block, where it needs to know nothing of the rows."""
        return self.apply(model)

    @contextmanager
    def apply(self, model: nn.Module, rows: Rows | None = None) -> Iterator[None]:
        """Put it in force inside a ``with`` block.

        Inside another block both act, that of the outer block first. A model without a layer that it needs is left as
        it is: ``palimpsest.probes.applicable`` tells.

        Raises:
            InputError: it needs to know more of the rows, or names a layer or a head that is not there.
        """
        rows = rows or Rows()
        layers = [module for module in model.modules() if isinstance(module, Layer)]
        self._check(rows, layers)
        with in_force((layer, self.build(layer, rows)) for layer in layers):
            yield

    def then(self, later: "Intervention") -> "Intervention":
        """Return both in one, this one first."""

        def build(layer: Layer, rows: Rows) -> Parts:
            return self.build(layer, rows).then(later.build(layer, rows))

        return Intervention(
            name=f"{self.name}+{later.name}",
            build=build,
            needs=tuple(dict.fromkeys((*self.needs, *later.needs))),
            throughout=self.throughout or later.throughout,
            needs_rows=max(self.needs_rows, later.needs_rows),
            needs_needle=self.needs_needle or later.needs_needle,
            needs_reads=self.needs_reads or later.needs_reads,
            places=self.places + later.places,
        )

    def only(self, layers: Collection[int] | None = None, heads: Collection[int] | None = None) -> "Intervention":
        """Return the same in these layers and heads alone, counted from 0; None: in all of them.

        Heads are told apart in a memory and in a gate, not in a store of tokens, whose heads share one count.
        """
        place = Place(None if layers is None else frozenset(layers), None if heads is None else frozenset(heads))

        def build(layer: Layer, rows: Rows) -> Parts:
            if place.layers is not None and layer.layer not in place.layers:
                return Parts()
            parts = self.build(layer, rows)
            return parts if place.heads is None else _in_heads(parts, layer, place.heads)

        needs = self.needs
        if heads is not None:
            needs = tuple(MemoryAttention if kind is SegmentStateAttention else kind for kind in needs)
        return replace(self, build=build, needs=needs, places=(*self.places, place))

    def _check(self, rows: Rows, layers: Iterable[Layer]) -> None:
        if self.needs_needle and rows.needle_segments is None:
            raise InputError(
                f"The intervention '{self.name}' acts on the segments of the needle, and it is not known where the "
                "needles are: name segments instead, as in drop[2-3]."
            )
        if self.needs_reads and rows.reads is None:
            raise InputError(
                f"The intervention '{self.name}' replaces reads by their mean over other texts, and none is given: "
                "take it first (palimpsest.probes.mean_reads)."
            )
        able = {layer.layer: layer.heads for layer in layers if isinstance(layer, self.needs)}
        for place in self.places:
            for layer in sorted((place.layers or set()) - set(able)):
                there = ", ".join(map(str, able)) or "none"
                raise InputError(f"The intervention '{self.name}' names layer {layer}; it acts on layers {there}.")
            heads = min(able.values(), default=0)
            for head in sorted(place.heads or set()):
                if able and head >= heads:
                    raise InputError(f"The intervention '{self.name}' names head {head} of heads 0 to {heads - 1}.")


def intact() -> Intervention:
    """I0: nothing."""
    return Intervention("none", lambda layer, rows: Parts(), (nn.Module,))


def swapped() -> Intervention:
    """I1: every row reads the memory of the next row of the batch; see ``swap``."""
    return _of_states("swap", Parts(boundary=swap), needs_rows=2)


def zeroed() -> Intervention:
    """I2: the memory reads zero, the gate stays as it is."""
    return _of_states("zero", Parts(boundary=zero))


def reset() -> Intervention:
    """I5: every segment begins with an empty memory."""
    return _of_states("reset", Parts(boundary=zero), throughout=True)


def gate_at(name: str, value: float) -> Intervention:
    """I3, I8: every gate is ``value``; 0 hides the memory, 1 hides local attention."""
    parts = Parts(mix=lambda mixture, stream: mixture._replace(gate=torch.full_like(mixture.gate, value)))
    return Intervention(name, lambda layer, rows: parts if isinstance(layer, GatedAttention) else Parts(), _GATED)


def gate_initial() -> Intervention:
    """I10: every gate is what it was before training."""
    return Intervention("gate_initial", lambda layer, rows: Parts(mix=_initial_gate(layer)), _GATED)


def mean() -> Intervention:
    """I4: what a memory reads is replaced by the mean of its reads, per head and place in the segment.

    Where nothing has been written the memory still reads zero.
    """

    def build(layer: Layer, rows: Rows) -> Parts:
        return Parts(mix=_mean_read(layer, rows.reads)) if isinstance(layer, GatedAttention) and rows.reads else Parts()

    return Intervention("mean", build, _GATED, throughout=True, needs_reads=True)


def drop(segments: Segments) -> Intervention:
    """I6: these segments write nothing; local attention within them is as ever."""
    return _dropped(f"drop[{segments or NEEDLE}]", segments, onwards=False)


def freeze(first: int | None) -> Intervention:
    """I6: from this segment on nothing is written, None: from that of the needle."""
    segments = None if first is None else Span(first, None)
    return _dropped(f"freeze[{NEEDLE if first is None else first}]", segments, onwards=True)


def shuffle(segments: Segments, seed: int = 0) -> Intervention:
    """I7: in these segments every key is bound to the value of another token of the segment; see ``shuffled``."""
    name = f"shuffle[{segments or NEEDLE}{f',seed={seed}' if seed else ''}]"

    def build(layer: Layer, rows: Rows) -> Parts:
        def values(site: Site, v: Tensor) -> Tensor:
            here = _within(segments, rows, site.segment)
            return torch.where(here[:, None, None, None], shuffled(v, seed), v)

        return Parts(write=WriteProbe(values=values)) if isinstance(layer, SegmentStateAttention) else Parts()

    return Intervention(name, build, _STATEFUL, throughout=True, needs_needle=segments is None)


def precision(name: str, dtype: torch.dtype) -> Intervention:
    """I11: the state is rounded to ``dtype`` after every write."""
    parts = Parts(write=WriteProbe(state=lambda site, before, after: rounded(after, dtype)))
    return _of_states(name, parts, throughout=True)


def _of_states(name: str, parts: Parts, *, throughout: bool = False, needs_rows: int = 1) -> Intervention:
    def build(layer: Layer, rows: Rows) -> Parts:
        return parts if isinstance(layer, SegmentStateAttention) else Parts()

    return Intervention(name, build, _STATEFUL, throughout, needs_rows)


def _dropped(name: str, segments: Segments, *, onwards: bool) -> Intervention:
    def build(layer: Layer, rows: Rows) -> Parts:
        def state(site: Site, before: tuple, after: tuple) -> tuple:
            return kept(_within(segments, rows, site.segment, onwards=onwards), before, after)

        return Parts(write=WriteProbe(state=state)) if isinstance(layer, SegmentStateAttention) else Parts()

    return Intervention(name, build, _STATEFUL, throughout=True, needs_needle=segments is None)


def _within(segments: Segments, rows: Rows, number: Tensor, *, onwards: bool = False) -> Tensor:
    """Return ``[B]`` bool: whether the segment with this number ``[B]`` in each row is one of them, or a later one."""
    if segments is not None:
        within = number >= segments.first
        return within if segments.last is None else within & (number <= segments.last)
    assert rows.needle_segments is not None  # ``apply`` has looked
    copies, rest = divmod(len(number), len(rows.needle_segments))
    if rest:
        raise ValueError(f"needle_segments has {len(rows.needle_segments)} rows, and the batch {len(number)}")
    first, last = rows.needle_segments.to(number.device).repeat_interleave(copies, 0).unbind(1)
    return number >= first if onwards else (number >= first) & (number <= last)


def _initial_gate(layer: Layer) -> MixProbe | None:
    if not isinstance(layer, GatedAttention):
        return None
    gate = layer.gate

    def mix(mixture: Mixture, stream: Stream) -> Mixture:
        return mixture._replace(gate=gate.values(torch.full_like(mixture.gate, gate.spec.init)))

    return mix


def _mean_read(layer: GatedAttention, reads: Mapping[int, Tensor]) -> MixProbe:
    if layer.layer not in reads:
        raise InputError(
            f"The mean reads are of layers {', '.join(map(str, reads))}, and the model reads in {layer.layer}."
        )
    table = reads[layer.layer]

    def mix(mixture: Mixture, stream: Stream) -> Mixture:
        read = table.to(mixture.read)[:, places_in_segment(stream)].transpose(0, 1)
        return mixture._replace(read=torch.where(stream.unwritten, mixture.read, read))

    return mix


def places_in_segment(stream: Stream) -> Tensor:
    """Return ``[B, T]``, the place of every token in its segment; anything for padding."""
    slots = stream.layout.slots
    if slots is None:
        slots = torch.arange(stream.layout.tokens, device=stream.device).expand(stream.batch, -1)
    return slots % stream.segment_length


def _in_heads(parts: Parts, layer: Layer, heads: Collection[int]) -> Parts:
    """Return what the parts do, in these heads alone."""
    mask = torch.zeros(layer.heads, dtype=torch.bool, device=layer.q_proj.weight.device)
    mask[sorted(heads)] = True
    boundary, write, mix = parts
    per_head = isinstance(layer, MemoryAttention)

    def of_boundary(site: Site, state: tuple) -> tuple:
        return state if boundary is None else state_of_heads(mask, boundary(site, state), state)

    def of_values(site: Site, v: Tensor) -> Tensor:
        return v if write is None or write.values is None else of_heads(mask, write.values(site, v), v)

    def of_state(site: Site, before: tuple, after: tuple) -> tuple:
        if write is None or write.state is None:
            return after
        return state_of_heads(mask, write.state(site, before, after), after)

    def of_mixture(mixture: Mixture, stream: Stream) -> Mixture:
        mixed = mixture if mix is None else mix(mixture, stream)
        return Mixture(*(of_heads(mask, a, b) for a, b in zip(mixed, mixture, strict=True)))

    return Parts(
        of_boundary if per_head and boundary is not None else None,
        WriteProbe(of_values, of_state) if per_head and write is not None else None,
        of_mixture if mix is not None else None,
    )
