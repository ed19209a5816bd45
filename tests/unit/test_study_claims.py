"""Claims on fabricated records: the numbers and the verdicts follow from the items alone."""

import pytest

from palimpsest.errors import InputError
from palimpsest.records import ItemRecord, PositionLossRecord
from palimpsest.schema import parse
from palimpsest.study.claims import judge
from palimpsest.study.plan import Evaluation
from palimpsest.study.spec import ClaimSpec


def item(
    arm, index, exact, *, seed=0, intervention="none", length=96, reachable=False, depth=0.5, contains=None, **facts
):
    return ItemRecord(
        task="passkey",
        version=1,
        item_id=f"item-{index}",
        arm=arm,
        seed=seed,
        checkpoint="c",
        intervention=intervention,
        length=length,
        depth=depth,
        segment_length=32,
        needle_start=32,
        needle_end=64,
        question_start=70,
        distance=20,
        compressions=1,
        segments=3,
        locally_reachable=reachable,
        answer="12345",
        output="12345" if exact else "no",
        exact=exact,
        error_class="correct" if exact else "no_number",
        rank=1,
        candidates=16,
        answer_logprob=-1.0,
        contains=exact if contains is None else contains,
        facts=facts,
    )


def loss(arm, document, nll, *, start=64, seed=0):
    return PositionLossRecord(
        arm=arm,
        seed=seed,
        checkpoint="c",
        intervention="none",
        document_id=document,
        position_start=start,
        position_end=start * 2,
        nll=nll * start,
        tokens=start,
    )


def claim(**fields):
    return parse(ClaimSpec, {"id": "c", "statement": "s", "arm": "ridge", **fields}, "test")


def test_a_met_target_passes_and_counts_only_memory_items():
    items = [item("ridge", i, i < 19) for i in range(20)]
    items += [item("ridge", 100 + i, False, reachable=True) for i in range(20)]
    [verdict] = judge([claim(rule={"kind": "mean_at_least", "value": 0.9})], items, [])
    assert verdict.verdict == "PASS"
    assert verdict.estimates["estimate"].mean == pytest.approx(0.95)
    assert verdict.estimates["estimate"].n == 20
    assert verdict.items == ["items/ridge-s0"]
    [verdict] = judge([claim(memory_only=False, rule={"kind": "mean_at_least", "value": 0.9})], items, [])
    assert verdict.verdict == "FAIL"


def test_a_difference_between_arms_is_paired_by_item_not_by_order():
    ridge = [item("ridge", i, i % 2 == 0) for i in range(40)]
    full = [item("full", i, i % 2 == 0) for i in reversed(range(40))]
    [verdict] = judge([claim(against="full", rule={"kind": "equivalent", "margin": 0.2})], ridge + full, [])
    assert verdict.verdict == "PASS"
    assert verdict.estimates["difference_90"].mean == 0
    assert verdict.items == ["items/full-s0", "items/ridge-s0"]


def test_different_items_on_the_two_sides_are_refused():
    records = [item("ridge", 1, True), item("full", 2, True)]
    with pytest.raises(InputError, match="only 0 are the same"):
        judge([claim(against="full", rule={"kind": "greater"})], records, [])


def test_a_causal_memory_passes_and_a_decorative_one_fails():
    rule = {"kind": "memory_effect", "floor": 1e-5}
    intact = [item("ridge", i, True) for i in range(100)]
    broken = [item("ridge", i, False, intervention="swap") for i in range(100)]
    same = [item("ridge", i, True, intervention="swap") for i in range(100)]
    [causal] = judge([claim(intervention="swap", rule=rule)], intact + broken, [])
    [decorative] = judge([claim(intervention="swap", rule=rule)], intact + same, [])
    assert (causal.verdict, decorative.verdict) == ("PASS", "FAIL")


def test_several_seeds_are_the_units():
    items = [item("ridge", i, i % 10 < 8 + seed % 2, seed=seed) for seed in range(3) for i in range(50)]
    [verdict] = judge([claim(rule={"kind": "at_least", "value": 0.5})], items, [])
    assert verdict.estimates["estimate"].n == 3
    assert "3 seeds" in verdict.estimates["estimate"].method


def test_lower_loss_from_a_position_on():
    losses = [loss("local", f"d{i}", 3.0 + i / 10) for i in range(10)]
    losses += [loss("ridge", f"d{i}", 2.9 + i / 10 + i / 1000) for i in range(10)]
    losses += [loss("ridge", f"d{i}", 9.0, start=32) for i in range(10)]  # earlier: does not count
    spec = claim(
        arm="local", against="ridge", measure="loss", from_position=64, rule={"kind": "greater", "margin": 0.005}
    )
    [verdict] = judge([spec], [], losses)
    assert verdict.verdict == "PASS"
    assert verdict.estimates["difference"].mean == pytest.approx(0.0955)
    assert verdict.items == ["position_loss/local-s0", "position_loss/ridge-s0"]


TARGET = {"kind": "mean_at_least", "value": 0.9}


def test_a_claim_counts_the_items_of_its_grid_and_of_its_models():
    items = [item("ridge", i, True, grid="characters") for i in range(10)]
    items += [item("ridge", i, False, grid="tokens") for i in range(10)]
    items += [item("ridge", i, i < 5, grid="tokens", trained="pretrained") for i in range(10)]

    def mean(**fields):
        [verdict] = judge([claim(rule=TARGET, **fields)], items, [], main=Evaluation("characters", "finetuned"))
        return verdict.estimates["estimate"].mean, verdict.items

    assert mean(grid="characters") == (1.0, ["items/ridge-s0"])
    assert mean(grid="tokens") == (0.0, ["grids/tokens/items/ridge-s0"])
    assert mean(grid="tokens", trained="pretrained") == (0.5, ["grids/tokens-pretrained/items/ridge-s0"])
    assert judge([claim(rule=TARGET)], items, []) == [], "no item belongs to the grid of a study that has one"


def test_a_claim_counts_the_depths_and_lengths_it_names_and_lengths_as_the_study_file_names_them():
    items = [item("ridge", i, True, length=340, depth=0.0, nominal=1024) for i in range(10)]
    items += [item("ridge", 10 + i, False, length=340, depth=0.5, nominal=1024) for i in range(10)]
    items += [item("ridge", 20 + i, False, length=1024, depth=0.0, nominal=4096) for i in range(10)]
    [verdict] = judge([claim(rule=TARGET, lengths=[1024], depths=[0.0])], items, [])
    assert (verdict.estimates["estimate"].mean, verdict.estimates["estimate"].n) == (1.0, 10)
    [verdict] = judge([claim(rule=TARGET, lengths=[1024])], items, [])
    assert verdict.estimates["estimate"].mean == 0.5


def test_the_published_score_counts_a_key_anywhere_in_what_was_said():
    items = [item("ridge", i, i < 2, contains=i < 8) for i in range(10)]
    scores = {}
    for score in ("exact", "contains"):
        [verdict] = judge([claim(rule=TARGET, score=score)], items, [])
        scores[score] = verdict.estimates["estimate"].mean
    assert scores == {"exact": 0.2, "contains": 0.8}


def test_a_claim_without_records_is_left_out():
    assert judge([claim(rule={"kind": "mean_at_least", "value": 0.9})], [], []) == []
