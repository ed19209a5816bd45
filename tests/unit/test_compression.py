"""What a memory is smaller than: the published sizes, and what our caches really hold."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic_findings import spec

from palimpsest.models import PalimpsestCache, PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.models.compression import (
    Heads,
    accumulated_prompt_numbers,
    cache_numbers,
    compressed_numbers,
    compression,
    equal_length,
    memory_numbers,
    soft_prompt_numbers,
    store_numbers,
)
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.costs import RatioGiven, published_ratio
from script_case import load_script
from tiny_case import tiny_config

DOCS = Path(__file__).parents[2] / "docs"
ORIGINAL = Heads(layers=12, heads=8, size=128)
MILLION = 1e6

sizes = st.builds(Heads, layers=st.integers(1, 40), heads=st.integers(1, 32), size=st.integers(2, 256))


@pytest.mark.parametrize(
    ("numbers", "printed", "digits"),
    [
        (memory_numbers(ORIGINAL), 1.6, 1),
        (cache_numbers(ORIGINAL, 2048), 50, 0),
        (store_numbers(ORIGINAL, 65_000, window=2048), 183, 0),
        (soft_prompt_numbers(ORIGINAL, 100), 2.5, 1),
    ],
)
def test_the_sizes_of_table_2_are_those_of_the_formulas(numbers, printed, digits):
    assert round(numbers / MILLION, digits) == printed


@pytest.mark.parametrize(
    ("printed_size", "printed_ratio", "digits"), [(50, 3.7, 1), (183, 1, 0), (2.5, 73, 0), (1.6, 114, 0)]
)
def test_the_ratios_of_table_2_are_those_of_the_printed_sizes(printed_size, printed_ratio, digits):
    assert round(183 / printed_size, digits) == printed_ratio


def test_what_table_2_is_not():
    assert round(store_numbers(ORIGINAL, 65_536, window=2048) / MILLION) == 185  # 65K is 65,000
    assert round(store_numbers(ORIGINAL, 65_000) / MILLION) == 133  # and not the store alone
    assert round(store_numbers(ORIGINAL, 65_000, window=2048) / memory_numbers(ORIGINAL)) == 116


def test_table_1_by_hand():
    model = Heads(layers=3, heads=2, size=5)
    assert memory_numbers(model) == 5 * (5 + 1) * 2 * 3
    assert cache_numbers(model, 7) == (5 + 5) * 2 * 7 * 3
    assert store_numbers(model, 11) == (5 + 5) * 2 * 11
    assert store_numbers(model, 11, window=7) == (5 + 5) * 2 * 11 + (5 + 5) * 2 * 7 * 3
    assert compressed_numbers(model, cached=7, compressed=4) == 10 * (4 + 7) * 3
    assert soft_prompt_numbers(model, 13) == 10 * 13 * 3 * 2
    assert accumulated_prompt_numbers(model, 13, segments=6) == 10 * 13 * (6 + 1) * 3


@given(model=sizes, ratio=st.floats(1, 1e4))
def test_a_ratio_is_reached_at_its_length_whatever_the_layers_and_heads(model, ratio):
    length = equal_length(model, ratio)
    assert length == pytest.approx(ratio * (model.size + 1) / 2)
    assert cache_numbers(model, 1) * length / memory_numbers(model) == pytest.approx(ratio)


def test_the_scorecard_computes_the_same():
    given_ = RatioGiven(layers=5, heads=3, head_dim=16, stored=900, window=70, claimed=20)
    found = {name: at(0.95).mean for name, at in published_ratio(Findings(spec()), given_).quantities.items()}
    model = Heads(5, 3, 16)
    assert found == {
        "against_store": pytest.approx((900 * 2 * 48 + 70 * 5 * 2 * 48) / (5 * 3 * 16 * 17)),
        "against_cache": pytest.approx(2 * 900 / 17),
        "equal_at": pytest.approx(equal_length(model, 20)),
    }


# In bytes


def config(attention: dict) -> PalimpsestConfig:
    return tiny_config(attention, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)


def held(model: PalimpsestConfig, tokens: int) -> int:
    cache = PalimpsestCache(model)
    with torch.no_grad():
        PalimpsestForCausalLM(model).eval()(torch.zeros(1, tokens, dtype=torch.long), past_key_values=cache)
    return sum(cache.bytes())


LENGTHS = (24, 96)
OTHERS = (["full"], ["sliding_window"], ["transformer_xl"], ["memorizing", "transformer_xl", "transformer_xl"])


@pytest.mark.parametrize("pattern", [["memory"], ["memory", "full", "memory"]], ids=str)
@pytest.mark.parametrize("memory", ["delta", "ridge"])
def test_every_denominator_is_what_a_cache_of_that_kind_holds(pattern, memory):
    attention = {"pattern": pattern, "memory": {"kind": memory}}
    found = compression(config(attention), LENGTHS)
    assert found is not None
    for place, tokens in enumerate(LENGTHS):
        assert found.kept[place] == held(config(attention), tokens)
        for other, kinds in zip(found.others, OTHERS, strict=True):
            assert other.kept[place] == held(config({"pattern": kinds}), tokens), other.name
    per_head = {"delta": 4 * 4 + 4, "ridge": 2 * 4 * 4}[memory]
    assert found.state == pattern.count("memory") * (3 // len(pattern)) * 4 * per_head * 4


def test_bfloat16_halves_keys_and_values_and_not_the_memory():
    full, half = (compression(config({}), LENGTHS, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert full is not None
    assert half is not None
    assert half.state == full.state
    assert [2 * size for size in half.others[0].kept] == list(full.others[0].kept)


def test_a_model_without_a_memory_compresses_nothing():
    assert compression(config({"pattern": ["full"]}), LENGTHS) is None


def test_the_page_is_what_the_code_says():
    page = load_script(DOCS / "compression.py").page()
    assert (DOCS / "compression.md").read_text(encoding="utf-8") == page, "run: python docs/compression.py"


@pytest.mark.parametrize(
    ("own", "block"), [("sliding_window", {"window": 16}), ("transformer_xl", {"cache_length": 1024})]
)
def test_denominators_are_what_they_are_called_whatever_the_model_has_besides(own, block):
    def others(**attention):
        config = PalimpsestConfig(
            vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
            attention={"segment_length": 256, **attention},
        )  # fmt: skip
        return compression(config, [4096]).others

    assert others(pattern=["memory", own], **{own: block}) == others(pattern=["memory"])
