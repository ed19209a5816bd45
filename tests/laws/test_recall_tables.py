"""Recall of random keys, by feature map and by age: what random keys leave to the memory itself.

The figures of docs/memories/features.md, hebbian.md and decayed_ridge.md: ``pytest tests/laws/test_recall_tables.py -m
slow -s``. The answer is right if its nearest neighbour among 1,024 values is the value that was written.
"""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.memory import (
    FEATURE_MAPS,
    DecayedRidgeMemory,
    HebbianMemory,
    LinearMemory,
    Memory,
    RidgeMemory,
)

WIDTH, VALUES, TRIALS = 64, 1024, 8
LOADS = (16, 32, 64, 128, 256, 512)
HALF_LIVES = (8, 16, 32, 64, 128)


def codebook() -> Tensor:
    return F.normalize(torch.randn(VALUES, WIDTH, generator=torch.Generator().manual_seed(0)), dim=-1)


def is_right(memory: Memory[Any], state: Any, keys: Tensor, written: Tensor) -> float:
    """Return the share of keys ``[B, 1, n, K]`` that are answered with the value of this number ``[B, n]``."""
    answers = memory.read(state, keys)[:, 0]
    return ((answers @ codebook().mT).argmax(-1) == written).float().mean().item()


def recall(memory: Memory[Any], load: int) -> float:
    """Write so many random keys once and ask for all of them."""
    generator = torch.Generator().manual_seed(1)
    keys = torch.randn(TRIALS, 1, load, WIDTH, generator=generator)
    written = torch.randint(VALUES, (TRIALS, load), generator=generator)
    state = memory.write(memory.init(TRIALS, 1, WIDTH, WIDTH), keys, codebook()[written][:, None])
    return is_right(memory, state, keys, written)


def recall_after_rewrites(memory: Memory[Any], size: int, rounds: int) -> float:
    """Write the same keys in every round, in another order and with other values, and ask for the last of these."""
    generator = torch.Generator().manual_seed(2)
    keys = torch.randn(TRIALS, 1, size, WIDTH, generator=generator)
    state, written = memory.init(TRIALS, 1, WIDTH, WIDTH), torch.empty(0)
    for _ in range(rounds):
        written = torch.randint(VALUES, (TRIALS, size), generator=generator)
        order = torch.rand(TRIALS, size, generator=generator).argsort(-1)
        shuffled = keys.gather(2, order[:, None, :, None].expand_as(keys))
        state = memory.write(state, shuffled, codebook()[written.gather(1, order)][:, None])
    return is_right(memory, state, keys, written)


def print_table(head: str, columns: tuple[int, ...], rows: dict[str, list[float]]) -> None:
    print(f"\n| {head} | " + " | ".join(map(str, columns)) + " |\n|---|" + "---|" * len(columns))
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")


@pytest.mark.slow
def test_recall_by_feature_map() -> None:
    bases = ("elu1", "identity", "dpfp1", "dpfp3", "squared_relu", "softmax")
    features = [FEATURE_MAPS[f"{base}{centred}"] for base in bases for centred in ("", "_centred")]
    memories: dict[str, Memory[Any]] = {
        **{f"linear, {phi.name}": LinearMemory(phi) for phi in features if not phi.signed},
        **{f"hebbian, {phi.name}": HebbianMemory(phi) for phi in features if phi.signed},
        **{f"ridge, {phi.name}": RidgeMemory(phi, 0.01) for phi in features},
    }
    rows = {name: [recall(memory, load) for load in LOADS] for name, memory in memories.items()}
    print_table("recall of n keys, d = 64", LOADS, rows)
    at = {name: dict(zip(LOADS, cells, strict=True)) for name, cells in rows.items()}
    assert at["linear, elu1"][32] < 0.2 < 0.9 < at["hebbian, elu1_centred"][128]  # the common mode alone
    assert at["linear, elu1"][64] < at["linear, softmax"][64] < at["linear, squared_relu"][64] < at["linear, dpfp3"][64]
    assert at["ridge, elu1"][256] == pytest.approx(at["ridge, elu1_centred"][256], abs=0.1)
    assert at["ridge, dpfp3"][512] > 0.9 > at["ridge, elu1"][512]  # six times the features


@pytest.mark.slow
def test_recall_after_rewrites() -> None:
    memories: dict[str, Memory[Any]] = {
        "ridge": RidgeMemory(ridge=0.01),
        **{f"half-life {n}": DecayedRidgeMemory(ridge=0.01, log_decay=-math.log(2) / n) for n in HALF_LIVES},
    }
    rounds = (1, 2, 4, 8)
    rows = {name: [recall_after_rewrites(memory, 32, n) for n in rounds] for name, memory in memories.items()}
    print_table("last value of 32 keys after n rounds", rounds, rows)
    assert rows["ridge"][-1] < 0.2
    assert rows["half-life 32"][-1] > 0.9
    print_table(
        "recall of n keys, each written once", LOADS, {k: [recall(m, n) for n in LOADS] for k, m in memories.items()}
    )
