import pytest
import torch

from palimpsest.attention import MemoryAttention
from palimpsest.memory import FEATURE_MAPS, scan
from palimpsest.records import LayerMetrics, StepRecord, read_jsonl
from palimpsest.training.data import Batch
from palimpsest.training.metrics import MetricsLog, layer_metrics
from palimpsest.training.state import model_config, new_model
from training_case import SEGMENT, recipe

RECIPE = recipe({"kind": "text", "sequence_length": 64, "directory": "prepared"})
TOKENS = 2 * SEGMENT + 10


def network(**attention):
    values = {**RECIPE.model.attention.model_dump(), **attention}
    spec = RECIPE.model.model_copy(update={"attention": type(RECIPE.model.attention)(**values)})
    return new_model(model_config(spec, 50), seed=1)


def batch(padding: int = 0) -> Batch:
    ids = torch.randint(0, 50, (2, TOKENS + padding), generator=torch.Generator().manual_seed(5))
    documents = torch.zeros_like(ids)
    documents[0, TOKENS:] = -1
    return Batch(ids, ids, documents, torch.ones(2))


def seen_by_the_first_layer(model, ids):
    """Compute what the first layer's memory holds before the last segment, and the queries of that segment."""
    block = model.model.layers[0]
    hidden = block.input_layernorm(model.model.embed_tokens(ids))
    q, k, v = (
        projection(hidden).unflatten(-1, (2, 8)).transpose(1, 2)
        for projection in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj)
    )
    memory = block.self_attn.build_memory()
    written = slice(None, 2 * SEGMENT)
    _, state = scan(memory, q[:, :, written], k[:, :, written], v[:, :, written], segment_length=SEGMENT)
    return memory, state, q[:, :, 2 * SEGMENT :]


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("kind", ["linear", "delta"])
@torch.no_grad()
def test_normalised_memories_are_described(kind, padding):
    model = network(memory={"kind": kind})
    described = layer_metrics(model, batch(padding))[0]
    _, state, queries = seen_by_the_first_layer(model, batch().input_ids[:1])
    read = (FEATURE_MAPS["elu1"].apply(queries) * state.normaliser.unsqueeze(2)).sum(-1)
    assert described.kind == "memory"
    assert described.memory_norm == pytest.approx(state.matrix.norm(dim=(-2, -1))[0].tolist(), rel=1e-4)
    assert described.normaliser_min == pytest.approx(read.amin(-1)[0].tolist(), rel=1e-4)
    assert described.normaliser_max == pytest.approx(read.amax(-1)[0].tolist(), rel=1e-4)


@torch.no_grad()
def test_a_memory_that_divides_by_nothing_has_no_range_of_denominators():
    model = network(memory={"kind": "hebbian"})
    described = layer_metrics(model, batch())[0]
    _, state, _ = seen_by_the_first_layer(model, batch().input_ids[:1])
    assert described.memory_norm == pytest.approx(state.matrix.norm(dim=(-2, -1))[0].tolist(), rel=1e-4)
    assert described.normaliser_min == described.normaliser_max == ()


@pytest.mark.parametrize("form", ["normal", "square_root"])
@torch.no_grad()
def test_both_forms_of_ridge_are_described_alike(form):
    model = network(memory={"kind": "ridge", "ridge": 0.7, "form": form})
    described = layer_metrics(model, batch())[0]
    reference = network(memory={"kind": "ridge", "ridge": 0.7})
    _, state, _ = seen_by_the_first_layer(reference, batch().input_ids[:1])
    eigenvalues = torch.linalg.eigvalsh(state.gram[0] + 0.7 * torch.eye(8))
    assert described.memory_norm == pytest.approx(state.matrix.norm(dim=(-2, -1))[0].tolist(), rel=1e-3)
    assert described.normaliser_min == pytest.approx(eigenvalues[:, 0].tolist(), rel=1e-2)
    assert described.normaliser_max == pytest.approx(eigenvalues[:, -1].tolist(), rel=1e-3)


@pytest.mark.parametrize(
    ("gate", "value"),
    [
        ({"kind": "sigmoid", "init": -2.0}, torch.tensor(-2.0).sigmoid().item()),
        ({"kind": "hard_sigmoid", "init": 1.0}, 0.7),
        ({"kind": "token", "init": 0.0}, 0.5),
    ],
)
def test_gates_are_described(gate, value):
    assert layer_metrics(network(gate=gate), batch())[0].gates == pytest.approx((value, value))


def test_gates_of_a_store_are_described_too():
    model = network(pattern=["memorizing", "full"], gate={"kind": "sigmoid", "init": -2.0})
    memorizing, full = layer_metrics(model, batch())
    assert memorizing.gates == pytest.approx((torch.tensor(-2.0).sigmoid().item(),) * 2)
    assert memorizing.memory_norm == memorizing.normaliser_min == full.gates == ()


def test_layers_without_memory_have_gradients_alone():
    model = network(pattern=["memory", "full"], memory={"kind": "linear"})
    model(batch().input_ids, labels=batch().labels).loss.backward()
    memory, full = layer_metrics(model, batch())
    assert memory.gates
    assert full == LayerMetrics(
        layer=1,
        kind="full",
        grad_norm=full.grad_norm,
        attention_grad_norm=full.attention_grad_norm,
        mlp_grad_norm=full.mlp_grad_norm,
    )


def test_gradients_of_a_layer_are_told_as_a_whole_and_by_part():
    model = network(pattern=["memory", "full"], memory={"kind": "linear"})
    model(batch().input_ids, labels=batch().labels).loss.backward()
    for block, found in zip(model.model.layers, layer_metrics(model, batch()), strict=True):
        for module, norm in (
            (block, found.grad_norm),
            (block.self_attn, found.attention_grad_norm),
            (block.mlp, found.mlp_grad_norm),
        ):
            assert norm == pytest.approx(
                torch.cat([p.grad.flatten() for p in module.parameters()]).norm().item(), rel=1e-5
            )
    gate = model.model.layers[0].self_attn.gate.bias
    described = layer_metrics(model, batch())[0]
    assert described.gate_bias == tuple(gate.tolist())
    assert described.gate_bias_grad == tuple(gate.grad.tolist())
    assert any(gate.grad.tolist())


def test_gates_without_a_gradient_have_none():
    described = layer_metrics(network(gate={"kind": "hard_sigmoid", "init": 1.0}), batch())[0]
    assert described.gate_bias == (1.0, 1.0)
    assert described.gate_bias_grad == ()


def test_looking_changes_nothing():
    model = network()
    model.train()
    model(batch().input_ids, labels=batch().labels).loss.backward()
    before = [(p.detach().clone(), p.grad.clone()) for p in model.parameters()]
    random_state = torch.random.get_rng_state()
    first, again = layer_metrics(model, batch()), layer_metrics(model, batch())
    assert first == again
    assert all(
        torch.equal(p, w) and torch.equal(p.grad, g) for p, (w, g) in zip(model.parameters(), before, strict=True)
    )
    assert model.training
    assert torch.equal(random_state, torch.random.get_rng_state())
    layer = model.model.layers[0].self_attn
    assert isinstance(layer, MemoryAttention)
    assert layer.probe is None
    assert not layer.q_proj._forward_hooks
    assert not layer.gate._forward_hooks


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        tokens=step,
        loss=1.0,
        learning_rate=1.0,
        gate_learning_rate=1.0,
        grad_norm=1.0,
        skipped=0,
        seconds=1.0,
    )


@pytest.mark.parametrize("torn", ['{"step": 8, "tok', '{"step": 5, "tok\n', "\x00\x00\n", ""])
def test_the_log_is_rewound_to_a_step_and_a_torn_line_dropped(tmp_path, torn):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.rewind(3)  # nothing there yet
    for step in (2, 4, 6):
        log.append(record(step))
    with open(log.path, "a") as out:
        out.write(torn)
    log.rewind(6)
    assert [r.step for r in read_jsonl(log.path, StepRecord)] == [2, 4, 6]
    log.rewind(5)
    log.append(record(6))
    assert [r.step for r in read_jsonl(log.path, StepRecord)] == [2, 4, 6]
    log.rewind(0)
    assert log.path.read_text() == ""
