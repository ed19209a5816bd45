"""What the documents say is true: their code runs, their links lead somewhere, their numbers come from the records."""

import importlib
import json
import re
from pathlib import Path

import pytest

from palimpsest.report import headline_figure, load_records
from palimpsest.report.scorecard import load_scorecard

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md"), *ROOT.glob("benchmarks/*.md")]
PAGES += ROOT.glob("studies/**/*.md")
RESULTS = ROOT / "studies" / "laptop" / "results"


def code_blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("code", code_blocks(ROOT / "README.md"))
def test_the_code_of_the_readme_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


@pytest.fixture
def publish(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "studies")
    return importlib.import_module("publish")


def test_the_figure_and_the_table_of_the_readme_come_from_the_committed_records(publish):
    results = load_records(RESULTS)
    assert (RESULTS / "figure.svg").read_text(encoding="utf-8") == headline_figure(results)
    section = publish.readme_section(results, "studies/laptop/results")
    assert section in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_primary_rows_in_the_readme_come_from_the_committed_records(publish):
    card = load_scorecard(ROOT / "studies" / "scorecard-small" / "results")
    assert publish.scorecard_section(card) in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["drift-small", "gates-small", "gradients-small", "replica-small"])
def test_the_page_of_a_study_comes_from_the_committed_records(publish, name):
    page = publish.whole_page(ROOT / "studies" / name / "results")
    assert (ROOT / "studies" / name / "README.md").read_text(encoding="utf-8") == page


def test_the_numbers_of_the_replica_in_the_readme_are_on_its_page():
    readme, page = (
        path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "studies/replica-small/README.md")
    )
    section = readme.split("## The 300M study in miniature")[1].split("\n## ")[0]
    quoted = re.findall(r"(-?\d+)\s(?:%|points)(?:(?!\d\s%|\d\spoints)[^][])*\[(-?\d+), (-?\d+)\]", section)
    assert len(quoted) == section.count("[") - section.count("]("), "an interval without its mean, or the reverse"
    numbers = r"([-+]?[\d.]+) (?:%|points) \(95 % interval ([-+]?[\d.]+) to ([-+]?[\d.]+)"
    judged = {tuple(str(round(float(each))) for each in found) for found in re.findall(numbers, page)}
    tabled = set(re.findall(r"\| (-?\d+) \[(-?\d+), (-?\d+)\] ", page))
    assert set(quoted) <= judged | tabled


def test_the_memory_of_reading_is_the_recorded_one():
    record = json.loads((ROOT / "benchmarks/results/generate_memory_amd-epyc_2026-11-20.json").read_text())
    page = (ROOT / "docs/tutorial/long-documents.md").read_text(encoding="utf-8")
    for kind in record["kinds"]:
        short, long = (kind[which]["peak_bytes"] / 2**20 for which in ("short", "long"))
        numbers = f"{short:.1f} MiB | {long:.1f} MiB | {long / short:.3f} |"
        assert f" | {kind['formula_bytes']:,} | {numbers}" in page, kind["kind"]
