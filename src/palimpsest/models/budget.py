"""What a training run needs: bytes on one device that holds the whole model, and hours on named accelerators.

The bytes of an update, one micro-batch at a time, are at most

    4 P (weights) + 4 P (gradients) + 8 P (moments of AdamW) + A + 12 V n + (what the head is given)

with P parameters, all in float32, a vocabulary V, and n tokens with a label in a micro-batch: their log-probabilities
and two gradients of that size are there when the backward pass begins. A is what autograd keeps of a forward pass. It
is counted, not estimated: the pass is run on tensors without data, through one layer and through two of every kind, and
every tensor that is saved for the backward pass counts once. With ``recompute`` only the inputs of the layers are kept;
a layer that is computed again takes the room that the logits have left.

Not counted: what the runtime and the allocator take for themselves (a gigabyte or so), buffers of a collective, and the
mask ``[T, T]`` of full attention with ``documents: reset``.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from palimpsest.models.configuration import PalimpsestConfig
from palimpsest.models.modeling import PalimpsestForCausalLM

FLOAT32, BFLOAT16 = 4, 2
MOMENTS = 2
LOGITS = 3
"""Tensors ``[n, V]`` when the backward pass begins: log-probabilities, their gradient, that of the logits."""


class Accelerator(NamedTuple):
    """An accelerator: dense peak in bfloat16 with sums in float32, FLOP/s, and memory in bytes, by its data sheet."""

    name: str
    peak: float
    memory: float


ACCELERATORS = (
    Accelerator("RTX 4090", 165.2e12, 24e9),
    Accelerator("L4", 121e12, 24e9),
    Accelerator("L40S", 362.05e12, 48e9),
    Accelerator("A100 80GB", 312e12, 80e9),
    Accelerator("H100 PCIe", 756.5e12, 80e9),
    Accelerator("H100 SXM", 989.5e12, 80e9),
    Accelerator("H200 SXM", 989.5e12, 141e9),
    Accelerator("MI300X", 1307.4e12, 192e9),
    Accelerator("B200 SXM", 2250e12, 180e9),
)
"""Vendors print some peaks for sparse matrices, twice these. Sources: docs/tutorial/study-300m.md."""


class TrainingMemory(NamedTuple):
    """Bytes on a device at the most demanding moment of an update, by what they are for; ``head``: 12 V n and more."""

    weights: int
    gradients: int
    moments: int
    activations: int
    head: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def hours(operations: float, accelerator: Accelerator, utilisation: float) -> float:
    """Return how long so many operations take at this share of the accelerator's peak."""
    return operations / (accelerator.peak * utilisation) / 3600


def parameter_count(config: PalimpsestConfig) -> int:
    """Return the number of parameters; tied embeddings count once."""
    with torch.device("meta"):
        return PalimpsestForCausalLM(config).num_parameters()


def training_memory(
    config: PalimpsestConfig, rows: int, tokens: int, labels: int, *, bfloat16: bool, recompute: bool = False
) -> TrainingMemory:
    """Return what an update takes.

    Args:
        config: the model.
        rows: rows of a micro-batch.
        tokens: tokens in a row, of one document.
        labels: tokens of a micro-batch that have a label.
        bfloat16: computed under autocast.
        recompute: whether the layers' activations are computed again in the backward pass.
    """
    parameters = parameter_count(config)
    head = LOGITS * FLOAT32 * config.vocab_size * labels
    head += (BFLOAT16 if bfloat16 else FLOAT32) * config.hidden_size * labels
    head += BFLOAT16 * config.vocab_size * config.hidden_size if bfloat16 else 0  # autocast's copy of its weight
    layers, rest = _activations(config, rows, tokens, bfloat16=bfloat16)
    if recompute:
        kept = len(layers) * FLOAT32 * config.hidden_size * rows * tokens + max(0, max(layers) - head)
    else:
        kept = sum(layers)
    return TrainingMemory(
        weights=FLOAT32 * parameters,
        gradients=FLOAT32 * parameters,
        moments=FLOAT32 * MOMENTS * parameters,
        activations=kept + rest,
        head=head,
    )


def saved_bytes(config: PalimpsestConfig, rows: int, tokens: int, *, bfloat16: bool) -> int:
    """Return what autograd keeps of a forward pass of the decoder, without the head, parameters not counted."""
    with FakeTensorMode(), UnknownValues():
        model = PalimpsestForCausalLM(config).train()
        own = {_identity(parameter) for parameter in model.parameters()}
        saved: dict[int, Tensor] = {}  # holds the tensors, so that no identity is given away twice

        def keep(tensor: Tensor) -> Tensor:
            if _identity(tensor) not in own:
                saved[_identity(tensor)] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _autocast(bfloat16):
            model.model(input_ids=torch.zeros(rows, tokens, dtype=torch.long), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def _activations(config: PalimpsestConfig, rows: int, tokens: int, *, bfloat16: bool) -> tuple[list[int], int]:
    """Return what autograd keeps of every layer, and besides: a model of two layers has one layer more than of one."""
    kinds = Counter(config.attention_spec.kind(layer) for layer in range(config.num_hidden_layers))
    layers, rest = [], 0
    for kind, count in kinds.items():
        one, two = (saved_bytes(_alike(config, kind, n), rows, tokens, bfloat16=bfloat16) for n in (1, 2))
        layers += [two - one] * count
        rest = max(rest, 2 * one - two)
    return layers, rest


def _alike(config: PalimpsestConfig, kind: str, layers: int) -> PalimpsestConfig:
    """Return the configuration of a model with so many layers, all of one kind."""
    own = config.attention_spec.model_dump(exclude_none=True)
    blocks = {name: block for name, block in own.items() if name not in config.attention_spec.pattern or name == kind}
    sizes = {name: getattr(config, name) for name in ("hidden_size", "intermediate_size", "head_dim", "rms_norm_eps")}
    return PalimpsestConfig(
        vocab_size=config.vocab_size,
        num_hidden_layers=layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        attention=blocks | {"pattern": [kind]},
        **sizes,
    )


class UnknownValues(TorchDispatchMode):
    """Where the code asks for a value of a tensor without data, answer zero: no special case applies."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _autocast(bfloat16: bool) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        yield


def _identity(tensor: Tensor) -> int:
    """Return what tells the storage of a tensor from all others: views of one are one."""
    return tensor.untyped_storage()._cdata
