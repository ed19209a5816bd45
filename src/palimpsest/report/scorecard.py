"""The page of a scorecard: what a sceptical reader demands, row by row. Records in, one page out; no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from palimpsest.errors import InputError
from palimpsest.records import ScorecardRecord, write_atomic
from palimpsest.report.canvas import Plot
from palimpsest.report.document import document
from palimpsest.report.markup import Html, code, element, joined, prose
from palimpsest.report.numerals import listed, plural, tokens
from palimpsest.report.scorecard_figures import row_figure, shown_arms
from palimpsest.report.scorecard_items import Asked, items_main, load_asked
from palimpsest.report.scorecard_rows import (
    Place,
    absent,
    anchor,
    check_rows,
    data_tables,
    overview,
    published,
    reasons,
    row_html,
    tally,
)
from palimpsest.report.sections import records_link, variants
from palimpsest.report.tables import Column, Table, Value, table_csv, table_html

CARD = "scorecard.json"

_STYLE = """
.said { display: inline-flex; align-items: center; gap: .35rem; white-space: nowrap; vertical-align: bottom; }
.said .mark { width: 1.15rem; height: 1.15rem; }
.said b { color: var(--tone); }
.overview td:nth-child(3), .overview td:nth-child(4) { min-width: 13rem; }
.overview td:nth-child(5) { min-width: 13rem; }
.overview td ul { list-style: none; margin: 0; padding: 0; }
.verdicts { align-items: start; } main h2 { scroll-margin-top: .5rem; }
h2 .demand { font-weight: 500; color: var(--soft); }
.published { border-left: 3px solid var(--line); padding-left: .6rem; }
.verdict tbody th { white-space: normal; min-width: 7rem; }
.verdict details { margin: .5rem 0 0; font-size: .95em; }
.rows a { padding: .2rem .5rem; }
dl.setting { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1rem; margin: .8rem 0; }
dl.setting dt { font-weight: 600; } dl.setting dd { margin: 0; } dl.setting ul { margin: 0; padding-left: 1.1rem; }
@media (max-width: 40rem) { dl.setting { grid-template-columns: minmax(0, 1fr); gap: .1rem; }
  dl.setting dd { margin-bottom: .5rem; } }
.item { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem;
  margin: .8rem 0; min-width: 0; break-inside: avoid; }
.item > header { display: flex; flex-wrap: wrap; gap: .2rem .8rem; align-items: baseline; }
.item > header .n { white-space: normal; }
.item p { margin: .5rem 0; } .prompt { max-width: none; line-height: 1.75; }
.prompt .gap { color: var(--soft); font-size: .88em; white-space: nowrap; }
mark { background: var(--shade); color: inherit; font-weight: 600; border: 1.5px solid var(--link);
  border-radius: .25em; padding: 0 .25em; }
u { text-decoration-thickness: 2px; text-underline-offset: .2em; }
"""


def write_scorecard(records_dir: Path, out_dir: Path) -> Path:
    """Write the page, its single items, figures and tables to ``out_dir`` and return the page's path.

    That is ``index.html``, which needs no network, no script and none of the other files, with ``items/<ask>.html``,
    ``figures/<row>.svg`` and ``tables/{rows,estimates,facts}.csv``. The same records give the same bytes.

    Args:
        records_dir: holds ``scorecard.json`` (``ScorecardRecord``) and, where there are any, ``items/<ask>.jsonl.gz``
            (``ItemRecord``), ``items/<ask>.samples.jsonl`` (``ShownItemRecord``), and what else the rows name.
        out_dir: created if need be.

    Raises:
        InputError: no scorecard there, or a damaged file.
    """
    card = load_scorecard(records_dir)
    every_ask = load_asked(records_dir / "items")
    place = Place(records_dir, out_dir, [asked.name for asked in every_ask])
    arms = shown_arms([arm.name for arm in card.arms], card.rows)
    plots = {row.id: plot for row in card.rows if (plot := row_figure(row, arms)) is not None}
    page = out_dir / "index.html"
    files = {out_dir / "items" / f"{asked.name}.html": _items_page(card, asked, place) for asked in every_ask}
    files |= {out_dir / "figures" / f"{plot.name}.svg": plot.svg for plot in plots.values()}
    files |= {out_dir / "tables" / f"{table.name}.csv": table_csv(table) for table in data_tables(card)}
    files[page] = _card_page(card, every_ask, plots, place)
    for path, text in files.items():
        write_atomic(path, text)
    return page


def load_scorecard(records_dir: Path) -> ScorecardRecord:
    """Read ``scorecard.json``, its rows in the order of their names.

    Raises:
        InputError: it is missing or damaged, or has a row that no scorecard has, or one twice.
    """
    path = records_dir / CARD
    if not path.is_file():
        raise InputError(f"{records_dir} is not the records directory of a scorecard: it has no {CARD}.")
    try:
        card = ScorecardRecord.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not a ScorecardRecord: {error}") from error
    check_rows(card)
    return card.model_copy(update={"rows": tuple(sorted(card.rows, key=lambda row: row.id))})


def _card_page(card: ScorecardRecord, every_ask: Sequence[Asked], plots: Mapping[str, Plot], place: Place) -> str:
    sections = [
        _section("rows", "All rows", overview(card)),
        _section("published", "Published claims", published(card)),
        *(row_html(row, card, plots.get(row.id), place) for row in card.rows),
        _section("items", "Single items", _asks(every_ask, place)),
        _section("provenance", "Provenance", _provenance(card)),
        _section("untested", "What was not tested, and why", _untested(card)),
    ]
    footer = element(
        "footer",
        None,
        joined(
            ["Every number on this page was computed from the records in ", code(place.records.resolve().name), "."]
        ),
    )
    return _document(f"{prose(card.name)}: a palimpsest scorecard", _header(card), joined(sections), footer)


def _document(title: str, header: Html, main: Html, footer: Html) -> str:
    return document(title, header, element("main", None, main), footer, style=_STYLE)


def _header(card: ScorecardRecord) -> Html:
    names = {"rows": "All rows", "published": "Published claims", "items": "Single items"}
    names |= {"provenance": "Provenance", "untested": "Not tested"}
    links = [element("li", None, element("a", {"href": f"#{target}"}, name)) for target, name in names.items()]
    rows = [element("li", None, element("a", {"href": f"#{anchor(row)}"}, row.id)) for row in card.rows]
    shape = (
        f"{plural(len(card.arms), 'arm')}, segments of {tokens(card.segment_length)} tokens, "
        f"seeds {listed([str(seed) for seed in card.seeds])}."
    )
    compared = element(
        "details",
        None,
        element("summary", None, "What was compared"),
        element("p", None, shape),
        table_html(_arms(card)),
    )
    return element(
        "header",
        None,
        element("p", {"class": "made"}, "A scorecard made with palimpsest"),
        element("h1", None, prose(card.name)),
        element("p", {"class": "question"}, prose(card.question)),
        tally(card),
        _setting(card),
        compared,
        element("nav", {"aria-label": "Sections"}, element("ul", None, *links)),
        element("nav", {"aria-label": "Rows", "class": "rows"}, element("ul", None, *rows)) if rows else "",
    )


def _setting(card: ScorecardRecord) -> Html:
    hardware = sorted({f"{origin.hardware}, {plural(origin.cores, 'core')}" for origin in card.provenance.values()})
    lines: list[tuple[str, str]] = [
        ("Study file (SHA-256)", code(card.sha256)),
        ("Training seeds", ", ".join(map(str, card.seeds))),
        ("Hardware", "; ".join(map(prose, hardware)) or "not recorded"),
        ("Changed since it was fixed", _lines(card.deviations, "nothing")),
        ("Test seeds opened", _lines(card.opened, "not recorded")),
    ]
    return element(
        "dl",
        {"class": "setting"},
        *(joined([element("dt", None, name), element("dd", None, value)]) for name, value in lines),
    )


def _lines(sentences: Sequence[str], otherwise: str) -> Html:
    """Return a few sentences as a list, many folded."""
    if not sentences:
        return joined([otherwise])
    entries = element("ul", None, *(element("li", None, prose(sentence)) for sentence in sentences))
    if len(sentences) < 4:
        return entries
    return element("details", None, element("summary", None, plural(len(sentences), "entry", "entries")), entries)


def _arms(card: ScorecardRecord) -> Table:
    rows: list[list[Value]] = [
        [
            prose(arm.name),
            ", ".join(map(prose, arm.kinds)),
            prose(arm.memory) if arm.memory else "none",
            "everything" if arm.reach is None else f"{tokens(arm.reach)} tokens",
            f"{arm.parameters:,}",
            f"{arm.learning_rate:g}",
            ", ".join(map(prose, arm.phases)),
        ]
        for arm in card.arms
    ]
    names = ("layers", "memory", "attention reaches", "parameters", "learning rate", "trained in")
    return Table("arms", "The arms of the study", [Column("arm", head=True), *map(Column, names)], rows)


def _asks(every_ask: Sequence[Asked], place: Place) -> Html:
    if not every_ask:
        return element("p", {"class": "nothing"}, "No answers were recorded.")
    rows: list[list[Value]] = [
        [
            element("a", {"href": f"./items/{quote(asked.name)}.html"}, prose(asked.name)),
            f"{asked.answers:,}",
            f"{len(asked.shown):,}",
            records_link(f"items/{asked.file.name}", place.records, place.out_dir) if asked.file is not None else None,
        ]
        for asked in every_ask
    ]
    caption = "What was asked: pages with single items, prompts and answers"
    columns = [Column("items", head=True), Column("answers"), Column("items shown"), Column("all answers as a file")]
    return table_html(Table("", caption, columns, rows))


def _provenance(card: ScorecardRecord) -> Html:
    records = card.provenance.values()
    if not records:
        return element("p", {"class": "nothing"}, "No provenance was recorded.")
    rows: list[list[Value]] = [
        ["study", code(card.sha256)],
        ["commit", variants(r.commit for r in records)],
        ["data", variants(r.data_fingerprint for r in records)],
        ["hardware", variants(f"{r.hardware}, {plural(r.cores, 'core')}" for r in records)],
        ["versions", variants(", ".join(f"{k} {v}" for k, v in sorted(r.versions.items())) for r in records)],
    ]
    columns = [Column("what", head=True), Column("value")]
    caption = f"The same for {plural(len(records), 'trained model')}, unless more than one is named"
    return table_html(Table("", caption, columns, rows))


def _untested(card: ScorecardRecord) -> Html:
    why = reasons(card)
    entries = [
        joined([element("dt", None, name), element("dd", None, prose(sentence))]) for name, sentence in why.items()
    ]
    rows = element("dl", {"class": "limits"}, *entries) if why else ""
    others = absent(card) or ("" if why else "All rows were tested.")
    return joined([rows, element("p", {"class": "nothing"}, others) if others else ""])


def _items_page(card: ScorecardRecord, asked: Asked, place: Place) -> str:
    here = place.out_dir / "items"
    file = records_link(f"items/{asked.file.name}", place.records, here) if asked.file is not None else "no file"
    back = element("a", {"href": "../index.html"}, prose(card.name))
    words = f"{plural(len(asked.shown), 'item')} shown of {plural(asked.answers, 'answer')}; all of them: "
    header = element(
        "header",
        None,
        element("p", {"class": "made"}, "Single items of ", back),
        element("h1", None, prose(asked.name)),
        element("p", {"class": "question"}, words, file),
    )
    footer = element("footer", None, "Prompts are shortened; the files of records name every item in full.")
    return _document(f"{prose(asked.name)}: items of {prose(card.name)}", header, items_main(asked), footer)


def _section(anchor: str, title: str, body: Html) -> Html:
    return element("section", {"id": anchor}, element("h2", None, title), body)
