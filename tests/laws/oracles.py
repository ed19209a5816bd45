"""The equations of every memory, token by token in numpy: no segments in parallel, no shared code, no cleverness.

An oracle takes one row and one head of a stream, q and k ``[T, K]``, v ``[T, V]`` and keep ``[T]``, and returns what
each token reads, ``[T, V]``. Equation numbers are those of Infini-attention (arXiv 2404.07143).
"""

from collections.abc import Iterator
from functools import singledispatch
from typing import NamedTuple

import numpy as np
import torch

from palimpsest.memory import DeltaMemory, LinearMemory, RidgeMemory, RidgeRootMemory


class Head(NamedTuple):
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    keep: np.ndarray
    segment_length: int
    number: int

    def segments(self) -> Iterator[range]:
        tokens = len(self.q)
        for start in range(0, tokens, self.segment_length):
            yield range(start, min(start + self.segment_length, tokens))


@singledispatch
def oracle(memory: object, head: Head) -> np.ndarray:
    raise NotImplementedError(f"write the equations of {type(memory).__name__} into oracles.py")


@oracle.register
def _linear(memory: LinearMemory, head: Head) -> np.ndarray:
    matrix, normaliser, out = _nothing(head)
    for segment in head.segments():
        for t in segment:
            out[t] = _retrieve(matrix, normaliser, head.q[t])
        for t in segment:
            if head.keep[t]:
                matrix = matrix + np.outer(_sigma(head.k[t]), head.v[t])  # eq. 8
                normaliser = normaliser + _sigma(head.k[t])
    return out


@oracle.register
def _delta(memory: DeltaMemory, head: Head) -> np.ndarray:
    matrix, normaliser, out = _nothing(head)
    for segment in head.segments():
        kept = [t for t in segment if head.keep[t]]
        for t in segment:
            out[t] = _retrieve(matrix, normaliser, head.q[t])
        before = matrix
        after = normaliser + sum((_sigma(head.k[t]) for t in kept), np.zeros_like(normaliser))
        known = normaliser if memory.normaliser == "exclusive" else after
        for t in kept:
            novel = head.v[t] - _retrieve(before, known, head.k[t])
            matrix = matrix + np.outer(_sigma(head.k[t]), novel)  # eq. 9
        normaliser = after
    return out


@oracle.register(RidgeMemory)
@oracle.register(RidgeRootMemory)
def _ridge(memory: RidgeMemory | RidgeRootMemory, head: Head) -> np.ndarray:
    """Solve min |Phi W - V|^2 + lambda |W|^2 over all earlier segments as one least-squares problem, without H."""
    ridge = torch.as_tensor(memory.ridge).detach().numpy()[head.number]
    _, _, out = _nothing(head)
    width = head.k.shape[1]
    for segment in head.segments():
        past = [t for t in range(segment.start) if head.keep[t]]
        phi = np.array([_sigma(head.k[t]) for t in past]).reshape(-1, width)
        targets = np.concatenate([head.v[past], np.zeros((width, head.v.shape[1]))])
        weights, *_ = np.linalg.lstsq(np.concatenate([phi, np.sqrt(ridge) * np.eye(width)]), targets)
        for t in segment:
            out[t] = _sigma(head.q[t]) @ weights
    return out


def _nothing(head: Head) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return M = 0, z = 0 and room for what is read."""
    d_k, d_v = head.k.shape[1], head.v.shape[1]
    return np.zeros((d_k, d_v)), np.zeros(d_k), np.zeros((len(head.q), d_v))


def _retrieve(matrix: np.ndarray, normaliser: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Equation 7; the paper leaves 0 / 0 open, and an empty memory reads zero."""
    if not normaliser.any():
        return np.zeros(matrix.shape[1])
    return (_sigma(key) @ matrix) / (_sigma(key) @ normaliser)


def _sigma(x: np.ndarray) -> np.ndarray:
    """ELU(x) + 1, which is exp(x) below zero and x + 1 above."""
    return np.where(x > 0, x + 1.0, np.exp(np.minimum(x, 0.0)))
