"""A converted model is LLaMA inside one segment, to the last bit, and beyond it can learn to use its memory."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch.optim import AdamW
from transformers import AutoModelForCausalLM

from llama_case import LLAMAS, SEGMENT, llama, tokens
from palimpsest.attention.memories import MemorySpec
from palimpsest.attention.spec import GateSpec, Kind
from palimpsest.models import PalimpsestForCausalLM, convert_llama, new_weights
from palimpsest.models.conversion import CLOSED, closed_attention
from palimpsest.testing import assert_close

MEMORIES = [member.model_fields["kind"].default for member in get_args(get_args(MemorySpec)[0])]
EXACT = ["full", "segment_local", "sliding_window"]
"""Kinds that are LLaMA's attention as long as they reach everything (a window is as long as the segment)."""


def converted(model, **attention) -> PalimpsestForCausalLM:
    return convert_llama(model, {"segment_length": SEGMENT, **attention})


@pytest.mark.parametrize("kind", LLAMAS)
@pytest.mark.parametrize("memory", MEMORIES)
def test_logits_of_one_segment_are_the_same_bits(kind: str, memory: str) -> None:
    reference = llama(kind)
    model = converted(reference, memory={"kind": memory})
    x = tokens(SEGMENT)
    with torch.no_grad():
        for use_cache in (False, True):
            assert torch.equal(model(x, use_cache=use_cache).logits, reference(x).logits)


@pytest.mark.parametrize("length", [1, 2, 7, SEGMENT - 1])
@pytest.mark.parametrize("gate", get_args(GateSpec.model_fields["kind"].annotation))
def test_logits_of_less_than_a_segment_are_the_same_bits(length: int, gate: str) -> None:
    reference = llama()
    model = converted(reference, gate={"kind": gate})
    with torch.no_grad():
        assert torch.equal(model(tokens(length)).logits, reference(tokens(length)).logits)


@pytest.mark.parametrize("pattern", EXACT)
def test_kinds_that_reach_everything_are_llama(pattern: str) -> None:
    reference, x = llama(), tokens(SEGMENT)
    model = converted(reference, pattern=[pattern, "memory"])
    with torch.no_grad():
        assert_close("logits", model(x).logits, reference(x).logits)


def test_the_first_segment_of_a_long_text_is_llamas_and_the_next_is_not() -> None:
    reference, x = llama(), tokens(3 * SEGMENT)
    model = converted(reference)
    with torch.no_grad():
        got, expected = model(x).logits, reference(x).logits
    assert_close("first segment", got[:, :SEGMENT], expected[:, :SEGMENT])
    assert not torch.allclose(got[:, SEGMENT:], expected[:, SEGMENT:], atol=1e-2)


def test_gates_that_apply_to_an_empty_memory_change_the_first_segment() -> None:
    reference, x = llama(), tokens(SEGMENT)
    model = converted(reference, first_segment="gated")
    with torch.no_grad():
        assert not torch.equal(model(x).logits, reference(x).logits)


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_every_weight_is_kept_for_every_kind_of_attention(kind: str, dtype: torch.dtype) -> None:
    reference = llama("tied", dtype)
    model = converted(reference, pattern=[kind])
    kept, state = reference.state_dict(), model.state_dict()
    assert all(torch.equal(state[name], weight) and state[name].dtype == dtype for name, weight in kept.items())
    assert set(state) - set(kept) == set(new_weights(model.config))
    assert {weight.dtype for weight in state.values()} == {dtype}
    assert all(bool(weight.isfinite().all()) for weight in state.values())
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_a_model_that_was_cast_computes_the_same_bits(dtype: torch.dtype) -> None:
    reference, x = llama("rope_llama3", dtype), tokens(SEGMENT)
    with torch.no_grad():
        assert torch.equal(converted(reference)(x).logits, reference(x).logits)


def test_greedy_text_within_a_segment_is_llamas() -> None:
    reference, x = llama(), tokens(5)
    options: dict = {"max_new_tokens": SEGMENT - 5, "do_sample": False}
    assert torch.equal(converted(reference).generate(x, **options), reference.generate(x, **options))


def moved(gate: dict) -> float:
    """Return how far a first update moves the gates at most, for each of their learning rates."""
    model = converted(llama(), gate=gate).train()
    gates = [weight for name, weight in model.named_parameters() if ".gate.bias" in name]
    before = [weight.detach().clone() for weight in gates]
    optimizer, x = AdamW(gates, lr=0.1, weight_decay=0.0), tokens(4 * SEGMENT)
    model(x, labels=x).loss.backward()
    optimizer.step()
    return max(float((weight.detach() - old).abs().max()) for weight, old in zip(gates, before, strict=True)) / 0.1


@pytest.mark.parametrize("kind", CLOSED)
def test_closed_gates_move_at_their_learning_rate(kind: str) -> None:
    assert moved({"kind": kind}) == pytest.approx(1.0, rel=0.01)


def test_gates_that_are_shut_too_tight_do_not_move() -> None:
    assert moved({"init": -40.0}) < 1e-3
    assert moved({"kind": "hard_sigmoid", "init": -2.6}) == 0.0


def test_every_kind_of_gate_has_a_closed_place() -> None:
    assert set(CLOSED) == set(get_args(GateSpec.model_fields["kind"].annotation))
    for kind, init in CLOSED.items():
        assert closed_attention({"gate": {"kind": kind}})["gate"] == {"kind": kind, "init": init}


@pytest.mark.parametrize("kind", LLAMAS)
def test_saved_and_loaded_it_is_the_same_model(kind: str, tmp_path: Path) -> None:
    reference, x = llama(kind), tokens(2 * SEGMENT + 3)
    reference.save_pretrained(tmp_path / "llama")
    model = converted(tmp_path / "llama", memory={"kind": "ridge"})
    model.save_pretrained(tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert isinstance(again, PalimpsestForCausalLM)
    assert again.config.attention_spec == model.config.attention_spec
    state, kept = again.state_dict(), reference.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in model.state_dict().items())
    assert all(torch.equal(state[name], weight) for name, weight in kept.items())
    with torch.no_grad():
        assert torch.equal(again(x).logits, model(x).logits)
        assert torch.equal(again(x[:, :SEGMENT]).logits, reference(x[:, :SEGMENT]).logits)
