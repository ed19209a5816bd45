"""Fast weights and Gated DeltaNet against their equations, token by token, and what follows from them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from palimpsest.attention import AttentionSpec, DeltaNetAttention, delta_net
from palimpsest.attention.delta_net import Decay, GatedRMSNorm, GatedRule, GatedState
from palimpsest.attention.short_convolution import ShortConvolution
from palimpsest.attention.sizes import Sizes
from palimpsest.errors import InputError
from palimpsest.memory import FastWeights, state_bytes
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.testing import assert_close
from palimpsest.training.optimizer import group_of

from .caught import Layer, replaced, state_of
from .model_cases import HEAD_DIM, HEADS, KEY_HEADS, Case, build, config, in_passes, logits, run, tokens

LENGTH = 11
FAST, GATED = {"rule": "fast_weights"}, {"rule": "gated"}
RULES = pytest.mark.parametrize("rule", [FAST, GATED], ids=["fast_weights", "gated"])


def attention(block: dict, **choices: object) -> dict:
    return {"pattern": "delta_net", "delta_net": block | choices}


# The definition


def dpfp(x: Tensor, order: int) -> Tensor:
    """Return r_i r_{i + j} for r = [relu(x), relu(-x)] and j = 1 .. order, divided by their sum."""
    r = torch.cat([x.clamp_min(0), (-x).clamp_min(0)], -1)
    place = torch.arange(r.shape[-1])
    features = torch.cat([r * r[..., (place - j) % len(place)] for j in range(1, order + 1)], -1)
    return features / features.sum(-1, keepdim=True)


def elu1(x: Tensor) -> Tensor:
    features = torch.where(x > 0, x + 1, x.exp())
    return features / features.sum(-1, keepdim=True)


PHI: dict[str, Callable[[Tensor], Tensor]] = {"dpfp3_sum": lambda x: dpfp(x, 3), "elu1_sum": elu1}


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def recurrence(q: Tensor, k: Tensor, v: Tensor, strength: Tensor, decay: Tensor) -> Tensor:
    """Forget, look what the key answers, correct it, read: ``[B, H, T, D]``; strength and decay are ``[B, H, T]``."""
    matrix = q.new_zeros(*q.shape[:2], v.shape[3], k.shape[3])
    outs = []
    for t in range(q.shape[2]):
        matrix = matrix * decay[:, :, t, None, None]
        answer = torch.einsum("bhvk,bhk->bhv", matrix, k[:, :, t])
        correction = strength[:, :, t, None] * (v[:, :, t] - answer)
        matrix = matrix + torch.einsum("bhv,bhk->bhvk", correction, k[:, :, t])
        outs.append(torch.einsum("bhvk,bhk->bhv", matrix, q[:, :, t]))
    return torch.stack(outs, 2)


def strength_of(layer: Layer, hidden: Tensor) -> Tensor:
    return sigmoid(hidden @ layer.attention.get_parameter("rule.b_proj.weight").T).mT


def defined_fast_weights(layer: Layer, hidden: Tensor, features: str) -> Tensor:
    q, k, v = (layer.heads(name, hidden) for name in ("q_proj", "k_proj", "v_proj"))
    strength = strength_of(layer, hidden)
    return layer.merged(recurrence(PHI[features](q), PHI[features](k), v, strength, torch.ones_like(strength)))


def convolved(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve channels ``[B, T, C]`` with ``weight`` ``[C, W]``, token by token, and apply SiLU."""
    length, outs = weight.shape[1], []
    for t in range(x.shape[1]):
        before = [(j, t - (length - 1 - j)) for j in range(length)]
        outs.append(sum((weight[:, j] * x[:, at] for j, at in before if at >= 0), torch.zeros_like(x[:, 0])))
    return silu(torch.stack(outs, 1))


def defined_gated(layer: Layer, hidden: Tensor, length: int) -> Tensor:
    weights = dict(layer.attention.named_parameters())
    channels = torch.cat([hidden @ weights[f"{name}_proj.weight"].T for name in "qkv"], -1)
    if length > 1:
        # [G, W, D] of G heads becomes [G * D, W]
        channels = convolved(channels, weights["rule.convolution.weight"].transpose(1, 2).flatten(0, 1))
    else:
        channels = silu(channels)
    q, k, v = channels.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2).split([HEADS, KEY_HEADS, KEY_HEADS], 1)
    q, k = (x / x.square().sum(-1, keepdim=True).sqrt() for x in (q, k))
    k, v = (x.repeat_interleave(HEADS // KEY_HEADS, 1) for x in (k, v))
    softplus = (1 + (hidden @ weights["rule.a_proj.weight"].T + weights["rule.decay.dt_bias"]).exp()).log()
    decay = (-weights["rule.decay.A_log"].exp() * softplus).exp().mT
    read = recurrence(q / HEAD_DIM**0.5, k, v, strength_of(layer, hidden), decay)
    rms = (read.square().mean(-1, keepdim=True) + layer.model.config.rms_norm_eps).sqrt()
    normed = layer.merged(read / rms * weights["rule.o_norm.weight"])
    return normed * silu(hidden @ weights["rule.g_proj.weight"].T)


def assert_defined(layer: Layer, hidden: Tensor, out: Tensor, expected: Tensor) -> None:
    assert_close("out", out, expected)
    got, wanted = layer.gradients(out), layer.gradients(expected)
    for name, gradient in got.items():
        assert gradient.any(), name
        assert_close(name, gradient, wanted[name])


@pytest.mark.parametrize("features", PHI)
@pytest.mark.parametrize("chunk_length", [1, 3, 64])
def test_fast_weights_are_their_definition(features: str, chunk_length: int) -> None:
    layer = Layer(attention(FAST, features=features, chunk_length=chunk_length))
    hidden, out = layer.run(tokens(2, LENGTH))
    assert_defined(layer, hidden, out, defined_fast_weights(layer, hidden, features))


@pytest.mark.parametrize(("convolution", "chunk_length"), [(1, 3), (2, 1), (4, 3), (4, 64), (LENGTH + 2, 4)])
def test_gated_delta_net_is_its_definition(convolution: int, chunk_length: int) -> None:
    layer = Layer(attention(GATED, convolution=convolution, chunk_length=chunk_length))
    hidden, out = layer.run(tokens(2, LENGTH))
    assert_defined(layer, hidden, out, defined_gated(layer, hidden, convolution))


# Streams


@pytest.mark.parametrize("convolution", [1, 2, 6])
@pytest.mark.parametrize("chunk_length", [1, 2, 64])
def test_the_convolution_goes_on_over_any_cut_and_any_padding(convolution: int, chunk_length: int) -> None:
    model = build(attention(GATED, convolution=convolution, chunk_length=chunk_length))
    case = Case(4, (run(0, 13), run(-1, 5) + run(0, 8), run(0, 4) + run(-1, 6) + run(0, 3)), ())
    x, real = case.tokens(), case.real()
    for cuts in ((13,), run(1, 13), (2, 1, 7, 3)):
        got, _ = in_passes(model, x, cuts, real.long())
        for row, here in enumerate(real):
            assert_close(f"row {row} in {cuts}", got[row, here], logits(model, x[row, here][None])[0])


# Limits


def reads(layer: Layer) -> list[Tensor]:
    """Catch what is read, before the norm: a list that fills, ``[B, H, T, D]`` for every pass."""
    caught: list[Tensor] = []
    rule = layer.attention.get_submodule("rule")
    assert isinstance(rule, GatedRule)
    rule.o_norm.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    return caught


def basis(length: int) -> Tensor:
    """Return a key of every token for all heads, ``[T, H_kv * D]``: unit vectors, in turn."""
    return 3.0 * torch.eye(HEAD_DIM, dtype=torch.float64)[torch.arange(length) % HEAD_DIM].repeat(1, KEY_HEADS)


def without_decay(layer: Layer) -> None:
    nn.init.constant_(layer.attention.get_parameter("rule.decay.A_log"), -torch.inf)


def test_without_decay_orthonormal_keys_are_recalled_exactly() -> None:
    layer = Layer(attention(GATED, convolution=1, chunk_length=4))
    caught = reads(layer)
    without_decay(layer)
    keys = basis(2 * HEAD_DIM)
    replaced(layer.attention.k_proj, keys)
    replaced(layer.attention.q_proj, keys.repeat(1, HEADS // KEY_HEADS))
    # the first tokens are written as strongly as can be, those that ask for them not at all
    writes = torch.arange(2 * HEAD_DIM) < HEAD_DIM
    replaced(layer.attention.get_submodule("rule.b_proj"), torch.where(writes, 1e3, -1e3)[:, None].double())
    with torch.no_grad():
        hidden, _ = layer.run(tokens(2, 2 * HEAD_DIM))
    values = silu(layer.heads("v_proj", hidden))[:, :, :HEAD_DIM] / HEAD_DIM**0.5
    assert_close("read at once", caught[0][:, :, :HEAD_DIM], values)
    assert_close("read later", caught[0][:, :, HEAD_DIM:], values)


def test_what_was_written_fades_at_the_rate_of_its_head() -> None:
    layer = Layer(attention(GATED, convolution=1, chunk_length=4))
    caught = reads(layer)
    same = basis(1).expand(LENGTH, -1)
    replaced(layer.attention.k_proj, same)
    replaced(layer.attention.q_proj, same.repeat(1, HEADS // KEY_HEADS))
    first = torch.arange(LENGTH) == 0
    replaced(layer.attention.get_submodule("rule.b_proj"), torch.where(first, 1e3, -1e3)[:, None].double())
    replaced(layer.attention.get_submodule("rule.a_proj"), 0.0)
    half_lives = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    with torch.no_grad():
        layer.attention.get_parameter("rule.decay.dt_bias").zero_()  # softplus(0) = log 2
        layer.attention.get_parameter("rule.decay.A_log").copy_(-half_lives.log())
        hidden, _ = layer.run(tokens(2, LENGTH))
    age = torch.arange(LENGTH, dtype=torch.float64)
    written = silu(layer.heads("v_proj", hidden))[:, :, :1] / HEAD_DIM**0.5
    assert_close("read", caught[0], written * (0.5 ** (age / half_lives[:, None]))[None, :, :, None])


@pytest.mark.parametrize("features", PHI)
def test_nothing_is_read_when_nothing_is_written(features: str) -> None:
    layer = Layer(attention(FAST, features=features))
    replaced(layer.attention.get_submodule("rule.b_proj"), -1e3)
    assert (layer.run(tokens(2, LENGTH))[1] == 0).all()


def test_a_key_is_written_over() -> None:
    layer = Layer(attention(GATED, convolution=1, chunk_length=4))
    caught = reads(layer)
    without_decay(layer)
    same = basis(1).expand(LENGTH, -1)
    replaced(layer.attention.k_proj, same)
    replaced(layer.attention.q_proj, same.repeat(1, HEADS // KEY_HEADS))
    replaced(layer.attention.get_submodule("rule.b_proj"), 1e3)
    with torch.no_grad():
        hidden, _ = layer.run(tokens(2, LENGTH))
    assert_close("the latest value", caught[0], silu(layer.heads("v_proj", hidden)) / HEAD_DIM**0.5)


@pytest.mark.parametrize("features", ["dpfp3_sum", "elu1_sum", "softmax", "identity_l2"])
def test_reads_stay_bounded_over_a_long_stream(features: str) -> None:
    layer = Layer(attention(FAST, features=features, chunk_length=64))
    with torch.no_grad():
        hidden, out = layer.run(tokens(1, 2000))
    largest = layer.heads("v_proj", hidden).norm(dim=-1).max()
    read = out.unflatten(-1, (-1, HEAD_DIM)).norm(dim=-1)
    assert read[:, 1000:].max() < 2 * largest


# What it keeps, and in which precision


@RULES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_memory_is_float32_or_float64(rule: dict, dtype: torch.dtype) -> None:
    layer = Layer(attention(rule))
    nn.Module.to(layer.model, dtype)
    _, past = in_passes(layer.model, tokens(2, LENGTH), (4, 1, 6))
    state = state_of(past)
    assert isinstance(state, FastWeights | GatedState)
    assert state.matrix.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    if isinstance(state, GatedState):
        assert state.inputs.dtype == dtype


@pytest.mark.parametrize("cuts", [(LENGTH,), run(1, LENGTH)])
def test_autocast_neither_writes_nor_reads_in_low_precision(cuts: tuple[int, ...]) -> None:
    layer = Layer(attention(GATED, chunk_length=4))
    layer.model.float()
    names = ("q_proj", "k_proj", "v_proj", "rule.b_proj", "rule.a_proj")
    caught: dict[str, list[Tensor]] = {name: [] for name in names}
    for name, to in caught.items():
        layer.attention.get_submodule(name).register_forward_hook(lambda _, __, x, to=to: to.append(x))
    read = reads(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, past = in_passes(layer.model, tokens(2, LENGTH), cuts)
    assert caught["k_proj"][0].dtype == torch.bfloat16
    with torch.no_grad():
        *qkv, b, a = (torch.cat(x, 1).double() for x in caught.values())
        weights = {name: x.double() for name, x in layer.attention.named_parameters()}
        channels = torch.cat(qkv, -1)
        mixed = convolved(channels, weights["rule.convolution.weight"].transpose(1, 2).flatten(0, 1))
        q, k, v = mixed.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2).split([HEADS, KEY_HEADS, KEY_HEADS], 1)
        q, k = (x / x.norm(dim=-1, keepdim=True) for x in (q, k))
        k, v = (x.repeat_interleave(HEADS // KEY_HEADS, 1) for x in (k, v))
        softplus = (1 + (a + weights["rule.decay.dt_bias"]).exp()).log()
        decay = (-weights["rule.decay.A_log"].exp() * softplus).exp().mT
        expected = recurrence(q / HEAD_DIM**0.5, k, v, sigmoid(b).mT, decay)
    assert_close("read", torch.cat(read, 2), expected.float())
    state = state_of(past)
    assert isinstance(state, GatedState)
    assert state.matrix.dtype == torch.float32
    assert torch.equal(state.inputs.transpose(1, 2).flatten(2).double(), channels[:, -3:])


def test_a_state_keeps_as_many_bytes_as_its_pages_say() -> None:
    sizes = Sizes(heads=4, key_heads=2, head=8, hidden=32)
    for block, expected in (
        (FAST | {"features": "elu1_sum"}, 4 * 4 * 8 * 8),
        (FAST, 4 * 4 * 48 * 8),
        (GATED | {"convolution": 1}, 4 * 4 * 8 * 8),
        (GATED, 4 * 4 * 8 * 8 + 2 * (4 + 2 * 2) * 8 * 3),
    ):
        spec = AttentionSpec.model_validate(attention(block))
        empty = DeltaNetAttention.empty(sizes, spec, 5, torch.bfloat16, torch.device("cpu"))
        assert state_bytes(empty) == 5 * expected
        assert not any(leaf.any() for leaf in empty)


@RULES
def test_costs_are_those_of_its_weights_and_of_three_products(rule: dict) -> None:
    layer = Layer(attention(rule))
    sizes, spec = Sizes.of(layer.model.config), layer.attention.spec
    projections = [m for name, m in layer.attention.named_modules() if name.startswith("rule.") and "_proj" in name]
    weights = sum(p.numel() for m in projections for p in m.parameters())
    assert DeltaNetAttention.weights(sizes, spec) == weights
    width = 6 * HEAD_DIM if rule == FAST else HEAD_DIM
    convolution = 0 if rule == FAST else 2 * layer.attention.get_parameter("rule.convolution.weight").numel()
    for length in (1, 10_000):
        assert DeltaNetAttention.flops(sizes, spec, length) == HEADS * 6 * width * HEAD_DIM + convolution


# How it begins, and how it learns


def new(seed: int, **fields: object) -> PalimpsestForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return PalimpsestForCausalLM(config(attention(GATED), **fields))


def test_new_weights_begin_as_in_the_reference_code_and_as_the_seed_says() -> None:
    model = new(0, num_hidden_layers=40, hidden_size=24)
    kept = model.state_dict()
    assert all(torch.equal(x, kept[name]) for name, x in new(0, num_hidden_layers=40).state_dict().items())
    assert not torch.equal(new(1, num_hidden_layers=40).state_dict()[name := next(iter(kept))], kept[name])
    found: dict[type, list[nn.Module]] = {ShortConvolution: [], Decay: [], GatedRMSNorm: []}
    for module in model.modules():
        if type(module) in found:
            found[type(module)].append(module)
    rates = torch.stack([module.get_parameter("A_log") for module in found[Decay]]).exp()
    steps = nn.functional.softplus(torch.stack([module.get_parameter("dt_bias") for module in found[Decay]]))
    bound = 4**-0.5
    filters = torch.stack([module.get_parameter("weight") for module in found[ShortConvolution]])
    for name, x, (low, high) in (
        ("A", rates, (1.0, 16.0)),
        ("log of softplus(dt_bias)", steps.log(), torch.tensor([1e-3, 1e-1]).log().tolist()),
        ("convolution", filters, (-bound, bound)),
    ):
        assert x.min() >= low - 1e-5, name
        assert x.max() <= high + 1e-5, name
        # uniform: 160 draws or more reach over the range, and about as many lie in either half
        assert x.max() - x.min() > 0.95 * (high - low), name
        assert abs((x > (low + high) / 2).float().mean() - 0.5) < 0.1, name
    assert all((module.get_parameter("weight") == 1).all() for module in found[GatedRMSNorm])
    b_proj = model.get_parameter("model.layers.0.self_attn.rule.b_proj.weight")
    assert 0.5 < b_proj.std() / model.config.initializer_range < 2


def test_new_steps_are_drawn_before_softplus_is_inverted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_net, "STEPS", (2.0, 9.0))  # so large that softplus is not nearly exp
    with torch.random.fork_rng(devices=[]):
        steps = nn.functional.softplus(Decay(1000).initial_values()["dt_bias"])
    assert 2.0 - 1e-4 < steps.min() < 2.05
    assert 8.8 < steps.max() < 9.0 + 1e-4


def test_decay_and_norms_are_not_weight_decayed() -> None:
    groups = {name.split("rule.")[1]: group_of(name, p) for name, p in new(0).named_parameters() if "rule." in name}
    matrices = {"b_proj.weight", "a_proj.weight", "g_proj.weight", "convolution.weight"}
    assert groups == dict.fromkeys(matrices, "matrices") | dict.fromkeys(
        ["decay.A_log", "decay.dt_bias", "o_norm.weight"], "vectors"
    )


# Its block


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"rule": "gated", "features": "dpfp3_sum"}, "'features' is for the rule 'fast_weights', not for 'gated'"),
        ({"features": "softmax"}, "'features' is for the rule 'fast_weights', not for 'gated'"),
        ({"rule": "fast_weights", "convolution": 4}, "'convolution' is for the rule 'gated', not for 'fast_weights'"),
        ({"rule": "fast_weights", "features": "elu1"}, "features of norm at most one"),
        ({"rule": "fast_weights", "features": "dpfp9"}, "unknown value 'dpfp9'"),
        ({"rule": "gate"}, "'gate'.*Did you mean 'gated'"),
        ({"rule": ["gated"]}, "delta_net.rule"),
        ({"convolution": 0}, "delta_net.convolution"),
        ({"chunk_length": 0}, "delta_net.chunk_length"),
    ],
)
def test_a_block_that_cannot_work_is_refused(block: dict, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        config(attention(block))
    assert str(raised.value).startswith("attention: ")
    assert "\n" not in str(raised.value)


def test_what_is_saved_is_complete() -> None:
    assert config({"pattern": "delta_net"}).attention["delta_net"] == {
        "rule": "gated",
        "convolution": 4,
        "chunk_length": 64,
    }
    fast = config(attention(FAST)).attention
    assert fast["delta_net"] == {"rule": "fast_weights", "features": "dpfp3_sum", "chunk_length": 64}
    assert config(fast).attention == fast
