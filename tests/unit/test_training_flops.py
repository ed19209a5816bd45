import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.models.flops import (
    attention_flops_per_token,
    flops_per_token,
    forward_flops_per_token,
    matrix_weights,
)


def config(kind: str = "memory", memory: str = "linear", segment: int = 8, **changes) -> PalimpsestConfig:
    return PalimpsestConfig(
        **{
            "vocab_size": 40,
            "hidden_size": 24,
            "intermediate_size": 56,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "attention": {"pattern": [kind], "segment_length": segment}
            | ({"memory": {"kind": memory}} if kind == "memory" else {}),
            **changes,
        }
    )


def by_hand(kind: str, memory: str, tokens: int, segment: int, size: int) -> float:
    """Count one head of one layer, token by token and segment by segment, a multiplication and an addition as two."""
    total = 0.0
    reach = tokens if kind == "full" else segment
    for token in range(tokens):
        keys = token % reach + 1
        total += 2 * size * keys  # scores
        total += 2 * size * keys  # values
        if kind != "memory":
            continue
        total += 2 * size * size  # phi(q) times M or W
        total += 2 * size * size  # phi(k)^T v
        if memory == "ridge":
            total += 2 * size * size  # phi(k)^T phi(k)
        else:
            total += 2 * size  # phi(q) z
        if memory == "delta":
            total += 2 * size * size + 2 * size  # phi(k) M and phi(k) z
    if kind == "memory" and memory == "ridge":
        for _ in range(0, tokens, segment):
            total += size**3 / 3  # Cholesky
            total += 2 * size * size * size  # forward and back substitution for all columns
    return total


@given(
    kind=st.sampled_from(["full", "segment_local", "memory"]),
    memory=st.sampled_from(["linear", "delta", "ridge"]),
    tokens=st.integers(1, 70),
    segment=st.integers(1, 20),
)
def test_attention_is_counted_as_by_hand(kind, memory, tokens, segment):
    counted = attention_flops_per_token(config(kind, memory, segment), 0, tokens)
    assert counted * tokens == pytest.approx(4 * by_hand(kind, memory, tokens, segment, 6))


def test_the_whole_model_by_hand():
    model = config("segment_local", segment=8)
    weights = 2 * (24 * 24 + 2 * 24 * 12 + 24 * 24 + 3 * 24 * 56) + 24 * 40
    assert matrix_weights(model) == weights
    attention = 2 * 4 * by_hand("segment_local", "linear", 16, 8, 6) / 16
    assert forward_flops_per_token(model, 16) == pytest.approx(2 * weights + attention)
    assert flops_per_token(model, 16) == pytest.approx(6 * weights + 3 * attention)


@pytest.mark.parametrize("gate", ["sigmoid", "token"])
def test_the_matrix_products_are_those_that_torch_counts(gate):
    tokens = 16
    attention = {"pattern": ["memory", "full"], "segment_length": 8, "gate": {"kind": gate}}
    model = PalimpsestForCausalLM(config(attention=attention))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    # linear layers are plain matrix products, attention and memories batched ones or fused kernels
    assert counter.get_flop_counts()["Global"][torch.ops.aten.mm] == 2 * tokens * matrix_weights(model.config)


def test_a_hybrid_costs_what_its_layers_cost():
    hybrid = config(attention={"pattern": ["memory", "full"], "segment_length": 8, "memory": {"kind": "delta"}})
    full, delta = config("full"), config("memory", "delta")
    mean = (forward_flops_per_token(full, 64) + forward_flops_per_token(delta, 64)) / 2
    assert forward_flops_per_token(hybrid, 64) == pytest.approx(mean)


def test_memory_costs_the_same_per_token_at_any_length_and_full_attention_does_not():
    for memory in ("linear", "delta", "ridge"):
        assert flops_per_token(config(memory=memory), 8 * 10_000) == pytest.approx(
            flops_per_token(config(memory=memory), 8)
        )
    assert flops_per_token(config("full"), 80_000) > 10 * flops_per_token(config("full"), 80)
