"""Linear attention against its equations, and what follows from them."""

import pytest
import torch
from torch import Tensor, nn

from palimpsest.attention import AttentionSpec, LinearAttention
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.stream import Stream
from palimpsest.errors import InputError
from palimpsest.memory import LinearState
from palimpsest.testing import assert_close

from .caught import Layer, replaced, state_of
from .model_cases import HEAD_DIM, HEADS, KEY_HEADS, config, in_passes, logits, tokens

LENGTH = 11
PHI = {
    "elu1": lambda x: torch.where(x > 0, x + 1, x.exp()),
    "softmax": lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
    "squared_relu": lambda x: torch.where(x > 0, x * x, 0.0),
}
"""Feature maps, written down once more."""


def attention(features: str = "elu1", chunk_length: int = 3) -> dict:
    block = {"features": features, "chunk_length": chunk_length}
    return {"pattern": "linear_attention", "linear_attention": block}


def defined(layer: Layer, hidden: Tensor, features: str) -> Tensor:
    """Run the equations token by token: add, then read what there is."""
    q, k, v = (layer.heads(name, hidden) for name in ("q_proj", "k_proj", "v_proj"))
    q, k = PHI[features](q), PHI[features](k)
    matrix, normaliser = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3]), torch.zeros_like(q[:, :, 0])
    outs = []
    for t in range(q.shape[2]):
        matrix = matrix + torch.einsum("bhf,bhd->bhfd", k[:, :, t], v[:, :, t])
        normaliser = normaliser + k[:, :, t]
        below = torch.einsum("bhf,bhf->bh", q[:, :, t], normaliser)[..., None]
        above = torch.einsum("bhf,bhfd->bhd", q[:, :, t], matrix)
        # features that overlap with none that were written read nothing
        outs.append(torch.where(below > 0, above / torch.where(below > 0, below, 1.0), 0.0))
    return layer.merged(torch.stack(outs, 2))


@pytest.mark.parametrize("features", PHI)
@pytest.mark.parametrize("chunk_length", [1, 3, 64])
def test_a_layer_is_its_definition(features: str, chunk_length: int) -> None:
    layer = Layer(attention(features, chunk_length))
    hidden, out = layer.run(tokens(2, LENGTH))
    expected = defined(layer, hidden, features)
    assert_close("out", out, expected)
    got, wanted = layer.gradients(out), layer.gradients(expected)
    for name, gradient in got.items():
        assert_close(name, gradient, wanted[name])


def test_one_chunk_is_many_chunks() -> None:
    x = tokens(2, LENGTH)
    whole = logits(Layer(attention(chunk_length=64)).model, x)
    for chunk_length in (1, 2, 5, LENGTH):
        assert_close(f"{chunk_length} at once", logits(Layer(attention(chunk_length=chunk_length)).model, x), whole)


def test_with_keys_all_alike_it_reads_the_mean_of_all_values_so_far() -> None:
    layer = Layer(attention())
    replaced(layer.attention.k_proj, 1.0)
    hidden, out = layer.run(tokens(2, LENGTH))
    values = layer.heads("v_proj", hidden)
    mean = values.cumsum(2) / torch.arange(1, LENGTH + 1)[:, None]
    assert_close("out", out, layer.merged(mean))


def test_the_order_of_what_came_before_is_irrelevant() -> None:
    layer = Layer(attention())
    x = tokens(1, LENGTH)
    shuffled = torch.cat([x[:, :-1].flip(1), x[:, -1:]], 1)
    with torch.no_grad():
        _, before = layer.run(x)
        _, after = layer.run(shuffled)
    assert_close("the last token", after[:, -1], before[:, -1])
    assert not torch.allclose(after[:, :-1], before[:, :-1])


# What it keeps, and in which precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_state_is_float32_or_float64(dtype: torch.dtype) -> None:
    layer = Layer(attention())
    nn.Module.to(layer.model, dtype)
    _, past = in_passes(layer.model, tokens(2, LENGTH), (4, 1, 6))
    state = state_of(past)
    assert isinstance(state, LinearState)
    assert {leaf.dtype for leaf in state} == {torch.float64 if dtype == torch.float64 else torch.float32}
    assert state.matrix.shape == (2, HEADS, HEAD_DIM, HEAD_DIM)


@pytest.mark.parametrize("cuts", [(LENGTH,), (1,) * LENGTH])
def test_autocast_neither_writes_nor_reads_in_low_precision(cuts: tuple[int, ...]) -> None:
    layer = Layer(attention())
    caught: dict[str, list[Tensor]] = {"q_proj": [], "k_proj": [], "v_proj": [], "out": []}
    layer.model.float()
    for name in ("q_proj", "k_proj", "v_proj"):
        layer.attention.get_submodule(name).register_forward_hook(lambda _, __, x, to=caught[name]: to.append(x))
    layer.attention.o_proj.register_forward_pre_hook(lambda _, inputs: caught["out"].append(inputs[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, past = in_passes(layer.model, tokens(2, LENGTH), cuts)
    q, k, v, out = (torch.cat(x, 1).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2).double() for x in caught.values())
    k, v = (x.repeat_interleave(HEADS // KEY_HEADS, 1) for x in (k, v))
    phi_q, phi_k = PHI["elu1"](q), PHI["elu1"](k)
    state = state_of(past)
    assert isinstance(state, LinearState)
    assert_close("matrix", state.matrix, phi_k.mT @ v)
    assert_close("normaliser", state.normaliser, phi_k.sum(2))
    weights = (phi_q @ phi_k.mT).tril()
    expected = weights @ v / weights.sum(-1, keepdim=True)
    # no worse than rounding once, when all is read
    torch.testing.assert_close(out, expected.bfloat16().double(), rtol=2**-8, atol=1e-6)


# Its block and its costs


@pytest.mark.parametrize("features", ["identity_l2", "identity", "elu1_centred_l2"])
def test_features_that_can_be_negative_are_refused(features: str) -> None:
    with pytest.raises(InputError, match="never negative") as raised:
        config(attention(features))
    assert str(raised.value).startswith("attention: 'linear_attention.features': should be features")
    assert features in str(raised.value)


def test_what_a_token_costs_does_not_depend_on_the_context() -> None:
    sizes = Sizes(heads=3, key_heads=1, head=10, hidden=40)
    spec = AttentionSpec.model_validate(attention("dpfp2"))
    width = 2 * 2 * 10
    for length in (1, 100, 10_000):
        # one product for the write, one for the read, one for the normaliser
        assert LinearAttention.flops(sizes, spec, length) == 3 * (2 * width * 10 + 2 * width * 10 + 2 * width)
    assert LinearAttention.weights(sizes, spec) == 0


def test_it_rotates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def rotary(self: Stream) -> None:
        raise AssertionError("asked for places")

    monkeypatch.setattr(Stream, "document_rotary", rotary)
    monkeypatch.setattr(Stream, "places", rotary)
    layer = Layer(attention())
    assert layer.run(tokens(1, LENGTH))[1].isfinite().all()
    assert isinstance(layer.attention, LinearAttention)
    assert not layer.attention.rotates_by_document


def test_features_are_those_of_the_block() -> None:
    x = tokens(2, LENGTH)
    outs = [logits(Layer(attention(features)).model, x) for features in ("elu1", "dpfp1", "softmax")]
    assert not torch.allclose(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2])
    wide = Layer(attention("dpfp3"))
    _, past = in_passes(wide.model, x, (5, 6))
    assert state_of(past)[0].shape == (2, HEADS, 6 * HEAD_DIM, HEAD_DIM)
