import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_study import small, write_study

from palimpsest.records import PositionLossRecord, StepRecord, read_jsonl, write_jsonl
from palimpsest.report import StudyResults, load_records, runs
from palimpsest.report.runs import Bucket, Head, Point
from palimpsest.statistics import contrast

PLAN = small(seeds=(0, 1), half_life=(("segment_local", 0.0), ("ridge", 5.0)), items_per_cell=1, steps=20, documents=5)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("records"), PLAN)


@pytest.fixture(scope="module")
def results(directory: Path) -> StudyResults:
    return load_records(directory)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 50))
def test_thinned_curves_keep_their_mean_and_their_peaks(values: list[float], limit: int):
    points = [Point(float(i), value) for i, value in enumerate(values)]
    means, peaks = runs.thinned(points, limit), runs.thinned(points, limit, max)
    assert len(means) == len(peaks) <= limit
    assert [p.tokens for p in means] == sorted(p.tokens for p in means)
    assert max(p.value for p in peaks) == max(values)
    if len(values) % len(means) == 0:
        assert math.fsum(p.value for p in means) / len(means) == pytest.approx(
            math.fsum(values) / len(values), abs=1e-6
        )


def test_values_that_are_not_finite_leave_a_gap():
    points = [Point(1, math.nan), Point(2, math.inf), Point(3, 5.0)]
    assert runs.thinned(points) == [Point(3, 5.0)]
    assert runs.thinned(points[:2]) == []


def test_skipped_updates_are_marked_where_the_count_rises(results: StudyResults):
    curves = runs.training_curves(results, "finetune")
    assert [curve.stage[:2] for curve in curves] == [
        ("segment_local", 0),
        ("segment_local", 1),
        ("ridge", 0),
        ("ridge", 1),
    ]
    assert {tuple(curve.skipped) for curve in curves} == {(11 * 4096.0,)}


def test_a_log_that_begins_after_a_skip_marks_its_first_step(directory: Path, tmp_path: Path):
    steps = list(read_jsonl(directory / "metrics" / "ridge-s0-finetune.jsonl", StepRecord))
    late = write_study(tmp_path, small(half_life=(("ridge", 5.0),), items_per_cell=1, steps=1, documents=1))
    write_jsonl(late / "metrics" / "ridge-s0-finetune.jsonl", steps[15:])
    (curve,) = runs.training_curves(load_records(late), "finetune")
    assert curve.skipped == [steps[15].tokens]


def test_final_gates_are_those_after_fine_tuning(results: StudyResults, directory: Path):
    last = list(read_jsonl(directory / "metrics" / "ridge-s1-finetune.jsonl", StepRecord))[-1]
    gates = runs.final_gates(results, "ridge")
    assert len(gates) == 2 * PLAN.layers * PLAN.heads
    for layer in last.layers:
        for head, gate in enumerate(layer.gates):
            assert gates[Head(1, layer.layer, head)] == gate
    assert runs.final_gates(results, "segment_local") == {}


def test_gates_of_both_stages_are_on_one_axis(results: StudyResults):
    paths, begin = runs.gate_paths(results, "ridge")
    assert begin == PLAN.steps * 4096
    path = paths[Head(0, 0, 0)]
    assert (path[0].tokens, path[-1].tokens) == (4096, 2 * PLAN.steps * 4096)
    assert len(path) == 2 * PLAN.steps


def test_loss_by_position_averages_documents(results: StudyResults):
    found = runs.loss_by_position(results, "ridge")
    assert list(found) == [Bucket(2**p, 2 ** (p + 1)) for p in range(10)]
    records = [r for key, rs in results.losses.items() if key.arm == "ridge" and key.intervention == "none" for r in rs]
    own = [r.nll / r.tokens for r in records if r.position_start == 64]
    assert found[Bucket(64, 128)].found.mean == pytest.approx(sum(own) / len(own))
    assert found[Bucket(64, 128)].found.n == PLAN.documents
    assert sum(found[Bucket(64, 128)].by_seed.values()) / 2 == pytest.approx(found[Bucket(64, 128)].found.mean)


def test_loss_differences_are_paired_by_document(results: StudyResults):
    assert runs.local_arm(results) == "segment_local"
    gap = runs.loss_difference(results, ("ridge", "none"), ("segment_local", "none"))[Bucket(256, 512)]

    def means(arm: str) -> list[float]:
        chosen = [r for key, rs in results.losses.items() if key.arm == arm and key.intervention == "none" for r in rs]
        return [
            sum(r.nll / r.tokens for r in chosen if r.document_id == f"document {d}" and r.position_start == 256) / 2
            for d in range(PLAN.documents)
        ]

    expected = contrast(means("ridge"), means("segment_local"), method="paired_t")
    assert gap.found.mean == pytest.approx(expected.mean)
    assert (gap.found.low, gap.found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert gap.found.high - gap.found.low < runs.loss_by_position(results, "ridge")[Bucket(256, 512)].found.high


def test_a_document_that_hardly_enters_a_bucket_does_not_count_there(tmp_path: Path):
    directory = write_study(tmp_path, small(half_life=(("ridge", 5.0),), items_per_cell=1, steps=1, documents=2))
    path = directory / "position_loss" / "ridge-s0.jsonl"
    records = list(read_jsonl(path, PositionLossRecord))
    cut = [
        r.model_copy(update={"tokens": 100, "nll": 1e9})
        if (r.document_id, r.position_start) == ("document 0", 512)
        else r
        for r in records
    ]
    write_jsonl(path, cut)
    found = runs.loss_by_position(load_records(directory), "ridge")[Bucket(512, 1024)].found
    assert (found.n, found.bounded) == (1, False)
    assert found.mean < 10


def test_costs_are_listed_by_seed(results: StudyResults):
    assert [cost.seed for cost in runs.costs(results, "ridge")] == [0, 1]
