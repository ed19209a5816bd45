"""Laws of interventions: what each is equal to by definition, for every kind of memory, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from palimpsest.attention import GatedAttention, MemoryAttention, SegmentStateAttention, Site
from palimpsest.errors import InputError
from palimpsest.memory import scan
from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.probes import Rows, intervene, parse_intervention
from palimpsest.probes.usage import mean_reads
from palimpsest.testing import assert_close

from .caught import Layer, state_of
from .model_cases import (
    ALL_MEMORY,
    ATTENTION,
    HEADS,
    SEGMENT,
    UNUSED,
    WITH_MEMORY,
    build,
    in_passes,
    logits,
    model_of,
    run,
    tokens,
)

STORES = ["transformer_xl", "compressive", "compressive_mean", "memorizing"]
STATEFUL = [*WITH_MEMORY, *STORES]
EACH = pytest.mark.parametrize("name", STATEFUL)
MEMORY = pytest.mark.parametrize("name", ALL_MEMORY)
LENGTH = 5 * SEGMENT + 2
EVERYTHING = [
    "swap",
    "zero",
    "reset",
    "drop[1-2]",
    "freeze[2]",
    "shuffle[0-1]",
    "bfloat16",
    "gate_closed",
    "gate_open",
    "gate_initial",
    "drop[needle]",
    "shuffle[needle]+bfloat16",
    "mean",
]
ROWS = Rows(needle_segments=torch.tensor([[0, 0], [1, 2], [3, 3]]))


def under(expression: str, model: PalimpsestForCausalLM, x: Tensor, rows: Rows | None = None) -> Tensor:
    with parse_intervention(expression).apply(model, rows):
        return logits(model, x)


def needing(model: PalimpsestForCausalLM, expression: str) -> Rows:
    wanted = parse_intervention(expression).needs_reads
    return ROWS._replace(reads=mean_reads(model, [tokens(4, LENGTH, seed=9)])) if wanted else ROWS


def able(name: str, expression: str) -> bool:
    needs = parse_intervention(expression).needs
    return any(isinstance(module, needs) for module in model_of(name).modules())


# What is equal to what


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


# What holds for all


def distinct(batch: int) -> Tensor:
    """Return rows in which no token comes twice: of equal keys with shuffled values a search may find any."""
    generator = torch.Generator().manual_seed(4)
    return torch.stack([1 + torch.randperm(UNUSED - 1, generator=generator)[:LENGTH] for _ in range(batch)])


@pytest.mark.parametrize("name", ["linear", "ridge_root", "token_delta", "memorizing"])
@pytest.mark.parametrize("expression", [e for e in EVERYTHING if e != "swap"])
def test_one_pass_equals_any_passes(name: str, expression: str) -> None:
    model, x = model_of(name), distinct(3)
    rows = needing(model, expression) if able(name, expression) else ROWS._replace(reads={})
    with parse_intervention(expression).apply(model, rows):
        whole = logits(model, x)
        parts = in_passes(model, x, (3, 1, 6, *run(1, 12)))[0]
    assert_close(expression, parts, whole)


@MEMORY
def test_rows_with_padding_are_as_without(name: str) -> None:
    model, x = model_of(name), tokens(3, LENGTH)
    mask = torch.tensor([run(1, LENGTH), run(0, 5) + run(1, LENGTH - 5), run(1, 3) + run(0, 4) + run(1, LENGTH - 7)])
    for expression in ("drop[needle]", "shuffle[needle]+bfloat16", "freeze[1]", "mean"):
        rows, intervention = needing(model, expression), parse_intervention(expression)
        with intervention.apply(model, rows):
            padded = in_passes(model, x, (9, 1, 12), mask)[0]
        for row in range(3):
            assert rows.needle_segments is not None
            alone = rows._replace(needle_segments=rows.needle_segments[row : row + 1])
            with intervention.apply(model, alone):
                expected = logits(model, x[row : row + 1, mask[row].bool()])
            assert_close(expression, padded[row : row + 1, mask[row].bool()], expected)


@pytest.mark.parametrize(("name", "expression"), [(n, e) for n in STATEFUL for e in EVERYTHING if able(n, e)])
def test_an_intervention_acts_and_the_model_is_as_before(name: str, expression: str) -> None:
    model, x = model_of(name), tokens(3, LENGTH)
    rows, before = needing(model, expression), logits(model, x)
    within = under(expression, model, x, rows)
    assert not torch.allclose(within, before, atol=1e-9, rtol=0)
    assert torch.equal(under(expression, model, x, rows), within)
    assert torch.equal(logits(model, x), before)
    with pytest.raises(RuntimeError, match="inside"), parse_intervention(expression).apply(model, rows):
        raise RuntimeError("inside")
    assert torch.equal(logits(model, x), before)
    assert all(at_rest(module) for module in model.modules())


def at_rest(module: torch.nn.Module) -> bool:
    hooks = ("probe", "write_probe", "mix_probe", "gate_override")
    return all(getattr(module, hook, None) is None for hook in hooks)


@MEMORY
@pytest.mark.parametrize("expression", ["swap", "drop[1-2]", "shuffle[0-1]", "bfloat16"])
def test_states_are_not_changed_in_place(name: str, expression: str) -> None:
    model, x = model_of(name), tokens(3, LENGTH)
    past = in_passes(model, x[:, : 2 * SEGMENT], (2 * SEGMENT,))[1]
    held = [leaf.clone() for layer in past.layers for leaf in layer.tensors().values()]
    with torch.no_grad(), parse_intervention(expression).apply(model):
        model(x[:, 2 * SEGMENT :], past_key_values=past.clone(), use_cache=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(held, (leaf for layer in past.layers for leaf in layer.tensors().values()), strict=True)
    )


@pytest.mark.parametrize("name", ["linear", "ridge_root", "token_delta"])
@pytest.mark.parametrize("expression", ["swap", "zero", "drop[1-2]", "shuffle[0-1]", "bfloat16", "gate_closed", "mean"])
@torch.no_grad()
def test_one_head_alone_is_touched(name: str, expression: str) -> None:
    layer, x = Layer(ATTENTION[name]), tokens(3, LENGTH)
    rows = needing(layer.model, expression)
    intact = layer.run(x)[1].unflatten(-1, (HEADS, -1))
    everywhere, alone = parse_intervention(expression), parse_intervention(expression).only(heads=[1, 3])
    for intervention, heads in ((everywhere, {0, 1, 2, 3}), (alone, {1, 3})):
        with intervention.apply(layer.model, rows):
            out = layer.run(x)[1].unflatten(-1, (HEADS, -1))
        assert set((out - intact).abs().amax((0, 1, 3)).gt(1e-9).nonzero().flatten().tolist()) == heads
    with everywhere.apply(layer.model, rows):
        whole = layer.run(x)[1].unflatten(-1, (HEADS, -1))
    assert_close("the head", out[:, :, 1], whole[:, :, 1])


@torch.no_grad()
def test_one_layer_alone_is_touched() -> None:
    model, x = build(ATTENTION["ridge"], num_hidden_layers=3), tokens(2, LENGTH)
    said: dict[int, Tensor] = {}
    for number, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda _, __, out, at=number: said.__setitem__(at, out[0]))
    logits(model, x)
    before = dict(said)
    under("zero[layer=1]", model, x)
    assert torch.equal(said[0], before[0])
    assert not torch.equal(said[1], before[1])


@MEMORY
def test_the_left_one_acts_first(name: str) -> None:
    model, x = model_of(name), tokens(3, LENGTH)
    swapped_then_emptied, emptied_then_swapped = (
        under(each, model, x) for each in ("swap[head=0]+zero[head=0]", "zero[head=0]+swap[head=0]")
    )
    assert_close("both empty", swapped_then_emptied, emptied_then_swapped)
    for first, second in (("swap", "zero"), ("gate_closed", "gate_open"), ("bfloat16", "float16")):
        together = under(f"{first}+{second}", model, x)
        with parse_intervention(first).apply(model), parse_intervention(second).apply(model):
            assert torch.equal(logits(model, x), together)
    assert torch.equal(under("gate_closed+gate_open", model, x), under("gate_open", model, x))
    assert torch.equal(under("gate_open+gate_closed", model, x), under("gate_closed", model, x))
    assert not torch.equal(under("bfloat16+float16", model, x), under("float16", model, x))


@MEMORY
def test_probes_of_the_outer_block_act_first(name: str) -> None:
    def doubled(site: Site, state: tuple) -> tuple:
        return type(state)(*(2.0 * leaf for leaf in state))

    def raised(site: Site, state: tuple) -> tuple:
        return type(state)(*(leaf + 0.1 for leaf in state))

    model, x = model_of(name), tokens(2, LENGTH)
    with intervene(model, doubled), intervene(model, raised):
        nested = logits(model, x)
    with intervene(model, lambda site, state: raised(site, doubled(site, state))):
        assert torch.equal(logits(model, x), nested)


@pytest.mark.parametrize("name", ["delta", "memorizing"])
def test_copies_of_rows_belong_to_the_same_needles(name: str) -> None:
    model, x = model_of(name), tokens(3, LENGTH)
    past = PalimpsestCache(model.config)
    with torch.no_grad(), parse_intervention("drop[needle]").apply(model, ROWS):
        whole = logits(model, x)
        model(x[:, :6], past_key_values=past, use_cache=True)
        past.batch_repeat_interleave(2)
        twice = model(x[:, 6:].repeat_interleave(2, 0), past_key_values=past, use_cache=True).logits
        assert_close("copies", twice, whole[:, 6:].repeat_interleave(2, 0))
        with pytest.raises(ValueError, match="3 rows"):
            logits(model, tokens(4, LENGTH))


# What cannot be


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(InputError) as refused:
        act()
    return str(refused.value)


def test_what_is_missing_is_said() -> None:
    model, x = model_of("linear"), tokens(3, LENGTH)
    assert "where the needles are" in refusal(lambda: under("drop[needle]", model, x))
    assert "mean over other texts" in refusal(lambda: under("mean", model, x))
    assert "layer 2; it acts on layers 0, 1." in refusal(lambda: under("swap[layer=2]", model, x))
    assert "head 4 of heads 0 to 3" in refusal(lambda: under("zero[head=3-4]", model, x))
    assert "are of layers 7" in refusal(lambda: under("mean", model, x, Rows(reads={7: x})))
    assert all(at_rest(module) for module in model.modules())


def test_heads_of_a_store_of_tokens_are_not_told_apart() -> None:
    model = model_of("transformer_xl")
    assert any(isinstance(module, SegmentStateAttention) for module in model.modules())
    x = tokens(2, LENGTH)
    assert torch.equal(under("zero[head=0]", model, x), logits(model, x))
