"""A benchmark proves before it times, and what it writes says under which conditions."""

import json

import pytest
import torch

from palimpsest import bench
from palimpsest.bench import BenchRecord, Effort, Timing, run_case
from palimpsest.errors import InputError
from palimpsest.memory import LinearMemory

QUICK = Effort(tokens=(512, 1024), repeats=2)


@pytest.fixture(scope="module")
def record() -> BenchRecord:
    return run_case("parallel_vs_scan", QUICK)


def test_all_memories_are_equal_and_timed(record):
    assert record.holds
    assert {equality.memory for equality in record.equalities} == {"linear", "delta", "ridge"}
    assert {(t.memory, t.form) for t in record.timings} == {
        (memory, form) for memory in ("linear", "delta", "ridge") for form in ("parallel", "scan")
    }
    for timing in record.timings:
        assert all(len(runs) == 2 and min(runs) > 0 for runs in timing.cpu_seconds.values())
        assert timing.ratio > 0


def test_the_record_says_under_which_conditions(record, tmp_path):
    path = record.save(tmp_path, record.case)
    assert path.name.startswith("parallel_vs_scan_")
    assert path.name.endswith(f"_{record.date[:10]}.json")
    written = json.loads(path.read_text())
    assert written["versions"]["torch"] == torch.__version__
    assert written["threads"] == 1
    assert BenchRecord.model_validate_json(path.read_text()) == record


def test_the_ratio_is_of_medians_of_processor_time():
    timing = Timing(
        memory="linear", form="scan", seconds={8: [9.0], 32: [9.0]}, cpu_seconds={8: [1.0, 9.0, 2.0], 32: [8.0]}
    )
    assert timing.ratio == 4.0


class Late(LinearMemory):
    """A planted bug: every segment also reads what it has just written."""

    def prefixes(self, state, k, v, keep, reset, strength):
        before, after = super().prefixes(state, k, v, keep, reset, strength)
        return type(before)(*(torch.roll(leaf, -1, 2) for leaf in before)), after


class Poisoned(LinearMemory):
    """A planted bug: the fast form is not a number."""

    def prefixes(self, state, k, v, keep, reset, strength):
        before, after = super().prefixes(state, k, v, keep, reset, strength)
        return before, type(after)(after.matrix * torch.nan, after.normaliser)


@pytest.mark.parametrize("broken", [Late(), Poisoned()])
def test_no_time_is_reported_of_what_is_wrong(monkeypatch, broken):
    monkeypatch.setattr(bench, "MEMORIES", {"linear": LinearMemory(), "broken": broken})
    record = run_case("parallel_vs_scan", QUICK)
    assert not record.holds
    assert record.timings == []
    assert [equality.holds for equality in record.equalities] == [True, False]


def test_threads_are_as_before(record):
    before = torch.get_num_threads()
    run_case("parallel_vs_scan", Effort(tokens=(256,), repeats=1))
    assert torch.get_num_threads() == before


def test_an_unknown_case_is_named():
    with pytest.raises(InputError, match=r"'parallel_vs_scn'.* Did you mean 'parallel_vs_scan'\?"):
        run_case("parallel_vs_scn", QUICK)
