"""The table of all kinds: what it says is what a model of that kind keeps, and the document is what the code says."""

from pathlib import Path

import pytest
import torch

from palimpsest.attention.kinds import KINDS
from palimpsest.models import PalimpsestCache, PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.models.comparison import KindRow, compare, memory_kinds
from script_case import load_script
from tiny_case import tiny_config

DOCS = Path(__file__).parents[2] / "docs"
LENGTHS = (24, 96)


def config(attention: dict) -> PalimpsestConfig:
    return tiny_config(attention, num_attention_heads=4, num_key_value_heads=2)


ROWS = {row.name: row for row in compare(config({}), LENGTHS)}


def block(name: str) -> dict:
    kind, _, memory = name.partition("/")
    return {"pattern": kind} | ({"memory": {"kind": memory}} if memory else {})


def test_every_kind_and_every_memory_has_a_row() -> None:
    assert set(ROWS) == (set(KINDS) - {"memory"}) | {f"memory/{kind}" for kind in memory_kinds()}
    assert [name for name, row in ROWS.items() if row.used] == ["memory/linear"]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_row_says_what_a_cache_holds(name: str, length: int) -> None:
    model = PalimpsestForCausalLM(config(block(name))).eval()
    cache = PalimpsestCache(model.config)
    with torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.long), past_key_values=cache)
    assert sum(cache.bytes()) == model.config.num_hidden_layers * ROWS[name].kept[LENGTHS.index(length)]


@pytest.mark.parametrize("segment", [1, 6, 30])
def test_any_segment_has_a_table(segment: int) -> None:
    assert len(compare(config({"segment_length": segment}), LENGTHS)) == len(ROWS)


def test_only_full_attention_keeps_ever_more_of_a_longer_context() -> None:
    rows = compare(config({}), [1 << 17, 1 << 18])  # by then a store of 65,536 keys is full
    assert [row.name for row in rows if row.kept[0] < row.kept[1]] == ["full"]


@pytest.mark.parametrize("name", ROWS)
def test_operations_are_counted_and_bounded_but_for_full_attention(name: str) -> None:
    short, long = ROWS[name].flops
    assert 0 < short <= long
    (much,) = {row.name: row for row in compare(config(block(name)), [1 << 14])}[name].flops
    if name not in ("full", "memorizing"):  # a store of 65,536 keys is not full by then
        assert much < 2 * long


def test_a_row_is_as_the_model_has_it() -> None:
    def of(attention: dict) -> KindRow:
        rows = compare(config(attention), LENGTHS)
        return next(row for row in rows if row.name == "sliding_window")

    window = {"pattern": ["full", "sliding_window"], "sliding_window": {"window": 3}}
    assert of(window).used
    assert of(window).kept < of({}).kept
    assert of({"segment_length": 16}).kept > of({}).kept


def test_the_document_is_what_the_code_says() -> None:
    page = load_script(DOCS / "kinds.py").page()
    assert (DOCS / "kinds.md").read_text(encoding="utf-8") == page, "run: python docs/kinds.py"
