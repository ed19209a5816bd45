"""The profile of a model: what the memory of every head holds, says and could hold, on given text."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from palimpsest.attention import GatedAttention, MemoryAttention, SegmentStateAttention, Site
from palimpsest.attention.base import expand_heads
from palimpsest.memory import FEATURE_MAPS, state_bytes
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.probes.hooks import Parts, gated_layers, in_force
from palimpsest.probes.keys import KeyStatistics, key_statistics
from palimpsest.probes.usage import Contributions, check_readable, observe
from palimpsest.records import ProfileRecord


class Origin(NamedTuple):
    """Which model records are about."""

    arm: str = ""
    seed: int = 0
    checkpoint: str = ""


@dataclass
class _Seen:
    """What the layers were seen to do in one pass, by layer."""

    mixed: dict[int, Contributions] = field(default_factory=dict)
    states: dict[int, tuple] = field(default_factory=dict)
    queries: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, KeyStatistics] = field(default_factory=dict)
    strengths: dict[int, Tensor] = field(default_factory=dict)


def profile(
    model: PalimpsestForCausalLM,
    token_batches: Iterable[Tensor],
    *,
    documents: Sequence[str] | None = None,
    origin: Origin | None = None,
) -> list[ProfileRecord]:
    """Describe every head that has a gate, on every row of batches of tokens ``[B, T]``.

    Args:
        model: the model, which is put into evaluation mode for the time.
        token_batches: one document a row, without padding.
        documents: their names, in order; numbers if None.
        origin: what the records say of the model.

    Raises:
        InputError: no layer mixes a memory with local attention, or a text is shorter than two segments.
    """
    records: list[ProfileRecord] = []
    training, number = model.training, 0
    model.eval()
    try:
        for tokens in token_batches:
            check_readable(model, tokens)
            names = [str(number + row) if documents is None else documents[number + row] for row in range(len(tokens))]
            records += _describe(model, tokens, names, origin or Origin())
            number += len(tokens)
    finally:
        model.train(training)
    return records


@torch.no_grad()
def _describe(model: PalimpsestForCausalLM, tokens: Tensor, names: list[str], origin: Origin) -> list[ProfileRecord]:
    """Return the records of one batch, by row, layer and head."""
    seen = _look(model, tokens)
    spec = model.config.attention_spec
    columns = {
        layer.layer: {name: x.tolist() for name, x in _columns(layer, seen, tokens.shape[1]).items()}
        for layer in gated_layers(model)
    }
    records = []
    for row, name in enumerate(names):
        for layer in gated_layers(model):
            of_memory = isinstance(layer, MemoryAttention)
            for head in range(layer.heads):
                measured = {key: x[row][head] for key, x in columns[layer.layer].items()}
                known = {
                    **origin._asdict(),
                    "document_id": name,
                    "tokens": tokens.shape[1],
                    "segment_length": spec.segment_length,
                    "layer": layer.layer,
                    "layers": model.config.num_hidden_layers,
                    "head": head,
                    "kind": spec.kind(layer.layer),
                    "memory": spec.memory.kind if of_memory else None,
                    "features": spec.memory.features if of_memory else None,
                    "width": spec.memory.width(layer.head_dim) if of_memory else None,
                    "state_bytes": state_bytes(seen.states[layer.layer]) // (len(names) * layer.heads),
                }
                records.append(ProfileRecord.model_validate(known | measured))
    return records


def _columns(layer: GatedAttention, seen: _Seen, tokens: int) -> dict[str, Tensor]:
    """Return what was measured in a layer, ``[B, H]`` each, by the name of its field."""
    mixed = seen.mixed[layer.layer]
    bias = layer.gate.bias.double()
    initial = torch.full_like(bias, layer.gate.spec.init)
    columns = {
        "gate": mixed.gate,
        "gate_initial": layer.gate.values(initial).expand_as(mixed.gate),
        "gate_shift": (bias - initial).abs().expand_as(mixed.gate),
        "memory_output": mixed.memory,
        "local_output": mixed.local,
        "rho": mixed.rho,
        "read_norm": mixed.read,
    }
    return columns | _of_memory(layer, seen, tokens) if isinstance(layer, MemoryAttention) else columns


def _of_memory(layer: MemoryAttention, seen: _Seen, tokens: int) -> dict[str, Tensor]:
    """Return what there is to say of a memory, and of what was written into it."""
    number, segment = layer.layer, layer.spec.segment_length
    written = (tokens - 1) // segment * segment
    state, keys, memory = seen.states[number], seen.keys[number], layer.build_memory()
    strength = seen.strengths.get(number, torch.ones(len(state[0]), layer.heads, tokens))[:, :, :written].double()
    matrix = memory.matrix(state).double()
    divided = memory.denominators(state, seen.queries[number][:, :, written:])
    columns = {
        "write_strength": strength.mean(-1),
        "load": strength.square().sum(-1),
        "memory_norm": matrix.flatten(-2).norm(dim=-1),
        "effective_rank": effective_rank(matrix),
        "key_dimension": keys.dimension,
        "common_mode": keys.common_mode,
        "n50": keys.n50,
        "n50_common_mode": keys.n50_common_mode,
    }
    if divided is not None:
        columns |= {"denominator_min": divided.amin(-1), "denominator_max": divided.amax(-1)}
    return columns


def effective_rank(matrix: Tensor) -> Tensor:
    """Return exp of the entropy of the singular values of ``[..., F, V]``, divided by their sum (Roy & Vetterli 2007).

    k for k singular values that are alike; NaN for a matrix of zeros.
    """
    values = torch.linalg.svdvals(matrix)
    shares = values / values.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()


def _look(model: PalimpsestForCausalLM, tokens: Tensor) -> _Seen:
    """Pass a batch through the model and note what its gated layers do."""
    seen = _Seen()
    layers = gated_layers(model)
    with contextlib.ExitStack() as watch:
        for layer in layers:
            watch.enter_context(_watched(layer, seen))
        watch.enter_context(in_force((layer, _parts(layer, seen)) for layer in layers))
        model.model(tokens, use_cache=False)
    return seen


def _parts(layer: GatedAttention, seen: _Seen) -> Parts:
    """Return probes that change nothing: the last state that a segment began with stays noted."""

    def boundary(site: Site, state: tuple) -> tuple:
        seen.states[site.layer] = state
        return state

    return Parts(
        boundary=boundary if isinstance(layer, SegmentStateAttention) else None, mix=observe(layer, seen.mixed)
    )


@contextlib.contextmanager
def _watched(layer: GatedAttention, seen: _Seen) -> Iterator[None]:
    """Note queries and write strengths, and the statistics of mapped keys, of one layer."""

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)

    def see_queries(module: nn.Module, inputs: object, output: Tensor) -> None:
        seen.queries[layer.layer] = heads(output)

    def see_keys(module: nn.Module, inputs: object, output: Tensor) -> None:
        features = FEATURE_MAPS[layer.spec.memory.features]
        found = key_statistics(features.apply(heads(output).double()), layer.head_dim)
        seen.keys[layer.layer] = KeyStatistics(*(expand_heads(x, layer.heads) for x in found))

    def see_strengths(module: nn.Module, inputs: object, output: Tensor) -> None:
        seen.strengths[layer.layer] = output

    hooks: list[tuple[nn.Module, Callable[[nn.Module, object, Tensor], None]]] = []
    if isinstance(layer, MemoryAttention):
        hooks = [(layer.q_proj, see_queries), (layer.k_proj, see_keys)]
        hooks += [] if layer.strength is None else [(layer.strength, see_strengths)]
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
