"""The Compressive Transformer against its equations, token by token in numpy, and its reconstruction loss."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from palimpsest.attention import CompressiveAttention
from palimpsest.attention.compressive import attend_by_content
from palimpsest.attention.sizes import Sizes
from palimpsest.data import IGNORED
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.models.modeling import PalimpsestCausalLMOutput
from palimpsest.testing import assert_close
from palimpsest.training.data import Batch
from palimpsest.training.loop import accumulate_gradients

from .model_cases import ATTENTION, HEAD_DIM, HEADS, KEY_HEADS, SEGMENT, build, config, in_passes, logits, run, tokens
from .token_oracle import Array, CaughtLayer, attend, joined

LENGTH = 31
"""Seven segments, and three tokens of an eighth."""

LENGTHS = [(4, 3, 2), (4, 4, 4), (8, 2, 1), (2, 5, 2), (2, 1, 2), (8, 100, 4)]
"""Memory, compressed memory and ratio: a memory shorter than the segment, a compressed one that overflows, or not."""

COMPRESSIONS = ["mean", "max", "convolution"]
CONVOLUTION = ".self_attn.convolution."


def block(memory: int, compressed: int, ratio: int, **more: object) -> dict:
    chosen = {"cache_length": memory, "compressed_length": compressed, "ratio": ratio} | more
    return {"pattern": "compressive", "compressive": chosen}


class Stream:
    """The memories of one row and head of keys: lists of (key, value), the latest last."""

    def __init__(self, memory: int, compressed: int, ratio: int, compress: Callable[[list[tuple], int], Array]):
        self.longest = memory, compressed
        self.ratio, self.compress = ratio, compress
        self.memory: list[tuple[Array, Array]] = []
        self.compressed: list[tuple[Array, Array]] = []

    def places(self) -> list[int]:
        """Return where the tokens of both memories sit: at the end of theirs."""
        memory, compressed = self.longest
        first = compressed - len(self.compressed)
        then = compressed + memory - len(self.memory)
        return [*range(first, compressed), *range(then, compressed + memory)]

    def write(self, segment: list[tuple[Array, Array]]) -> tuple[list, list]:
        """Push a segment, and return what was evicted, and what that was compressed to."""
        memory, compressed = self.longest
        self.memory += segment
        evicted = self.memory[:-memory]
        self.memory = self.memory[-memory:]
        blocks = [evicted[i : i + self.ratio] for i in range(0, len(evicted), self.ratio)]
        made = [(self.compress(tokens, 0), self.compress(tokens, 1)) for tokens in blocks]
        self.compressed = (self.compressed + made)[-compressed:]
        return evicted, made


def compression(kind: str, attention: CompressiveAttention, head: int) -> Callable[[list[tuple], int], Array]:
    """Return what makes one key (0) or value (1) of a block of tokens."""

    def compress(block: list[tuple], which: int) -> Array:
        x = np.stack([token[which] for token in block])
        if kind == "mean":
            return x.sum(0) / len(x)
        if kind == "max":
            return np.array([max(column) for column in x.T])
        assert attention.convolution is not None
        weights = attention.convolution.key_weight, attention.convolution.value_weight
        matrices = weights[which].detach().numpy()[head]
        return np.sum([x[j] @ matrices[j] for j in range(len(x))], axis=0)

    return compress


def defined(layer: CaughtLayer) -> tuple[Array, float]:
    """Return the output ``[B, H, T, D]`` and the reconstruction loss by the equations."""
    attention = layer.attention
    assert isinstance(attention, CompressiveAttention)
    chosen = attention.block
    assert chosen.cache_length is not None
    assert chosen.compressed_length is not None
    q, k, v = (layer.heads(name) for name in ("q", "k", "v"))
    out = np.full(q.shape, np.nan)
    row_losses = []
    for row in range(len(q)):
        errors: dict[int, list[Array]] = {}
        for head in range(KEY_HEADS):
            compress = compression(chosen.compression, attention, head)
            stream = Stream(chosen.cache_length, chosen.compressed_length, chosen.ratio, compress)
            queries = range(head * layer.group, (head + 1) * layer.group)
            for start in range(0, q.shape[2], SEGMENT):
                segment = list(zip(k[row, head, start:][:SEGMENT], v[row, head, start:][:SEGMENT], strict=True))
                earlier = stream.compressed + stream.memory
                places = stream.places() + [sum(stream.longest) + slot for slot in range(SEGMENT)]
                for slot in range(len(segment)):
                    seen = earlier + segment[: slot + 1]
                    keys = [layer.rotated(key, place) for (key, _), place in zip(seen, places, strict=False)]
                    for h in queries:
                        query = layer.rotated(q[row, h, start + slot], sum(stream.longest) + slot)
                        out[row, h, start + slot] = attend(query, keys, [value for _, value in seen])
                if len(segment) < SEGMENT:
                    break
                evicted, made = stream.write(segment)
                for h in queries if evicted else ():
                    for query in q[row, h, start : start + SEGMENT]:
                        exact, compressed = (attend(query, *map(list, zip(*x, strict=True))) for x in (evicted, made))
                        errors.setdefault(start, []).append((compressed - exact) ** 2)
        row_losses.append(np.mean([np.mean(error) for error in errors.values()]) if errors else 0.0)
    return out, (chosen.reconstruction or 0.0) * float(np.mean(row_losses))


def single(attention: dict) -> PalimpsestForCausalLM:
    return build(attention, num_hidden_layers=1)


def trained(model: PalimpsestForCausalLM, x: Tensor, **options: object) -> PalimpsestCausalLMOutput:
    """Return what a model in training makes of a batch."""
    return model.train()(x, labels=x, **options)


def auxiliary(model: PalimpsestForCausalLM, x: Tensor, **options: object) -> Tensor:
    loss = trained(model, x, **options).auxiliary_loss
    assert loss is not None
    return loss.detach()


# The definition


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_a_layer_is_its_definition(lengths: tuple[int, int, int], kind: str) -> None:
    weight = {"reconstruction": 0.7} if kind == "convolution" else {}
    model = single(block(*lengths, compression=kind, **weight))
    layer = CaughtLayer(model)
    loss = trained(model, tokens(2, LENGTH)).auxiliary_loss
    expected, expected_loss = defined(layer)
    assert_close("out", layer.out, joined(expected))
    if kind == "convolution":
        assert loss is not None
        assert expected_loss > 1e-4 or lengths[2] == 1
        assert_close("loss", loss, torch.tensor(expected_loss, dtype=torch.float64))
    else:
        assert loss is None


def test_without_a_block_the_lengths_are_those_of_the_segment() -> None:
    x = tokens(2, LENGTH)
    plain, given = build({"pattern": "compressive"}), build(block(SEGMENT, SEGMENT, 4))
    assert torch.equal(logits(plain, x), logits(given, x))


@pytest.mark.parametrize("kind", COMPRESSIONS)
@pytest.mark.parametrize("memory", [1, 4, 6])
def test_one_to_one_it_is_transformer_xl(kind: str, memory: int) -> None:
    model = build(block(memory, 5, 1, compression=kind))
    longer = build({"pattern": "transformer_xl", "transformer_xl": {"cache_length": memory + 5}})
    if kind == "convolution":
        keep_identity(model)
    longer.load_state_dict(model.state_dict(), strict=False)
    x = tokens(2, LENGTH)
    assert_close("whole", logits(model, x), logits(longer, x))
    assert_close("in passes", in_passes(model, x, (6, 1, 1, 23))[0], logits(longer, x))


def keep_identity(model: PalimpsestForCausalLM) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if CONVOLUTION in name:
                weight.copy_(torch.eye(HEAD_DIM).expand_as(weight))


def test_a_new_convolution_is_the_mean() -> None:
    fresh = PalimpsestForCausalLM(config(block(4, 3, 2))).double().eval()
    mean = PalimpsestForCausalLM(config(block(4, 3, 2, compression="mean"))).double().eval()
    kept = {name: weight for name, weight in fresh.state_dict().items() if CONVOLUTION not in name}
    assert len(fresh.state_dict()) - len(kept) == 4
    mean.load_state_dict(kept)
    assert_close("logits", logits(fresh, tokens(2, LENGTH)), logits(mean, tokens(2, LENGTH)))


def test_what_was_evicted_is_still_seen_through_the_compressed_memory_alone() -> None:
    model = single(block(4, 3, 2))
    x = tokens(1, 17)
    changed = x.repeat(16, 1)
    changed.fill_diagonal_(60)  # another token at place t in row t
    effect = (logits(model, changed)[:, 16] - logits(model, x)[:, 16]).abs().amax(1)
    assert (effect[6:16] > 1e-9).all()  # 3 compressed tokens of 2 each, and 4 of the memory, before the segment
    assert (effect[:6] < 1e-13).all()
    assert CompressiveAttention.exact_from(model.config.attention_spec, 16) == 12


# The reconstruction loss


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


# Its cost, and what cannot work


@pytest.mark.parametrize("length", [1, 8, 30, 97])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_operations_are_counted_as_by_hand(length: int, lengths: tuple[int, int, int]) -> None:
    total = 0.0
    stream = Stream(*lengths, compress=lambda tokens, which: np.zeros(1))
    for start in range(0, length, SEGMENT):
        here = min(SEGMENT, length - start)
        for slot in range(here):
            total += HEADS * 4 * HEAD_DIM * (len(stream.compressed) + len(stream.memory) + slot + 1)
        if here == SEGMENT:
            evicted, _ = stream.write([(np.zeros(1), np.zeros(1))] * SEGMENT)
            total += len(evicted) * 2 * KEY_HEADS * 2 * HEAD_DIM**2  # a matrix for the key, and one for the value
    learned, mean = (config(block(*lengths, compression=kind)) for kind in ("convolution", "mean"))
    counted = CompressiveAttention.flops(Sizes.of(learned), learned.attention_spec, length)
    assert counted == pytest.approx(total / length)
    without = CompressiveAttention.flops(Sizes.of(mean), mean.attention_spec, length)
    assert (without < counted) == (length // SEGMENT * SEGMENT > lengths[0])


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"ratio": 3}, "'segment_length' (4) must be a multiple of 'compressive.ratio' (3)"),
        ({"cache_length": 3, "ratio": 2}, "'compressive.cache_length' (3) must be a multiple"),
        ({"ratio": 0}, "'compressive.ratio': should be greater than or equal to 1 (got 0)"),
        ({"compression": "avg"}, "unknown value 'avg' of 'compressive.compression'"),
        ({"reconstruction": -1.0}, "'compressive.reconstruction': should be greater than or equal to 0 (got -1.0)"),
    ],
)
def test_what_cannot_work_is_refused(chosen: dict, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        config({"pattern": "compressive", "compressive": chosen})
    assert sentence in str(caught.value)
