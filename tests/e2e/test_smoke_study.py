"""The whole study in miniature, as a user runs it: once, again, and interrupted."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "smoke.yaml"
SECONDS = 90


def palimpsest(*arguments: object) -> subprocess.Popen:
    program = Path(sys.executable).with_name("palimpsest")
    return subprocess.Popen(
        [str(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that one signal reaches the workers too
        env=os.environ | {"COLUMNS": "200"},
    )


def finish(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def files(directory: Path, *patterns: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for pattern in patterns
        for path in sorted(directory.glob(pattern))
    }


def outcome(out: Path) -> dict[str, bytes]:
    """What a study found, without how long it took and when."""
    return files(out, "records/items/*", "records/position_loss/*", "records/verdicts.json", "records/study.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("smoke") / "out"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    printed, _ = finish(palimpsest("study", "run", STUDY, "--out", out))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # the time of the processor, not of the clock: the machine may be busy with other things
    return out, printed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_it_ends_with_the_path_of_a_page_in_time(finished):
    out, printed, seconds = finished
    assert printed.splitlines()[-1] == f"Report: {out / 'report' / 'index.html'}"
    page = (out / "report" / "index.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "<script" not in page
    assert seconds < SECONDS


def test_every_arm_has_all_its_records(finished):
    out, _, _ = finished
    for arm in ("full", "segment_local", "linear", "delta", "ridge"):
        items = [json.loads(line) for line in (out / f"records/items/{arm}-s0.jsonl").read_text().splitlines()]
        interventions = {item["intervention"] for item in items}
        has_memory = arm in ("linear", "delta", "ridge")
        assert interventions == ({"none", "swap", "zero", "gate_closed"} if has_memory else {"none"})
        by_intervention = {
            name: {i["item_id"] for i in items if i["intervention"] == name and i["length"] == 544}
            for name in interventions
        }
        assert len(set(map(frozenset, by_intervention.values()))) == 1, "interventions on other items"
        assert (out / f"records/position_loss/{arm}-s0.jsonl").exists()
        assert (out / f"records/cost/{arm}-s0.json").exists()
        for stage in ("pretrain", "finetune"):
            assert (out / f"records/metrics/{arm}-s0-{stage}.jsonl").exists()
            assert (out / f"records/provenance/{arm}-s0-{stage}.json").exists()


def test_all_arms_answer_the_same_items(finished):
    out, _, _ = finished
    asked = {
        path.name: {json.loads(line)["item_id"] for line in path.read_text().splitlines()}
        for path in (out / "records/items").iterdir()
    }
    assert len(asked) == 5
    assert len(set(map(frozenset, asked.values()))) == 1


def test_run_again_does_nothing_and_finds_the_same(finished):
    out, _, _ = finished
    before, stages = outcome(out), files(out, "stages/*/done.json")
    finish(palimpsest("study", "run", STUDY, "--out", out))
    assert outcome(out) == before
    assert files(out, "stages/*/done.json") == stages


@pytest.mark.parametrize(
    ("killer", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_interrupted_and_run_again_it_finds_the_same(finished, tmp_path, killer, code):
    complete, _, _ = finished
    out = tmp_path / "out"
    process = palimpsest("study", "run", STUDY, "--out", out, "--only", "ridge")
    while not list(out.glob("stages/pretrain-*/metrics.jsonl")):  # the first training has begun
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, killer)
    finish(process, code)
    assert not (out / "report").exists()
    finish(palimpsest("study", "run", STUDY, "--out", out, "--only", "ridge"))
    ridge = ("records/items/ridge-s0.jsonl", "records/position_loss/ridge-s0.jsonl")
    assert {name: outcome(out)[name] for name in ridge} == {name: outcome(complete)[name] for name in ridge}


def test_the_page_can_be_made_again_from_the_records_alone(finished, tmp_path):
    out, _, _ = finished
    finish(palimpsest("study", "report", out / "records", "--out", tmp_path / "page"))
    made = files(tmp_path / "page", "figures/*.svg", "tables/*.csv")
    assert made
    assert made == files(out / "report", "figures/*.svg", "tables/*.csv")
