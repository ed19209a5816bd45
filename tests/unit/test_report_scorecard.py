import json
import math
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from page_case import Page, assert_harmless, rows_of
from synthetic_scorecard import SHA, make_card, make_estimate, make_items, make_row, write_card
from test_report_page import ATTACKS, spelled

from palimpsest.errors import InputError
from palimpsest.records import RowRecord, write_json
from palimpsest.report.document import POLICY
from palimpsest.report.scorecard import load_scorecard, write_scorecard
from palimpsest.report.scorecard_rows import ALL, absent, reasons

DRAWN = (1, 2, 4, 11)


def some_rows(**changes: object) -> tuple[RowRecord, ...]:
    """All rows but E03 and E21; four of them with figures, of all kinds."""
    rows = [make_row(n, figure=n in DRAWN) for n in range(31, 0, -1) if n not in (3, 21)]
    return (*rows, make_row(8, "b", figure=False).model_copy(update=changes))


def one_row(directory: Path, **changes: object) -> Path:
    row = make_row(5, figure=False).model_copy(update=changes)
    return write_card(directory / "records", make_card((row,)), [])


def canonical(row: RowRecord) -> str:
    return json.dumps(json.loads(row.model_dump_json()), sort_keys=True)


def section(text: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">.*?</section>', text, re.DOTALL)
    assert found, name
    return found[0]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_card(tmp_path_factory.mktemp("card") / "records", make_card(some_rows()))


@pytest.fixture(scope="module")
def index(records: Path) -> Path:
    return write_scorecard(records, records.parent / "report")


@pytest.fixture(scope="module")
def text(index: Path) -> str:
    return index.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_page_is_one_closed_file(index: Path, page: Page):
    assert index.name == "index.html"
    assert_harmless(page)
    policies = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [POLICY]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_row_has_a_line_in_the_order_of_names(text: str):
    overview = section(text, "rows")
    lines = re.findall(r'<tr><th scope="row">(?:<a [^>]*>)?(E\d\d[a-z]?)', overview)
    assert lines == sorted({*ALL, "E08b"} - {"E21"})
    assert "Not part of this study: E21." in overview


def test_a_line_says_its_verdict_in_words_and_in_shapes_its_numbers_and_its_seeds(text: str):
    overview = section(text, "rows")
    line = re.search(r'<tr><th scope="row"><a href="#e06">E06</a>.*?</tr>', overview)
    assert line
    assert re.search(r'class="said pass"><svg[^>]*><circle.*<span class="word">PASS</span>', line[0])
    assert "memory only accuracy" in line[0]
    assert '<b>0.56</b> <span class="interval">[0.52–0.6]</span> <span class="n">n 500</span>' in line[0]
    assert line[0].endswith("<td>5</td></tr>")


def test_links_within_the_page_arrive(page: Page):
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    inside = {target[1:] for target in page.values("a", "href") if target.startswith("#")}
    assert inside <= ids
    assert {name.lower() for name in ALL} - inside == {"e03", "e21"}


def test_links_to_files_arrive(index: Path, page: Page):
    targets = {target for target in page.values("a", "href") if not target.startswith("#")}
    assert {
        "tables/rows.csv", "./items/passkey.html", "./items/where.html", "../records/items/passkey.jsonl.gz",
        "../records/items/where.jsonl.gz", "../records/usage.jsonl.gz", "../records/documents/text/losses.jsonl.gz",
    } == targets  # fmt: skip
    for target in targets:
        assert (index.parent / unquote(target)).resolve().is_file(), target
    assert page.text.count("audit (not found)") == len(some_rows())


def test_the_tally_counts_verdicts_and_what_was_not_tested(page: Page):
    tested = [row.verdict for row in some_rows() if row.tested]
    for word in ("PASS", "FAIL", "INCONCLUSIVE"):
        assert f"{tested.count(word)} {word}" in page.text
    assert "2 NOT TESTED" in page.text


def test_why_rows_were_not_tested(text: str):
    assert set(reasons(make_card(some_rows()))) == {"E03", "E25"}
    untested = section(text, "untested")
    assert "<dt>E03</dt><dd>One million tokens need a larger model.</dd>" in untested
    assert "Not part of this study: E21." in untested
    assert '<span class="word">NOT TESTED</span>' in section(text, "e25")
    assert "FAIL</span>" not in section(text, "e25")


def test_the_demands_that_a_study_is_silent_on_are_one_sentence():
    three = tuple(row for row in some_rows() if row.id in ("E04", "E05", "E08b"))
    card = make_card(three).model_copy(update={"untested": {"E31": "No oracle."}})
    assert absent(card) == "Not part of this study: E01 to E03, E06, E07 and E09 to E30."
    assert absent(make_card(some_rows())) == "Not part of this study: E21."
    assert absent(card.model_copy(update={"untested": dict.fromkeys(ALL, "No.")})) == ""


@pytest.mark.parametrize(("number", "outcome"), [(1, "refuted here"), (6, "confirmed here"), (11, "open")])
def test_a_published_claim_is_confirmed_refuted_or_open(text: str, number: int, outcome: str):
    line = re.search(rf'<tr><th scope="row"><a href="#e{number:02d}">.*?</tr>', section(text, "published"))
    assert line
    assert f"<b>{outcome}</b>" in line[0]
    assert f"<b>{outcome}</b>" in section(text, f"e{number:02d}")


def test_a_claim_that_was_not_tested_is_not_refuted(tmp_path: Path):
    records = one_row(tmp_path, published="It scales (a paper).", verdict="FAIL", tested=False)
    text = write_scorecard(records, tmp_path / "report").read_text(encoding="utf-8")
    assert "<b>not tested</b>" in section(text, "published")
    assert "refuted" not in text


def test_a_row_shows_all_that_decided_it(text: str):
    row = make_row(12, figure=False)
    shown = Page(section(text, "e12")).text
    for part in (row.demand, row.claim, row.sentence, f"Rule: {row.rule}", row.note, "primary"):
        assert part in shown
    assert "memory only accuracy: 0.62 [0.58–0.66] n 500, 95 %, Wilson" in shown
    for arm in ("full", "segment local", "linear", "delta", "ridge"):
        assert f"d90 {arm}52 [47–57] n 400bootstrap" in shown
    assert "<details open" in section(text, "e12")


def test_a_row_fixed_by_another_study_file_says_so(text: str):
    assert "another version of the study file: 0000" in Page(section(text, "e08")).text
    assert "another version" not in section(text, "e07")


def test_the_header_says_what_was_fixed_opened_and_changed(page: Page):
    for part in (
        SHA,
        "a small machine, 2 cores",
        "ask was changed after the first run",
        "passkey, seed 10001",
        "115,328",
    ):
        assert part in page.text
    assert "before the run; what was changed since stands above." in page.text
    assert re.search(r"Primary rows, one family for Holm's correction: E01, E04, E05, E07, E08, E08b, E10,", page.text)


def test_the_tables_hold_all_numbers(index: Path):
    rows, estimates, facts = (rows_of(index.parent / "tables" / f"{n}.csv") for n in ("rows", "estimates", "facts"))
    assert [row["row"] for row in rows] == sorted({*ALL, "E08b"} - {"E21"})
    assert {row["row"]: row["verdict"] for row in rows}["E25"] == "NOT TESTED"
    assert {row["row"]: row["outcome"] for row in rows}["E06"] == "confirmed here"
    expected = {(row.id, name): found.mean for row in some_rows() for name, found in row.estimates.items()}
    assert {(row["row"], row["quantity"]): float(row["mean"]) for row in estimates} == expected
    assert len(facts) == sum(len(row.facts) for row in some_rows())


def test_figures_have_titles_descriptions_and_files(index: Path, page: Page):
    figures = [i for i, (tag, _) in enumerate(page.tags) if tag == "figure"]
    assert len(figures) == len(DRAWN)
    for start, end in zip(figures, [*figures[1:], len(page.tags)], strict=True):
        assert {"h3", "svg", "title", "desc", "figcaption"} <= {tag for tag, _ in page.tags[start:end]}
    assert {path.stem for path in (index.parent / "figures").iterdir()} == {f"e{n:02d}" for n in DRAWN}


def test_the_same_records_give_the_same_bytes(records: Path, index: Path):
    second = write_scorecard(records, records.parent / "other")
    paths = [path.relative_to(index.parent) for path in sorted(index.parent.rglob("*.*"))]
    assert len(paths) == 1 + 2 + len(DRAWN) + 3
    for path in paths:
        assert (second.parent / path).read_bytes() == (index.parent / path).read_bytes(), path


def test_what_others_wrote_is_shown_and_never_obeyed(tmp_path: Path):
    rows = []
    for i, attack in enumerate(ATTACKS):
        words = ("demand", "claim", "published", "rule", "sentence", "note", "prereg")
        changes = dict.fromkeys(words, attack) | {"sources": (attack, f"items/{attack}")}
        changes |= {"estimates": {attack: make_estimate(0.5, method=attack)}, "facts": {attack: make_estimate(0.5)}}
        row = make_row(i + 5, figure=i == 0)
        if row.figure is not None:
            named = dict.fromkeys(("title", "caption", "x_label", "y_label"), attack)
            series = tuple(s.model_copy(update={"name": a}) for s, a in zip(row.figure.series, ATTACKS, strict=False))
            changes["figure"] = row.figure.model_copy(update=named | {"series": series, "marks": {attack: 8.0}})
        rows.append(row.model_copy(update=changes))
    card = make_card(tuple(rows))
    arms = tuple(card.arms[0].model_copy(update={"name": attack, "phases": (attack,)}) for attack in ATTACKS)
    said = {"name": ATTACKS[0], "question": ATTACKS[1], "deviations": ATTACKS, "opened": ATTACKS, "arms": arms}
    items = [
        item.model_copy(
            update={"arm": attack, "output": attack, "answer": attack, "item_id": attack, "facts": {attack: attack}}
        )
        for attack in ATTACKS
        for item in make_items(2, ("ridge",))[:2]
    ]
    records = write_card(tmp_path / "records", card.model_copy(update=said), items)
    index = write_scorecard(records, tmp_path / "report")
    for path in (index, index.parent / "items" / "passkey.html"):
        page = Page(path.read_text(encoding="utf-8"))
        assert_harmless(page)
        for attack in ATTACKS:
            assert page.text.count(spelled(attack)) > 4, (path, attack)


@pytest.mark.parametrize("name", ["../secret", "/etc", "items/../../secret", "items/\x00", "x" * 5000, "", ".", "link"])
def test_no_link_leads_out_of_the_records(tmp_path: Path, name: str):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.jsonl").write_text("secret")
    records = one_row(tmp_path, sources=(name,))
    (records / "link").symlink_to(tmp_path / "secret")
    page = Page(write_scorecard(records, tmp_path / "report").read_text(encoding="utf-8"))
    assert "a.jsonl" not in page.text
    for target in page.values("a", "href"):
        if not target.startswith("#"):
            path = (tmp_path / "report" / unquote(target)).resolve()
            assert path.is_relative_to(records) or path.is_relative_to(tmp_path / "report"), target


def test_numbers_that_do_not_exist_are_said_to_be_missing(tmp_path: Path):
    nothing = make_estimate(math.nan, math.nan, 0)
    endless = make_estimate(1.0, math.inf, 1)
    records = one_row(tmp_path, estimates={"ratio": nothing, "gain": endless}, facts={})
    shown = Page(write_scorecard(records, tmp_path / "report").read_text(encoding="utf-8")).text
    assert "ratio: not a number [no interval] n 0" in shown
    assert "gain: 1 [no interval] n 1" in shown


def test_a_card_without_rows_or_answers_is_a_page(tmp_path: Path):
    write_json(tmp_path / "scorecard.json", make_card(()))
    page = Page(write_scorecard(tmp_path, tmp_path / "report").read_text(encoding="utf-8"))
    assert "Not part of this study: E01, E02 and E04 to E31." in page.text
    assert "No answers were recorded." in page.text
    assert_harmless(page)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": (make_row(1), make_row(1))}, "row E01 is given twice"),
        ({"rows": (make_row(1).model_copy(update={"id": "E32"}),)}, "no row 'E32'"),
        ({"untested": {"../x": "why"}}, "no row '../x'"),
        ({"rows": (make_row(3),)}, "row E03 is given twice"),
    ],
)
def test_rows_that_no_scorecard_has_are_refused(tmp_path: Path, changes: dict[str, object], said: str):
    write_json(tmp_path / "scorecard.json", make_card(()).model_copy(update=changes))
    with pytest.raises(InputError, match=re.escape(said)):
        write_scorecard(tmp_path, tmp_path / "report")


def test_bad_records_leave_the_last_page_as_it_was(tmp_path: Path):
    records = one_row(tmp_path)
    index = write_scorecard(records, tmp_path / "report")
    before = index.read_bytes()
    (records / "items" / "passkey.samples.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"passkey\.samples\.jsonl, line 1"):
        write_scorecard(records, tmp_path / "report")
    assert index.read_bytes() == before


def test_a_directory_without_a_card_and_a_damaged_card_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"has no scorecard\.json"):
        write_scorecard(tmp_path, tmp_path / "report")
    (tmp_path / "scorecard.json").write_text('{"name": 3}')
    with pytest.raises(InputError, match="not a ScorecardRecord"):
        load_scorecard(tmp_path)


def test_a_card_survives_its_file(tmp_path: Path):
    card = make_card(some_rows(verdict="FAIL"))
    write_json(tmp_path / "scorecard.json", card)
    again = load_scorecard(tmp_path)
    assert [row.id for row in again.rows] == sorted(row.id for row in card.rows)
    # as text: what is not a number does not equal itself
    assert {canonical(row) for row in again.rows} == {canonical(row) for row in card.rows}
    assert again.model_copy(update={"rows": ()}) == card.model_copy(update={"rows": ()})
