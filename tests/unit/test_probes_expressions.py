"""Interventions as they are written: what an expression means, its one canonical form, and what is refused."""

import pytest
import torch
from torch import nn

from palimpsest.attention import GatedAttention, MemoryAttention, SegmentStateAttention
from palimpsest.errors import InputError
from palimpsest.probes import INTERVENTIONS, NAMES, applicable, parse_intervention, split_interventions
from palimpsest.probes.states import rounded, shuffled

CANONICAL = [
    ("swap", "swap"),
    (" drop[ 2-3 ] ", "drop[2-3]"),
    ("drop[2-2]", "drop[2]"),
    ("drop[4-]", "drop[4-]"),
    ("freeze[4]", "freeze[4]"),
    ("freeze[needle]", "freeze[needle]"),
    ("shuffle[needle,seed=0]", "shuffle[needle]"),
    ("shuffle[seed=7,2]", "shuffle[2,seed=7]"),
    ("swap[head=0,layer=1]", "swap[layer=1,head=0]"),
    ("zero[layer=3,layer=1-2,head=0,head=2]", "zero[layer=1-3,head=0,head=2]"),
    ("shuffle[needle,head=1]", "shuffle[needle,head=1]"),
    ("reset + bfloat16", "reset+bfloat16"),
]


@pytest.mark.parametrize(("written", "name"), CANONICAL)
def test_there_is_one_way_to_write_each(written, name):
    assert parse_intervention(written).name == name
    assert parse_intervention(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_the_interventions_say_when_and_where_they_act(name):
    found = parse_intervention(f"{name}[needle]" if name in ("drop", "freeze", "shuffle") else name)
    gates = name.startswith("gate") or name == "mean"
    assert found.needs == ((nn.Module,) if name == "none" else (GatedAttention,) if gates else (SegmentStateAttention,))
    assert found.throughout == (name not in ("none", "swap", "zero", "gate_closed", "gate_open", "gate_initial"))
    assert found.needs_needle == (name in ("drop", "freeze", "shuffle"))
    assert found.needs_reads == (name == "mean")
    assert found.needs_rows == (2 if name == "swap" else 1)


def test_a_composition_needs_what_its_parts_need():
    both = parse_intervention("swap+drop[needle]+gate_open+mean")
    assert both.throughout
    assert both.needs_needle
    assert both.needs_reads
    assert both.needs_rows == 2
    assert both.needs == (SegmentStateAttention, GatedAttention)
    assert not parse_intervention("swap+gate_open").throughout


def test_heads_are_those_of_memories_and_gates():
    assert parse_intervention("swap[head=0]").needs == (MemoryAttention,)
    assert parse_intervention("swap[layer=0]").needs == (SegmentStateAttention,)
    assert parse_intervention("gate_closed[head=0]").needs == (GatedAttention,)
    assert applicable(["swap[head=0]", "drop[2]", "gate_open"], ["transformer_xl"]) == ("drop[2]",)
    assert applicable(["none"], ["full"]) == ("none",)


REFUSED = [
    ("swop", "Unknown intervention 'swop'. Did you mean 'swap'? Known: none, swap, zero"),
    ("swap+xyzzy", "Unknown intervention 'xyzzy' in 'swap+xyzzy'. Known: bfloat16, drop"),
    ("", "Unknown intervention ''"),
    ("swap+", "Unknown intervention '' in 'swap+'"),
    ("swap[", "Unknown intervention 'swap['"),
    ("drop", "must name segments, once: drop[2], or drop[needle]"),
    ("drop[1,2]", "must name segments, once"),
    ("drop[]", "the range ''"),
    ("drop[3-2]", "the range '3-2'"),
    ("drop[-1]", "the range '-1'"),
    ("freeze[1-2]", "from which segment on, as freeze[1] does"),
    ("freeze[1-]", "from which segment on"),
    ("swap[2]", "takes no segments or seed"),
    ("drop[2,seed=1]", "takes no seed"),
    ("shuffle[2,seed=x]", "the argument 'seed=x'"),
    ("swap[layer=2-]", "layer=2- has no end"),
    ("swap[row=1]", "the argument 'row=1'; known: layer=, head=, seed="),
]


@pytest.mark.parametrize(("expression", "sentence"), REFUSED)
def test_what_cannot_be_read_is_refused_in_one_sentence(expression, sentence):
    with pytest.raises(InputError) as refused:
        parse_intervention(expression)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_lists_are_split_outside_brackets():
    assert split_interventions("swap, zero[layer=1,head=0] ,drop[2]+bfloat16") == [
        "swap",
        "zero[layer=1,head=0]",
        "drop[2]+bfloat16",
    ]


def test_the_usual_ones_can_be_listed_and_all_looked_up():
    assert list(INTERVENTIONS) == ["none", "swap", "zero", "gate_closed"]
    assert INTERVENTIONS["drop[2-3]"].name == "drop[2-3]"
    assert list(INTERVENTIONS) == ["none", "swap", "zero", "gate_closed"]
    with pytest.raises(InputError, match="where the needles are"), INTERVENTIONS["drop[needle]"](nn.Linear(1, 1)):
        pass


def test_a_shuffle_is_one_cycle_of_all_tokens_and_every_cycle_comes():
    v = torch.arange(5.0).view(1, 1, 5, 1).expand(2, 3, 5, 2)
    cycles = set()
    for seed in range(400):
        out = shuffled(v, seed)
        assert torch.equal(out, shuffled(v, seed))
        order = out[0, 0, :, 0].long().tolist()
        assert torch.equal(out, v[:, :, order])
        visited, at = [], 0
        while at not in visited:
            visited.append(at)
            at = order[at]
        assert len(visited) == 5
        cycles.add(tuple(order))
    assert len(cycles) == 24  # (5 - 1)! cycles
    assert torch.equal(shuffled(v[:, :, :1], 0), v[:, :, :1])


def test_rounding_keeps_counts_and_dtype():
    class State(tuple):
        __slots__ = ()

        def __new__(cls, *leaves):
            return super().__new__(cls, leaves)

    matrix, held = rounded(State(torch.tensor([1.0, 257.0, 1e-3]), torch.tensor([257])), torch.bfloat16)
    assert matrix.dtype == torch.float32
    assert matrix.tolist() == [1.0, 256.0, float(torch.tensor(1e-3).bfloat16())]
    assert held.tolist() == [257]
