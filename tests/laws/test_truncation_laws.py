"""Laws of truncated back-propagation: the same loss, the gradient with the past held fixed, and bounded activations."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from palimpsest.data import IGNORED
from palimpsest.memory.layout import document_numbers
from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.testing import assert_close
from palimpsest.training import loop, truncation
from palimpsest.training.data import Batch
from palimpsest.training.loop import accumulate_gradients, passages_of
from palimpsest.training.truncation import passages, whole

from .model_cases import ATTENTION, SEGMENT, TABLE, WITHOUT_GRADIENT, Case, build, model_of, run, streams

STEP = 1e-4
DOCUMENTS = ["carry", "reset"]
EACH = pytest.mark.parametrize("name", TABLE)
EITHER = pytest.mark.parametrize("documents", DOCUMENTS)
PATTERN = {name: ATTENTION[name].get("pattern", "memory") for name in TABLE}


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let norms compute in float64: those of LLaMA round to float32, which no difference of losses survives."""

    def forward(norm: LlamaRMSNorm, x: Tensor) -> Tensor:
        return norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


def packed() -> Batch:
    """Return two rows of documents of one to five segments, one row padded; here and there a label is missing."""
    rows = (run(0, 18) + run(1, 2) + run(2, 3), run(0, 5) + run(1, 13) + run(2, 1) + run(-1, 4))
    ids = torch.tensor(rows)
    generator = torch.Generator().manual_seed(4)
    # no token comes twice: in the first layer it would have the key that it had before, and there the associative
    # memory, which counts no key twice, has a kink
    tokens = 1 + torch.randperm(59, generator=generator)[: ids.numel()].view_as(ids)
    labels = tokens.masked_fill(torch.rand(ids.shape, generator=generator) < 0.2, IGNORED)
    return Batch(tokens, labels.masked_fill(ids < 0, IGNORED), ids, torch.tensor([1.0, 2.5]))


def gradient(
    model: PalimpsestForCausalLM, batches: list[Batch], segments: int | None
) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradient, zero where there is none."""
    model.zero_grad()
    loss = accumulate_gradients(model, batches, segments=segments)
    return loss, {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def documents_of(batch: Batch, documents: str) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield tokens and targets of every stream of a batch, a document or a row, with its weight."""
    for tokens, labels, ids, weight in zip(*batch, strict=True):
        targets = torch.cat([labels[1:], torch.tensor([IGNORED])])
        for number in ids[ids >= 0].unique() if documents == "reset" else [None]:
            own = ids >= 0 if number is None else ids == number
            yield tokens[own], targets[own], float(weight)


def nats_of(model: PalimpsestForCausalLM, tokens: Tensor, targets: Tensor, past: PalimpsestCache | None) -> float:
    """Return the negative log-likelihood of targets after a past, by the definition."""
    logits = model(tokens[None], past_key_values=None if past is None else past.clone(), use_cache=past is not None)
    there = targets != IGNORED
    said = logits.logits[0].log_softmax(-1)[there].gather(1, targets[there, None])
    return -float(said.sum())


@torch.no_grad()
def slope_with_the_past_fixed(
    model: PalimpsestForCausalLM, batch: Batch, documents: str, segments: int, direction: dict[str, Tensor]
) -> float:
    """Return how the loss changes along a direction of the weights if what came before each part does not.

    Without autograd: every part's loss is differenced alone, with a cache that the unmoved weights have filled.
    """
    length, total, slope = segments * SEGMENT, 0.0, 0.0
    own = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for tokens, targets, weight in documents_of(batch, documents):
        total += weight * int((targets != IGNORED).sum())
        for start in range(0, len(tokens), length):
            past = model(tokens[None, :start], use_cache=True).past_key_values if start else None
            for sign in (1.0, -1.0):
                for name, parameter in model.named_parameters():
                    parameter.copy_(own[name] + sign * STEP * direction[name])
                part = slice(start, start + length)
                slope += sign * weight * nats_of(model, tokens[part], targets[part], past)
            for name, parameter in model.named_parameters():
                parameter.copy_(own[name])
    return slope / (2 * STEP * total)


def direction_of(model: PalimpsestForCausalLM, seed: int) -> dict[str, Tensor]:
    """Return a random direction of length 1, in which the weights of a compression, that get no gradient, stay."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in model.named_parameters()}
    moved = {n: v * 0.0 if ".self_attn.convolution." in n else v for n, v in drawn.items()}
    length = torch.stack([v.norm() for v in moved.values()]).norm()
    return {n: v / length for n, v in moved.items()}


@EACH
@EITHER
@pytest.mark.usefixtures("exact_norms")
def test_the_gradient_is_that_with_the_past_of_every_part_held_fixed(name: str, documents: str) -> None:
    # a kind that stops gradients itself is what it is for differences only where it stops none: inside a segment
    segments = 1 if PATTERN[name] in WITHOUT_GRADIENT else 2
    model = build(ATTENTION[name] | {"documents": documents})
    _, found = gradient(model, [packed()], segments)
    direction = direction_of(model, 0)
    slope = sum(float((found[n] * v).sum()) for n, v in direction.items())
    expected = slope_with_the_past_fixed(model, packed(), documents, segments, direction)
    assert slope == pytest.approx(expected, rel=1e-6)


@EACH
@EITHER
@pytest.mark.parametrize("segments", [1, 3])
def test_the_loss_is_that_of_the_whole(name: str, documents: str, segments: int) -> None:
    model = model_of(name, documents)
    with torch.no_grad():
        nats = sum(w * nats_of(model, x, y, None) for x, y, w in documents_of(packed(), documents))
    total = sum(w * int((y != IGNORED).sum()) for _, y, w in documents_of(packed(), documents))
    loss, _ = gradient(model, [packed()], segments)
    assert_close(name, torch.tensor(loss).double(), torch.tensor(nats / total).double())


@EACH
@EITHER
def test_where_nothing_is_cut_the_gradient_is_that_of_the_whole(name: str, documents: str) -> None:
    model = model_of(name, documents)
    loss, expected = gradient(model, [packed()], None)
    enough = 5 if documents == "reset" else 6  # the longest document has 18 tokens, the rows have 23
    again, found = gradient(model, [packed()], enough)
    assert again == pytest.approx(loss, rel=1e-12)
    for n, p in expected.items():
        torch.testing.assert_close(found[n], p, rtol=1e-9, atol=1e-12)
    # and also where the documents, or the rows, are laid out anew
    model.zero_grad()
    total = sum(w * int((y != IGNORED).sum()) for _, y, w in documents_of(packed(), documents))
    for passage in passages(packed(), enough * SEGMENT, reset=documents == "reset"):
        assert passage.begins
        assert passage.goes_on == 0
        out = model(passage.input_ids, document_ids=passage.document_ids, use_cache=False)
        said = out.logits.log_softmax(-1).gather(2, passage.targets.clamp_min(0)[..., None])[..., 0]
        (-(said * passage.weights)[passage.targets != IGNORED].sum() / total).backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(
            torch.zeros_like(p) if p.grad is None else p.grad, expected[n], rtol=1e-8, atol=1e-11
        )


@pytest.mark.parametrize("name", [n for n in TABLE if PATTERN[n] in (*WITHOUT_GRADIENT, "segment_local")])
@EITHER
def test_truncation_to_a_segment_changes_nothing_in_kinds_that_stop_gradients_there(name: str, documents: str) -> None:
    model = model_of(name, documents)
    _, expected = gradient(model, [packed()], None)
    _, found = gradient(model, [packed()], 1)
    for n, p in expected.items():
        torch.testing.assert_close(found[n], p, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["full", "linear", "ridge", "gated_delta_net", "linear_attention"])
@EITHER
def test_truncation_changes_the_gradient_of_kinds_with_a_longer_way_back(name: str, documents: str) -> None:
    model = model_of(name, documents)
    whole_way, two, one = (gradient(model, [packed()], segments)[1] for segments in (None, 2, 1))
    key = "model.layers.0.self_attn.k_proj.weight"
    scale = whole_way[key].norm()
    assert (whole_way[key] - two[key]).norm() > 1e-3 * scale
    assert (two[key] - one[key]).norm() > 1e-3 * scale


@EITHER
@pytest.mark.parametrize("segments", [1, 2])
def test_micro_batches_change_no_truncated_gradient(documents: str, segments: int) -> None:
    model, batch = model_of("ridge", documents), packed()
    loss, expected = gradient(model, [batch], segments)
    again, found = gradient(model, [Batch(*(x[row : row + 1] for x in batch)) for row in (0, 1)], segments)
    assert again == pytest.approx(loss, rel=1e-12)
    for n, p in expected.items():
        torch.testing.assert_close(found[n], p, rtol=1e-9, atol=1e-12)


@given(case=streams(documents=True, max_length=40), segments=st.integers(1, 3), reset=st.booleans())
def test_every_token_is_read_once_and_in_order(case: Case, segments: int, reset: bool) -> None:
    # the batch begins with padding, so that the token 0, of which padding is made, is no other
    ids = torch.nn.functional.pad(case.ids(), (1, 0), value=-1)
    tokens = torch.arange(ids.numel()).view_as(ids)
    labels = (tokens + 1000).masked_fill(ids < 0, IGNORED)
    batch = Batch(tokens, labels, ids, torch.arange(1.0, len(ids) + 1))
    told, length = whole(batch, None), segments * SEGMENT
    numbers = document_numbers(ids) if reset else torch.zeros_like(ids)
    expected = [
        tokens[r][(ids[r] >= 0) & (numbers[r] == n)].tolist() for r in range(len(ids)) for n in range(len(ids[0]))
    ]
    read: list[list[int]] = []
    open_streams: list[list[int]] = []
    for passage in passages(batch, length, reset=reset):
        assert passage.input_ids.shape[0] <= len(ids)
        assert passage.input_ids.shape[1] <= length
        before, open_streams = open_streams, []
        for r, row in enumerate(passage.input_ids):
            real = row > 0
            assert real.tolist() == sorted(real.tolist(), reverse=True)
            assert (passage.targets[r][~real] == IGNORED).all()
            assert passage.targets[r][real].tolist() == told.targets.flatten()[row[real]].tolist()
            assert passage.weights[r][real].tolist() == told.weights.flatten()[row[real]].tolist()
            documents = torch.where(real, 0, -1) if passage.document_ids is None else passage.document_ids[r]
            assert ((documents >= 0) == real).all()
            found = [row[documents == n].tolist() for n in range(int(documents.max()) + 1)]
            if not passage.begins:
                found[0] = before[r] + found[0]
            if r < passage.goes_on:
                assert len(found) == 1
                assert int(real.sum()) == length
                open_streams.append(found.pop())
            read += found
    assert not open_streams
    assert sorted(read) == sorted(stream for stream in expected if stream)


class _Held:
    """Counts the bytes that are kept for a backward pass, and their peak."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def pack(self, x: Tensor) -> "_Kept":
        return _Kept(self, x)


class _Kept:
    def __init__(self, held: _Held, x: Tensor) -> None:
        self.held, self.x, self.bytes = held, x, x.nbytes
        held.now += self.bytes
        held.peak = max(held.peak, held.now)

    def __del__(self) -> None:
        self.held.now -= self.bytes


@EITHER
@pytest.mark.parametrize("name", ["ridge", "delta", "segment_local", "gated_delta_net"])
def test_what_is_kept_for_the_backward_pass_is_that_of_one_part(name: str, documents: str) -> None:
    model = model_of(name, documents)
    ids = torch.zeros(2, 16 * SEGMENT, dtype=torch.long)
    tokens = torch.randint(1, 60, ids.shape, generator=torch.Generator().manual_seed(1))
    peaks = {}
    for segments in (None, 4, 1):
        held = _Held()
        with torch.autograd.graph.saved_tensors_hooks(held.pack, lambda kept: kept.x):
            gradient(model, [Batch(tokens, tokens, ids, torch.ones(2))], segments)
        peaks[segments] = held.peak
    assert peaks[4] < 0.4 * peaks[None]
    assert peaks[1] < 0.15 * peaks[None]


@pytest.mark.usefixtures("exact_norms")
def test_a_part_without_a_label_is_read_and_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of("linear"), packed()
    late = batch._replace(labels=torch.where(torch.arange(batch.labels.shape[1]) < 20, IGNORED, batch.labels))
    with_gradient: list[bool] = []

    def watched(cache: PalimpsestCache, rows: int) -> None:
        with_gradient.append(any(x.requires_grad for layer in cache.layers for x in layer.tensors().values()))
        truncation.cut(cache, rows)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "cut", watched)
        _, found = gradient(model, [late], 1)
    assert with_gradient == [False] * 4 + [True]  # the label of the token 19 is that of 20, in the next part
    direction = direction_of(model, 0)
    expected = slope_with_the_past_fixed(build(ATTENTION["linear"]), late, "carry", 1, direction)
    assert sum(float((found[n] * v).sum()) for n, v in direction.items()) == pytest.approx(expected, rel=1e-6)


def test_streams_that_fit_are_the_ordinary_pass() -> None:
    batch = packed()
    (passage,) = passages_of(model_of("linear", "reset"), batch, 5)
    assert passage.document_ids is not None
    assert torch.equal(passage.input_ids, batch.input_ids)
