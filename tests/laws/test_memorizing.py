"""The Memorizing Transformer against its equations, token by token in numpy, and the limits of its search."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from palimpsest.attention import MemorizingAttention, Site, memorizing
from palimpsest.attention.recent import Recent
from palimpsest.attention.sizes import Sizes
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.testing import assert_close
from palimpsest.training.optimizer import group_of

from .model_cases import (
    ATTENTION,
    HEAD_DIM,
    HEADS,
    KEY_HEADS,
    SEGMENT,
    build,
    config,
    in_passes,
    logits,
    run,
    single,
    tokens,
)
from .token_oracle import Array, CaughtLayer, attend, joined, softmax

LENGTH = 31
"""Seven segments, and three tokens of an eighth."""

CHOSEN = [(6, 3), (6, 6), (5, 1), (1, 1), (64, 4), (64, 64), (28, 28)]
"""Capacity and k: a store that overflows, or not; k below, at and above what it holds."""

GATES: list[dict] = [{"kind": "sigmoid"}, {"kind": "hard_sigmoid"}, {"kind": "token"}]


def block(capacity: int, top_k: int, **more: object) -> dict:
    return {"pattern": "memorizing", "memorizing": {"capacity": capacity, "top_k": top_k}} | more


def layer_of(model: PalimpsestForCausalLM) -> MemorizingAttention:
    attention = model.model.layers[0].self_attn
    assert isinstance(attention, MemorizingAttention)
    return attention


def unit(x: Array) -> Array:
    return x / np.sqrt((x**2).sum())


def gate(attention: MemorizingAttention, hidden: Array, head: int) -> float:
    """Return the gate of one token ``[hidden]`` by the formulas of the three kinds."""
    logit = attention.gate.bias[head].item()
    if attention.gate.weight is not None:
        logit += float(attention.gate.weight[head].detach().numpy() @ hidden)
    if attention.spec.gate.kind == "hard_sigmoid":
        return min(max(0.2 * logit + 0.5, 0.0), 1.0)
    return 1 / (1 + math.exp(-logit))


def defined(layer: CaughtLayer) -> Array:
    """Return the output ``[B, H, T, D]`` by the equations."""
    attention = layer.attention
    assert isinstance(attention, MemorizingAttention)
    q, k, v = (layer.heads(name) for name in ("q", "k", "v"))
    hidden = layer.hidden()
    out = np.full(q.shape, np.nan)
    for row, head, t in np.ndindex(*q.shape[:3]):
        start, of = t // SEGMENT * SEGMENT, head // layer.group
        tau = math.exp(attention.search["log_scale"][head].item())
        stored = range(max(0, start - attention.block.capacity), start)
        scores = {i: tau * float(unit(q[row, head, t]) @ unit(k[row, of, i])) for i in stored}
        best = sorted(scores, key=scores.__getitem__, reverse=True)[: attention.block.top_k]
        read = np.zeros(layer.size)
        if best:
            read = softmax(np.array([scores[i] for i in best])) @ v[row, of, best]
        seen = range(start, t + 1)
        keys = [layer.rotated(k[row, of, i], i - start) for i in seen]
        local = attend(layer.rotated(q[row, head, t], t - start), keys, [v[row, of, i] for i in seen])
        g = gate(attention, hidden[row, t], head)
        if attention.spec.first_segment == "local" and start == 0:
            g = 0.0
        out[row, head, t] = g * read + (1 - g) * local
    return out


# The definition


@pytest.mark.parametrize("chosen", CHOSEN)
@pytest.mark.parametrize("first_segment", ["gated", "local"])
def test_a_layer_is_its_definition(chosen: tuple[int, int], first_segment: str) -> None:
    model = single(block(*chosen, first_segment=first_segment))
    layer = CaughtLayer(model)
    logits(model, tokens(2, LENGTH))
    assert_close("out", layer.out, joined(defined(layer)))


@pytest.mark.parametrize("chosen", GATES, ids=lambda chosen: chosen["kind"])
def test_any_gate_mixes_memory_and_local_attention(chosen: dict) -> None:
    model = single(block(6, 3, gate=chosen))
    layer = CaughtLayer(model)
    logits(model, tokens(2, LENGTH))
    assert_close("out", layer.out, joined(defined(layer)))


@pytest.mark.parametrize("chosen", [(64, 64), (28, 28)])
def test_with_k_as_large_as_the_store_it_is_a_softmax_over_all_closed_tokens(chosen: tuple[int, int]) -> None:
    model = single(block(*chosen))
    attention, layer = layer_of(model), CaughtLayer(model)
    attention.gate_override = 1.0
    logits(model, tokens(2, LENGTH))
    q, k, v = (torch.from_numpy(layer.heads(name)) for name in ("q", "k", "v"))
    k, v = (x.repeat_interleave(layer.group, 1) for x in (k, v))
    norms = q.norm(dim=-1, keepdim=True) * k.norm(dim=-1, keepdim=True).mT
    scores = q @ k.mT / norms * attention.search["log_scale"].detach().exp()[:, None, None]
    place = torch.arange(LENGTH)
    closed = place < place[:, None] // SEGMENT * SEGMENT
    read = scores.masked_fill(~closed, -torch.inf).softmax(-1).nan_to_num(0.0) @ v
    assert_close("out", layer.out, joined(read.numpy()))


@pytest.mark.parametrize("how", ["override", "bias"])
def test_gate_closed_is_local_attention(how: str) -> None:
    model = build(block(6, 3))
    local = build({"pattern": "segment_local"})
    missing, unexpected = local.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert {key.split("self_attn.")[1] for key in unexpected} == {"gate.bias", "search.log_scale"}
    x = tokens(2, LENGTH)
    assert not torch.allclose(logits(model, x), logits(local, x))
    for module in model.modules():
        if isinstance(module, MemorizingAttention):
            if how == "override":
                module.gate_override = 0.0
            else:
                module.gate.bias.data.fill_(-1e9)
    assert_close("whole", logits(model, x), logits(local, x))
    assert_close("in passes", in_passes(model, x, (6, 1, 24))[0], logits(local, x))


def test_a_new_layer_scores_numbers_of_variance_one_as_usual() -> None:
    attention = layer_of(PalimpsestForCausalLM(config(block(64, 64))))
    tau = attention.search["log_scale"].exp()
    assert_close("tau", tau, torch.full_like(tau, math.sqrt(HEAD_DIM)))
    signs = torch.randint(0, 2, (2, HEADS, 3, HEAD_DIM), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    q, k = signs[:1], signs[1:, :KEY_HEADS]  # every number squared is one
    usual = (q @ k.repeat_interleave(HEADS // KEY_HEADS, 1).mT / math.sqrt(HEAD_DIM)).softmax(-1)
    values = torch.eye(HEAD_DIM)[:3].expand(1, KEY_HEADS, 3, HEAD_DIM)
    store = Recent(torch.nn.functional.normalize(k, dim=-1), values, torch.tensor([3]))
    scaled = torch.nn.functional.normalize(q, dim=-1) * tau[:, None, None]
    assert_close("weights", memorizing.read_nearest(scaled, store, 3)[..., :3], usual)


def test_scales_learn_as_gates_do() -> None:
    names = [name for name, p in build(block(6, 3)).named_parameters() if group_of(name, p) == "gates"]
    assert [name.split("self_attn.")[1] for name in names] == ["gate.bias", "search.log_scale"] * 2


# The gradient


def test_gradients_flow_through_the_query_and_not_into_the_store() -> None:
    model = single(block(64, 5))
    attention = layer_of(model)
    attention.gate_override = 1.0
    caught: dict[str, Tensor] = {}
    for name in ("q_proj", "k_proj", "v_proj"):
        attention.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: caught.update({name: out}))
    out = model(tokens(2, LENGTH), use_cache=False).logits
    (of_q, of_k, of_v) = torch.autograd.grad(out.square().sum(), list(caught.values()), allow_unused=True)
    assert (of_q[:, :SEGMENT] == 0).all()
    assert (of_q[:, SEGMENT:] != 0).all()
    for gradient in (of_k, of_v):
        assert gradient is None or (gradient == 0).all()  # the gate is open: local attention says nothing


def random_store(batch: int, length: int, held: tuple[int, ...]) -> Recent:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, KEY_HEADS, length, HEAD_DIM)
    keys, values = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return Recent(torch.nn.functional.normalize(keys, dim=-1), values, torch.tensor(held))


def random_queries(batch: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, HEADS, length, HEAD_DIM, generator=generator, dtype=torch.float64)


def test_gradients_of_a_read_are_finite_differences_also_where_nothing_is_found() -> None:
    store, q = random_store(3, 7, (0, 2, 7)), random_queries(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: memorizing.read_nearest(q, store, 3), (q,))
    read = memorizing.read_nearest(q, store, 3)
    assert (read[0] == 0).all()
    with torch.autograd.set_detect_anomaly(True):  # not even on the way
        (gradient,) = torch.autograd.grad(read.sum(), q)
    assert (gradient[0] == 0).all()
    assert (gradient[1:] != 0).all()


# The search


@pytest.mark.parametrize("budget", [1, 5000, memorizing.SEARCH_NUMBERS])
def test_a_search_in_blocks_finds_the_same(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    store, q = random_store(2, 50, (17, 50)), random_queries(2, 40)
    expected = memorizing.read_nearest(q, store, 4)
    monkeypatch.setattr(memorizing, "SEARCH_NUMBERS", budget)
    assert_close("read", memorizing.read_nearest(q, store, 4), expected)


class Largest(TorchDispatchMode):
    """The size of the largest tensor that an operation has made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self.numbers = max(self.numbers, x.untyped_storage().nbytes() // x.element_size())
        return out


def test_no_tensor_of_a_search_is_larger_than_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    store, q = random_store(2, 3000, (3000, 1)), random_queries(2, 64)
    everything = q.shape[0] * HEADS * q.shape[2] * store.length
    budget = 100_000
    assert store.keys.numel() < budget < everything / 10
    monkeypatch.setattr(memorizing, "SEARCH_NUMBERS", budget)
    with Largest() as largest:
        memorizing.read_nearest(q, store, 8)
    assert store.length * 4 <= largest.numbers <= budget


def test_what_is_not_a_number_stays_visible() -> None:
    store, q = random_store(2, 7, (7, 7)), random_queries(2, 3)
    store.keys[0, 0, 2, 1] = torch.nan
    read = memorizing.read_nearest(q, store, 3)
    assert read[0, : HEADS // KEY_HEADS].isnan().all()
    assert read[0, HEADS // KEY_HEADS :].isfinite().all()
    assert read[1].isfinite().all()


def test_what_a_place_held_before_it_was_filled_does_not_matter() -> None:
    store, q = random_store(2, 7, (3, 0)), random_queries(2, 3)
    keys, values = (torch.where(store.filled()[:, None, :, None], x, 0.0) for x in store[:2])
    emptied = Recent(keys, values, store.held)
    assert torch.equal(memorizing.read_nearest(q, store, 5), memorizing.read_nearest(q, emptied, 5))


def seen_by_a_probe(model: PalimpsestForCausalLM, length: int, *, use_cache: bool) -> list[Recent]:
    """Return the store before every segment."""
    stores: list[Recent] = []

    def look(site: Site, state: tuple) -> Recent:
        assert isinstance(state, Recent)
        assert isinstance(site.empty, Recent)
        assert site.empty.length == state.length
        stores.append(state)
        return state

    layer_of(model).probe = look
    with torch.no_grad():
        model(tokens(2, length), use_cache=use_cache)
    return stores


@pytest.mark.parametrize(("capacity", "length"), [(6, LENGTH), (1000, LENGTH), (1000, 3)])
def test_a_store_grows_with_what_is_written_up_to_its_capacity(capacity: int, length: int) -> None:
    model = single(block(capacity, 3))
    places = [min(segment * SEGMENT, capacity) for segment in range(-(-length // SEGMENT))]
    for use_cache in (False, True):
        stores = seen_by_a_probe(model, length, use_cache=use_cache)
        assert [store.length for store in stores] == places
        assert [store.held.tolist() for store in stores] == [[place] * 2 for place in places]


def test_stored_keys_have_length_one_and_are_the_last_of_their_row() -> None:
    model = single(block(6, 3))
    assert MemorizingAttention.exact_from(model.config.attention_spec, 30) == 22
    layer = CaughtLayer(model)
    x, mask = tokens(2, 13), torch.tensor([run(1, 13), run(1, 3) + run(0, 4) + run(1, 6)])
    with torch.no_grad():
        past = model(x, attention_mask=mask, use_cache=True).past_key_values
    store = past.layers[0].state
    assert store.held.tolist() == [6, 6]
    for row, last in enumerate(([6, 7, 8, 9, 10, 11], [2, 7, 8, 9, 10, 11])):
        k, v = (torch.from_numpy(layer.heads(name))[row] for name in ("k", "v"))
        assert_close("keys", store.keys[row], torch.nn.functional.normalize(k[:, last], dim=-1))
        assert_close("values", store.values[row], v[:, last])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_store_of_low_precision_is_searched_exactly(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(memorizing, "KEYS_AT_ONCE", 100)
    generator = torch.Generator().manual_seed(0)
    common, own = torch.randn(1, generator=generator), torch.randn(1, 1, 512, 64, generator=generator)
    keys = torch.nn.functional.normalize(common + 0.2 * own, dim=-1).to(dtype)  # so alike that bfloat16 scores tie
    q = keys[:, :, ::50].float()
    index, there = memorizing.nearest(q, keys, torch.ones(1, 1, 1, 512, dtype=torch.bool), 8)
    exact = (q.double() @ keys.double().mT).topk(8).indices
    assert there.all()
    assert torch.equal(index.sort(-1).values, exact.sort(-1).values)


def test_a_model_in_half_precision_learns_its_scales() -> None:
    model = single(block(64, 5)).half().train()
    x = tokens(2, 13)
    model(x, labels=x).loss.backward()
    gradient = layer_of(model).search["log_scale"].grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.any()


def test_in_autocast_what_is_read_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model, read_nearest, asked = single(block(64, 5)).float(), memorizing.read_nearest, []

    def listen(q: Tensor, store: Recent, top_k: int) -> Tensor:
        read = read_nearest(q, store, top_k)
        asked.append((q.dtype, store.keys.dtype, read.dtype))
        return read

    monkeypatch.setattr(memorizing, "read_nearest", listen)
    with torch.autocast("cpu", torch.bfloat16):
        out = logits(model, tokens(2, LENGTH))
    assert out.isfinite().all()
    assert asked == [(torch.float32, torch.bfloat16, torch.float32)] * 8


# Its cost, and what cannot work


@pytest.mark.parametrize("length", [1, 8, 30, 97])
@pytest.mark.parametrize("chosen", CHOSEN)
def test_operations_are_counted_as_by_hand(length: int, chosen: tuple[int, int]) -> None:
    capacity, top_k = chosen
    total = 0.0
    for t in range(length):
        start = t // SEGMENT * SEGMENT
        stored = len(range(max(0, start - capacity), start))
        total += 4 * HEAD_DIM * (t - start + 1)  # local scores and values
        total += 2 * HEAD_DIM * stored + 2 * HEAD_DIM * min(top_k, stored)  # search, and what was found
    for gates, own in (("sigmoid", 0), ("token", HEADS * 24)):
        sizes, spec = Sizes.of(config({})), config(block(*chosen, gate={"kind": gates})).attention_spec
        assert MemorizingAttention.flops(sizes, spec, length) == pytest.approx(HEADS * total / length)
        assert MemorizingAttention.weights(sizes, spec) == own


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"capacity": 4, "top_k": 5}, "'memorizing.top_k' (5) must not be above 'memorizing.capacity' (4)"),
        ({"top_k": 0}, "'memorizing.top_k': should be greater than or equal to 1 (got 0)"),
        ({"k": 3}, "unknown key 'memorizing.k'"),
    ],
)
def test_what_cannot_work_is_refused(chosen: dict, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        config({"pattern": "memorizing", "memorizing": chosen})
    assert sentence in str(caught.value)


def test_the_table_of_laws_has_a_store_that_overflows() -> None:
    assert ATTENTION["memorizing"]["memorizing"]["capacity"] < 2 * SEGMENT
