"""AdamW: which weights decay and how fast each learns, the schedule, and the state as named tensors."""

import math

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from palimpsest.errors import InputError
from palimpsest.training.recipe import TrainingSpec

GATE = ".self_attn.gate."
GATE_PARTS = (GATE, ".self_attn.memory.", ".self_attn.strength.", ".self_attn.search.")
EMBEDDING = "embed_tokens."
WEIGHTS, GATES = "weights", "gates"
GROUPS = ("matrices", "vectors", "gates")


def build_optimizer(model: nn.Module, spec: TrainingSpec) -> AdamW:
    """Return AdamW over three groups (Loshchilov & Hutter 2019, arXiv 1711.05101).

    ``matrices``: decayed. ``vectors``: norms, biases and embeddings (tied ones included), not decayed. ``gates``: gates
    and what a memory learns, at a rate of their own: at the rate of the weights a gate hardly moves. The gates among
    them are decayed by ``gate_weight_decay``, and form a group of their own if that is not zero.
    """
    members: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        group = group_of(name, parameter)
        gate_decay = spec.gate_weight_decay if GATE in name else 0.0
        decay = {"matrices": spec.weight_decay, "vectors": 0.0, "gates": gate_decay}[group]
        members.setdefault((group, decay), []).append(parameter)
    groups = [
        {
            "params": members[name, decay],
            "name": name,
            "rate": GATES if name == "gates" else WEIGHTS,
            "weight_decay": decay,
        }
        for name, decay in sorted(members, key=lambda member: GROUPS.index(member[0]))
    ]
    return AdamW(groups, lr=spec.learning_rate, betas=spec.betas, fused=True)


def group_of(name: str, parameter: Tensor) -> str:
    """Return the group of a parameter: ``gates``, ``matrices`` or ``vectors``."""
    if any(part in name for part in GATE_PARTS):
        return "gates"
    return "matrices" if parameter.dim() >= 2 and EMBEDDING not in name else "vectors"


def schedule(step: int, spec: TrainingSpec) -> float:
    """Return the factor on all learning rates at update ``step`` (from 0): linear warmup, then a cosine.

    Warmup reaches 1 with its last update, the cosine ``final_fraction`` with the last update of the run (SGDR,
    arXiv 1608.03983, equation 5, without restarts).
    """
    done = step + 1
    if done <= spec.warmup_steps:
        return done / spec.warmup_steps
    progress = (done - spec.warmup_steps) / (spec.steps - spec.warmup_steps)
    return spec.final_fraction + (1.0 - spec.final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rates(optimizer: AdamW, step: int, spec: TrainingSpec) -> tuple[float, float]:
    """Set the rates of update ``step`` and return them: that of the weights and that of the gates."""
    factor = schedule(step, spec)
    rates = {WEIGHTS: spec.learning_rate * factor, GATES: spec.gate_learning_rate * factor}
    for group in optimizer.param_groups:
        group["lr"] = rates[group["rate"]]
    return rates[WEIGHTS], rates[GATES]


def optimizer_tensors(optimizer: AdamW, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named after the parameters: ``<parameter>:exp_avg`` and so on."""
    return {
        f"{name}:{part}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for part, value in optimizer.state[parameter].items()
    }


@torch.no_grad()
def load_optimizer_tensors(optimizer: AdamW, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Restore what ``optimizer_tensors`` returned; an empty mapping is an optimizer that has not begun.

    Raises:
        InputError: tensors that do not belong to this model.
    """
    optimizer.state.clear()
    parameters = dict(model.named_parameters())
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(":")
        parameter = parameters.get(name)
        if parameter is None or (tensor.dim() > 0 and tensor.shape != parameter.shape):
            raise InputError(f"The optimizer state '{key}' {tuple(tensor.shape)} does not belong to this model.")
        # a copy in memory of our own: a tensor mapped from a file may lie at an address that kernels treat differently
        optimizer.state[parameter][part] = tensor.to(parameter.device).clone(memory_format=torch.contiguous_format)
