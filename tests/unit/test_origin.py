"""Where results come from: what a measurement says of itself, what a run left, and how a script refuses."""

import subprocess
from pathlib import Path

import pytest

from palimpsest.errors import InputError, refused
from palimpsest.records import Measurement, Provenance, write_json
from palimpsest.report.tables import markdown_of
from palimpsest.training.provenance import measurement, origin
from palimpsest.training.run import METRICS, PROVENANCE, run_log

KNOWN = {"versions": {}, "cores": 2, "git_commit": "abc", "date": "2026-01-02T03:04:05+00:00"}


def test_a_measurement_is_saved_under_its_name_hardware_and_day(tmp_path):
    found = Measurement(**KNOWN, hardware="NVIDIA H200 (141 GB)", git_dirty=False)
    path = found.save(tmp_path, "case")
    assert path.name == "case_nvidia-h200-141-gb_2026-01-02.json"
    assert Measurement.model_validate_json(path.read_text()) == found


@pytest.mark.parametrize(("dirty", "shown"), [(False, "abc"), (True, "abc with uncommitted changes")])
def test_a_commit_says_whether_the_tree_was_changed(dirty, shown):
    assert Measurement(**KNOWN, hardware="", git_dirty=dirty).commit == shown


def test_a_measurement_names_the_commit_that_git_names():
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not in a repository")
    assert measurement().git_commit == done.stdout.strip()
    assert measurement(threads=3).threads == 3


def test_further_packages_are_named_beside_the_usual_ones():
    assert set(origin("pyarrow").versions) == {*origin().versions, "pyarrow"}
    assert origin("no-such-distribution").versions["no-such-distribution"] == "not installed"


def test_a_run_without_a_step_has_no_end(tmp_path):
    with pytest.raises(InputError, match=PROVENANCE):
        run_log(tmp_path)
    made = origin().model_dump() | {
        "recipe_sha256": "", "data_fingerprint": "", "seeds": {}, "parameters": 1, "flops": 1.0, "started": "",
    }  # fmt: skip
    write_json(tmp_path / PROVENANCE, Provenance(**made))
    with pytest.raises(InputError, match="has logged no step yet"):
        run_log(tmp_path)
    (tmp_path / METRICS).write_text("")
    with pytest.raises(InputError, match="has logged no step yet"):
        run_log(tmp_path)
    (tmp_path / PROVENANCE).write_text("{}")
    with pytest.raises(InputError, match="not a Provenance"):
        run_log(tmp_path)


def test_a_script_refuses_with_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stopped, refused("script"):
        raise InputError("What was\nwrong.")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "script: What was wrong.\n"


def test_cells_of_markdown_cannot_end_their_row():
    assert markdown_of(("a", "b"), [("x|y", " two\nlines ")]) == "| a | b |\n|---|---|\n| x\\|y | two lines |"
