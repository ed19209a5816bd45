"""Token-level rules: the loop over tokens equals the equations, the chunk equals the loop."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from palimpsest.memory.linear import LinearState
from palimpsest.memory.token_rules import (
    FastWeights,
    delta_chunk,
    delta_recurrence,
    delta_transition,
    delta_write,
    linear_chunk,
    linear_recurrence,
)
from palimpsest.testing import assert_close

BATCH, HEADS, FEATURES, VALUES = 2, 3, 4, 5
FORMS = {"recurrence": (linear_recurrence, delta_recurrence), "chunk": (linear_chunk, delta_chunk)}
each_form = pytest.mark.parametrize("form", FORMS)


class Tokens(NamedTuple):
    """What a rule is given; ``matrix`` and ``normaliser`` are the state before the first token."""

    q: Tensor
    k: Tensor
    v: Tensor
    strength: Tensor
    log_decay: Tensor
    matrix: Tensor
    normaliser: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Tokens":
        return self._make(function(x) for x in self)

    def split(self, lengths: list[int]) -> list["Tokens"]:
        parts = zip(*(x.split(lengths, 2) for x in self[:5]), strict=True)
        return [self._make((*part, *self[5:])) for part in parts]


class Options(NamedTuple):
    """Which of the arguments that may be left out are given."""

    strength: bool = True
    log_decay: bool = True
    keep: bool = True
    normalise: bool = True


EVERYTHING = Options()
options = st.builds(Options, *(st.booleans() for _ in Options._fields))


def tokens_of(length: int, seed: int = 0) -> Tokens:
    """Return unit keys, as the delta rule wants them; keys and queries of linear attention are their absolutes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(BATCH, HEADS, *shape, generator=generator, dtype=torch.float64)

    return Tokens(
        normal(length, FEATURES),
        torch.nn.functional.normalize(normal(length, FEATURES), dim=-1),
        normal(length, VALUES),
        normal(length).sigmoid(),
        -normal(length).exp(),
        normal(FEATURES, VALUES),
        normal(FEATURES).abs(),
    )


def mask_of(length: int) -> Tensor:
    return torch.rand(BATCH, length, generator=torch.Generator().manual_seed(1)) > 0.3


def run_linear(form: str, x: Tokens, chosen: Options, keep: Tensor | None) -> dict[str, Tensor]:
    state = LinearState(x.matrix, x.normaliser)
    out, state = FORMS[form][0](state, x.q.abs(), x.k.abs(), x.v, normalise=chosen.normalise, keep=keep)
    return {"out": out, **state._asdict()}


def run_delta(form: str, x: Tokens, chosen: Options, keep: Tensor | None) -> dict[str, Tensor]:
    strength = x.strength if chosen.strength else None
    log_decay = x.log_decay if chosen.log_decay else None
    out, state = FORMS[form][1](FastWeights(x.matrix), x.q, x.k, x.v, strength, log_decay, keep=keep)
    return {"out": out, **state._asdict()}


RULES = {"linear": run_linear, "delta": run_delta}
each_rule = pytest.mark.parametrize("rule", RULES)


def equations(rule: str, x: Tokens, chosen: Options, keep: np.ndarray) -> dict[str, Tensor]:
    """The equations in numpy, one token of one row and head after the other."""
    q, k, v, strength, log_decay, matrix, normaliser = (tensor.numpy().copy() for tensor in x)
    out = np.zeros_like(v)
    for b, h, t in np.ndindex(*v.shape[:3]):
        if not keep[b, t]:
            continue
        query, key, value, old = q[b, h, t], k[b, h, t], v[b, h, t], matrix[b, h]
        if rule == "linear":
            query, key = np.abs(query), np.abs(key)
            matrix[b, h] = old + np.outer(key, value)
            normaliser[b, h] += key
            out[b, h, t] = query @ matrix[b, h] / (query @ normaliser[b, h] if chosen.normalise else 1.0)
        else:
            beta = strength[b, h, t] if chosen.strength else 1.0
            alpha = math.exp(log_decay[b, h, t]) if chosen.log_decay else 1.0
            forget = np.eye(FEATURES) - beta * np.outer(key, key)
            matrix[b, h] = alpha * forget @ old + beta * np.outer(key, value)
            out[b, h, t] = query @ matrix[b, h]
    results = {"out": out, "matrix": matrix} | ({"normaliser": normaliser} if rule == "linear" else {})
    return {name: torch.from_numpy(array) for name, array in results.items()}


@each_rule
@each_form
@settings(max_examples=10)
@given(length=st.integers(1, 9), chosen=options)
def test_it_equals_the_equations(rule: str, form: str, length: int, chosen: Options) -> None:
    x = tokens_of(length)
    keep = mask_of(length) if chosen.keep else None
    expected = equations(rule, x, chosen, np.ones((BATCH, length), bool) if keep is None else keep.numpy())
    for name, got in RULES[rule](form, x, chosen, keep).items():
        assert_close(name, got, expected[name])


def with_gradients(rule: str, form: str, x: Tokens, chosen: Options, keep: Tensor | None) -> dict[str, Tensor]:
    """Return outputs, final state and all gradients of a fixed random weighting of both."""
    leaves = x.map(lambda tensor: tensor.clone().requires_grad_())
    results = RULES[rule](form, leaves, chosen, keep)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in results.values()]
    losses = [(y * weight).sum() for y, weight in zip(results.values(), weights, strict=True)]
    gradients = torch.autograd.grad(torch.stack(losses).sum(), list(leaves), materialize_grads=True)
    return results | {f"gradient of {name}": g for name, g in zip(Tokens._fields, gradients, strict=True)}


@each_rule
@settings(max_examples=10)
@given(length=st.integers(0, 40), seed=st.integers(0, 99), chosen=options)
@example(length=0, seed=0, chosen=EVERYTHING)
@example(length=65, seed=0, chosen=EVERYTHING)
def test_the_chunk_equals_the_recurrence(rule: str, length: int, seed: int, chosen: Options) -> None:
    x, keep = tokens_of(length, seed), mask_of(length) if chosen.keep else None
    expected = with_gradients(rule, "recurrence", x, chosen, keep)
    for name, got in with_gradients(rule, "chunk", x, chosen, keep).items():
        assert_close(name, got, expected[name], magnitude=1.0)


@each_rule
@each_form
@settings(max_examples=10)
@given(lengths=st.lists(st.integers(0, 7), min_size=1, max_size=4), chosen=options)
def test_any_split_equals_the_whole(rule: str, form: str, lengths: list[int], chosen: Options) -> None:
    x, keep = tokens_of(sum(lengths)), mask_of(sum(lengths))
    whole = RULES[rule](form, x, chosen, keep)
    outs, state = [], {"matrix": x.matrix, "normaliser": x.normaliser}
    for part, kept in zip(x.split(lengths), keep.split(lengths, 1), strict=True):
        results = RULES[rule](form, part._replace(**state), chosen, kept)
        outs.append(results.pop("out"))
        state |= results
    assert_close("out", torch.cat(outs, 2), whole.pop("out"))
    for name, leaf in whole.items():
        assert_close(name, state[name], leaf)


@each_rule
@each_form
def test_what_is_not_kept_does_nothing_and_reads_zero(rule: str, form: str) -> None:
    x, keep = tokens_of(12), mask_of(12)
    unkept = ~keep[:, None, :]
    clean = with_gradients(rule, form, x, EVERYTHING, keep)
    features = [tensor.masked_fill(unkept[..., None], torch.nan) for tensor in x[:3]]
    scalars = [tensor.masked_fill(unkept, torch.nan) for tensor in x[3:5]]
    poisoned = with_gradients(rule, form, Tokens._make((*features, *scalars, *x[5:])), EVERYTHING, keep)
    assert bool((clean["out"] * unkept[..., None] == 0).all())
    for name, reference in clean.items():
        # what flows back into the poisoned places themselves passes abs(NaN) in this test, and means nothing
        assert_close(name, poisoned[name].nan_to_num(0.0) if "gradient" in name else poisoned[name], reference)


@each_form
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_any_decay_is_exact_and_has_finite_gradients(form: str, dtype: torch.dtype) -> None:
    """Mild decays beside one that forgets everything: differences of cumulative sums would lose or poison them."""
    x = tokens_of(24)
    for strong in (-math.inf, -1e30, -1e6, -90.0):
        g = -0.01 * torch.ones_like(x.log_decay)
        g[:, :, 0::7] = strong
        expected = equations("delta", x._replace(log_decay=g), EVERYTHING, np.ones((BATCH, 24), bool))
        cast = x._replace(log_decay=g).map(lambda tensor: tensor.to(dtype))
        got = with_gradients("delta", form, cast, EVERYTHING, None)
        for name, reference in expected.items():
            assert_close(f"{name}, log decay {strong}", got[name], reference)
        for name, tensor in got.items():
            assert bool(tensor.isfinite().all()), f"{name} is not finite for log decay {strong}"


@settings(max_examples=15)
@given(length=st.integers(0, 12), chosen=options)
def test_transition_and_write_are_those_of_the_recurrence(length: int, chosen: Options) -> None:
    segments = 3
    x = tokens_of(segments * length)
    mask = mask_of(segments * length)
    strength = x.strength if chosen.strength else None
    log_decay = x.log_decay if chosen.log_decay else None
    keep = mask if chosen.keep else None
    kept = [None] * segments if keep is None else keep.split([length] * segments, 1)

    def folded(tensor: Tensor | None, axis: int = 2) -> Any:
        return None if tensor is None else tensor.unflatten(axis, (segments, length))

    a, b = delta_transition(*(folded(y) for y in (x.k, x.v, strength, log_decay)), keep=folded(keep, 1))
    state = written = FastWeights(x.matrix)
    for s, part in enumerate(x.split([length] * segments)):
        arguments = (part.strength if chosen.strength else None, part.log_decay if chosen.log_decay else None)
        expected = delta_recurrence(state, part.q, part.k, part.v, *arguments, keep=kept[s])[1]
        assert_close("A M + B", a[:, :, s] @ state.matrix + b[:, :, s], expected.matrix)
        written = delta_write(written, part.k, part.v, *arguments, keep=kept[s])
        assert_close("written", written.matrix, expected.matrix)
        state = expected


@each_form
def test_orthonormal_keys_are_recalled_and_a_rewrite_replaces(form: str) -> None:
    x = tokens_of(FEATURES)
    keys = torch.linalg.qr(x.q)[0]
    empty = FastWeights(torch.zeros_like(x.matrix))
    out, state = FORMS[form][1](empty, keys, keys, x.v)
    assert_close("each token reads its own write", out, x.v)
    assert_close("recall", keys @ state.matrix, x.v)
    _, state = FORMS[form][1](state, keys[:, :, :1], keys[:, :, :1], 7.0 * x.v[:, :, 1:2])
    assert_close("rewritten", keys[:, :, :1] @ state.matrix, 7.0 * x.v[:, :, 1:2])
    assert_close("the others", keys[:, :, 1:] @ state.matrix, x.v[:, :, 1:])


@each_rule
@each_form
def test_the_state_keeps_its_dtype_and_the_answer_that_of_the_query(rule: str, form: str) -> None:
    x = tokens_of(6).map(lambda tensor: tensor.bfloat16())
    states = {"matrix": x.matrix.float(), "normaliser": x.normaliser.float()}
    got = RULES[rule](form, x._replace(**states), EVERYTHING, None)
    expected = RULES[rule](form, x.map(lambda tensor: tensor.float()), EVERYTHING, None)
    assert got.pop("out").dtype == torch.bfloat16
    for name, leaf in got.items():
        assert leaf.dtype == torch.float32
        assert_close(name, leaf, expected[name])


@each_form
def test_an_empty_linear_memory_reads_zero_with_finite_gradients(form: str) -> None:
    x = tokens_of(5)
    zero = x._replace(**{name: torch.zeros_like(getattr(x, name)) for name in ("k", "matrix", "normaliser")})
    results = with_gradients("linear", form, zero, EVERYTHING, None)
    assert bool((results["out"] == 0).all())
    assert all(bool(tensor.isfinite().all()) for tensor in results.values())


class Counter(TorchDispatchMode):
    """Counts operations and the elements they write; views write nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operations += 1
            self.elements += sum(
                x.numel() for x in (result if isinstance(result, tuple) else (result,)) if x is not None
            )
        return result


def cost_of(rule: str, length: int, chunk: int) -> Counter:
    """Return what a stream in chunks costs, forward and backward."""
    x = tokens_of(length).map(lambda tensor: tensor.requires_grad_())
    with Counter() as counter:
        state, outs = {"matrix": x.matrix, "normaliser": x.normaliser}, []
        for part in x.split([chunk] * (length // chunk)):
            results = RULES[rule]("chunk", part._replace(**state), EVERYTHING, None)
            outs.append(results.pop("out"))
            state |= results
        torch.cat(outs, 2).sum().backward()
    return counter


@each_rule
def test_the_chunk_has_no_loop_over_tokens_and_cost_linear_in_the_stream(rule: str) -> None:
    assert cost_of(rule, 8, 8).operations == cost_of(rule, 48, 48).operations
    short, long = cost_of(rule, 128, 8), cost_of(rule, 256, 8)
    assert long.elements <= 2.1 * short.elements
    assert long.operations <= 2.1 * short.operations
