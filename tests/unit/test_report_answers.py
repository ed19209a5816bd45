from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_study import Plan, small, write_study

from palimpsest.records import ItemRecord, read_jsonl, write_jsonl
from palimpsest.report import StudyResults, answers, load_records
from palimpsest.report.load import INTACT
from palimpsest.statistics import contrast, estimate, mcnemar

PLAN = small(seeds=(0, 1), half_life=(("segment_local", 0.0), ("ridge", 5.0)), items_per_cell=10, steps=2, documents=1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return load_records(write_study(tmp_path_factory.mktemp("records"), PLAN))


@given(st.integers(0, 10**9))
def test_every_number_of_compressions_is_in_one_bin_and_bins_leave_no_gap(compressions: int):
    bin_ = answers.compression_bin(compressions)
    assert bin_.low <= compressions <= bin_.high
    assert answers.compression_bin(bin_.low) == answers.compression_bin(bin_.high) == bin_
    assert answers.compression_bin(bin_.high + 1).low == bin_.high + 1


def test_bins_are_named_by_their_ends():
    assert [answers.compression_bin(c).label for c in (0, 1, 2, 3, 64, 1500)] == [
        "0",
        "1",
        "2",
        "3–4",
        "33–64",
        "1,025–2,048",
    ]


def test_accuracy_by_compressions_counts_every_answer_once(results: StudyResults):
    curve = answers.by_compressions(results, "ridge")
    assert list(curve) == sorted(curve)
    assert sum(rate.pooled.n for rate in curve.values()) == len(answers.answers(results, "ridge")) == 2 * 9 * 10
    for bin_, rate in curve.items():
        own = [i for i in answers.answers(results, "ridge") if bin_.low <= i.compressions <= bin_.high]
        assert rate.pooled == estimate([float(i.exact) for i in own])
        for seed, share in rate.by_seed.items():
            of_seed = [i.exact for i in own if i.seed == seed]
            assert share == pytest.approx(sum(of_seed) / len(of_seed))


def test_accuracy_since_the_start_has_one_number_for_each_length(results: StudyResults):
    curve = answers.by_compressions(results, "ridge", since="start")
    items = answers.answers(results, "ridge")
    assert [bin_.low for bin_ in curve] == sorted({-(-item.length // item.segment_length) - 1 for item in items})
    assert sum(rate.pooled.n for rate in curve.values()) == len(items)
    for bin_, rate in curve.items():
        own = [float(item.exact) for item in items if item.segments - 1 == bin_.low == bin_.high]
        assert rate.pooled == estimate(own)


def test_ranking_counts_only_the_first_place(results: StudyResults):
    items = answers.answers(results, "ridge")
    found = answers.rate(items, "rank").pooled
    assert found.mean == pytest.approx(sum(item.rank == 1 for item in items) / len(items))
    assert found.mean > answers.rate(items, "exact").pooled.mean
    assert answers.chance(results) == 1 / 16


def test_cells_hold_n_interval_and_reach(results: StudyResults):
    found = answers.cells(results, "ridge")
    assert set(found) == {(length, depth) for length in PLAN.lengths for depth in PLAN.depths}
    assert {cell.found.n for cell in found.values()} == {20}
    for (length, depth), cell in found.items():
        own = [i for i in answers.answers(results, "ridge") if (i.length, i.depth) == (length, depth)]
        assert cell.found == estimate([float(i.exact) for i in own])
        assert cell.reachable == any(i.locally_reachable for i in own)
        assert cell.wide == ((cell.found.high - cell.found.low) / 2 > 0.1)
    assert {cell.reachable for cell in found.values()} == {True, False}


def test_windows_that_see_more_than_a_segment_reach_further(results: StudyResults):
    segment = results.study.segment_length
    for reach in (segment, 3 * segment):
        arms = [arm.model_copy(update={"reach": reach}) for arm in results.study.arms]
        found = answers.cells(replace(results, study=results.study.model_copy(update={"arms": arms})), "ridge")
        for (length, depth), cell in found.items():
            own = [i for i in answers.answers(results, "ridge") if (i.length, i.depth) == (length, depth)]
            near = reach > segment and any(i.distance < reach for i in own)
            assert cell.reachable == (near or any(i.locally_reachable for i in own))
    assert sum(cell.reachable for cell in found.values()) > sum(
        cell.reachable for cell in answers.cells(results, "ridge").values()
    )


def test_an_item_belongs_to_the_nearest_planned_cell(tmp_path: Path):
    directory = write_study(tmp_path, small(half_life=(("ridge", 5.0),), items_per_cell=1, steps=1))
    path = directory / "items" / "ridge-s0.jsonl"
    moved = [
        item.model_copy(update={"length": item.length - 3, "depth": min(1.0, item.depth + 0.01)})
        for item in read_jsonl(path, ItemRecord)
    ]
    write_jsonl(path, moved)
    found = load_records(directory)
    assert answers.grid(found) == ([64, 256, 1024], [0.0, 0.5, 1.0])
    assert {cell.found.n for cell in answers.cells(found, "ridge").values()} == {1}


@pytest.mark.parametrize("intervention", ["none", "swap"])
def test_error_classes_are_shares_of_the_items_beyond_reach(results: StudyResults, intervention: str):
    shares = answers.error_classes(results, "ridge", intervention)
    items = answers.beyond_reach(answers.answers(results, "ridge", intervention))
    counts = Counter(item.error_class for item in items)
    assert sum(share.mean for share in shares.values()) == pytest.approx(1)
    for kind, share in shares.items():
        assert (share.mean, share.n) == (pytest.approx(counts[kind] / len(items)), len(items))


def test_effects_are_paired_by_item_and_seed_beyond_local_reach(results: StudyResults):
    found = {effect.intervention: effect for effect in answers.effects(results)}
    assert list(found) == ["swap", "zero", "gate_closed"]
    intact = {(i.seed, i.item_id): i.exact for i in answers.answers(results, "ridge")}
    swapped = {
        (i.seed, i.item_id): i.exact for i in answers.answers(results, "ridge", "swap") if not i.locally_reachable
    }
    before, after = [float(intact[k]) for k in swapped], [float(v) for v in swapped.values()]
    effect = found["swap"]
    assert effect.difference == contrast(before, after)
    assert effect.p == mcnemar(before, after)
    assert effect.p_holm >= effect.p
    assert (effect.intact.mean, effect.intervened.mean) == (sum(before) / len(before), sum(after) / len(after))
    assert sum(effect.by_seed.values()) / 2 == pytest.approx(effect.difference.mean)
    assert effect.unpaired == 0


def test_an_intervention_on_some_lengths_is_paired_on_those_and_orphans_are_counted(tmp_path: Path):
    directory = write_study(tmp_path, small(half_life=(("ridge", 5.0),), items_per_cell=4, steps=1))
    path = directory / "items" / "ridge-s0.jsonl"
    items = list(read_jsonl(path, ItemRecord))
    kept = [i for i in items if i.intervention == INTACT or i.length == 256]
    orphan = next(i for i in kept if i.intervention == INTACT and i.length == 256 and not i.locally_reachable)
    write_jsonl(path, [i for i in kept if i is not orphan])
    effects = answers.effects(load_records(directory))
    assert {effect.difference.n for effect in effects} == {2 * 4 - 1}
    assert {effect.unpaired for effect in effects} == {1}


def test_nothing_answered_is_nothing_claimed(tmp_path: Path):
    directory = write_study(tmp_path, small(half_life=(("ridge", 5.0),), items_per_cell=1, steps=1))
    (directory / "items" / "ridge-s0.jsonl").unlink()
    found = load_records(directory)
    assert answers.cells(found, "ridge") == {}
    assert answers.by_compressions(found, "ridge") == {}
    assert answers.effects(found) == []
    assert answers.error_classes(found, "ridge", INTACT) == {}
    assert answers.chance(found) is None
    assert found.seeds == list(Plan().seeds)
