"""Verdicts of rows, their correction for many claims, and what was fixed before the run."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rules import all_of, conditions
from scipy import stats
from synthetic_scorecard_file import ABOVE_ZERO, content, row, study

from palimpsest.errors import InputError
from palimpsest.records import write_json
from palimpsest.schema import Closed
from palimpsest.statistics import Estimate, holm
from palimpsest.study import preregistration
from palimpsest.study.preregistration import log_opening, openings, preregister
from palimpsest.study.scorecard import judge
from palimpsest.study.scorecard.collect import scorecard_record
from palimpsest.study.scorecard.findings import Findings, load_findings
from palimpsest.study.scorecard.judge import judge_rows
from palimpsest.study.scorecard.measures.base import Measure, Measured, Missing, always
from palimpsest.study.scorecard.plan import plan_scorecard
from palimpsest.study.scorecard.spec import RowSpec


class _Given(Closed):
    z: float | None


def _measure(findings, given):
    """A mean of z standard errors of 1."""
    if given.z is None:
        raise Missing("not measured")

    def at(level):
        half = float(stats.norm.isf((1 - level) / 2))
        return Estimate(given.z, given.z - half, given.z + half, 100, "z", level, 5)

    return Measured({"difference": at}, note="No number of what is other.")


Z = Measure(_Given, _measure, always("difference", "other"))


@pytest.fixture
def of_z(monkeypatch):
    monkeypatch.setitem(judge.MEASURES, "z", Z)


@pytest.fixture(scope="module")
def plain():
    return study(documents={})


OTHER = conditions(all_of("other low > 0"))
BELOW_ZERO = {"all_of": [{"estimate": "difference", "bound": "high", "op": "<", "value": 0}]}


def verdicts(spec, values):
    rule = ABOVE_ZERO | {"fail_when": BELOW_ZERO}
    rows = [row(i, measure="z", given={"z": z}, rule=rule, primary=True) for i, z in enumerate(values, 1)]
    with_rows = spec.model_copy(update={"rows": tuple(RowSpec.model_validate(each) for each in rows)})
    return [each.verdict for each in judge_rows(Findings(spec=with_rows)).rows]


@given(values=st.lists(st.floats(-5, 5).map(lambda z: round(z, 3)), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_the_verdicts_of_primary_rows_are_those_of_holms_procedure(plain, values):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(judge.MEASURES, "z", Z)
        found = verdicts(plain, values)
    rejected = holm(2 * stats.norm.sf(np.abs(values))) <= 0.05
    one_by_one = ["PASS" if z > 0 else "FAIL" for z in values]
    assert found == [each if sure else "INCONCLUSIVE" for each, sure in zip(one_by_one, rejected, strict=True)]


def test_rows_that_were_not_measured_still_count_as_claims(of_z, plain):
    assert verdicts(plain, [2.0]) == ["PASS"]
    assert verdicts(plain, [2.0, None]) == ["INCONCLUSIVE", "INCONCLUSIVE"]


def test_rows_that_are_not_primary_are_judged_alone(of_z):
    rows = [row(i, measure="z", given={"z": 2.0}) for i in range(1, 10)]
    judged = judge_rows(Findings(spec=study(rows=rows, documents={})))
    assert {each.verdict for each in judged.rows} == {"PASS"}
    assert judged.trained == {f"E{i:02}": 5 for i in range(1, 10)}


def test_a_verdict_that_falls_to_the_correction_says_so(of_z):
    rows = [row(i, measure="z", given={"z": 2.0}, primary=True) for i in (1, 2)]
    first = judge_rows(Findings(spec=study(rows=rows, documents={}))).rows[0]
    assert first.verdict == "INCONCLUSIVE"
    assert first.sentence.startswith("PASS on its own")


def test_a_rule_for_a_quantity_that_its_measure_does_not_have_is_refused(of_z):
    other = {"kind": "at_least", "value": 0.5}
    with pytest.raises(InputError, match=r"'estimate', which the measure 'z' does not give.* Known: difference, other"):
        judge_rows(Findings(spec=study(rows=[row(measure="z", given={"z": 1.0}, rule=other)], documents={})))


def test_a_row_whose_number_the_records_do_not_give_is_open_and_says_why(of_z):
    rows = [row(1, measure="z", given={"z": 9.0}), row(2, measure="z", given={"z": 9.0}, rule=OTHER, primary=True)]
    judged = judge_rows(Findings(spec=study(rows=rows, documents={})))
    assert [(each.verdict, each.tested) for each in judged.rows] == [("PASS", True), ("INCONCLUSIVE", False)]
    assert judged.rows[1].sentence == "The records do not give 'other'. No number of what is other."


def test_a_card_of_which_nothing_was_run_is_open_and_says_what_is_missing(tmp_path):
    spec = study(rows=[row()])
    plan = plan_scorecard(spec)
    record = scorecard_record(load_findings(spec, plan, tmp_path), plan, tmp_path, ["changed"], [])
    assert [(each.verdict, each.tested) for each in record.rows] == [("INCONCLUSIVE", False)]
    assert record.deviations[0] == "changed"
    assert record.deviations[1].startswith(f"{len(plan)} of {len(plan)} stages have not been run")
    assert {arm.name: arm.reach for arm in record.arms}["window"] == 63


def test_each_thing_that_is_changed_after_the_first_run_is_named(tmp_path):
    first = study(rows=[row(1), row(2)])
    assert preregister(first, first.sha256, tmp_path) == []
    assert preregister(first, first.sha256, tmp_path) == []
    looser = row(2, rule=ABOVE_ZERO | {"min_seeds": 2})
    arms = content()["arms"]
    arms["memory"]["learning_rate"] = 0.5
    del arms["short"]
    then = study(rows=[row(1), looser, row(3)], arms=arms)
    said = [sentence.partition(" was changed")[0] for sentence in preregister(then, then.sha256, tmp_path)]
    assert said == ["arms.memory", "arms.short", "rows.E02", "rows.E03"]


def test_rows_in_another_order_are_a_change(tmp_path):
    first, then = study(rows=[row(1), row(2)]), study(rows=[row(2), row(1)])
    preregister(first, first.sha256, tmp_path)
    assert [s.partition(" was")[0] for s in preregister(then, then.sha256, tmp_path)] == ["the order of rows"]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ([0, 1, 2, 3, 4, 5], "5 added"),
        ([0, 1, 2], "3, 4 left out"),
        ([0, 1, 2, 3, 7], "7 added; 4 left out"),
        ([4, 3, 2, 1, 0], None),
    ],
)
def test_seeds_that_were_added_or_left_out_are_named(tmp_path, now, said):
    preregister(study(), study().sha256, tmp_path)
    then = study(seeds=now)
    expected = [] if said is None else [f"the training seeds were changed after the first run: {said}"]
    assert preregister(then, then.sha256, tmp_path) == expected


def test_opening_the_items_of_test_seeds_is_logged_once_with_the_settings(tmp_path):
    first, then = study(), study(name="other")
    log_opening(first, tmp_path, of={"text", "train"})
    assert openings(first, tmp_path) == [], "what is not asked is not opened"
    log_opening(first, tmp_path)
    log_opening(then, tmp_path)
    (line,) = openings(first, tmp_path)  # the documents have a design seed
    assert line.startswith("pairs (seed 10001) was opened at")
    assert line.endswith(".")
    assert "under other settings" not in line
    assert f"under other settings ({first.sha256[:12]})" in openings(then, tmp_path)[0]


def test_openings_of_processes_that_share_a_directory_are_all_kept(tmp_path, monkeypatch):
    def slowly(path, value):
        time.sleep(0.05)  # between reading what is there and writing
        write_json(path, value)

    monkeypatch.setattr(preregistration, "write_json", slowly)
    asked = [SimpleNamespace(sha256="ab" * 32, item_seeds={f"task {n}": 10_001}) for n in range(6)]
    with ThreadPoolExecutor(len(asked)) as pool:
        list(pool.map(lambda one: log_opening(one, tmp_path), asked))
    assert len(openings(asked[0], tmp_path)) == len(asked)
