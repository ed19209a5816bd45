"""The reconstruction loss of the Compressive Transformer: who learns from it, and over what it is a mean."""

import pytest
import torch
from torch import Tensor

from palimpsest.attention.compressive import attend_by_content
from palimpsest.data import IGNORED
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.testing import assert_close
from palimpsest.training.data import Batch
from palimpsest.training.loop import accumulate_gradients

from .compressive_cases import CONVOLUTION, LENGTH, auxiliary, block, keep_identity, trained
from .model_cases import ATTENTION, HEAD_DIM, HEADS, KEY_HEADS, build, config, run, single, tokens


def test_only_the_convolution_learns_from_the_reconstruction_loss_and_from_nothing_else() -> None:
    model = build(ATTENTION["compressive"])
    out = trained(model, tokens(2, LENGTH))
    assert out.loss is not None
    assert out.auxiliary_loss is not None
    of_text, of_reconstruction = (
        dict(zip(dict(model.named_parameters()), gradients, strict=True))
        for gradients in (
            torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
            for loss in (out.loss - out.auxiliary_loss, out.auxiliary_loss)
        )
    )
    for name, gradient in of_reconstruction.items():
        assert (gradient is not None and bool(gradient.any())) == (CONVOLUTION in name), name
    for name, gradient in of_text.items():
        assert (gradient is not None and bool(gradient.any())) == (CONVOLUTION not in name), name


def test_the_loss_of_training_is_that_of_the_text_and_of_reconstruction() -> None:
    model, x = build(ATTENTION["compressive"]), tokens(2, LENGTH)
    text = model(x, labels=x)
    assert text.auxiliary_loss is None  # not in training
    both = trained(model, x)
    assert both.loss is not None
    assert both.auxiliary_loss is not None
    assert both.auxiliary_loss > 0
    assert_close("loss", both.loss, text.loss + both.auxiliary_loss)


def test_the_loss_of_micro_batches_is_that_of_the_batch_when_the_number_of_items_is_given() -> None:
    model = build(ATTENTION["compressive"]).train()
    x = tokens(4, LENGTH)
    items = 4 * (LENGTH - 1)  # as the trainers of transformers count them
    whole = model(x, labels=x, num_items_in_batch=items).loss
    parts = [model(row[None], labels=row[None], num_items_in_batch=torch.tensor(items)).loss for row in x]
    # transformers takes the loss of the text in float32
    torch.testing.assert_close(torch.stack(parts).sum(), whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(model(x, labels=x).loss, whole, rtol=1e-6, atol=0)
    assert auxiliary(model, x) > 1e-3 * whole


def test_nothing_is_lost_where_compression_loses_nothing() -> None:
    model = single(block(4, 3, 1))
    keep_identity(model)
    assert float(auxiliary(model, tokens(2, LENGTH))) < 1e-25


@pytest.mark.parametrize("more", [{"compression": "mean"}, {"compression": "max"}, {"reconstruction": 0.0}])
def test_without_a_convolution_or_a_weight_there_is_no_loss(more: dict) -> None:
    model = build(block(4, 3, 2, **more))
    out = trained(model, tokens(2, LENGTH))
    assert out.auxiliary_loss is None
    assert out.loss is not None
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)  # nothing waits for a gradient


def test_a_reconstruction_without_a_convolution_is_refused() -> None:
    with pytest.raises(InputError, match="'reconstruction' is for the compression 'convolution', not for 'mean'"):
        config(block(4, 3, 2, compression="mean", reconstruction=2.0))


def test_before_anything_is_evicted_the_loss_is_zero() -> None:
    model = single(block(8, 3, 2))
    for length, positive in ((3, False), (8, False), (11, False), (12, True)):
        loss = auxiliary(model, tokens(2, length))
        assert bool(loss > 0) == positive
        assert loss.isfinite()


def test_a_row_without_a_key_attends_to_all_so_that_its_gradient_is_a_number() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, HEADS, 3, HEAD_DIM, generator=generator)
    k, v = (torch.randn(2, KEY_HEADS, 4, HEAD_DIM, generator=generator) for _ in range(2))
    out = attend_by_content(q, k, v, torch.tensor([0, 2]))
    assert_close("without", out[:1], attend_by_content(q[:1], k[:1], v[:1], torch.tensor([4])))
    assert_close("with", out[1:], attend_by_content(q[1:], k[1:, :, :2], v[1:, :, :2], torch.tensor([2])))


def test_the_loss_of_a_padded_batch_is_the_mean_over_its_rows_alone() -> None:
    model = build(ATTENTION["compressive"])
    x = tokens(4, 20)
    rows = (run(1, 20), run(0, 9) + run(1, 11), run(1, 13) + run(0, 7), run(0, 15) + run(1, 5))
    mask = torch.tensor(rows)
    alone = [auxiliary(model, x[row, here][None]) for row, here in enumerate(mask > 0)]
    assert [bool(loss > 0) for loss in alone] == [True, True, True, False]
    assert_close("loss", auxiliary(model, x, attention_mask=mask), torch.stack(alone).mean())


def test_the_loss_of_packed_documents_is_the_mean_over_their_evictions() -> None:
    model = single(ATTENTION["compressive"] | {"documents": "reset"})
    x = tokens(1, 27)
    ids = torch.tensor([run(0, 9) + run(1, 5) + run(2, 13)])  # 1, 0 and 2 segments that evict one
    first, last = auxiliary(model, x[:, :9]), auxiliary(model, x[:, 14:])
    assert_close("loss", auxiliary(model, x, document_ids=ids), (first + 2 * last) / 3)


def uneven() -> Batch:
    """Rows of different lengths, labels and weights, padded on the right."""
    x = tokens(4, 24)
    labels, documents = x.clone(), torch.zeros_like(x)
    for row, (length, labelled) in enumerate(((24, 20), (9, 3), (13, 13), (5, 2))):
        documents[row, length:] = -1
        labels[row, labelled:] = IGNORED
    return Batch(x, labels, documents, torch.tensor([1.0, 5.0, 1.0, 2.0]))


def accumulated(model: PalimpsestForCausalLM, batches: list[Batch]) -> tuple[float, dict[str, Tensor]]:
    model.train().zero_grad()
    loss = accumulate_gradients(model, batches)
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_micro_batches_change_neither_loss_nor_gradient() -> None:
    model, whole = build(ATTENTION["compressive"]), uneven()
    parts = [Batch(*(x[rows] for x in whole)) for rows in (slice(0, 1), slice(1, 4))]
    (loss, expected), (loss_of_parts, got) = accumulated(model, [whole]), accumulated(model, parts)
    assert loss == pytest.approx(loss_of_parts, rel=1e-6)
    assert len(expected) == len(list(model.parameters()))
    for name, gradient in expected.items():
        # cross entropy itself is in float32
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-7)
        if CONVOLUTION in name:
            assert_close(name, got[name], gradient)


def test_the_loop_trains_the_convolution_on_the_real_tokens_and_tells_the_loss_of_the_text() -> None:
    model, batch = build(ATTENTION["compressive"]), uneven()
    loss, got = accumulated(model, [batch])
    other = batch._replace(input_ids=torch.where(batch.document_ids < 0, 7, batch.input_ids))
    _, with_other_padding = accumulated(model, [other])
    out = trained(model, batch.input_ids, document_ids=batch.document_ids)
    assert out.auxiliary_loss is not None
    model.zero_grad()
    out.auxiliary_loss.backward()
    checked = [name for name in got if CONVOLUTION in name]
    assert len(checked) == 4
    for name in checked:
        assert_close(name, got[name], model.get_parameter(name).grad)  # pyright: ignore[reportArgumentType]
        assert_close(name, with_other_padding[name], got[name])
    mean = build(ATTENTION["compressive"] | block(4, 3, 2, reconstruction=0.0))
    mean.load_state_dict(model.state_dict())
    assert loss == pytest.approx(accumulated(mean, [batch])[0], rel=1e-6)


def test_in_autocast_the_loss_is_float32_and_learned_from() -> None:
    model = build(ATTENTION["compressive"]).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = trained(model, tokens(2, LENGTH)).auxiliary_loss
    assert loss is not None
    assert loss.dtype == torch.float32
    loss.backward()
    for name, weight in model.named_parameters():
        if CONVOLUTION in name:
            assert weight.grad is not None
            assert weight.grad.isfinite().all()
            assert weight.grad.any()
