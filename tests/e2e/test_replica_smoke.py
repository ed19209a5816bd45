"""The replica with next to no training, as a user runs it: both protocols, both grids, zero-shot and fine-tuned."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "replica-smoke.yaml"
ARMS = ("infini_published", "segment_local_published", "full_published", "infini_intended", "segment_local_intended")
PAGES = ("characters-pretrained", "tokens")


def palimpsest(*arguments: object) -> str:
    program = Path(sys.executable).with_name("palimpsest")
    done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("replica") / "out"
    return out, palimpsest("study", "run", STUDY, "--out", out)


def test_every_arm_answers_every_grid_and_the_main_one_lies_at_the_top(finished):
    out, _ = finished
    for folder, grid, trained in (
        ("items", "characters", None),
        ("grids/characters-pretrained/items", "characters", "pretrained"),
        ("grids/tokens/items", "tokens", None),
    ):
        asked = set()
        for arm in ARMS:
            items = rows(out / "records" / folder / f"{arm}-s0.jsonl")
            assert {(item["facts"]["grid"], item["facts"].get("trained")) for item in items} == {(grid, trained)}
            intact = [item for item in items if item["intervention"] == "none"]
            assert Counter(item["depth"] for item in intact) == dict.fromkeys((0.0, 0.25, 0.5, 0.75, 0.95), 2 * 2)
            asked.add(frozenset(item["item_id"] for item in intact))
        assert len(asked) == 1, "all arms answer the same items"


def test_lengths_in_characters_have_true_tokens_beside_them(finished):
    out, _ = finished
    items = rows(out / "records/items/infini_published-s0.jsonl")
    assert {item["facts"]["nominal"] for item in items} == {160, 320}
    lengths = {nominal: {i["length"] for i in items if i["facts"]["nominal"] == nominal} for nominal in (160, 320)}
    assert max(lengths[160]) < min(lengths[320])
    assert not {160, 320} & set.union(*lengths.values())
    planned = json.loads((out / "records/study.json").read_text())["lengths"]
    assert [min(lengths[n]) <= p <= max(lengths[n]) for n, p in zip((160, 320), planned, strict=True)] == [True, True]
    tokens = rows(out / "records/grids/tokens/items/infini_published-s0.jsonl")
    assert {item["length"] for item in tokens} == {160, 320}
    assert json.loads((out / "records/grids/tokens/study.json").read_text())["lengths"] == [160, 320]


def test_interventions_are_made_on_items_in_tokens(finished):
    out, _ = finished
    items = rows(out / "records/grids/tokens/items/infini_intended-s0.jsonl")
    made = {name: {item["item_id"] for item in items if item["intervention"] == name} for name in ("swap", "zero")}
    longest = {item["item_id"] for item in items if item["intervention"] == "none" and item["length"] == 320}
    assert made == {"swap": longest, "zero": longest}


def test_claims_are_judged_on_their_grids(finished):
    out, printed = finished
    verdicts = {verdict["claim"]: verdict for verdict in json.loads((out / "records/verdicts.json").read_text())}
    # six updates teach nothing, so that a difference is small, or so uncertain that nothing can be said
    assert verdicts["infini-beats-segment_local-as-published"]["verdict"] in ("FAIL", "INCONCLUSIVE")
    assert verdicts["infini-beats-segment_local-as-published"]["estimates"]["difference"]["n"] == 2
    assert verdicts["zero-shot-fails"]["items"] == ["grids/characters-pretrained/items/infini_published-s0"]
    assert verdicts["infini-intended-memory-is-causal"]["items"] == ["grids/tokens/items/infini_intended-s0"]
    assert printed.splitlines()[-1] == f"Report: {out / 'report' / 'index.html'}"


def test_the_page_links_the_pages_of_the_other_grids(finished, tmp_path):
    out, _ = finished
    page = (out / "report/index.html").read_text()
    for name in PAGES:
        assert f'href="grids/{name}/index.html"' in page
        other = (out / f"report/grids/{name}/index.html").read_text()
        assert 'href="../../index.html#verdicts"' in other
        assert "No claim has been judged" not in other
        assert "http://" not in other.replace("http://www.w3.org/", "")
    palimpsest("study", "report", out / "records", "--out", tmp_path / "page")
    for path in (out / "report").rglob("*.svg"):
        assert (tmp_path / "page" / path.relative_to(out / "report")).read_bytes() == path.read_bytes()


def test_run_again_it_does_nothing_and_finds_the_same(finished):
    out, _ = finished
    names = ("records/verdicts.json", "records/items/*.jsonl", "records/grids/*/items/*.jsonl", "stages/*/done.json")
    before = {path: path.read_bytes() for name in names for path in out.glob(name)}
    palimpsest("study", "run", STUDY, "--out", out)
    assert {path: path.read_bytes() for name in names for path in out.glob(name)} == before
