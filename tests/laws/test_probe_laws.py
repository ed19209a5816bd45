"""Laws of interventions: what each is equal to by definition, for every kind of memory, in float64."""

import pytest
import torch
from torch import Tensor

from palimpsest.attention import GatedAttention, MemoryAttention
from palimpsest.memory import scan
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.probes import Rows, parse_intervention
from palimpsest.probes.usage import mean_reads
from palimpsest.testing import assert_close

from .caught import Layer, state_of
from .model_cases import ALL_MEMORY, ATTENTION, HEADS, SEGMENT, build, in_passes, logits, model_of, tokens
from .probe_cases import EACH, LENGTH, MEMORY, under


@EACH
def test_swapping_identical_rows_changes_nothing(name: str) -> None:
    model, x = model_of(name), tokens(1, LENGTH).expand(3, -1)
    assert_close("swapped", under("swap", model, x), logits(model, x))
    assert not torch.equal(under("swap", model, tokens(3, LENGTH)), logits(model, tokens(3, LENGTH)))


def bounded(name: str) -> PalimpsestForCausalLM:
    """Return a model that can know of earlier segments through its states alone, and whose gates do not count them."""
    attention = ATTENTION[name] | {"first_segment": "gated"}
    return build(attention | {"pattern": ["memory", "segment_local"]} if name == "memory_and_full" else attention)


@EACH
def test_zero_is_a_stream_that_begins_there(name: str) -> None:
    model, x, at = bounded(name), tokens(3, 3 * SEGMENT), 2 * SEGMENT
    past = in_passes(model, x[:, :at], (at,))[1]
    with torch.no_grad(), parse_intervention("zero").apply(model):
        after = model(x[:, at:], past_key_values=past, use_cache=True).logits
    assert_close("after", after, logits(model, x[:, at:]))


@EACH
def test_a_reset_at_every_segment_is_each_segment_alone(name: str) -> None:
    model, x = bounded(name), tokens(2, LENGTH)
    alone = torch.cat([logits(model, part) for part in x.split(SEGMENT, 1)], 1)
    assert_close("reset", under("reset", model, x), alone)


@EACH
def test_dropping_every_write_is_zero_everywhere(name: str) -> None:
    model, x = model_of(name), tokens(3, LENGTH)
    assert_close("dropped", under("drop[0-]", model, x), under("zero", model, x))


@EACH
@pytest.mark.parametrize("first", [0, 2, 4])
def test_freezing_is_dropping_from_there_on(name: str, first: int) -> None:
    model, x = model_of(name), tokens(3, LENGTH)
    frozen = under(f"freeze[{first}]", model, x)
    assert torch.equal(frozen, under(f"drop[{first}-]", model, x))
    assert_close("before", frozen[:, : (first + 1) * SEGMENT], logits(model, x)[:, : (first + 1) * SEGMENT])
    needles = Rows(torch.tensor([[first, first + 1]] * 3))
    assert torch.equal(frozen, under("freeze[needle]", model, x, needles))


def definition(layer: Layer, x: Tensor, keep: Tensor, order: Tensor | None = None) -> Tensor:
    """Return what a layer of one memory should say: a slow scan in which tokens are masked, or values reordered."""
    attention = layer.attention
    assert isinstance(attention, MemoryAttention)
    hidden, out = layer.run(x)
    q, k, v = (layer.heads(f"{name}_proj", hidden) for name in "qkv")
    strength = None if attention.strength is None else attention.strength(hidden)
    memory = attention.build_memory()
    written = v if order is None else v[:, :, order]
    read, _ = scan(memory, q, k, written, segment_length=SEGMENT, keep=keep, strength=strength)
    plain, _ = scan(memory, q, k, v, segment_length=SEGMENT, strength=strength)
    gate = attention.gate(hidden)
    if attention.spec.first_segment == "local":
        gate = torch.where(torch.arange(x.shape[1])[:, None] < SEGMENT, 0.0, gate)
    # local attention is as ever: what the layer said without its memory, with the memory put back
    return layer.merged(gate * read - gate * plain) + out


@MEMORY
@pytest.mark.parametrize("spans", [[(1, 2)], [(0, 0), (2, 3), (4, 4)]])
@torch.no_grad()
def test_a_drop_is_a_scan_in_which_those_writes_are_masked(name: str, spans: list[tuple[int, int]]) -> None:
    layer, x = Layer(ATTENTION[name]), tokens(3, LENGTH)
    rows = Rows(torch.tensor(spans * (3 // len(spans))))
    segment = torch.arange(LENGTH) // SEGMENT
    first, last = rows.needle_segments.T[:, :, None]  # pyright: ignore[reportOptionalMemberAccess]
    expected = definition(layer, x, ~((segment >= first) & (segment <= last)))
    with parse_intervention("drop[needle]").apply(layer.model, rows):
        _, dropped = layer.run(x)
    assert_close("dropped", dropped, expected)


@MEMORY
@torch.no_grad()
def test_a_shuffle_binds_other_values_to_the_keys_of_the_segment(name: str) -> None:
    layer, x = Layer(ATTENTION[name]), tokens(2, LENGTH)
    shuffled = torch.arange(LENGTH)
    generator = torch.Generator().manual_seed(3)
    cycle = torch.randperm(SEGMENT, generator=generator)
    for here, value in zip(cycle.tolist(), cycle.roll(-1).tolist(), strict=True):
        shuffled[2 * SEGMENT + here] = 2 * SEGMENT + value
    assert (shuffled[2 * SEGMENT : 3 * SEGMENT] != torch.arange(2 * SEGMENT, 3 * SEGMENT)).all()
    expected = definition(layer, x, torch.ones(2, LENGTH, dtype=torch.bool), shuffled)
    with parse_intervention("shuffle[2,seed=3]").apply(layer.model):
        _, out = layer.run(x)
    assert_close("shuffled", out, expected)


@MEMORY
@torch.no_grad()
def test_a_lower_precision_rounds_the_state_after_every_write(name: str) -> None:
    layer, x = Layer(ATTENTION[name]), tokens(2, 3 * SEGMENT)
    attention = layer.attention
    assert isinstance(attention, MemoryAttention)
    hidden, _ = layer.run(x)
    k, v = (layer.heads(f"{name}_proj", hidden) for name in "kv")
    strength = None if attention.strength is None else attention.strength(hidden)
    memory = attention.build_memory()
    state = memory.init(2, HEADS, k.shape[-1], v.shape[-1], dtype=torch.float64)
    for s in range(3):
        here = slice(s * SEGMENT, (s + 1) * SEGMENT)
        state = memory.write(
            state, k[:, :, here], v[:, :, here], strength=None if strength is None else strength[:, :, here]
        )
        state = type(state)(*(leaf.bfloat16().double() for leaf in state))
    with parse_intervention("bfloat16").apply(layer.model):
        past = in_passes(layer.model, x, (2 * SEGMENT - 1, 1, SEGMENT))[1]
    for got, wanted in zip(state_of(past), state, strict=True):
        assert_close("state", got, wanted)


@pytest.mark.parametrize("name", [*ALL_MEMORY, "memorizing"])
def test_gates_are_what_they_are_set_to(name: str) -> None:
    model, x = build(ATTENTION[name]), tokens(2, LENGTH)
    gates = [module.gate for module in model.modules() if isinstance(module, GatedAttention)]
    got = {each: under(each, model, x) for each in ("gate_closed", "gate_open", "gate_initial")}
    with torch.no_grad():
        for gate in gates:
            if gate.weight is not None:
                gate.weight.zero_()
    for each, bias in (("gate_closed", -1e4), ("gate_open", 1e4), ("gate_initial", gates[0].spec.init)):
        with torch.no_grad():
            for gate in gates:
                gate.bias.fill_(bias)
        assert_close(each, got[each], logits(model, x))


@pytest.mark.parametrize("name", [*ALL_MEMORY, "memorizing"])
@torch.no_grad()
def test_mean_reads_are_means_by_head_and_place(name: str) -> None:
    layer = Layer(ATTENTION[name])
    model, attention = layer.model, layer.attention
    assert isinstance(attention, GatedAttention)
    x = [tokens(2, LENGTH, seed=5), tokens(1, 2 * SEGMENT, seed=6)]
    reads = []
    mix = attention.mix
    attention.mix = lambda hidden, read, local, stream: (reads.append(read), mix(hidden, read, local, stream))[1]  # type: ignore[method-assign]
    table = mean_reads(model, x)[0]
    for place in range(SEGMENT):
        rows = [
            read[row, :, t]
            for read in reads
            for row in range(len(read))
            for t in range(SEGMENT, read.shape[2])
            if t % SEGMENT == place
        ]
        assert_close(f"place {place}", table[:, place], torch.stack(rows).mean(0))
    # of one document and one segment that was read, the mean is what was read
    one = tokens(1, 2 * SEGMENT, seed=7)
    assert_close("its own", under("mean", model, one, Rows(reads=mean_reads(model, [one]))), logits(model, one))
    other = Rows(reads=mean_reads(model, [tokens(4, LENGTH, seed=8)]))
    assert not torch.allclose(under("mean", model, one, other), logits(model, one))
