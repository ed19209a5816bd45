"""With full attention, or with the memory shut out, a model is LLaMA: same weights, same logits, same loss."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from palimpsest.attention import MemoryAttention
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.testing import assert_close

SIZES: dict = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
KINDS: dict[str, dict] = {
    "plain": {},
    "grouped": {"num_key_value_heads": 2},
    "one_key_head": {"num_key_value_heads": 1},
    "wide_heads": {"head_dim": 16, "num_key_value_heads": 2},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "rope_llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
}
ATTENTION: dict[str, dict] = {
    "full": {"pattern": "full"},
    "segment_local": {"pattern": "segment_local", "segment_length": 64},
    "linear": {"memory": {"kind": "linear"}, "segment_length": 64},
    "ridge": {"memory": {"kind": "ridge"}, "segment_length": 64, "gate": {"kind": "token"}},
    "mixed": {"pattern": ["memory", "full"], "memory": {"kind": "delta"}, "segment_length": 17},
}
"""Segments at least as long as the streams below; where there is a memory its gates are closed."""

LENGTH = 17
TOLERANCE = 1e-12
both = pytest.mark.parametrize("kind", KINDS)
each = pytest.mark.parametrize("attention", ATTENTION)


def llama(kind: str) -> LlamaForCausalLM:
    """Return a float64 LLaMA with weights large enough that every part matters."""
    model = LlamaForCausalLM(LlamaConfig(**(SIZES | KINDS[kind]))).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.dim() == 1 else 0.2, generator=generator)
    return model


def ours(reference: LlamaForCausalLM, kind: str, attention: str) -> PalimpsestForCausalLM:
    """Return our model with LLaMA's weights and closed gates."""
    config = PalimpsestConfig(**(SIZES | KINDS[kind]), attention=ATTENTION[attention])
    model = PalimpsestForCausalLM(config).double().eval()
    missing, unexpected = model.load_state_dict(reference.state_dict(), strict=False)
    assert not unexpected
    assert all(re.search(r"self_attn\.(gate|memory)\.", key) for key in missing)
    for module in model.modules():
        if isinstance(module, MemoryAttention):
            module.gate_override = 0.0
    return model


def stream(batch: int = 3) -> Tensor:
    return torch.randint(1, SIZES["vocab_size"], (batch, LENGTH), generator=torch.Generator().manual_seed(1))


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


@both
@each
def test_logits(kind: str, attention: str) -> None:
    reference, x = llama(kind), stream()
    model = ours(reference, kind, attention)
    with torch.no_grad():
        close(model(x).logits, reference(x).logits)


@each
def test_loss_and_gradients(attention: str) -> None:
    reference, x = llama("grouped"), stream()
    model = ours(reference, "grouped", attention)
    labels = x.clone()
    labels[:, :5] = -100
    got, expected = model(x, labels=labels).loss, reference(x, labels=labels).loss
    assert_close("loss", got, expected)
    got.backward()
    expected.backward()
    of = dict(model.named_parameters())
    for name, parameter in reference.named_parameters():
        assert parameter.grad is not None
        assert_close(name, of[name].grad, parameter.grad)


@each
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(attention: str, side: str) -> None:
    reference, x = llama("grouped"), stream()
    model = ours(reference, "grouped", attention)
    place = torch.arange(LENGTH)
    lengths = torch.tensor([LENGTH, 9, 4])[:, None]
    mask = place >= LENGTH - lengths if side == "left" else place < lengths
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        got = model(x, attention_mask=mask.long()).logits
        expected = reference(x, attention_mask=mask.long(), position_ids=positions).logits
    close(got[mask], expected[mask])


@each
def test_generation(attention: str) -> None:
    reference, x = llama("grouped"), stream()[:, :5]
    model = ours(reference, "grouped", attention)
    options: dict = {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(model.generate(x, **options), reference.generate(x, **options))
    mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]])
    padded = x.where(mask > 0, 0)
    expected = reference.generate(padded, attention_mask=mask, **options)
    assert torch.equal(model.generate(padded, attention_mask=mask, **options), expected)


@both
@pytest.mark.parametrize(
    ("attention", "new"),
    [
        ({"pattern": "full"}, set()),
        ({"pattern": "segment_local"}, set()),
        ({"memory": {"kind": "linear"}}, {"gate.bias"}),
        ({"memory": {"kind": "delta"}, "gate": {"kind": "token"}}, {"gate.bias", "gate.weight"}),
        ({"memory": {"kind": "ridge"}}, {"gate.bias", "memory.ridge"}),
    ],
    ids=["full", "segment_local", "linear", "delta_token", "ridge"],
)
def test_a_directory_of_llama_weights_loads(kind: str, attention: dict, new: set[str], tmp_path: Path) -> None:
    reference = llama(kind).float()
    reference.save_pretrained(tmp_path)
    model, loading = PalimpsestForCausalLM.from_pretrained(tmp_path, attention=attention, output_loading_info=True)
    layers = range(SIZES["num_hidden_layers"])
    assert set(loading["missing_keys"]) == {f"model.layers.{i}.self_attn.{name}" for i in layers for name in new}
    assert not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    kept = model.state_dict()
    assert all(torch.equal(kept[key], weight) for key, weight in reference.state_dict().items())
    fresh = PalimpsestForCausalLM(model.config).state_dict()  # gates and lambda begin as in a new model
    assert all(torch.equal(kept[key], fresh[key]) for key in loading["missing_keys"])


def test_a_converted_model_is_saved_as_ours(tmp_path: Path) -> None:
    llama("grouped").float().save_pretrained(tmp_path / "llama")
    model = PalimpsestForCausalLM.from_pretrained(tmp_path / "llama", attention={"memory": {"kind": "ridge"}})
    model.save_pretrained(tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert isinstance(again, PalimpsestForCausalLM)
    assert again.config.model_type == "palimpsest"
    assert again.config.architectures == ["PalimpsestForCausalLM"]
    with torch.no_grad():
        assert torch.equal(again(stream()).logits, model.eval()(stream()).logits)
