"""Laws of single memories, with the rows of the table for which they hold."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from palimpsest.memory import (
    AssociativeMemory,
    DecayedRidgeMemory,
    DeltaMemory,
    LinearMemory,
    LinearState,
    Memory,
    RidgeMemory,
    RidgeRootMemory,
    RidgeState,
    TokenDeltaMemory,
    scan,
)
from palimpsest.testing import assert_close, relative_rms

from .cases import FORMS, Case, learned, with_gradients
from .stream_laws import assert_states_close


def law_order_of_writes_is_irrelevant(memory: Memory[Any], case: Case) -> None:
    """Sums do not know in which order, or in which segment, their terms came."""
    q, k, v = case.stream()
    order = torch.randperm(case.length, generator=case.generator(40))
    _, expected = scan(memory, q, k, v, segment_length=case.segment_length)
    _, state = scan(memory, q, k[:, :, order], v[:, :, order], segment_length=case.segment_length)
    assert_states_close("state after shuffled writes", state, expected)


def law_first_segment_equals_linear(memory: DeltaMemory | AssociativeMemory, case: Case) -> None:
    """An empty memory knows nothing that could be subtracted."""
    _, k, v = case.stream()
    written = memory.write(case.empty(memory), k, v)
    linear = LinearMemory(memory.features)
    assert_states_close("first write", written, linear.write(case.empty(linear), k, v))


def law_write_is_a_contraction(memory: DeltaMemory, case: Case) -> None:
    """|I - phi(K)^T D^-1 phi(K)| <= 1: what was stored can fade, never grow."""
    norm = transition_norm(memory, case)
    assert bool((norm <= 1.0 + 1e-12).all()), f"a write multiplies the old state by up to {norm.max().item():.3f}"


def law_independent_keys_are_recalled(memory: RidgeMemory | RidgeRootMemory, case: Case) -> None:
    """As many keys as features, linearly independent: the error of recall vanishes with lambda, and as fast."""
    size = case.d_k
    k = 4.0 * torch.eye(size, dtype=torch.float64) + 0.3 * case.normal(0, case.batch, case.heads, size, size)
    v = case.normal(1, case.batch, case.heads, size, case.d_v)
    phi = memory.features.apply(k)
    assert bool((torch.linalg.svdvals(phi)[..., -1] > 1.0).all()), "the keys of this law are not independent"
    for ridge in (1e-2, 1e-4, 1e-6, 1e-12):
        read_back = _read_back(replace(memory, ridge=ridge), case, k, v)
        # V - Phi W = lambda (Phi Phi^T + lambda I)^-1 V, and the smallest singular value of Phi is above 1
        error = relative_rms(read_back, v)
        assert error <= ridge + 1e-9, f"lambda = {ridge:g}: stored values come back with relative error {error:.1e}"


def _read_back(memory: Memory[Any], case: Case, k: Tensor, v: Tensor) -> Tensor:
    """Write once into an empty memory and ask for every key."""
    return memory.read(memory.write(case.empty(memory), k, v), k)


def law_root_equals_normal_equations(memory: RidgeRootMemory, case: Case) -> None:
    """R^T R = H + lambda I with R upper triangular, R^T Y = M, and the same reads and gradients."""
    normal = RidgeMemory(memory.features, memory.ridge)
    root, sums = (_scanned(form, case) for form in (memory, normal))
    factor, target = root["root"], root["target"]
    ridge = torch.as_tensor(memory.ridge).view(-1, 1, 1) * torch.eye(case.d_k, dtype=torch.float64)
    assert torch.equal(factor, factor.triu()), "R is not upper triangular"
    assert_close("R^T R", factor.mT @ factor, sums["gram"] + ridge)
    assert_close("R^T Y", factor.mT @ target, sums["matrix"], magnitude=1.0)
    for name in root.keys() & sums.keys():
        assert_close(name, root[name], sums[name], magnitude=1.0)


def _scanned(memory: Memory[Any], case: Case) -> dict[str, Tensor]:
    """Return the state, what was read, and the gradients of a random weighting of what was read, by name."""
    q, k, v = stream = case.stream().map(lambda x: x.requires_grad_())
    leaves, strength = {**stream._asdict(), **learned(memory)}, case.strength()
    if strength is not None:
        leaves["strength"] = strength.requires_grad_()
    out, state = scan(memory, q, k, v, segment_length=case.segment_length, keep=case.mask(), strength=strength)
    loss = (out * case.normal(30, *out.shape)).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    named = {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)}
    return {"out": out, **state._asdict(), **named}


def law_without_decay_equals_ridge(memory: DecayedRidgeMemory, case: Case) -> None:
    """a = 1: outputs, state and gradients are those of ridge, in both forms."""
    ageless, ridge = replace(memory, log_decay=0.0), RidgeMemory(memory.features, memory.ridge)
    for form, run in FORMS.items():
        got, expected = (with_gradients(run, each, case) for each in (ageless, ridge))
        assert got.keys() == expected.keys()
        for name, reference in expected.items():
            assert_close(f"{form}: {name}", got[name], reference, magnitude=1.0)


def law_a_rewrite_fades_the_old_value(memory: DecayedRidgeMemory, case: Case) -> None:
    """A key that is written again after n tokens returns old and new value as a^n to 1; ridge, which averages, 1 to 1.

    The other tokens repeat keys that are independent of it, so that with a vanishing lambda every key is a sum of its
    own.
    """
    size, rounds = case.d_k, 1 + case.seed % 3
    keys = 4.0 * torch.eye(size, dtype=torch.float64) + 0.3 * case.normal(0, case.batch, case.heads, size, size)
    values = case.normal(1, case.batch, case.heads, size, case.d_v)
    new = case.normal(2, case.batch, case.heads, 1, case.d_v)
    others = [place for _ in range(rounds) for place in range(1, size)]
    k = keys[:, :, [0, *others, 0]]
    v = torch.cat([values[:, :, [0, *others]], new], 2)
    key, old = keys[:, :, :1], values[:, :, :1]
    answers = {}
    for each in (replace(memory, ridge=1e-12), RidgeMemory(memory.features, 1e-12)):
        _, state = scan(each, k, k, v, segment_length=case.segment_length)
        answers[type(each)] = each.read(state, key)
    faded = (torch.as_tensor(memory.log_decay) * (k.shape[2] - 1)).exp().view(-1, 1, 1)
    assert_close("the answer", answers[DecayedRidgeMemory], (faded * old + new) / (faded + 1.0), magnitude=1.0)
    distance = {kind: (answer - new).norm() for kind, answer in answers.items()}
    assert distance[DecayedRidgeMemory] < distance[RidgeMemory], "the answer of ridge is nearer to the new value"


def law_rounded_sums_still_answer(memory: RidgeMemory, case: Case) -> None:
    """After very many segments rounding has made H indefinite; a read is then inexact, but a number."""
    shape = (case.batch, case.heads, case.d_k)
    common = 1e6 * torch.ones(*shape, case.d_k)
    rounding = 16.0 * torch.finfo(torch.float32).eps * 1e6 * case.d_k
    indefinite = common - rounding * torch.eye(case.d_k)
    state = RidgeState(indefinite, case.normal(1, *shape, case.d_v).float())
    assert bool(memory.read(state, case.stream().q.float()).isfinite().all()), "rounded sums read NaN"


def law_segments_may_be_cut_anywhere(memory: Memory[Any], case: Case) -> None:
    """What is written is the same whether a segment is long, or every token a segment of its own."""
    stream = case.stream()
    options: dict[str, Any] = {"state": case.written_state(memory), "keep": case.mask(), "strength": case.strength()}
    _, expected = scan(memory, *stream, segment_length=1, **options)
    for length in (case.segment_length, case.length):
        _, state = scan(memory, *stream, segment_length=length, **options)
        assert_states_close(f"state after segments of {length}", state, expected)


def law_orthonormal_keys_are_recalled(memory: TokenDeltaMemory, case: Case) -> None:
    """As many keys as features, in any number of segments: every value comes back exactly."""
    size = case.d_k
    k = 3.0 * torch.linalg.qr(case.normal(0, case.batch, case.heads, size, size))[0]
    v = case.normal(1, case.batch, case.heads, size, case.d_v)
    _, state = scan(memory, k, k, v, segment_length=case.segment_length)
    assert_close("recalled values", memory.read(state, k), v)


def law_a_rewrite_replaces_the_old_value(memory: TokenDeltaMemory, case: Case) -> None:
    """Whatever was written before, and wherever in its segment a key is written last."""
    stream, state = case.stream(), case.written_state(memory)
    k = torch.cat([stream.k, stream.k[:, :, :1]], 2)
    v = torch.cat([stream.v, case.normal(50, case.batch, case.heads, 1, case.d_v)], 2)
    _, state = scan(memory, k, k, v, segment_length=case.segment_length, state=state)
    assert_close("the new value", memory.read(state, k[:, :, :1]), v[:, :, -1:])


def law_a_known_key_is_not_counted_again(memory: AssociativeMemory, case: Case) -> None:
    """A key that is written twice is counted once in z, its value replaced; and z never outgrows that of linear."""
    _, k, v = case.stream()
    key, new = k[:, :, :1], case.normal(50, case.batch, case.heads, 1, case.d_v)
    once = memory.write(case.empty(memory), key, v[:, :, :1])
    twice = memory.write(once, key, new)
    assert_close("z after the second write", twice.normaliser, once.normaliser)
    assert_close("the new value", memory.read(twice, key), new)
    _, state = scan(memory, k, k, v, segment_length=case.segment_length)
    _, linear = scan(LinearMemory(memory.features), k, k, v, segment_length=case.segment_length)
    grown = (state.normaliser - linear.normaliser).max().item()
    assert grown <= 1e-12, f"z is above the sum of all keys by {grown:.1e}"


MEMORY_LAWS = {
    law_order_of_writes_is_irrelevant: ("linear", "ridge", "hebbian"),
    law_first_segment_equals_linear: ("delta-exclusive", "delta-inclusive", "associative"),
    law_write_is_a_contraction: ("delta-inclusive",),
    law_independent_keys_are_recalled: ("ridge", "ridge-root"),
    law_root_equals_normal_equations: ("ridge-root",),
    law_rounded_sums_still_answer: ("ridge",),
    law_without_decay_equals_ridge: ("decayed-ridge",),
    law_a_rewrite_fades_the_old_value: ("decayed-ridge",),
    law_segments_may_be_cut_anywhere: ("linear", "decayed-ridge", "token-delta", "token-delta-decay"),
    law_orthonormal_keys_are_recalled: ("token-delta",),
    law_a_rewrite_replaces_the_old_value: ("token-delta", "token-delta-decay"),
    law_a_known_key_is_not_counted_again: ("associative",),
}


def transition_norm(memory: DeltaMemory, case: Case) -> Tensor:
    """Return the spectral norm ``[B, H]`` of the map from the old M to the new one: what a write of zeros does to I."""
    _, k, _ = case.stream()
    state: Any = case.written_state(memory)
    identity = torch.eye(case.d_k, dtype=torch.float64).expand(case.batch, case.heads, -1, -1)
    zeros = torch.zeros_like(k)
    written = memory.write(LinearState(identity, state.normaliser), k, zeros)
    return torch.linalg.matrix_norm(written.matrix, 2)
