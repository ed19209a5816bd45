"""What a run writes about itself: the lines of ``metrics.jsonl``, and what they say of every layer."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from palimpsest.attention import GatedAttention, MemoryAttention, Site
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.records import LayerMetrics, StepRecord, sync, write_atomic
from palimpsest.training.checkpoint import disk_full_as_input_error
from palimpsest.training.data import Batch


class MetricsLog:
    """``metrics.jsonl``: one line per logged update, appended as it happens."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, step: int) -> None:
        """Drop the lines after ``step``, and what a crash has torn of them, so that they are written again."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            if not line.endswith("\n") or not _is_up_to(line, step):
                break
            kept.append(line)
        write_atomic(self.path, "".join(kept))

    def append(self, record: StepRecord) -> None:
        """Add a line.

        Raises:
            InputError: the disk is full.
        """
        with disk_full_as_input_error(self.path), open(self.path, "a", encoding="utf-8") as out:
            out.write(record.model_dump_json() + "\n")

    def sync(self) -> None:
        """Make the lines so far survive a loss of power."""
        if self.path.exists():
            sync(self.path)


def _is_up_to(line: str, step: int) -> bool:
    try:
        return StepRecord.model_validate_json(line).step <= step
    except ValueError:
        return False


class MemoryView(NamedTuple):
    """One layer with a gate during one pass over one row.

    Attributes:
        layer: the layer.
        gates: mean gates over the tokens, ``[H]``.
        state: the memory before the last segment; None where it is no ``Memory`` but a store of tokens.
        queries: un-rotated queries of the last segment, ``[1, H, N, D]``.
    """

    layer: GatedAttention
    gates: Tensor
    state: tuple | None
    queries: Tensor


def layer_metrics(model: PalimpsestForCausalLM, batch: Batch) -> tuple[LayerMetrics, ...]:
    """Describe every layer: gradients as they are now, gates and memory on the first row of a batch.

    Memories are looked at before the last segment of the row, where they are fullest while still being read.
    """
    views = _look(model, batch)
    spec = model.config.attention_spec
    metrics = []
    for number, block in enumerate(model.model.layers):
        layer = LayerMetrics(
            layer=number,
            kind=spec.kind(number),
            grad_norm=gradient_norm(block),
            attention_grad_norm=gradient_norm(block.get_submodule("self_attn")),
            mlp_grad_norm=gradient_norm(block.get_submodule("mlp")),
        )
        metrics.append(_with_memory(layer, views[number]) if number in views else layer)
    return tuple(metrics)


def _with_memory(layer: LayerMetrics, view: MemoryView) -> LayerMetrics:
    """Add what there is to say of a memory and its gates."""
    bias = view.layer.gate.bias
    found = {
        "gates": _floats(view.gates),
        "gate_bias": _floats(bias.detach()),
        "gate_bias_grad": () if bias.grad is None else _floats(bias.grad),
    }
    if view.state is not None and isinstance(view.layer, MemoryAttention):
        memory = view.layer.build_memory()
        divided_by = memory.denominators(view.state, view.queries)
        found |= {
            "memory_norm": _floats(memory.matrix(view.state)[0].flatten(-2).norm(dim=-1)),
            "normaliser_min": () if divided_by is None else _floats(divided_by[0].amin(-1)),
            "normaliser_max": () if divided_by is None else _floats(divided_by[0].amax(-1)),
        }
    return layer.model_copy(update=found)


def _floats(tensor: Tensor) -> tuple[float, ...]:
    return tuple(tensor.tolist())


def gradient_norm(module: nn.Module) -> float:
    """Return the Euclidean norm of all gradients of a module."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return float(nn.utils.get_total_norm(gradients)) if gradients else 0.0


@torch.no_grad()
def _look(model: PalimpsestForCausalLM, batch: Batch) -> dict[int, MemoryView]:
    """Pass the first row of a batch, padding left out, through the model and watch its memory layers."""
    layers = {
        number: block.self_attn
        for number, block in enumerate(model.model.layers)
        if isinstance(block.self_attn, GatedAttention)
    }
    if not layers:
        return {}
    row = batch.input_ids[:1, batch.document_ids[0] >= 0]
    states, queries, gates = {}, {}, {}
    with contextlib.ExitStack() as watch:
        for number, layer in layers.items():
            watch.enter_context(_watch(number, layer, states, queries, gates))
        training = model.training
        model.eval()
        try:
            model.model(input_ids=row, use_cache=False)
        finally:
            model.train(training)
    segment = model.config.attention_spec.segment_length
    last = (row.shape[1] - 1) // segment * segment
    return {
        number: MemoryView(
            layer, gates[number].float().mean((0, 2, 3)), states.get(number), queries[number][:, :, last:]
        )
        for number, layer in layers.items()
    }


@contextlib.contextmanager
def _watch(
    number: int, layer: GatedAttention, states: dict[int, tuple], queries: dict[int, Tensor], gates: dict[int, Tensor]
) -> Iterator[None]:
    """Record the queries and the gates of one layer, and of a memory its state before the latest segment."""

    def probe(site: Site, state: tuple) -> tuple:
        states[site.layer] = state
        return state

    def see_queries(module: nn.Module, inputs: object, output: Tensor) -> None:
        queries[number] = output.unflatten(-1, (layer.heads, layer.head_dim)).transpose(1, 2)

    def see_gates(module: nn.Module, inputs: object, output: Tensor) -> None:
        gates[number] = output

    memory = layer if isinstance(layer, MemoryAttention) else None
    previous = None if memory is None else memory.probe
    hooks = [layer.q_proj.register_forward_hook(see_queries), layer.gate.register_forward_hook(see_gates)]
    if memory is not None:
        memory.probe = probe
    try:
        yield
    finally:
        if memory is not None:
            memory.probe = previous
        for hook in hooks:
            hook.remove()
