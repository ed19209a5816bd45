"""Sliding window and Transformer-XL against their definition: one softmax over the whole stream under a mask."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from palimpsest.attention import Attention, AttentionSpec, SlidingWindowAttention, TransformerXLAttention
from palimpsest.attention.kinds import exact_reach
from palimpsest.attention.recent import Recent
from palimpsest.attention.transformer_xl import keys_met
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.schema import parse
from palimpsest.testing import assert_close

from .model_cases import HEAD_DIM, KEY_HEADS, SEGMENT, UNUSED, build, in_passes, logits, run, single, tokens

LENGTH = 19


class Layer:
    """One attention layer, its inputs and its output head by head, caught while a model runs."""

    def __init__(self, model: PalimpsestForCausalLM):
        self.attention = model.model.layers[0].self_attn
        assert isinstance(self.attention, Attention)
        self.model = model
        self.caught: dict[str, Tensor] = {}
        for name in ("q_proj", "k_proj", "v_proj"):
            projection = self.attention.get_submodule(name)
            projection.register_forward_hook(lambda _, __, out, name=name: self.caught.update({name: out}))
        self.attention.o_proj.register_forward_pre_hook(lambda _, inputs: self.caught.update({"out": inputs[0]}))

    def heads(self, name: str) -> Tensor:
        """Return ``[B, H, T, D]``, grouped heads repeated."""
        x = self.caught[name].unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)
        return x.repeat_interleave(self.attention.heads // x.shape[1], 1)

    def defined(self, seen: Tensor, origin: Tensor, *, stop: Tensor | None = None) -> Tensor:
        """Attend over the whole stream.

        Args:
            seen: ``[T, T]`` bool, the keys that each query sees.
            origin: ``[T]``, the token from which each query counts the places of the rotary embedding.
            stop: ``[T, T]`` bool, the keys through which no gradient flows.
        """
        rows = [self._query(t, seen[t], int(origin[t]), None if stop is None else stop[t]) for t in range(len(seen))]
        return torch.stack(rows, 2).transpose(1, 2).flatten(2)

    def _query(self, t: int, seen: Tensor, origin: int, stop: Tensor | None) -> Tensor:
        q, k, v = (self.heads(name) for name in ("q_proj", "k_proj", "v_proj"))
        if stop is not None:
            k, v = (torch.where(stop[:, None], x.detach(), x) for x in (k, v))
        place = (torch.arange(len(seen)) - origin).clamp_min(0)[None]
        cos, sin = LlamaRotaryEmbedding(config=self.model.config)(q, place)
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        scores = (k @ q[:, :, t, :, None])[..., 0] / HEAD_DIM**0.5
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        return (weights[:, :, None] @ v)[:, :, 0]


def sliding(window: int, length: int) -> Tensor:
    place = torch.arange(length)
    distance = place[:, None] - place
    return (distance >= 0) & (distance < window)


class Cached:
    """The definition of Transformer-XL: what a query sees, from where it counts, and where gradients stop."""

    def __init__(self, cache_length: int, length: int):
        place = torch.arange(length)
        start = place // SEGMENT * SEGMENT
        self.origin = start - cache_length
        self.before = (place < start[:, None]) & (place >= self.origin[:, None])
        self.seen = self.before | ((place >= start[:, None]) & (place <= place[:, None]))


@pytest.mark.parametrize("window", [1, 2, 7, LENGTH, 50])
def test_sliding_window_is_its_definition(window: int) -> None:
    model = single({"pattern": "sliding_window", "sliding_window": {"window": window}})
    layer = Layer(model)
    logits(model, tokens(2, LENGTH))
    with torch.no_grad():
        expected = layer.defined(sliding(window, LENGTH), torch.zeros(LENGTH, dtype=torch.long))
    assert_close("out", layer.caught["out"], expected)


@pytest.mark.parametrize("cache_length", [1, 3, SEGMENT, 2 * SEGMENT + 1, 50])
def test_transformer_xl_is_its_definition(cache_length: int) -> None:
    model = single({"pattern": "transformer_xl", "transformer_xl": {"cache_length": cache_length}})
    layer = Layer(model)
    logits(model, tokens(2, LENGTH))
    with torch.no_grad():
        cached = Cached(cache_length, LENGTH)
        assert_close("out", layer.caught["out"], layer.defined(cached.seen, cached.origin))


def test_gradients_stop_at_the_segment_for_the_cache_and_nowhere_else() -> None:
    model = single({"pattern": "transformer_xl", "transformer_xl": {"cache_length": 6}})
    layer, x = Layer(model), tokens(2, LENGTH)
    names = ("q_proj", "k_proj", "v_proj")
    model(x, use_cache=False)
    weights = torch.randn(layer.caught["out"].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    caught = [layer.caught[name] for name in names]
    cached = Cached(6, LENGTH)
    got = torch.autograd.grad((layer.caught["out"] * weights).sum(), caught, retain_graph=True)
    defined = layer.defined(cached.seen, cached.origin, stop=cached.before)
    expected = torch.autograd.grad((defined * weights).sum(), caught)
    for name, a, b in zip(names, got, expected, strict=True):
        assert_close(name, a, b)


def test_without_a_block_the_length_is_that_of_the_segment() -> None:
    x = tokens(2, LENGTH)
    for kind, block in (("sliding_window", "window"), ("transformer_xl", "cache_length")):
        plain, given = build({"pattern": kind}), build({"pattern": kind, kind: {block: SEGMENT}})
        assert torch.equal(logits(plain, x), logits(given, x))


def test_layers_of_the_pattern_find_their_class() -> None:
    model = build({"pattern": ["sliding_window", "transformer_xl"]})
    kinds = [type(block.self_attn) for block in model.model.layers]
    assert kinds == [SlidingWindowAttention, TransformerXLAttention]


@pytest.mark.parametrize("kind", ["sliding_window", "transformer_xl"])
def test_a_long_window_over_a_short_stream_is_full_attention(kind: str) -> None:
    block = {"sliding_window": {"window": 64}, "transformer_xl": {"cache_length": 64}}
    model, full = build({"pattern": kind, kind: block[kind]}), build({"pattern": "full"})
    full.load_state_dict(model.state_dict())
    x = tokens(3, LENGTH)
    # not closer: cosines and sines are float32, as LLaMA's are, and at other places rounded otherwise
    for out in (logits(model, x), in_passes(model, x, (6, 1, 12))[0]):
        torch.testing.assert_close(out, logits(full, x), rtol=0, atol=1e-6)


def test_the_store_keeps_the_last_tokens_of_every_row() -> None:
    store = Recent.empty(2, KEY_HEADS, 5, HEAD_DIM, dtype=torch.float64, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    rows: list[list[Tensor]] = [[], []]
    for counts in ((3, 0), (4, 1), (0, 4), (2, 2)):
        k = torch.randn(2, KEY_HEADS, 4, HEAD_DIM, generator=generator, dtype=torch.float64)
        store = store.push(k, -k, torch.tensor(counts))
        for row, count in enumerate(counts):
            rows[row] += list(k[row].unbind(1)[:count])
        for row, seen in enumerate(rows):
            last = seen[-5:]
            assert store.filled()[row].tolist() == list(run(False, 5 - len(last)) + run(True, len(last)))
            for place, key in enumerate(reversed(last)):
                assert torch.equal(store.keys[row, :, 4 - place], key)
                assert torch.equal(store.values[row, :, 4 - place], -key)


@pytest.mark.parametrize("length", [1, 4, 5, 23])
@pytest.mark.parametrize("cache_length", [1, 4, 9, 40])
def test_operations_count_the_keys_that_are_met(length: int, cache_length: int) -> None:
    seen = Cached(cache_length, length).seen
    assert keys_met(length, SEGMENT, cache_length) == pytest.approx(float(seen.sum()) / length)


@pytest.mark.parametrize(
    ("attention", "layers", "reach"),
    [
        ({"pattern": "full"}, 3, None),
        ({"pattern": ["memory", "full"]}, 2, None),
        ({"pattern": "segment_local"}, 3, 4),
        ({"memory": {"kind": "ridge"}}, 3, 4),
        ({"pattern": "sliding_window", "sliding_window": {"window": 5}}, 3, 13),
        ({"pattern": "transformer_xl"}, 2, 12),
        ({"pattern": ["segment_local", "sliding_window"], "sliding_window": {"window": 3}}, 2, 4),
        ({"pattern": ["sliding_window", "segment_local"], "sliding_window": {"window": 3}}, 2, 6),
    ],
)
def test_reach_of_exact_attention(attention: dict[str, Any], layers: int, reach: int | None) -> None:
    spec = parse(AttentionSpec, attention | {"segment_length": SEGMENT}, "attention")
    assert exact_reach(spec, layers) == reach
    if reach is not None and "memory" not in attention:  # the last of 16 tokens, which ends a segment
        model = build(attention, num_hidden_layers=layers)
        x = tokens(1, 16)
        changed = x.repeat(16, 1)
        changed.fill_diagonal_(UNUSED)
        effect = (logits(model, changed)[:, -1] - logits(model, x)[:, -1]).abs().amax(1)
        assert (effect > 1e-9).tolist() == [place >= 16 - reach for place in range(16)]
