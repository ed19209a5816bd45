import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_study import Plan, small, write_study

from palimpsest.errors import InputError
from palimpsest.records import ItemRecord, read_jsonl
from palimpsest.report import load_records
from palimpsest.report.load import Condition, Run, Stage

PLAN = small(half_life=(("segment_local", 0.0), ("ridge", 50.0)), lengths=(64, 256), items_per_cell=2, steps=5)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return write_study(tmp_path / "records", PLAN)


def test_everything_that_was_written_is_read(records: Path):
    results = load_records(records)
    assert results.study == PLAN.study
    assert results.arms == ["segment_local", "ridge"]
    assert results.memory_arms == ["ridge"]
    assert results.seeds == [0]
    assert results.interventions("ridge") == ["swap", "zero", "gate_closed"]
    assert results.interventions("segment_local") == []
    assert len(results.items[Condition("ridge", 0, "zero")]) == 2 * 3 * 2
    assert len(results.metrics[Stage("ridge", 0, "finetune")]) == 5
    assert results.provenance.keys() == results.metrics.keys()
    assert results.costs[Run("ridge", 0)].memory_bytes > 0
    assert [verdict.verdict for verdict in results.verdicts or ()] == ["PASS", "FAIL", "INCONCLUSIVE"]
    assert results.losses[Condition("ridge", 0, "swap")]


def test_compressed_lines_are_read_alike(tmp_path: Path, records: Path):
    packed = write_study(tmp_path / "packed", small(**{**PLAN.__dict__, "suffix": ".jsonl.gz"}))
    assert load_records(packed).items == load_records(records).items


@pytest.mark.parametrize(
    "part", ["verdicts.json", "items", "position_loss", "metrics", "cost", "provenance", "items/ridge-s0.jsonl"]
)
def test_an_unfinished_study_is_read(records: Path, part: str):
    path = records / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert load_records(records).study == PLAN.study


def test_a_directory_without_a_study_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"no study\.json"):
        load_records(tmp_path)


def test_a_damaged_line_is_named(records: Path):
    path = records / "items" / "ridge-s0.jsonl"
    path.write_text(path.read_text() + '{"task": "passkey"}\n')
    with pytest.raises(InputError, match=r"ridge-s0\.jsonl, line 49: not a ItemRecord"):
        load_records(records)


@pytest.mark.parametrize(
    "name", ["study.json", "verdicts.json", "cost/ridge-s0.json", "provenance/ridge-s0-pretrain.json"]
)
def test_a_damaged_file_is_named(records: Path, name: str):
    (records / name).write_text('{"cut": ')
    with pytest.raises(InputError, match=Path(name).name):
        load_records(records)


def test_a_truncated_archive_is_named(tmp_path: Path):
    packed = write_study(tmp_path, small(**{**PLAN.__dict__, "suffix": ".jsonl.gz"}))
    path = packed / "items" / "ridge-s0.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"ridge-s0\.jsonl\.gz is damaged"):
        load_records(packed)


def test_an_answer_recorded_twice_is_refused(records: Path):
    path = records / "items" / "ridge-s0.jsonl"
    first = path.read_text().splitlines()[0]
    path.write_text(path.read_text() + first + "\n")
    item = next(read_jsonl(path, ItemRecord))
    with pytest.raises(InputError, match=f"item {item.item_id} of passkey of arm 'ridge', seed 0.* recorded twice"):
        load_records(records)


def test_a_loss_recorded_twice_is_refused(records: Path):
    path = records / "position_loss" / "ridge-s0.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match=r"document 0 at position 1 of arm 'ridge'.* recorded twice"):
        load_records(records)


def test_two_files_of_one_run_are_refused(records: Path):
    (records / "items" / "ridge-s0.jsonl.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"ridge-s0\.jsonl\.gz and ridge-s0\.jsonl hold the same records"):
        load_records(records)


@pytest.mark.parametrize(
    "name", ["ridge.jsonl", "ridge-s0-evaluate.jsonl", "-s0-pretrain.jsonl", "ridge-sx-pretrain.jsonl"]
)
def test_a_log_of_an_unknown_stage_is_refused(records: Path, name: str):
    (records / "metrics" / name).touch()
    with pytest.raises(InputError, match=r"expected a name like ARM-s0-STAGE"):
        load_records(records)


def test_the_name_of_an_arm_may_look_like_a_run(tmp_path: Path):
    plan = small(**{**PLAN.__dict__, "half_life": (("ridge-s1-x", 5.0),)})
    assert Stage("ridge-s1-x", 0, "pretrain") in load_records(write_study(tmp_path, plan)).metrics


def test_the_default_plan_has_every_kind_of_arm():
    assert {arm.name for arm in Plan().arms} >= {"full", "segment_local", "linear"}


def test_reports_need_no_torch():
    script = (
        "import sys, palimpsest.report; "
        "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
