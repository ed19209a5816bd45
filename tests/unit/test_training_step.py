"""The weights that a run begins with, and the loss and the gradient of one update."""

from pathlib import Path

import pytest
import torch

from palimpsest.training import ModelSpec, model_config, new_model
from palimpsest.training.data import Batch
from palimpsest.training.loop import accumulate_gradients, recompute_activations
from training_case import recipe, text_data


def model_spec() -> ModelSpec:
    spec = recipe(text_data(Path("texts"))).model
    assert spec is not None
    return spec


def test_new_weights_are_a_pure_function_of_the_seed_and_equal_across_kinds():
    spec = model_spec()

    def weights(seed, **attention):
        changed = spec.model_copy(update={"attention": spec.attention.model_copy(update=attention)})
        return new_model(model_config(changed, 100), seed).state_dict()

    torch.rand(7)  # what was drawn before must not matter, and what is drawn here must not matter to others
    state = torch.random.get_rng_state()
    one, again, other = weights(0), weights(0), weights(1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(one[name], again[name]) for name in one)
    matrix = "model.layers.1.mlp.up_proj.weight"
    assert not torch.equal(one[matrix], other[matrix])
    assert one[matrix].std() == pytest.approx(0.02, rel=0.2)
    for pattern in (["full"], ["segment_local"], ["memory"]):
        kind = weights(0, pattern=pattern)
        shared = one.keys() & kind.keys()
        assert len(shared) >= 20
        assert all(torch.equal(one[name], kind[name]) for name in shared)


def gradients(model, batches, **options) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = accumulate_gradients(model, batches, **options)
    return loss, {name: p.grad.clone() for name, p in model.named_parameters()}


def uneven_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (4, 64), generator=generator)
    labels = ids.clone()
    for row, labelled in enumerate((60, 3, 17, 40)):
        labels[row, labelled:] = -100
    return Batch(ids, labels, torch.zeros_like(ids), torch.tensor([1.0, 5.0, 1.0, 2.0]))


def test_micro_batches_change_neither_loss_nor_gradient():
    model = new_model(model_config(model_spec(), 50), seed=0).double()
    whole = uneven_batch()
    parts = [Batch(*(tensor[rows] for tensor in whole)) for rows in (slice(0, 1), slice(1, 4))]
    loss, gradient = gradients(model, [whole])
    loss_of_parts, gradient_of_parts = gradients(model, parts)
    assert loss == pytest.approx(loss_of_parts, rel=1e-6)
    for name in gradient:
        torch.testing.assert_close(gradient[name], gradient_of_parts[name], rtol=1e-4, atol=1e-8)


def test_the_loss_is_the_weighted_mean_over_labelled_tokens():
    model = new_model(model_config(model_spec(), 50), seed=0)
    batch = uneven_batch()
    logprobs = model(batch.input_ids).logits.detach().log_softmax(-1)
    total = weight = 0.0
    for row in range(4):
        for place in range(1, 64):
            label = int(batch.labels[row, place])
            if label != -100:
                total -= float(batch.weights[row]) * float(logprobs[row, place - 1, label])
                weight += float(batch.weights[row])
    assert accumulate_gradients(model, [batch]) == pytest.approx(total / weight, rel=1e-5)


def test_gradient_checkpointing_computes_the_same():
    model = new_model(model_config(model_spec(), 50), seed=0).train()
    loss, plain = gradients(model, [uneven_batch()])
    recompute_activations(model)
    again, recomputed = gradients(model, [uneven_batch()])
    assert loss == again
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
