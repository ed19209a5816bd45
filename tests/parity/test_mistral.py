"""With a sliding window a model is Mistral: same weights, same logits, same loss, same generated tokens."""

import pytest
import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.testing import assert_close

LENGTH = 37
SIZES: dict = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000.0},
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
windows = pytest.mark.parametrize("window", [2, 5, 16, LENGTH, 100])


def models(window: int) -> tuple[PalimpsestForCausalLM, MistralForCausalLM]:
    """Return our model and Mistral, in float64, with equal weights, large enough that every part matters."""
    reference = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=window)).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(std=0.3 if parameter.dim() == 1 else 0.2, generator=generator)
    attention = {"pattern": "sliding_window", "sliding_window": {"window": window}}
    ours = PalimpsestForCausalLM(PalimpsestConfig(**SIZES, attention=attention)).double().eval()
    ours.load_state_dict(reference.state_dict())
    return ours, reference


def stream(batch: int = 3, length: int = LENGTH) -> Tensor:
    return torch.randint(1, SIZES["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(1))


@windows
def test_logits(window: int) -> None:
    ours, reference = models(window)
    with torch.no_grad():
        assert_close("logits", ours(stream()).logits, reference(stream()).logits)


@windows
def test_chunks_and_steps_after_a_cache(window: int) -> None:
    ours, reference = models(window)
    x, past, outs, begin = stream(), None, [], 0
    with torch.no_grad():
        for length in (1, 9, 1, 1, 20, 5):
            out = ours(x[:, begin : begin + length], past_key_values=past, use_cache=True)
            past, begin = out.past_key_values, begin + length
            outs.append(out.logits)
        assert_close("logits", torch.cat(outs, 1), reference(x).logits)


def test_loss_and_gradients() -> None:
    ours, reference = models(5)
    x = stream()
    got, expected = ours(x, labels=x).loss, reference(x, labels=x).loss
    assert_close("loss", got, expected)
    got.backward()
    expected.backward()
    of = dict(ours.named_parameters())
    for name, parameter in reference.named_parameters():
        assert_close(name, of[name].grad, parameter.grad)


@windows
def test_generation(window: int) -> None:
    ours, reference = models(window)
    options: dict = {"max_new_tokens": 24, "do_sample": False}
    x = stream(length=7)
    assert torch.equal(ours.generate(x, **options), reference.generate(x, **options))


def test_another_window_is_another_model() -> None:
    x = stream()
    with torch.no_grad():
        assert not torch.allclose(models(5)[0](x).logits, models(6)[0](x).logits)
