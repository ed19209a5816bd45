"""How the tests compare numbers: one tolerance policy, the same on every machine."""

import torch
from torch import Tensor

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Relative root-mean-square error that is allowed in a dtype."""

SLACK = 1e-5
"""What a lower precision may add to twice the error of its control."""


def relative_rms(got: Tensor, expected: Tensor, *, magnitude: float = 0.0) -> float:
    """Return rms(got - expected) / max(rms(expected), magnitude), or rms(got) where both of these are zero."""
    reference = expected.detach().double()
    error = _rms(got.detach().double() - reference)
    return error / (max(_rms(reference), magnitude) or 1.0)


def assert_close(
    name: str,
    got: Tensor,
    expected: Tensor,
    *,
    control: Tensor | None = None,
    magnitude: float = 0.0,
    seed: int | None = None,
) -> None:
    """Assert that a result equals its reference as well as its dtype allows.

    float64 is held to a relative RMS error of 1e-9 and float32 to 1e-5; a lower precision to twice the error of
    ``control`` plus 1e-5. Whole numbers and booleans must be equal.

    Args:
        name: what is compared; the message begins with it.
        got: the result; its dtype decides the tolerance.
        expected: the reference, best computed in float64.
        control: required for a lower precision: plain torch in the dtype of ``got``, any error of which is excused.
        magnitude: the size of the terms that were added up to make the result. Errors are relative to it where the
            result is smaller: where terms cancel, what remains is rounding.
        seed: printed in the message.

    Raises:
        AssertionError: shapes differ, something is not finite, or the error is above the tolerance. The message names
            the error, the worst element and its place.
        ValueError: a lower precision without a control, or a control that does not fit.
    """
    seeded = name if seed is None else f"{name} (seed {seed})"
    if got.shape != expected.shape:
        raise AssertionError(f"{seeded}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
    if not got.is_floating_point():
        if not torch.equal(got, expected):
            raise AssertionError(f"{seeded}: {int((got != expected).sum())} of {got.numel()} elements differ")
        return
    if not bool(expected.isfinite().all()):
        raise AssertionError(f"{seeded}: the reference itself is not finite")
    if not bool(got.isfinite().all()):
        raise AssertionError(f"{seeded}: {int((~got.isfinite()).sum())} of {got.numel()} elements not finite")
    allowed = _allowed(got, expected, control, magnitude)
    error = relative_rms(got, expected, magnitude=magnitude)
    if error > allowed:
        raise AssertionError(
            f"{seeded}: relative RMS error {error:.2e}, allowed {allowed:.2e}; {_worst(got, expected)}"
        )


def _allowed(got: Tensor, expected: Tensor, control: Tensor | None, magnitude: float) -> float:
    fixed = TOLERANCES.get(got.dtype)
    if fixed is not None:
        if control is not None:
            raise ValueError(f"{got.dtype} has a fixed tolerance and takes no control")
        return fixed
    if control is None or control.dtype != got.dtype:
        given = "none" if control is None else str(control.dtype)
        raise ValueError(f"{got.dtype} is compared with a control of the same dtype, got {given}")
    return 2.0 * relative_rms(control, expected, magnitude=magnitude) + SLACK


def _worst(got: Tensor, expected: Tensor) -> str:
    """Describe the element with the largest absolute error."""
    error = (got.detach().double() - expected.detach().double()).abs()
    index = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
    return (
        f"max abs {error[index].item():.2e} at {index}: got {got[index].item()!r}, expected {expected[index].item()!r}"
    )


def _rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item() if x.numel() else 0.0
