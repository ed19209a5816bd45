"""Weights that are put back, and how far weights have turned."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment_case import save_base
from cli_case import refused, run
from palimpsest.errors import InputError
from palimpsest.models.restore import PARTS, part_of, restore, turns
from palimpsest.records import read_jsonl
from palimpsest.records.turns import TurnRecord
from palimpsest.training.alignment import write_turns
from palimpsest.training.optimizer import group_of
from palimpsest.training.state import pretrained_model


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return save_base(folder / "now", seed=1), save_base(folder / "then", seed=2)


def weights(path):
    return pretrained_model(path).state_dict()


@pytest.mark.parametrize("parts", [[], ["query_key"], ["gates"], ["query_key", "gates"]])
def test_what_is_named_comes_from_the_base_and_nothing_else(pair, parts):
    now, then = map(weights, pair)
    then = {name: weight + 1 for name, weight in then.items()}  # gates of new models are alike
    kept = {name: weight.clone() for name, weight in now.items()}
    found = restore(now, then, parts)
    projections = ("q_proj", "k_proj") if "query_key" in parts else ()
    learned = (".gate.", ".memory.") if "gates" in parts else ()
    taken = {name for name in now if any(part in name for part in (*projections, *learned))}
    assert len(taken) == 4 * len(parts)
    for name, weight in found.items():
        assert torch.equal(weight, then[name] if name in taken else now[name]), name
    assert all(torch.equal(now[name], kept[name]) for name in now)


def test_the_gates_are_those_that_have_a_rate_of_their_own(pair):
    for name, weight in weights(pair[0]).items():
        assert (part_of(name) == "gates") == (group_of(name, weight) == "gates")


def test_models_that_do_not_belong_together_are_refused():
    one, other = {"a": torch.ones(2)}, {"b": torch.ones(2)}
    with pytest.raises(InputError, match="the base has no weight a"):
        restore(one, other, [])
    with pytest.raises(InputError, match="the model has no weight b"):
        turns({}, other)
    with pytest.raises(InputError, match=r"a is \(2,\) in one and \(3,\) in the other"):
        turns(one, {"a": torch.ones(3)})
    with pytest.raises(InputError, match="no weights of the part 'gates'"):
        restore(one, one, ["gates"])


@given(st.floats(0.0, math.pi), st.floats(0.1, 10.0))
def test_the_turn_of_a_weight_is_its_angle(angle, length):
    then = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    now = length * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    (found,) = turns({"w": now}, {"w": then})
    assert found.cosine == pytest.approx(math.cos(angle), abs=1e-12)
    assert found.distance == pytest.approx(abs(complex(length * math.cos(angle) - 1, length * math.sin(angle))))


def test_a_weight_that_was_or_is_zero_has_a_turn_too():
    zero, one = torch.zeros(2), torch.ones(2)
    assert turns({"w": zero}, {"w": zero})[0][1:] == (1.0, 0.0)
    assert turns({"w": one}, {"w": zero})[0][1:] == (0.0, math.inf)
    assert turns({"w": zero}, {"w": one})[0][1:] == (0.0, 1.0)


def test_turns_are_records(pair, tmp_path):
    write_turns(*pair, tmp_path / "turns.jsonl")
    found = list(read_jsonl(tmp_path / "turns.jsonl", TurnRecord))
    assert [record.weight for record in found] == list(weights(pair[0]))
    assert {record.part for record in found} == {None, *PARTS}
    assert all(abs(record.cosine) < 0.5 for record in found if record.part == "query_key")  # two random matrices


def test_the_command_writes_a_checkpoint_and_shows_what_had_turned(pair, tmp_path):
    now, then = pair
    done = run("restore", now, then, tmp_path / "out", "--parts", "query_key,gates")
    assert done.exit_code == 0, done.output
    assert "query_key" in done.stdout
    assert "all others" in done.stdout
    found, old, new = map(weights, (tmp_path / "out", then, now))
    for name, weight in found.items():
        assert torch.equal(weight, new[name] if part_of(name) is None else old[name])
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_the_command_refuses_what_it_cannot_do(pair, tmp_path):
    now, then = pair
    assert "Did you mean 'gates'" in refused("restore", now, then, tmp_path / "out", "--parts", "gate")
    assert "not empty" in refused("restore", now, then, now)
    assert "no checkpoint" in refused("restore", now, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
