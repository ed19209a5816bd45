"""What the recipes of the 300M study cost: hours, gigabytes, and what the tutorial says of them."""

import socket

import pytest
import torch
from study_300m_case import ROOT, STUDY, batch_of, config_of
from typer.testing import CliRunner

from palimpsest.attention.kinds import KINDS
from palimpsest.cli import app
from palimpsest.cli.info import describe_recipe
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.models.budget import ACCELERATORS, hours, saved_bytes, training_memory
from palimpsest.training.data import Batch
from palimpsest.training.loop import accumulate_gradients, recompute_activations


@pytest.fixture
def offline(monkeypatch):
    """Let nothing open a connection."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("offline")
def test_info_needs_no_tokenizer_and_no_hub():
    shown = CliRunner().invoke(app, ["info", str(STUDY / "infini.yaml")])
    assert shown.exit_code == 0, shown.output
    for said in ("302,015,584", "983,040,000 tokens, 1.59e+18 operations", "12 memory (delta)", "RTX 4090", "22.2 GB"):
        assert said in shown.stdout


@pytest.mark.usefixtures("offline")
def test_the_tutorial_says_what_the_code_computes():
    page = (ROOT / "docs" / "tutorial" / "study-300m.md").read_text(encoding="utf-8")
    cost = describe_recipe(STUDY / "infini.yaml").cost
    assert cost is not None
    for each in ACCELERATORS:
        spent = [f"{hours(cost.operations, each, share):.1f}" for share in (0.2, 0.4)]
        row = f"| {each.name} | {each.memory / 1e9:g} | {each.peak / 1e12:,.6g} | {spent[0]} | {spent[1]} |"
        assert row in page
    assert f"at most {cost.memory.total / 1e9:.1f} GB on one device" in page
    recomputed = training_memory(config_of(STUDY / "infini.yaml"), 1, 8192, 8192, bfloat16=True, recompute=True)
    assert f"which needs {recomputed.total / 1e9:.1f} GB" in page


def test_hours_are_operations_over_a_share_of_the_peak():
    assert hours(3.6e15, ACCELERATORS[0], 0.5) == pytest.approx(3.6e15 / (165.2e12 * 0.5) / 3600)


SMALL = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2}


def small(attention: dict) -> PalimpsestConfig:
    return PalimpsestConfig(
        vocab_size=3000, tie_word_embeddings=False, attention={"segment_length": 64} | attention, **SMALL
    )


def allocated(config: PalimpsestConfig, batch: Batch, *, bfloat16: bool, recompute: bool) -> int:
    """Return the peak of what the allocator hands out for an update, above what was there before."""
    model = PalimpsestForCausalLM(config).train()
    if recompute:
        recompute_activations(model)
    accumulate_gradients(model, [batch], bfloat16=bfloat16)  # so that there are gradients to add to
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        accumulate_gradients(model, [batch], bfloat16=bfloat16)
    now = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("attention", "bfloat16", "recompute"),
    [
        ({"pattern": ["memory"], "memory": {"kind": "delta"}}, True, False),
        ({"pattern": ["segment_local", "full"]}, False, False),
        ({"pattern": ["memory"], "memory": {"kind": "ridge"}}, True, True),
    ],
)
def test_the_estimate_of_memory_is_what_the_allocator_hands_out(attention, bfloat16, recompute):
    config, tokens = small(attention), 512
    batch = batch_of(config.vocab_size, tokens)
    memory = training_memory(config, 1, tokens, tokens, bfloat16=bfloat16, recompute=recompute)
    peak = allocated(config, batch, bfloat16=bfloat16, recompute=recompute)
    assert memory.activations + memory.head == pytest.approx(peak, rel=0.01)


def test_what_autograd_keeps_of_the_baseline_by_hand():
    """LLaMA's layer in bfloat16 keeps 68 bytes per token and number of its width, and copies of its weights."""
    tokens, width, mlp, heads = 8192, 1024, 4096, 8
    norms = 2 * (4 + 4) * width + 2 * 4  # input and normed, in float32, and the scale
    inputs = (3 + 2 + 1) * 2 * width  # what q, k, v, gate and up are given, each a copy; what o is given
    attention = 4 * 2 * width + 4 * heads  # q, k, v and the output in bfloat16, and the logarithm of the sum
    hidden = 4 * 2 * mlp  # gate, its SiLU, up, and their product
    weights = 2 * (4 * width * width + 3 * width * mlp)  # autocast's copies
    rotary = 4 * 2 * 1024 * 128  # cosines and sines of the places in a segment, for q and for k
    per_layer = tokens * (norms + inputs + attention + hidden) + weights + rotary
    last_norm = tokens * (8 * width + 4)
    memory = training_memory(config_of(STUDY / "baseline_segment_local.yaml"), 1, tokens, 0, bfloat16=True)
    assert memory.activations == pytest.approx(12 * per_layer + last_norm, rel=1e-4)
    assert (memory.weights, memory.gradients, memory.moments) == (302_015_488 * 4, 302_015_488 * 4, 302_015_488 * 8)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_memory_of_any_kind_can_be_estimated(kind):
    short, long = (saved_bytes(small({"pattern": [kind]}), 1, tokens, bfloat16=True) for tokens in (64, 128))
    assert 0 < short < long


@pytest.mark.parametrize("tokens", [64, 65, 100])
def test_the_store_of_a_memorizing_layer_is_counted_whatever_the_length(tokens):
    attention = {"pattern": ["memorizing"], "segment_length": 16}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = PalimpsestConfig(vocab_size=50, attention=attention, **sizes)
    model = PalimpsestForCausalLM(config).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=torch.zeros(2, tokens, dtype=torch.long), use_cache=False)
    real = sum(storage.nbytes() for storage in saved.values())
    assert saved_bytes(config, 2, tokens, bfloat16=False) == real
