import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import unquote

import pytest
from page_case import Page, assert_harmless, rows_of
from synthetic_study import LARGE, make_verdicts, small, write_study

from palimpsest.errors import InputError
from palimpsest.records import ItemRecord, read_jsonl, write_json, write_jsonl
from palimpsest.report import headline_figure, headline_table, load_records, write_report
from palimpsest.report.document import POLICY

PLAN = small(half_life=(("segment_local", 0.0), ("ridge", 9.0)), items_per_cell=3, steps=4, documents=3)
SECTIONS = [
    "verdicts", "length-and-depth", "compressions", "answers", "probes", "gates", "training", "held-out-loss", "cost",
    "provenance", "limits",
]  # fmt: skip


def copied(records: Path, target: Path, *without: str) -> Path:
    """Copy a study, leaving out some of its files and folders."""
    shutil.copytree(records, target)
    for part in without:
        path = target / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return target


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "records", PLAN)


@pytest.fixture(scope="module")
def index(records: Path) -> Path:
    return write_report(records, records.parent / "report")


@pytest.fixture(scope="module")
def page(index: Path) -> Page:
    return Page(index.read_text(encoding="utf-8"))


def test_the_page_is_one_closed_file(index: Path, page: Page):
    assert index.name == "index.html"
    assert_harmless(page)
    policies = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [POLICY] == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert "width=device-width, initial-scale=1" in page.values("meta", "content")
    assert index.stat().st_size < 400_000


def test_sections_come_in_the_order_of_the_questions(page: Page):
    assert page.values("section", "id") == SECTIONS
    assert [target for target in page.values("a", "href") if target.startswith("#")] == [f"#{s}" for s in SECTIONS]


def test_ids_are_unique(page: Page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 50


def test_verdicts_are_words_shapes_and_reasons(index: Path, page: Page):
    text = index.read_text(encoding="utf-8")
    for word, shape in (("PASS", "<circle"), ("FAIL", "<rect"), ("INCONCLUSIVE", "<path")):
        card = re.search(rf'<article class="verdict [a-z]+"><header><svg[^>]*>({shape}[^>]*)/>.*?</article>', text)
        assert card, word
        assert f'<span class="word">{word}</span>' in card[0]
    for verdict in make_verdicts(PLAN):
        assert verdict.statement in page.text
        assert verdict.sentence in page.text
        assert verdict.rule in page.text
    assert "0.953 [0.912–0.978] n 200, 95 %, Clopper-Pearson" in page.text
    assert "0.81 [no interval] n 1" in page.text


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_verdicts_of_one_seed_say_so(tmp_path: Path, seeds: tuple[int, ...]):
    records = write_study(tmp_path / "records", small(seeds=seeds, items_per_cell=3, steps=2, documents=1))
    text = write_report(records, tmp_path / "report").read_text(encoding="utf-8")
    assert ("One training seed: intervals are over items or documents" in text) == (len(seeds) == 1)


def test_verdicts_lead_to_the_records_they_rest_on(index: Path, page: Page):
    links = [target for target in page.values("a", "href") if target.startswith(("./", "../"))]
    assert len(links) == 3
    for target in links:
        assert (index.parent / unquote(target)).resolve().is_file()
    assert "items/no-such-run-s0 (not found)" in page.text


def test_every_number_says_how_many_it_was_taken_from(index: Path):
    cells = re.findall(r'<td class="number">(.*?)</td>', index.read_text(encoding="utf-8"))
    assert len(cells) > 50
    assert [cell for cell in cells if not re.search(r'<span class="n">n \d', cell)] == []


def test_every_figure_has_a_title_a_description_and_a_caption(page: Page):
    figures = [i for i, (tag, _) in enumerate(page.tags) if tag == "figure"]
    assert len(figures) == 13
    for start, end in zip(figures, [*figures[1:], len(page.tags)], strict=True):
        tags = [tag for tag, _ in page.tags[start:end]]
        assert {"h3", "svg", "title", "desc", "figcaption"} <= set(tags)
        svg = next(attributes for tag, attributes in page.tags[start:end] if tag == "svg")
        assert svg["role"] == "img"
        assert "width" not in svg
        labels = svg["aria-labelledby"].split()
        assert labels == [a["id"] for t, a in page.tags[start:end] if t in ("title", "desc")]


def test_figures_and_tables_lie_beside_the_page(index: Path):
    assert len(list((index.parent / "figures").glob("*.svg"))) == 13
    tables = {path.stem: rows_of(path) for path in (index.parent / "tables").glob("*.csv")}
    assert set(tables) == {
        "accuracy", "answers", "compressions", "cost", "gates", "position_loss", "probes", "verdicts",
    }  # fmt: skip
    assert len(tables["accuracy"]) == 2 * 9
    assert all(
        0 <= float(row["exact low"]) <= float(row["exact mean"]) <= float(row["exact high"]) <= 1
        for row in tables["accuracy"]
    )
    assert sum(int(row["exact n"]) for row in tables["compressions"] if row["intervention"] == "none") == 2 * 27
    assert not list(index.parent.rglob(".*"))


def test_every_file_that_the_page_names_exists(index: Path, page: Page):
    named = [target for target in page.values("a", "href") if target.startswith("tables/")]
    assert set(named) == {f"tables/{name}.csv" for name in ("accuracy", "compressions", "answers", "probes")}
    assert all((index.parent / name).is_file() for name in named)


def test_the_same_records_give_the_same_bytes(records: Path, index: Path, tmp_path: Path):
    second = write_report(records, records.parent / "other")
    for path in sorted(index.parent.rglob("*.*")):
        assert (second.parent / path.relative_to(index.parent)).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (["items"], ["No answers from segment_local (seed 0) and ridge (seed 0).", "No intervention was made"]),
        (
            ["items/ridge-s0.jsonl", "metrics/ridge-s0-finetune.jsonl", "cost/segment_local-s0.json"],
            [
                "No answers yet from ridge.",
                "No log of fine-tuning from ridge (seed 0).",
                "No cost of segment_local (seed 0).",
                "No intervention was made",
            ],
        ),
        (
            ["verdicts.json", "position_loss", "metrics", "cost", "provenance"],
            [
                "No claim has been judged",
                "No held-out loss was recorded.",
                "No training was logged.",
                "No gates were logged",
                "No costs were recorded.",
                "No provenance was recorded.",
            ],
        ),
    ],
)
def test_an_unfinished_study_says_what_is_missing(records: Path, tmp_path: Path, missing: list[str], said: list[str]):
    unfinished = copied(records, tmp_path / "records", *missing)
    page = Page(write_report(unfinished, tmp_path / "report").read_text(encoding="utf-8"))
    for sentence in said:
        assert sentence in page.text
    assert page.values("section", "id") == SECTIONS
    assert_harmless(page)


def test_a_study_that_has_only_begun_is_a_page(tmp_path: Path):
    write_json(tmp_path / "study.json", PLAN.study)
    page = Page(write_report(tmp_path, tmp_path / "report").read_text(encoding="utf-8"))
    assert "figure" not in {tag for tag, _ in page.tags}
    assert page.text.count("No ") > 8


def test_one_seed_says_that_it_is_one_and_several_say_that_they_are_few(page: Page, tmp_path: Path):
    assert "One training run per arm (seed 0)." in page.text
    plan = small(seeds=(3, 4), half_life=PLAN.half_life, items_per_cell=1, steps=2, documents=2)
    more = copied(write_study(tmp_path / "records", plan), tmp_path / "some", "metrics", "position_loss")
    text = Page(write_report(more, tmp_path / "report").read_text(encoding="utf-8")).text
    assert "Only 2 training runs per arm." in text
    assert "seeds 3 and 4" in text


def test_what_was_not_tested_is_derived_from_the_records(records: Path, page: Page, tmp_path: Path):
    assert "Nothing longer than 1K tokens (32 segments)." in page.text
    assert "18 of 18 cells are uncertain by more than 10 points either way" in page.text
    assert "These records are made up." in page.text
    assert "Code with uncommitted changes" not in page.text
    changed = copied(records, tmp_path / "records", "metrics", "position_loss")
    path = changed / "items" / "ridge-s0.jsonl"
    keep = [
        i
        for i in read_jsonl(path, ItemRecord)
        if i.intervention == "none" or (i.intervention, i.length) == ("swap", 256)
    ]
    write_jsonl(path, keep)
    for file in (changed / "provenance").iterdir():
        file.write_text(file.read_text().replace('"git_dirty": false', '"git_dirty": true'))
    text = Page(write_report(changed, tmp_path / "report").read_text(encoding="utf-8")).text
    assert "ridge without the intervention zero and gate closed." in text
    assert "Interventions at 256 tokens only." in text
    assert "Code with uncommitted changes" in text


ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></svg></title><script>x",
    "\x1b]8;;http://evil.example\x07link\x1b[31m",
    "\u202etxet\u202c\u2066\u200b",
    "javascript:alert(1)",
    "--> ]]> <!-- &lt;",
)


def spelled(attack: str) -> str:
    return re.sub(
        r"[\x00-\x1f\u200b-\u2069]",
        lambda m: f"\\x{ord(m[0]):02x}" if ord(m[0]) < 256 else f"\\u{ord(m[0]):04x}",
        attack,
    )


def test_what_others_wrote_is_shown_and_never_obeyed(records: Path, tmp_path: Path):
    hostile = copied(
        records, tmp_path / "records", "metrics", "provenance", "position_loss", "items/segment_local-s0.jsonl"
    )
    items = list(read_jsonl(hostile / "items" / "ridge-s0.jsonl", ItemRecord))
    ridge = PLAN.study.arms[1]
    arms = [ridge.model_copy(update={"name": attack, "memory": attack}) for attack in ATTACKS]
    claims = []
    for i, attack in enumerate(ATTACKS):
        changes = {"arm": attack, "output": attack, "answer": attack}
        write_jsonl(hostile / "items" / f"{i}.jsonl", [item.model_copy(update=changes) for item in items])
        claim = {"claim": attack, "statement": attack, "rule": attack, "sentence": attack, "items": [attack]}
        claims.append(json.loads(make_verdicts(PLAN)[0].model_copy(update=claim).model_dump_json()))
    write_json(hostile / "verdicts.json", claims)
    study = {"name": ATTACKS[0], "question": ATTACKS[1], "arms": arms, "deviations": list(ATTACKS)}
    write_json(hostile / "study.json", PLAN.study.model_copy(update=study))
    page = Page(write_report(hostile, tmp_path / "report").read_text(encoding="utf-8"))
    assert_harmless(page)
    for attack in ATTACKS:
        assert page.text.count(spelled(attack)) > 10, attack
    for file in (tmp_path / "report" / "figures").iterdir():
        assert "<script" not in file.read_text(encoding="utf-8")
        ET.fromstring(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name",
    [
        "../secret.jsonl",
        "/etc/passwd",
        "items/../../secret.jsonl",
        "items/link",
        "javascript:alert(1)",
        "items/\x00",
        "items/" + "x" * 5000,
        "",
    ],
)
def test_no_link_leads_out_of_the_records(tmp_path: Path, name: str):
    inside = tmp_path / "records"
    write_json(inside / "study.json", PLAN.study)
    (tmp_path / "secret.jsonl").write_text("secret")
    (inside / "items").mkdir()
    os.symlink(tmp_path / "secret.jsonl", inside / "items" / "link")
    verdict = make_verdicts(PLAN)[0].model_copy(update={"items": [name]})
    write_json(inside / "verdicts.json", [verdict.model_dump(mode="json")])
    page = Page(write_report(inside, tmp_path / "report").read_text(encoding="utf-8"))
    assert not [target for target in page.values("a", "href") if target.startswith((".", "/"))]
    assert "(not found)" in page.text


def test_spreadsheets_are_not_given_formulas(tmp_path: Path):
    complete = write_study(tmp_path / "all", small(half_life=(("=1+1", 2.0),), items_per_cell=1, steps=1, documents=2))
    write_report(copied(complete, tmp_path / "records", "metrics", "position_loss"), tmp_path / "report")
    rows = rows_of(tmp_path / "report" / "tables" / "accuracy.csv")
    assert {row["arm"] for row in rows} == {"'=1+1"}


def test_bad_records_leave_the_last_report_as_it_was(records: Path, tmp_path: Path):
    copy = copied(records, tmp_path / "records", "metrics", "position_loss", "items/segment_local-s0.jsonl")
    index = write_report(copy, tmp_path / "report")
    before = index.read_bytes()
    (copy / "items" / "ridge-s0.jsonl").write_text("{")
    with pytest.raises(InputError):
        write_report(copy, tmp_path / "report")
    assert index.read_bytes() == before


def test_the_headline_is_a_figure_and_a_table(records: Path):
    results = load_records(records)
    assert headline_figure(results).startswith('<?xml version="1.0" encoding="utf-8"?>\n<svg ')
    lines = headline_table(results).splitlines()
    segments = sorted({item.segments for items in results.items.values() for item in items})
    assert lines[0] == f"| compressions | {' | '.join(f'{count - 1:,}' for count in segments)} |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| segment\\_local", "| ridge", "| ridge, memory swapped"]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    numbers = [cell for line in lines[2:] for cell in line.strip("| ").split(" | ")[1:]]
    assert len(numbers) == 3 * (lines[0].count("|") - 2)
    for cell in numbers:
        assert re.fullmatch(r"(>|&lt;)?\d+ \[(>|&lt;)?\d+–(>|&lt;)?\d+\] n \d+", cell)


def test_a_table_in_markdown_keeps_its_columns(tmp_path: Path):
    directory = write_study(tmp_path, small(half_life=(("a|b<i>`*", 2.0),), items_per_cell=1, steps=1, documents=2))
    lines = headline_table(load_records(directory)).splitlines()
    assert lines[2].startswith("| a\\|b&lt;i>\\`\\* | ")


def test_without_answers_there_is_no_headline(tmp_path: Path):
    write_json(tmp_path / "study.json", PLAN.study)
    results = load_records(tmp_path)
    with pytest.raises(InputError, match="no answers to draw"):
        headline_figure(results)
    with pytest.raises(InputError, match="no answers to tabulate"):
        headline_table(results)


@pytest.mark.slow
def test_five_arms_three_seeds_and_1500_items_take_less_than_10_seconds(tmp_path: Path):
    directory = write_study(tmp_path, LARGE)
    before = os.times()
    write_report(directory, tmp_path / "report")
    assert os.times().user - before.user < 10
