"""The law table: one row per memory. Adding a memory adds a row here and its equations to oracles.py."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from palimpsest.memory import DeltaMemory, LinearMemory, Memory, RidgeMemory, RidgeRootMemory

RIDGE = (0.5, 2.0)
"""lambda of the first head and of the second."""


class Row(NamedTuple):
    """A memory under test: its name, and how it is built for a number of heads.

    What a memory learns (lambda, for one) is a float64 leaf, so that laws can ask for its gradient.
    """

    name: str
    build: Callable[[int], Memory[Any]]


def ridge_per_head(heads: int) -> torch.Tensor:
    return torch.tensor(RIDGE[:heads], dtype=torch.float64, requires_grad=True)


MEMORIES = (
    Row("linear", lambda heads: LinearMemory()),
    Row("delta-exclusive", lambda heads: DeltaMemory(normaliser="exclusive")),
    Row("delta-inclusive", lambda heads: DeltaMemory(normaliser="inclusive")),
    Row("ridge", lambda heads: RidgeMemory(ridge=ridge_per_head(heads))),
    Row("ridge-root", lambda heads: RidgeRootMemory(ridge=ridge_per_head(heads))),
)


def row_named(name: str) -> Row:
    return {row.name: row for row in MEMORIES}[name]
