"""How interventions are put in force: functions that the layers of a model ask, set for the time of a ``with`` block.

A layer that keeps a state of closed segments (a memory, a Transformer-XL cache, ...) asks once at every segment
boundary, before the segment that begins there reads, and goes on from the state it is given; and once for every
segment that it writes. A layer with a gate asks about what it mixes in every pass.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from palimpsest.attention import GatedAttention, Probe, SegmentStateAttention, Site
from palimpsest.attention.gated import MixProbe, Mixture
from palimpsest.attention.segmentwise import WriteProbe
from palimpsest.attention.stream import Stream


class Parts(NamedTuple):
    """What is done to one layer; None where nothing is.

    Attributes:
        boundary: to the state that a segment begins with.
        write: to what a segment writes.
        mix: to gate, memory read and local attention, before they are mixed.
    """

    boundary: Probe | None = None
    write: WriteProbe | None = None
    mix: MixProbe | None = None

    def then(self, later: "Parts") -> "Parts":
        """Return both, this one first."""
        return Parts(
            _boundaries(self.boundary, later.boundary), _writes(self.write, later.write), _mixes(self.mix, later.mix)
        )


def memory_layers(model: nn.Module) -> list[SegmentStateAttention]:
    """Return the layers of a model that keep a state of closed segments, in order."""
    return [module for module in model.modules() if isinstance(module, SegmentStateAttention)]


def gated_layers(model: nn.Module) -> list[GatedAttention]:
    """Return the layers of a model that mix a memory with local attention by a gate, in order."""
    return [module for module in model.modules() if isinstance(module, GatedAttention)]


def intervene(model: nn.Module, probe: Probe) -> AbstractContextManager[None]:
    """Apply ``probe`` to every layer's memory at every segment boundary, inside a ``with`` block.

    Inside another block both act, that of the outer block first.
    """
    return in_force((layer, Parts(probe)) for layer in memory_layers(model))


def override_gates(model: nn.Module, value: float) -> AbstractContextManager[None]:
    """Set every gate to ``value`` (0: local attention alone, 1: memory alone) inside a ``with`` block."""
    return _attributes([(layer, "gate_override", value) for layer in gated_layers(model)])


@contextmanager
def in_force(layers: Iterable[tuple[nn.Module, Parts]]) -> Iterator[None]:
    """Apply parts to layers inside a ``with`` block, after those that are in force already."""
    changes: list[tuple[nn.Module, str, object]] = []
    for layer, parts in layers:
        if isinstance(layer, SegmentStateAttention):
            changes.append((layer, "probe", _boundaries(layer.probe, parts.boundary)))
            changes.append((layer, "write_probe", _writes(layer.write_probe, parts.write)))
        if isinstance(layer, GatedAttention):
            changes.append((layer, "mix_probe", _mixes(layer.mix_probe, parts.mix)))
    with _attributes(changes):
        yield


@contextmanager
def _attributes(changes: Sequence[tuple[nn.Module, str, object]]) -> Iterator[None]:
    """Set attributes of layers, and restore what was there."""
    earlier = [(layer, name, getattr(layer, name)) for layer, name, _ in changes]
    for layer, name, value in changes:
        setattr(layer, name, value)
    try:
        yield
    finally:
        for layer, name, before in earlier:
            setattr(layer, name, before)


def _boundaries(first: Probe | None, second: Probe | None) -> Probe | None:
    if first is None or second is None:
        return first or second
    return lambda site, state: second(site, first(site, state))


def _writes(first: WriteProbe | None, second: WriteProbe | None) -> WriteProbe | None:
    if first is None or second is None:
        return first or second
    (values, state), (more_values, more_state) = first, second

    def both_values(site: Site, v: Tensor) -> Tensor:
        v = v if values is None else values(site, v)
        return v if more_values is None else more_values(site, v)

    def both_states(site: Site, before: tuple, after: tuple) -> tuple:
        after = after if state is None else state(site, before, after)
        return after if more_state is None else more_state(site, before, after)

    return WriteProbe(both_values, both_states)


def _mixes(first: MixProbe | None, second: MixProbe | None) -> MixProbe | None:
    if first is None or second is None:
        return first or second

    def both(mixture: Mixture, stream: Stream) -> Mixture:
        return second(first(mixture, stream), stream)

    return both
