"""Token-level rules equal the reference recurrences of flash-linear-attention (https://github.com/fla-org).

Its package needs Triton to import, its references need torch and einops alone: they are loaded from their files. Most
of them compute in float32, whatever they are given; they scale queries by d^-1/2, and so do the queries here.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from palimpsest.memory.linear import LinearState
from palimpsest.memory.token_rules import (
    FastWeights,
    delta_chunk,
    delta_recurrence,
    linear_chunk,
    linear_recurrence,
)
from palimpsest.testing import assert_close
from script_case import load_script

BATCH, HEADS, TOKENS, SIZE, VALUES = 2, 3, 128, 8, 5
each_linear_form = pytest.mark.parametrize("form", [linear_recurrence, linear_chunk])
each_delta_form = pytest.mark.parametrize("form", [delta_recurrence, delta_chunk])
Result = dict[str, Tensor]


def reference(rule: str, function: str) -> Callable[..., Any]:
    """Load a function of ``fla/ops/<rule>/naive.py`` from the installed distribution."""
    files = importlib.metadata.files("fla-core") or []
    (path,) = (file.locate() for file in files if file.as_posix() == f"fla/ops/{rule}/naive.py")
    return getattr(load_script(Path(path)), function)


class Inputs(NamedTuple):
    """``[B, H, T, ...]`` each, and a state ``[B, H, K, V]``."""

    q: Tensor
    k: Tensor
    v: Tensor
    strength: Tensor
    log_decay: Tensor
    matrix: Tensor

    def by_time(self) -> tuple[Tensor, ...]:
        """Return q, k, v, strength and log decay in the layout ``[B, T, H, ...]``."""
        return tuple(x.transpose(1, 2) for x in self[:5])


@pytest.fixture
def inputs() -> Inputs:
    """Return float64 leaves: unit keys, strengths in (0, 1), decays from mild to nearly everything."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(BATCH, HEADS, *shape, generator=generator, dtype=torch.float64)

    leaves = (
        normal(TOKENS, SIZE),
        torch.nn.functional.normalize(normal(TOKENS, SIZE), dim=-1),
        normal(TOKENS, VALUES),
        normal(TOKENS).sigmoid(),
        -normal(TOKENS).exp(),
        normal(SIZE, VALUES),
    )
    return Inputs._make(x.requires_grad_() for x in leaves)


def positive(inputs: Inputs) -> Inputs:
    """Return the same with the features of linear attention."""
    q, k = (torch.nn.functional.elu(x) + 1.0 for x in (inputs.q, inputs.k))
    return inputs._replace(q=q.detach().requires_grad_(), k=k.detach().requires_grad_())


def with_gradients(inputs: Inputs, out: Tensor, matrix: Tensor) -> Result:
    """Return the outputs, the last state, and every gradient of a fixed weighting of both."""
    generator = torch.Generator().manual_seed(1)
    losses = [
        (x.double() * torch.randn(x.shape, generator=generator, dtype=torch.float64)).sum() for x in (out, matrix)
    ]
    gradients = torch.autograd.grad(torch.stack(losses).sum(), list(inputs), materialize_grads=True)
    named = {f"gradient of {name}": g for name, g in zip(Inputs._fields, gradients, strict=True)}
    return {"out": out, "matrix": matrix} | named


def assert_same(got: Result, expected: Result, dtype: torch.dtype) -> None:
    """Compare as well as the dtype in which the reference computes allows."""
    for name, value in expected.items():
        assert_close(name, got[name].to(dtype), value, magnitude=1.0)


def delta_in_parts(form: Callable[..., Any], inputs: Inputs, *, decays: bool) -> Result:
    """Run our rule over the stream in parts of 48, 48 and 32 tokens."""
    state, outs = FastWeights(inputs.matrix), []
    scaled = inputs._replace(q=inputs.q * SIZE**-0.5)
    for q, k, v, strength, log_decay in zip(*(x.split(48, 2) for x in scaled[:5]), strict=True):
        out, state = form(state, q, k, v, strength, log_decay if decays else None)
        outs.append(out)
    return with_gradients(inputs, torch.cat(outs, 2), state.matrix)


@each_delta_form
def test_delta_rule(form: Callable[..., Any], inputs: Inputs) -> None:
    recurrence = reference("delta_rule", "delta_rule_recurrence")
    out, matrix = recurrence(inputs.q, inputs.k, inputs.v, inputs.strength, initial_state=inputs.matrix)
    assert_same(delta_in_parts(form, inputs, decays=False), with_gradients(inputs, out, matrix), torch.float32)


@each_delta_form
def test_delta_rule_in_float64(form: Callable[..., Any], inputs: Inputs) -> None:
    chunkwise = reference("delta_rule", "delta_rule_chunkwise")
    with torch.no_grad():
        out, matrix = chunkwise(inputs.q, inputs.k, inputs.v, inputs.strength)  # from an empty state
    empty = inputs._replace(matrix=torch.zeros_like(inputs.matrix).requires_grad_())
    assert_same(delta_in_parts(form, empty, decays=False), {"out": out, "matrix": matrix}, torch.float64)


@each_delta_form
def test_gated_delta_rule(form: Callable[..., Any], inputs: Inputs) -> None:
    recurrence = reference("gated_delta_rule", "naive_recurrent_gated_delta_rule")
    out, matrix = recurrence(*inputs.by_time(), initial_state=inputs.matrix, output_final_state=True)
    expected = with_gradients(inputs, out.transpose(1, 2), matrix)
    assert_same(delta_in_parts(form, inputs, decays=True), expected, torch.float32)


def linear_in_parts(form: Callable[..., Any], inputs: Inputs, z: Tensor, *, normalise: bool) -> Result:
    """Run our rule over the stream in parts of 48, 48 and 32 tokens."""
    state, outs = LinearState(inputs.matrix, z), []
    for q, k, v in zip(*(x.split(48, 2) for x in (inputs.q * SIZE**-0.5, inputs.k, inputs.v)), strict=True):
        out, state = form(state, q, k, v, normalise=normalise)
        outs.append(out)
    return with_gradients(inputs, torch.cat(outs, 2), state.matrix) | {"normaliser": state.normaliser}


@each_linear_form
def test_linear_attention(form: Callable[..., Any], inputs: Inputs) -> None:
    inputs = positive(inputs)
    recurrence = reference("linear_attn", "naive_recurrent_linear_attn")
    q, k, v, _, _ = inputs.by_time()
    out, matrix = recurrence(q, k, v, initial_state=inputs.matrix.float(), output_final_state=True)
    expected = with_gradients(inputs, out.transpose(1, 2), matrix)
    z = torch.zeros_like(inputs.k[:, :, 0])
    assert_same(linear_in_parts(form, inputs, z, normalise=False), expected, torch.float32)


@each_linear_form
def test_normalised_linear_attention(form: Callable[..., Any], inputs: Inputs) -> None:
    inputs = positive(inputs)
    recurrence = reference("linear_attn", "naive_recurrent_linear_attn")
    q, k, v, _, _ = inputs.by_time()
    z = torch.rand(BATCH, HEADS, SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    initial = (inputs.matrix.float(), z.float().unsqueeze(1))
    out, (matrix, normaliser) = recurrence(q, k, v, initial_state=initial, output_final_state=True, normalize=True)
    expected = with_gradients(inputs, out.transpose(1, 2), matrix) | {"normaliser": normaliser[:, 0]}
    assert_same(linear_in_parts(form, inputs, z, normalise=True), expected, torch.float32)


@each_linear_form
@pytest.mark.parametrize("normalise", [False, True])
def test_linear_attention_in_float64(form: Callable[..., Any], normalise: bool, inputs: Inputs) -> None:
    inputs = positive(inputs)._replace(matrix=torch.zeros_like(inputs.matrix).requires_grad_())
    chunkwise = reference("linear_attn", "naive_chunk_linear_attn")
    with torch.no_grad():
        q, k, v, _, _ = inputs.by_time()
        out = chunkwise(q, k, v, normalize=normalise)  # from an empty state
    got = linear_in_parts(form, inputs, torch.zeros_like(inputs.k[:, :, 0]), normalise=normalise)
    assert_same(got, {"out": out.transpose(1, 2)}, torch.float64)
