import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from palimpsest.errors import InputError
from palimpsest.training import TrainingSpec
from palimpsest.training.optimizer import (
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    schedule,
    set_learning_rates,
)
from palimpsest.training.state import model_config, new_model
from training_case import recipe

RECIPE = recipe({"kind": "text", "sequence_length": 64, "directory": "prepared"})


def spec(**changes) -> TrainingSpec:
    return TrainingSpec(**{"steps": 100, "batch_size": 1, "learning_rate": 1e-3, **changes})


def model(**attention):
    changed = RECIPE.model.attention.model_copy(update=attention)
    return new_model(model_config(RECIPE.model.model_copy(update={"attention": changed}), 50), seed=0)


def learn(network, optimizer, updates: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        ids = torch.randint(0, 50, (2, 64), generator=generator)
        network(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def names_of(optimizer, network, group: str) -> set[str]:
    by_id = {id(parameter): name for name, parameter in network.named_parameters()}
    return {by_id[id(p)] for g in optimizer.param_groups if g["name"] == group for p in g["params"]}


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_is_in_the_group_it_belongs_to(tied):
    changed = RECIPE.model.model_copy(update={"tie_word_embeddings": tied})
    network = new_model(model_config(changed, 50), seed=0)
    optimizer = build_optimizer(network, spec(weight_decay=0.3))
    gates, vectors, matrices = (names_of(optimizer, network, g) for g in ("gates", "vectors", "matrices"))
    assert gates == {"model.layers.0.self_attn.gate.bias", "model.layers.0.self_attn.memory.ridge"}
    assert vectors == {"model.embed_tokens.weight"} | {n for n, _ in network.named_parameters() if "norm" in n}
    assert ("lm_head.weight" in matrices) is not tied
    assert gates | vectors | matrices == {name for name, _ in network.named_parameters()}
    assert {g["name"]: g["weight_decay"] for g in optimizer.param_groups} == {
        "matrices": 0.3,
        "vectors": 0.0,
        "gates": 0.0,
    }


def test_a_model_without_memory_has_no_gates():
    network = model(pattern=["segment_local"])
    assert {g["name"] for g in build_optimizer(network, spec()).param_groups} == {"matrices", "vectors"}


def test_weight_decay_reaches_matrices_alone():
    network = model()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = build_optimizer(network, spec(weight_decay=0.5))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decayed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert decayed == names_of(optimizer, network, "matrices")


def test_the_schedule_by_hand():
    values = [schedule(step, spec(steps=8, warmup_steps=4, final_fraction=0.2)) for step in range(8)]
    cosine = [0.2 + 0.8 * (1 + math.cos(math.pi * part / 4)) / 2 for part in (1, 2, 3, 4)]
    assert values == pytest.approx([0.25, 0.5, 0.75, 1.0, *cosine])
    assert values[-1] == pytest.approx(0.2)


@given(steps=st.integers(1, 500), share=st.floats(0, 1), final=st.floats(0, 1))
def test_the_schedule_rises_then_falls_and_never_leaves_its_range(steps, share, final):
    training = spec(steps=steps, warmup_steps=int(share * steps), final_fraction=final)
    values = [schedule(step, training) for step in range(steps)]
    peak = max(training.warmup_steps - 1, 0)
    assert all(0 < value <= 1 or final == 0 for value in values)
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert all(a >= b - 1e-12 for a, b in zip(values[peak:], values[peak + 1 :], strict=False))


def test_gates_have_a_rate_of_their_own():
    network = model()
    training = spec(learning_rate=1e-3, gate_learning_rate=0.5, warmup_steps=10)
    optimizer = build_optimizer(network, training)
    assert set_learning_rates(optimizer, 4, training) == pytest.approx((5e-4, 0.25))
    assert {g["name"]: g["lr"] for g in optimizer.param_groups} == pytest.approx(
        {"matrices": 5e-4, "vectors": 5e-4, "gates": 0.25}
    )


def test_the_state_survives_a_file_to_the_bit(tmp_path):
    network = model()
    optimizer = build_optimizer(network, spec())
    learn(network, optimizer, 3)
    save_file(optimizer_tensors(optimizer, network), tmp_path / "state.safetensors")
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    learn(network, optimizer, 2, seed=1)

    other = model()
    other.load_state_dict(weights)
    resumed = build_optimizer(other, spec())
    load_optimizer_tensors(resumed, other, load_file(tmp_path / "state.safetensors"))
    learn(other, resumed, 2, seed=1)
    for (name, one), two in zip(network.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_the_state_of_another_model_is_refused():
    network = model()
    optimizer = build_optimizer(network, spec())
    learn(network, optimizer, 1)
    tensors = optimizer_tensors(optimizer, network)
    local = model(pattern=["segment_local"])
    with pytest.raises(InputError, match=r"gate\.bias.* does not belong to this model"):
        load_optimizer_tensors(build_optimizer(local, spec()), local, tensors)
