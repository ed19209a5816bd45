"""Laws of what a model keeps: its cache and memory, in every precision, on disk, in training and under a probe."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from palimpsest.attention import MemoryAttention, Site, StateCacheLayer
from palimpsest.memory import scan
from palimpsest.models import PalimpsestCache, PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.testing import assert_close, relative_rms

from .model_cases import (
    ALL_MEMORY,
    ATTENTION,
    HEAD_DIM,
    HEADS,
    KEY_HEADS,
    SEGMENT,
    TABLE,
    WITH_MEMORY,
    Case,
    build,
    in_passes,
    logits,
    model_of,
    run,
    tokens,
)

EACH = pytest.mark.parametrize("name", TABLE)
D = HEAD_DIM
KEYS_AND_VALUES = 2 * KEY_HEADS * D * 8
"""Bytes of one token's keys and values in one layer, in float64."""
OPEN = SEGMENT * KEYS_AND_VALUES
NUMBER = 8
"""Bytes of an integer that says how much of a store is filled, and of a float64."""
MEMORY = {
    "linear": HEADS * (D * D + D) * NUMBER,
    "delta": HEADS * (D * D + D) * NUMBER,
    "ridge": HEADS * 2 * D * D * NUMBER,
    "decayed_ridge": HEADS * 2 * D * D * NUMBER,
    "hebbian": HEADS * D * D * NUMBER,
    "token_delta": HEADS * D * D * NUMBER,
    "associative": HEADS * (2 * D * D + 2 * D) * NUMBER,  # dpfp1 makes two features of every number
}
"""Bytes of the memories of one row and layer: a matrix for each head, with a vector or a second matrix."""


def formula(kind: str, attention: dict, tokens: int) -> tuple[int, int]:
    """Return the bytes of one row's state after so many tokens, and of its open segment, by hand."""
    if kind == "segment_local":
        return 0, OPEN
    if kind == "sliding_window":
        return (attention["sliding_window"]["window"] - 1) * KEYS_AND_VALUES + NUMBER, 0
    if kind == "transformer_xl":
        return attention["transformer_xl"]["cache_length"] * KEYS_AND_VALUES + NUMBER, OPEN
    if kind == "compressive":
        block = attention["compressive"]
        return (block["cache_length"] + block["compressed_length"]) * KEYS_AND_VALUES + 2 * NUMBER, OPEN
    if kind == "memorizing":
        places = min(attention["memorizing"]["capacity"], tokens // SEGMENT * SEGMENT)
        return places * KEYS_AND_VALUES + NUMBER, OPEN
    if kind == "memory":
        memory = attention["memory"]
        strengths = HEADS * SEGMENT * NUMBER if memory["kind"] == "token_delta" else 0  # learned for every token
        return MEMORY[memory["kind"]], OPEN + strengths
    if kind == "linear_attention":
        return MEMORY["linear"], 0
    if kind == "delta_net" and attention["delta_net"].get("rule") == "fast_weights":
        return HEADS * 6 * D * D * NUMBER, 0  # dpfp3 makes 2 * 3 features of every number
    if kind == "delta_net":
        convolution = (HEADS + 2 * KEY_HEADS) * D * (attention["delta_net"]["convolution"] - 1)
        return (HEADS * D * D + convolution) * NUMBER, 0
    raise NotImplementedError(f"write down what {kind} keeps")


# The cache


@pytest.mark.parametrize("name", [name for name in TABLE if "full" not in name])
def test_cache_bytes_are_constant_and_as_the_formula_says(name: str) -> None:
    batch, model, past = 2, model_of(name), None
    for _ in range(50):
        with torch.no_grad():
            past = model(tokens(batch, SEGMENT + 1), past_key_values=past, use_cache=True).past_key_values
        spec = model.config.attention_spec
        kinds = [spec.kind(layer) for layer in range(model.config.num_hidden_layers)]
        layers = [formula(kind, ATTENTION[name], past.get_seq_length()) for kind in kinds]
        assert past.bytes() == tuple(batch * sum(part) for part in zip(*layers, strict=True))
    assert past.get_seq_length() == 50 * (SEGMENT + 1)


@pytest.mark.parametrize("name", [name for name in TABLE if "full" not in name])
@pytest.mark.parametrize("cuts", [(33,), (9, 1, 23)])
def test_a_cache_holds_on_to_no_more_bytes_than_it_says(name: str, cuts: tuple[int, ...]) -> None:
    _, past = in_passes(model_of(name), tokens(2, 33), cuts)
    held = [x.untyped_storage().nbytes() for layer in past.layers for x in layer.tensors().values()]
    assert sum(held) == sum(past.bytes())


def test_cache_bytes_of_full_attention_grow_with_the_context() -> None:
    for length in (1, 7, 30):
        _, past = in_passes(model_of("full"), tokens(3, length), (length,))
        assert past.bytes() == (0, 2 * 3 * KEY_HEADS * length * 2 * D * 8)


@EACH
@pytest.mark.parametrize("grad", [False, True])
def test_a_clone_is_independent(name: str, grad: bool) -> None:
    model, x = model_of(name), tokens(2, 16)
    with torch.set_grad_enabled(grad):
        past = model(x[:, :7], use_cache=True).past_key_values
        branch = past.clone()
        for cut in (7, 8, 12):  # past moves on by a step, and over a boundary
            model(x[:, cut : cut + 4], past_key_values=past)
        assert branch.get_seq_length() == 7
        continued = model(x[:, 7:], past_key_values=branch).logits
    assert_close("continued", continued, logits(model, x)[:, 7:])


def test_another_kind_of_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="PalimpsestCache, got DynamicCache"):
        model_of("full")(tokens(1, 3), past_key_values=DynamicCache())
    for other in ("full", "delta"):
        with pytest.raises(ValueError, match="another configuration"):
            model_of("linear")(tokens(1, 3), past_key_values=PalimpsestCache(model_of(other).config))


# Precision


def states(past: PalimpsestCache) -> list[tuple]:
    found = [layer.state for layer in past.layers if isinstance(layer, StateCacheLayer)]
    return [state for state in found if state is not None]


@pytest.mark.parametrize("name", WITH_MEMORY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_memory_is_float32_in_a_model_of_any_precision(name: str, dtype: torch.dtype) -> None:
    model, x = build(ATTENTION[name]).to(dtype), tokens(2, 16)
    out, past = in_passes(model, x, (7, 1, 1, 6, 1))
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert states(past)
    assert all(leaf.dtype == torch.float32 for state in states(past) for leaf in state)


@pytest.mark.parametrize("name", ALL_MEMORY)
@pytest.mark.parametrize("cuts", [(16,), run(1, 16)])
def test_autocast_neither_writes_nor_reads_the_memory_in_low_precision(name: str, cuts: tuple[int, ...]) -> None:
    model = build(ATTENTION[name], num_hidden_layers=1).float()
    attention = model.model.layers[0].self_attn
    assert isinstance(attention, MemoryAttention)
    heads: dict[str, list[Tensor]] = {"q_proj": [], "k_proj": [], "v_proj": []}
    for projection, caught in heads.items():
        attention.get_submodule(projection).register_forward_hook(lambda _, __, out, into=caught: into.append(out))
    strengths: list[Tensor] = []
    if attention.strength is not None:
        attention.strength.register_forward_hook(lambda _, __, out: strengths.append(out))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, past = in_passes(model, tokens(2, 16), cuts)
    q, k, v = (torch.cat(x, 1).unflatten(-1, (-1, D)).transpose(1, 2) for x in heads.values())
    assert q.dtype == torch.bfloat16
    k, v = (x.repeat_interleave(HEADS // KEY_HEADS, 1) for x in (k, v))
    strength = torch.cat(strengths, -1) if strengths else None
    with torch.no_grad():
        _, expected = scan(attention.build_memory(), q, k, v, segment_length=SEGMENT, strength=strength)
    for got, wanted in zip(states(past)[0], expected, strict=True):
        assert got.dtype == torch.float32
        assert_close("state", got, wanted)


@EACH
def test_float32_is_near_float64(name: str) -> None:
    model, x = build(ATTENTION[name]), tokens(2, 13)
    expected = logits(model, x)
    assert relative_rms(logits(model.float(), x), expected) < 1e-4


# On disk


@EACH
def test_a_saved_model_is_bit_equal(name: str, tmp_path: Path) -> None:
    model, x = build(ATTENTION[name]).float(), tokens(2, 13)
    model.save_pretrained(tmp_path)
    for kind in (PalimpsestForCausalLM, AutoModelForCausalLM):
        again, loading = kind.from_pretrained(tmp_path, output_loading_info=True)
        assert type(again) is PalimpsestForCausalLM
        assert not any(loading.values())
        assert again.config.attention == model.config.attention
        kept, read = model.state_dict(), again.state_dict()
        assert list(kept) == list(read)
        assert all(torch.equal(kept[key], read[key]) for key in kept)
        assert torch.equal(logits(again.eval(), x), logits(model, x))
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, PalimpsestConfig)
    assert config.attention_spec == model.config.attention_spec


def test_tied_embeddings_are_saved_once(tmp_path: Path) -> None:
    model = build(ATTENTION["ridge"], tie_word_embeddings=True).float()
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert torch.equal(logits(again.eval(), tokens(1, 9)), logits(model, tokens(1, 9)))


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "token"])
def test_new_gates_and_lambdas_begin_as_configured(gate: str) -> None:
    attention = {"memory": {"kind": "ridge", "ridge": 2.5}, "gate": {"kind": gate, "init": -1.5}}
    model = PalimpsestForCausalLM(build(attention).config)
    for layer in model.model.layers:
        assert isinstance(layer.self_attn, MemoryAttention)
        assert layer.self_attn.gate.bias.tolist() == [-1.5] * HEADS
        values = layer.self_attn.gate(torch.randn(2, 5, model.config.hidden_size))
        expected = 0.2 * -1.5 + 0.5 if gate == "hard_sigmoid" else torch.tensor(-1.5).sigmoid().item()
        assert_close("gate", values, torch.full_like(values, expected))
        ridge = torch.nn.functional.softplus(layer.self_attn.memory["ridge"])
        assert_close("lambda", ridge, torch.full_like(ridge, 2.5))


# Training


@EACH
def test_no_cache_in_training_unless_asked(name: str) -> None:
    model, x = build(ATTENTION[name]), tokens(1, 9)
    assert model(x).past_key_values is not None
    assert model(x, use_cache=False).past_key_values is None
    model.train()
    assert model(x).past_key_values is None
    assert model(x, use_cache=True).past_key_values is not None


def gradients(model: PalimpsestForCausalLM, x: Tensor, **options: object) -> dict[str, Tensor]:
    model.zero_grad()
    model(x, labels=x, **options).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@EACH
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")  # its new name is too new
def test_gradient_checkpointing_gives_equal_gradients(name: str, packed: bool) -> None:
    model, x = build(ATTENTION[name] | {"documents": "reset"}).train(), tokens(2, 13)
    ids = torch.tensor([run(0, 5) + run(1, 8), run(-1, 2) + run(0, 11)])
    options = {"document_ids": ids} if packed else {}
    expected = gradients(model, x, **options)
    assert len(expected) == len(list(model.parameters()))
    assert all(gradient.any() for gradient in expected.values())
    model.gradient_checkpointing_enable()
    entered = []
    model.model.layers[0].register_forward_hook(lambda *_: entered.append(1))
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: entered.append(2))
    got = gradients(model, x, **options)
    assert entered == [2, 1, 2]  # attention once more on the way back
    assert got.keys() == expected.keys()
    for key, gradient in got.items():
        assert_close(key, gradient, expected[key])
    with pytest.raises(ValueError, match="checkpointing"):
        model(x, use_cache=True)


# Probes


def probed(model: PalimpsestForCausalLM, probe: Callable[[Site, tuple], tuple] | None) -> PalimpsestForCausalLM:
    for module in model.modules():
        if isinstance(module, MemoryAttention):
            module.probe = probe
    return model


PASSES = [None, (18,), run(1, 18), (5, 3, 1, 9), (2, 8, 8)]
PADDED = torch.tensor([run(1, 18), run(0, 9) + run(1, 9), run(1, 2) + run(0, 12) + run(1, 4)])


def outputs(model: PalimpsestForCausalLM, x: Tensor, cuts: tuple[int, ...] | None, mask: Tensor | None) -> Tensor:
    return logits(model, x, attention_mask=mask) if cuts is None else in_passes(model, x, cuts, mask)[0]


@pytest.mark.parametrize("name", WITH_MEMORY)
@pytest.mark.parametrize("cuts", PASSES)
@pytest.mark.parametrize("mask", [None, PADDED], ids=["whole", "padded"])
def test_a_probe_is_asked_once_per_layer_row_and_segment(
    name: str, cuts: tuple[int, ...] | None, mask: Tensor | None
) -> None:
    model, x = build(ATTENTION[name]), tokens(3, 18)
    before = outputs(model, x, cuts, mask)
    asked: list[tuple[int, int, int]] = []

    def identity(site: Site, state: tuple) -> tuple:
        assert site.segment.shape == (3,)
        asked.extend((site.layer, row, int(s)) for row, s in enumerate(site.segment) if s >= 0)
        return state

    after = outputs(probed(model, identity), x, cuts, mask)
    lengths = [18] * 3 if mask is None else mask.sum(1).tolist()
    layers = [i for i, block in enumerate(model.model.layers) if isinstance(block.self_attn, MemoryAttention)]
    assert sorted(asked) == [
        (layer, row, segment)
        for layer in layers
        for row, length in enumerate(lengths)
        for segment in range(-(-length // SEGMENT))
    ]
    assert_close("identity", after, before)


@pytest.mark.parametrize("name", ALL_MEMORY)
@pytest.mark.parametrize("cuts", PASSES)
@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_memory_emptied_at_a_segment_is_a_fresh_one_from_there(
    name: str, cuts: tuple[int, ...] | None, at: int
) -> None:
    attention = ATTENTION[name] | {"first_segment": "gated"}
    model, x = build(attention, num_hidden_layers=1), tokens(3, 18)
    fresh = logits(model, x[:, at * SEGMENT :])
    untouched = logits(model, x)[:, : at * SEGMENT]
    memory_layer = model.model.layers[0].self_attn
    assert isinstance(memory_layer, MemoryAttention)
    memory = memory_layer.build_memory()

    def empty(site: Site, state: tuple) -> tuple:
        new = memory.init(3, HEADS, D, D, dtype=state[0].dtype)
        here = site.segment == at
        leaves = zip(state, new, strict=True)
        return type(state)(*(torch.where(here.view(-1, *(1,) * (a.dim() - 1)), b, a) for a, b in leaves))

    got = outputs(probed(model, empty), x, cuts, None)
    assert_close("before", got[:, : at * SEGMENT], untouched)
    assert_close("from there", got[:, at * SEGMENT :], fresh)


@pytest.mark.parametrize("cuts", PASSES)
def test_a_probe_acts_on_a_row_at_its_own_boundaries_alone(cuts: tuple[int, ...] | None) -> None:
    model, x = build(ATTENTION["linear"]), tokens(3, 18)

    def doubled(site: Site, state: tuple) -> tuple:  # acts in every row, whatever the site says
        return type(state)(state[0] * 2, state[1])

    together = outputs(probed(model, doubled), x, cuts, PADDED)
    for row, here in enumerate(PADDED > 0):
        assert_close(f"row {row}", together[row, here], logits(model, x[row, here][None])[0])


def test_a_probe_in_packed_documents_sees_empty_memories_where_documents_begin() -> None:
    model, x = build(ATTENTION["linear"] | {"documents": "reset"}), tokens(1, 13)
    norms: list[tuple[int, float]] = []

    def look(site: Site, state: tuple) -> tuple:
        if site.layer == 0:
            norms.append((int(site.segment[0]), float(state[0].abs().sum())))
        return state

    logits(probed(model, look), x, document_ids=Case(0, (run(0, 5) + run(1, 8),), ()).ids())
    assert [segment for segment, _ in norms] == [0, 1, 2, 3]
    assert [norm > 0 for _, norm in norms] == [False, True, False, True]
