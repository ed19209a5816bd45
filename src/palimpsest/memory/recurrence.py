"""Prefixes of linear recurrences over segments, in a number of tensor operations that grows with log S only.

Here ``x[:, :, s]`` is what segment s adds, and a True in ``reset`` ``[B, S]`` empties the memory before segment s.
"""

import torch
from torch import Tensor


def additive_prefixes(initial: Tensor, increments: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Solve x_s = x_{s-1} + b_s.

    Args:
        initial: x before the first segment, ``[B, H, ...]``.
        increments: b, ``[B, H, S, ...]``.
        reset: ``[B, S]`` bool or None.

    Returns:
        The states before every segment ``[B, H, S, ...]`` and the state after the last one ``[B, H, ...]``.
    """
    if reset is None:
        states = torch.cat([initial.unsqueeze(2), increments], 2).cumsum(2)
        return states[:, :, :-1], states[:, :, -1]
    # a cumulative sum minus its value at the reset would cancel digits; the scan never adds what it must forget
    return fading_prefixes(initial, increments.new_ones(increments.shape[:3]), increments, reset)


def fading_prefixes(
    initial: Tensor, factors: Tensor, increments: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Solve x_s = a_s x_{s-1} + b_s, where a_s is a number.

    Args:
        initial: x before the first segment, ``[B, H, ...]``.
        factors: a, ``[B, H, S]``, in [0, 1]: products of them may vanish but never overflow.
        increments: b, ``[B, H, S, ...]``.
        reset: ``[B, S]`` bool or None.

    Returns:
        The states before every segment ``[B, H, S, ...]`` and the state after the last one ``[B, H, ...]``.
    """
    factors = factors.view(*factors.shape, *(1,) * (increments.dim() - 3))
    return _prefixes(initial, factors, increments, reset, product=False)


def affine_prefixes(
    initial: Tensor, transitions: Tensor, increments: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Solve X_s = A_s X_{s-1} + B_s for matrices.

    Args:
        initial: X before the first segment, ``[B, H, F, V]``.
        transitions: A, ``[B, H, S, F, F]``.
        increments: B, ``[B, H, S, F, V]``.
        reset: ``[B, S]`` bool or None.

    Returns:
        The states before every segment ``[B, H, S, F, V]`` and the state after the last one ``[B, H, F, V]``.
    """
    return _prefixes(initial, transitions, increments, reset, product=True)


def _prefixes(
    initial: Tensor, transitions: Tensor, increments: Tensor, reset: Tensor | None, *, product: bool
) -> tuple[Tensor, Tensor]:
    if reset is not None:
        transitions = torch.where(_over(reset, transitions), 0.0, transitions)
    first = increments[:, :, :1] + _apply(transitions[:, :, :1], initial.unsqueeze(2), product)
    after = _scan(transitions, torch.cat([first, increments[:, :, 1:]], 2), product)
    before = torch.cat([initial.unsqueeze(2), after[:, :, :-1]], 2)
    if reset is not None:
        before = torch.where(_over(reset, before), 0.0, before)
    return before, after[:, :, -1]


def _scan(transitions: Tensor, values: Tensor, product: bool) -> Tensor:
    """Return x_s = a_s x_{s-1} + b_s for all s (x_{-1} = 0), by pairing neighbours: O(S) work in O(log S) steps."""
    segments = values.shape[2]
    if segments == 1:
        return values
    pairs = segments // 2
    a_even, a_odd = transitions[:, :, 0::2], transitions[:, :, 1::2]
    b_even, b_odd = values[:, :, 0::2], values[:, :, 1::2]
    odd = _scan(
        _apply(a_odd, a_even[:, :, :pairs], product),
        _apply(a_odd, b_even[:, :, :pairs], product) + b_odd,
        product,
    )
    later = b_even[:, :, 1:] + _apply(a_even[:, :, 1:], odd[:, :, : b_even.shape[2] - 1], product)
    even = torch.cat([b_even[:, :, :1], later], 2)
    paired = torch.stack([even[:, :, :pairs], odd], 3).flatten(2, 3)
    return torch.cat([paired, even[:, :, pairs:]], 2)


def _apply(transition: Tensor, value: Tensor, product: bool) -> Tensor:
    return transition @ value if product else transition * value


def _over(reset: Tensor, tensor: Tensor) -> Tensor:
    """Shape ``[B, S]`` so that it broadcasts over ``[B, H, S, ...]``."""
    return reset.view(reset.shape[0], 1, reset.shape[1], *(1,) * (tensor.dim() - 3))
