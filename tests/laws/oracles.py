"""The equations of every memory, token by token in numpy: no segments in parallel, no shared code, no cleverness.

An oracle takes one row and one head of a stream, q and k ``[T, K]``, v ``[T, V]``, keep and strength ``[T]``, and
returns what each token reads, ``[T, V]``. Equation numbers are those of Infini-attention (arXiv 2404.07143); the
strength of a token, one in the paper, multiplies what it writes.
"""

from collections.abc import Iterator
from functools import singledispatch
from typing import NamedTuple

import numpy as np
import torch

from palimpsest.memory import (
    AssociativeMemory,
    DecayedRidgeMemory,
    DeltaMemory,
    HebbianMemory,
    LinearMemory,
    RidgeMemory,
    RidgeRootMemory,
    TokenDeltaMemory,
)

from .feature_oracle import phi


class Head(NamedTuple):
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    keep: np.ndarray
    strength: np.ndarray
    segment_length: int
    number: int

    def mapped(self, features: str) -> "Head":
        """Return this head with features in the place of queries and keys."""
        q, k = (np.array([phi(features, x) for x in rows]) for rows in (self.q, self.k))
        return self._replace(q=q, k=k)

    def segments(self) -> Iterator[range]:
        tokens = len(self.q)
        for start in range(0, tokens, self.segment_length):
            yield range(start, min(start + self.segment_length, tokens))


@singledispatch
def oracle(memory: object, head: Head) -> np.ndarray:
    raise NotImplementedError(f"write the equations of {type(memory).__name__} into oracles.py")


@oracle.register
def _linear(memory: LinearMemory, head: Head) -> np.ndarray:
    head = head.mapped(memory.features.name)
    matrix, normaliser, out = _nothing(head)
    for segment in head.segments():
        for t in segment:
            out[t] = _retrieve(matrix, normaliser, head.q[t])
        for t in segment:
            if head.keep[t]:
                matrix = matrix + head.strength[t] * np.outer(head.k[t], head.v[t])  # eq. 8
                normaliser = normaliser + head.strength[t] * head.k[t]
    return out


@oracle.register
def _delta(memory: DeltaMemory, head: Head) -> np.ndarray:
    head = head.mapped(memory.features.name)
    matrix, normaliser, out = _nothing(head)
    for segment in head.segments():
        kept = [t for t in segment if head.keep[t]]
        for t in segment:
            out[t] = _retrieve(matrix, normaliser, head.q[t])
        before = matrix
        after = normaliser + sum((head.strength[t] * head.k[t] for t in kept), np.zeros_like(normaliser))
        known = normaliser if memory.normaliser == "exclusive" else after
        for t in kept:
            novel = head.v[t] - _retrieve(before, known, head.k[t])
            matrix = matrix + head.strength[t] * np.outer(head.k[t], novel)  # eq. 9
        normaliser = after
    return out


@oracle.register
def _hebbian(memory: HebbianMemory, head: Head) -> np.ndarray:
    """Every kept token of an earlier segment answers with its value, times the likeness of its key to the query."""
    head = head.mapped(memory.features.name)
    _, _, out = _nothing(head)
    for segment in head.segments():
        for t in segment:
            for past in (past for past in range(segment.start) if head.keep[past]):
                out[t] += head.strength[past] * (head.q[t] @ head.k[past]) * head.v[past]
    return out


@oracle.register(RidgeMemory)
@oracle.register(RidgeRootMemory)
def _ridge(memory: RidgeMemory | RidgeRootMemory, head: Head) -> np.ndarray:
    return _least_squares(head.mapped(memory.features.name), memory.ridge, log_decay=0.0)


@oracle.register
def _decayed_ridge(memory: DecayedRidgeMemory, head: Head) -> np.ndarray:
    log_decay = torch.as_tensor(memory.log_decay).detach().numpy()[head.number]
    return _least_squares(head.mapped(memory.features.name), memory.ridge, log_decay)


def _least_squares(head: Head, ridges: torch.Tensor | float, log_decay: float) -> np.ndarray:
    """Solve min sum_t w_t |W^T phi_t - v_t|^2 + lambda |W|^2 over all earlier segments by least squares, without H.

    A token weighs its strength, times a for every token that was kept after it.
    """
    ridge = torch.as_tensor(ridges).detach().numpy()[head.number]
    _, _, out = _nothing(head)
    width = head.k.shape[1]
    for segment in head.segments():
        past = np.array([t for t in range(segment.start) if head.keep[t]], dtype=int)
        age = np.arange(len(past))[::-1]
        root = np.sqrt(head.strength[past] * np.exp(log_decay * age))[:, None]
        targets = np.concatenate([root * head.v[past], np.zeros((width, head.v.shape[1]))])
        weights, *_ = np.linalg.lstsq(np.concatenate([root * head.k[past], np.sqrt(ridge) * np.eye(width)]), targets)
        for t in segment:
            out[t] = head.q[t] @ weights
    return out


@oracle.register
def _token_delta(memory: TokenDeltaMemory, head: Head) -> np.ndarray:
    head = head.mapped(memory.features.name)
    matrix, _, out = _nothing(head)
    decay = 1.0 if memory.log_decay is None else np.exp(memory.log_decay.detach().numpy()[head.number])
    for segment in head.segments():
        for t in segment:
            out[t] = head.q[t] @ matrix
        for t in (t for t in segment if head.keep[t]):
            known = head.k[t] @ matrix
            erased = matrix - head.strength[t] * np.outer(head.k[t], known)
            matrix = decay * erased + head.strength[t] * np.outer(head.k[t], head.v[t])
    return out


@oracle.register
def _associative(memory: AssociativeMemory, head: Head) -> np.ndarray:
    head = head.mapped(memory.features.name)
    matrix, normaliser, out = _nothing(head)
    for segment in head.segments():
        for t in segment:
            out[t] = _retrieve(matrix, normaliser, head.q[t])
        before, counted = matrix, normaliser
        for t in (t for t in segment if head.keep[t]):
            novel = head.v[t] - _retrieve(before, counted, head.k[t])
            matrix = matrix + head.strength[t] * np.outer(head.k[t], novel)
            if head.k[t].any():
                gamma = np.clip(1.0 - head.k[t] @ counted / (head.k[t] @ head.k[t]), 0.0, 1.0)
                normaliser = normaliser + gamma * head.k[t]
    return out


def _nothing(head: Head) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return M = 0, z = 0 and room for what is read."""
    d_k, d_v = head.k.shape[1], head.v.shape[1]
    return np.zeros((d_k, d_v)), np.zeros(d_k), np.zeros((len(head.q), d_v))


def _retrieve(matrix: np.ndarray, normaliser: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Equation 7; the paper leaves 0 / 0 open: where nothing shares a feature with the query, it reads zero."""
    divisor = features @ normaliser
    return (features @ matrix) / divisor if divisor else np.zeros(matrix.shape[1])
