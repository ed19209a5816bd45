"""Interventions on memories: what they change, what they leave alone, and that they end with their block."""

import pytest
import torch

from palimpsest.errors import InputError
from palimpsest.models import PalimpsestCache
from palimpsest.probes import (
    INTERVENTIONS,
    applicable,
    gated_layers,
    intervene,
    memory_layers,
    override_gates,
    swap,
    zero,
)
from tiny_case import tiny_model

SEGMENT = 4


def build(attention):
    return tiny_model({"segment_length": SEGMENT} | attention)


@pytest.fixture(params=["linear", "delta", "ridge", "ridge, square root"])
def model(request):
    kind, _, root = request.param.partition(", ")
    return build({"memory": {"kind": kind} | ({"form": "square_root"} if root else {})})


STORES = {"transformer_xl": {"cache_length": 6}}
"""Kinds that keep more of closed segments than a memory's matrices."""


@pytest.fixture(params=STORES)
def store(request):
    return build({"pattern": request.param, request.param: STORES[request.param]})


@pytest.fixture
def tokens():
    return torch.randint(0, 17, (3, 3 * SEGMENT), generator=torch.Generator().manual_seed(1))


def logits_of_last_segment(model, tokens, intervention="none"):
    """Read all but the last segment, then the last one under the intervention."""
    with torch.no_grad():
        cache = PalimpsestCache(model.config)
        model(tokens[:, :-SEGMENT], past_key_values=cache)
        with INTERVENTIONS[intervention](model):
            return model(tokens[:, -SEGMENT:], past_key_values=cache).logits


def test_swap_reads_the_memory_of_the_next_row_and_nothing_else_of_it(model, tokens):
    swapped = logits_of_last_segment(model, tokens, "swap")
    # by definition: row b's last segment after row b+1's past
    for row in range(3):
        past, last = tokens[(row + 1) % 3, :-SEGMENT], tokens[row, -SEGMENT:]
        expected = logits_of_last_segment(model, torch.cat([past, last])[None])
        torch.testing.assert_close(swapped[row], expected[0], atol=1e-10, rtol=0)
    assert (swapped - logits_of_last_segment(model, tokens)).abs().max() > 1e-3


def test_zero_equals_a_stream_that_begins_with_the_last_segment(model, tokens):
    with torch.no_grad():
        expected = model(tokens[:, -SEGMENT:]).logits
    torch.testing.assert_close(logits_of_last_segment(model, tokens, "zero"), expected, atol=1e-10, rtol=0)


def test_stores_of_earlier_segments_are_swapped_and_emptied_too(store, tokens):
    test_swap_reads_the_memory_of_the_next_row_and_nothing_else_of_it(store, tokens)
    test_zero_equals_a_stream_that_begins_with_the_last_segment(store, tokens)


@pytest.mark.parametrize(
    ("pattern", "possible"),
    [
        (["full", "segment_local", "sliding_window"], ()),
        (["transformer_xl", "full"], ("swap", "zero")),
        (["full", "memory"], ("swap", "zero", "gate_closed")),
    ],
)
def test_interventions_are_made_where_they_can_change_something(pattern, possible):
    assert applicable(["swap", "zero", "gate_closed"], pattern) == possible
    model = build({"pattern": pattern[:2]})
    assert bool(memory_layers(model)) == ("zero" in possible)
    assert bool(gated_layers(model)) == ("gate_closed" in possible)


def test_closed_gates_hide_the_memory(model, tokens):
    other = tokens.clone()
    other[:, :-SEGMENT] = (other[:, :-SEGMENT] + 1) % 17
    closed = logits_of_last_segment(model, tokens, "gate_closed")
    torch.testing.assert_close(closed, logits_of_last_segment(model, other, "gate_closed"), atol=1e-12, rtol=0)
    assert (closed - logits_of_last_segment(model, tokens)).abs().max() > 1e-3


def test_open_gates_hide_local_attention(model, tokens):
    # with the gate at 1 and one layer, a token sees itself and earlier segments only
    model.model.layers = model.model.layers[:1]
    other = tokens.clone()
    other[:, -SEGMENT] = (other[:, -SEGMENT] + 1) % 17
    with torch.no_grad(), override_gates(model, 1.0):
        here = model(tokens, use_cache=False).logits[:, -SEGMENT + 1 :]
        there = model(other, use_cache=False).logits[:, -SEGMENT + 1 :]
    torch.testing.assert_close(here, there, atol=1e-12, rtol=0)


def test_an_identity_probe_changes_nothing_and_sees_every_boundary_once(model, tokens):
    seen = []

    def look(site, state):
        seen.append((site.layer, site.segment.tolist()))
        return state

    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
        with intervene(model, look):
            probed = model(tokens, use_cache=False).logits
    torch.testing.assert_close(probed, expected, atol=1e-10, rtol=0)
    assert seen == [(layer, [segment] * 3) for layer in range(2) for segment in range(3)]


def test_probes_nest_and_are_removed_even_after_an_error(model):
    with intervene(model, zero):
        with pytest.raises(RuntimeError, match="inside"), intervene(model, swap):
            raise RuntimeError("inside")
        assert all(layer.probe is zero for layer in memory_layers(model))
    assert all(layer.probe is None for layer in memory_layers(model))
    with override_gates(model, 0.0):
        pass
    assert all(layer.gate_override is None for layer in memory_layers(model))


def test_swap_refuses_a_single_document(model, tokens):
    with pytest.raises(InputError, match="at least 2 documents"), intervene(model, swap):
        model(tokens[:1], use_cache=False)
