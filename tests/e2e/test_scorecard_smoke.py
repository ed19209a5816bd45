"""The scorecard in miniature, from the command to the page: run, run again, changed, and drawn from its records."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from palimpsest.records import ItemRecord, ScorecardRecord, ShownItemRecord, read_jsonl

STUDY = Path(__file__).parents[2] / "studies" / "scorecard-smoke.yaml"
PROGRAM = "from palimpsest.cli import main; main()"


def palimpsest(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("scorecard") / "out"
    done = palimpsest("study", "run", STUDY, "--out", directory, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert str(directory / "report" / "index.html") in done.stdout
    return directory


def scorecard(out: Path) -> ScorecardRecord:
    return ScorecardRecord.model_validate_json((out / "records" / "scorecard.json").read_text())


def test_every_row_has_a_verdict_and_the_digest_of_what_was_fixed_before(out):
    card = scorecard(out)
    found = {row.id: row for row in card.rows}
    assert found["E26"].verdict == "PASS"
    assert found["E08"].verdict == found["E31"].verdict == "INCONCLUSIVE"  # too few items to say anything
    assert {row.prereg for row in card.rows} == {json.loads((out / "prereg.json").read_text())["sha256"]}
    assert not card.deviations
    assert not card.opened  # seeds below 10,000 are for design
    assert set(card.provenance) == {f"{arm}-s{seed}" for arm in arms() for seed in (0, 1)}


def arms() -> list[str]:
    return list(yaml.safe_load(STUDY.read_text())["arms"])


def test_items_say_what_exact_attention_reaches(out):
    items = list(read_jsonl(out / "records" / "items" / "pairs.jsonl.gz", ItemRecord))
    assert {item.intervention for item in items if item.arm == "ridge"} == {"none", "swap", "zero", "drop[needle]"}
    assert {item.intervention for item in items if item.arm == "segment_local"} == {"none"}
    for item in items:
        at = item.distance + item.needle_end - 1
        assert set(item.reachable_by) == (
            {"segment_local", "ridge", "ridge_longer"} if item.needle_end > at // 16 * 16 else set()
        )


def test_single_items_can_be_read(out):
    shown = list(read_jsonl(out / "records" / "items" / "pairs.samples.jsonl.gz", ShownItemRecord))
    assert shown
    for item in shown:
        assert any(part.kind == "needle" and item.answer in part.text for part in item.parts)
        assert item.outputs[0].intervention == "none"


def test_the_page_has_all_rows_and_no_script(out):
    page = (out / "report" / "index.html").read_text()
    assert "<script" not in page
    for row in ScorecardRecord.model_validate_json((out / "records" / "scorecard.json").read_bytes()).rows:
        assert f'href="#{row.id.lower()}"' in page
    assert "Not part of this study: E" in page
    assert "This study has no corpus." in page


def test_the_same_command_does_nothing_twice(out):
    before = (out / "records" / "scorecard.json").read_bytes()
    again = palimpsest("study", "run", STUDY, "--out", out)
    assert again.returncode == 0
    assert len(re.findall(": already done", again.stderr)) == len(re.findall(r"^\[", again.stderr, re.MULTILINE)) > 0
    assert (out / "records" / "scorecard.json").read_bytes() == before


def test_the_page_can_be_drawn_from_the_records_alone(out):
    drawn = palimpsest("study", "report", out / "records", "--out", out / "again")
    assert drawn.returncode == 0, drawn.stderr
    assert (out / "again" / "index.html").read_text() == (out / "report" / "index.html").read_text()


def test_a_rule_that_is_changed_afterwards_is_a_deviation(out, tmp_path):
    changed = yaml.safe_load(STUDY.read_text())
    changed["rows"][0]["rule"]["floor"] = 0.3
    study = tmp_path / "changed.yaml"
    study.write_text(yaml.safe_dump(changed))
    done = palimpsest("study", "run", study, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "rows.E08 was changed after the first run" in done.stderr
    assert any("rows.E08 was changed" in sentence for sentence in scorecard(out).deviations)
