"""The kinds of memory and the interventions that the laws of interventions are tried on."""

import pytest
import torch
from torch import Tensor

from palimpsest.models import PalimpsestForCausalLM
from palimpsest.probes import Rows, parse_intervention
from palimpsest.probes.usage import mean_reads

from .model_cases import ALL_MEMORY, SEGMENT, WITH_MEMORY, logits, model_of, tokens

STORES = ["transformer_xl", "compressive", "compressive_mean", "memorizing"]
STATEFUL = [*WITH_MEMORY, *STORES]
EACH = pytest.mark.parametrize("name", STATEFUL)
MEMORY = pytest.mark.parametrize("name", ALL_MEMORY)
LENGTH = 5 * SEGMENT + 2
EVERYTHING = [
    "swap",
    "zero",
    "reset",
    "drop[1-2]",
    "freeze[2]",
    "shuffle[0-1]",
    "bfloat16",
    "gate_closed",
    "gate_open",
    "gate_initial",
    "drop[needle]",
    "shuffle[needle]+bfloat16",
    "mean",
]
ROWS = Rows(needle_segments=torch.tensor([[0, 0], [1, 2], [3, 3]]))


def under(expression: str, model: PalimpsestForCausalLM, x: Tensor, rows: Rows | None = None) -> Tensor:
    with parse_intervention(expression).apply(model, rows):
        return logits(model, x)


def needing(model: PalimpsestForCausalLM, expression: str) -> Rows:
    wanted = parse_intervention(expression).needs_reads
    return ROWS._replace(reads=mean_reads(model, [tokens(4, LENGTH, seed=9)])) if wanted else ROWS


def able(name: str, expression: str) -> bool:
    needs = parse_intervention(expression).needs
    return any(isinstance(module, needs) for module in model_of(name).modules())
