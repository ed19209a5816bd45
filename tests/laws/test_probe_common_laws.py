"""Laws that hold for every intervention: it acts, any passes give the same, and nothing is left behind."""

import pytest
import torch
from torch import Tensor

from cli_case import refusal
from palimpsest.attention import SegmentStateAttention, Site
from palimpsest.models import PalimpsestCache
from palimpsest.probes import Rows, intervene, parse_intervention
from palimpsest.testing import assert_close

from .caught import Layer
from .model_cases import ATTENTION, HEADS, SEGMENT, UNUSED, build, in_passes, logits, model_of, run, tokens
from .probe_cases import EVERYTHING, LENGTH, MEMORY, ROWS, STATEFUL, able, needing, under

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
