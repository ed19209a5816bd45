"""Pure interventions on memory states, and the context managers that apply them to a model.

A probe is a function ``probe(site, state) -> state``. While it is in force, every layer that keeps a state of closed
segments (a memory, a Transformer-XL cache, ...) calls it once at every segment boundary, before the segment that
begins there reads, and goes on from the state it returns; ``site.segment`` says, per row, how many segments were
written before.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

from torch import nn

from palimpsest.attention import GatedAttention, Probe, SegmentStateAttention, Site
from palimpsest.attention.kinds import KINDS
from palimpsest.errors import InputError


def memory_layers(model: nn.Module) -> list[SegmentStateAttention]:
    """Return the layers of a model that keep a state of closed segments, in order."""
    return [module for module in model.modules() if isinstance(module, SegmentStateAttention)]


def gated_layers(model: nn.Module) -> list[GatedAttention]:
    """Return the layers of a model that mix a memory with local attention by a gate, in order."""
    return [module for module in model.modules() if isinstance(module, GatedAttention)]


def intervene(model: nn.Module, probe: Probe) -> AbstractContextManager[None]:
    """Apply ``probe`` to every layer's memory at every segment boundary, inside a ``with`` block."""
    return _set_in(memory_layers(model), "probe", probe)


def override_gates(model: nn.Module, value: float) -> AbstractContextManager[None]:
    """Set every gate to ``value`` (0: local attention alone, 1: memory alone) inside a ``with`` block."""
    return _set_in(gated_layers(model), "gate_override", value)


@contextmanager
def _set_in(layers: Sequence[nn.Module], attribute: str, value: object) -> Iterator[None]:
    """Set an attribute of every layer, and restore what was there."""
    earlier = [getattr(layer, attribute) for layer in layers]
    for layer in layers:
        setattr(layer, attribute, value)
    try:
        yield
    finally:
        for layer, before in zip(layers, earlier, strict=True):
            setattr(layer, attribute, before)


def zero(site: Site, state: tuple) -> tuple:
    """Empty the memory: it reads zero, and the gate still applies."""
    return site.empty


def swap(site: Site, state: tuple) -> tuple:
    """Give every row the memory of the next row: the same statistics, the content of another document.

    Meant for rows of equal length, which begin their segments together.

    Raises:
        InputError: a batch of one row, which has no other document.
    """
    if state[0].shape[0] < 2:
        raise InputError("the swap probe needs a batch of at least 2 documents, got 1.")
    return type(state)(*(leaf.roll(-1, 0) for leaf in state))


class Intervention(NamedTuple):
    """A context manager for a model, and the class of layers without which it would change nothing."""

    apply: Callable[[nn.Module], AbstractContextManager[None]]
    needs: type[nn.Module]

    def __call__(self, model: nn.Module) -> AbstractContextManager[None]:
        """Put it in force inside a ``with`` block."""
        return self.apply(model)


def _intact(model: nn.Module) -> AbstractContextManager[None]:
    return nullcontext()


def _swap(model: nn.Module) -> AbstractContextManager[None]:
    return intervene(model, swap)


def _zero(model: nn.Module) -> AbstractContextManager[None]:
    return intervene(model, zero)


def _gate_closed(model: nn.Module) -> AbstractContextManager[None]:
    return override_gates(model, 0.0)


INTERVENTIONS: dict[str, Intervention] = {
    "none": Intervention(_intact, nn.Module),
    "swap": Intervention(_swap, SegmentStateAttention),
    "zero": Intervention(_zero, SegmentStateAttention),
    "gate_closed": Intervention(_gate_closed, GatedAttention),
}
"""Named interventions."""


def applicable(names: Iterable[str], pattern: Iterable[str]) -> tuple[str, ...]:
    """Return those interventions that can change something in a model with layers of these kinds."""
    kinds = [KINDS[kind] for kind in pattern]
    return tuple(name for name in names if any(issubclass(kind, INTERVENTIONS[name].needs) for kind in kinds))
