"""The law table: one row per memory. Adding a memory adds a row here and its equations to oracles.py."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from palimpsest.memory import (
    FEATURE_MAPS,
    AssociativeMemory,
    DecayedRidgeMemory,
    DeltaMemory,
    HebbianMemory,
    LinearMemory,
    Memory,
    RidgeMemory,
    RidgeRootMemory,
    TokenDeltaMemory,
)

RIDGE = (0.5, 2.0)
"""lambda of the first head and of the second."""

LOG_DECAY = (-0.05, -0.7)
"""log a of the first head and of the second: half is forgotten after 14 tokens, and after one."""


class Row(NamedTuple):
    """A memory under test: its name, how it is built for a number of heads, and whether it ages.

    What a memory learns (lambda, for one) is a float64 leaf, so that laws can ask for its gradient. A memory that ages
    fades with every kept token, or counts it, also if it is written with strength zero.
    """

    name: str
    build: Callable[[int], Memory[Any]]
    ages: bool = False


def ridge_per_head(heads: int) -> torch.Tensor:
    return torch.tensor(RIDGE[:heads], dtype=torch.float64, requires_grad=True)


def decay_per_head(heads: int) -> torch.Tensor:
    return torch.tensor(LOG_DECAY[:heads], dtype=torch.float64, requires_grad=True)


def decayed_ridge(heads: int) -> DecayedRidgeMemory:
    return DecayedRidgeMemory(ridge=ridge_per_head(heads), log_decay=decay_per_head(heads))


MEMORIES = (
    Row("linear", lambda heads: LinearMemory()),
    Row("delta-exclusive", lambda heads: DeltaMemory(normaliser="exclusive")),
    Row("delta-inclusive", lambda heads: DeltaMemory(normaliser="inclusive")),
    Row("ridge", lambda heads: RidgeMemory(ridge=ridge_per_head(heads))),
    Row("ridge-root", lambda heads: RidgeRootMemory(ridge=ridge_per_head(heads))),
    Row("hebbian", lambda heads: HebbianMemory(FEATURE_MAPS["identity_l2"])),
    Row("decayed-ridge", decayed_ridge, ages=True),
    # the same memories with features that are wider, sparse, signed or bounded
    Row("linear-dpfp2", lambda heads: LinearMemory(FEATURE_MAPS["dpfp2"])),
    Row("linear-softmax", lambda heads: LinearMemory(FEATURE_MAPS["softmax"])),
    Row("delta-squared_relu", lambda heads: DeltaMemory(FEATURE_MAPS["squared_relu"], "inclusive")),
    Row("ridge-elu1_centred", lambda heads: RidgeMemory(FEATURE_MAPS["elu1_centred"], ridge_per_head(heads))),
    Row("token-delta", lambda heads: TokenDeltaMemory()),
    Row("token-delta-decay", lambda heads: TokenDeltaMemory(log_decay=decay_per_head(heads)), ages=True),
    Row("associative", lambda heads: AssociativeMemory(), ages=True),
)


def row_named(name: str) -> Row:
    return {row.name: row for row in MEMORIES}[name]
