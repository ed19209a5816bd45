"""Records in, one page out: a single HTML file without scripts, and its figures and tables as files beside it."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from palimpsest.records import GRIDS, write_atomic
from palimpsest.report.catalogue import data_tables
from palimpsest.report.document import document
from palimpsest.report.load import StudyResults, load_records
from palimpsest.report.markup import Html, code, element, joined, prose
from palimpsest.report.numerals import listed, plural, tokens
from palimpsest.report.sections import Section, arms_table, sections, tally
from palimpsest.report.tables import table_csv, table_html


def write_report(records_dir: Path, out_dir: Path) -> Path:
    """Write ``index.html``, ``figures/*.svg`` and ``tables/*.csv`` to ``out_dir`` and return the page's path.

    The page needs no network, no script and none of the other files. The same records give the same bytes. Other grids
    of the study, in ``grids/NAME`` of the records, get pages of their own in ``grids/NAME``, which it links.

    Raises:
        InputError: as ``load_records``.
    """
    results = load_records(records_dir)
    parts = sections(results, out_dir)
    page = out_dir / "index.html"
    others = sorted(path.parent.name for path in (records_dir / GRIDS).glob("*/study.json"))
    for name in others:
        write_report(records_dir / GRIDS / name, out_dir / GRIDS / name)
    for plot in (plot for part in parts for plot in part.plots):
        write_atomic(out_dir / "figures" / f"{plot.name}.svg", plot.svg)
    for table in data_tables(results):
        write_atomic(out_dir / "tables" / f"{table.name}.csv", table_csv(table))
    write_atomic(page, _document(results, parts, others))
    return page


def _document(results: StudyResults, parts: list[Section], others: Sequence[str]) -> str:
    main = element("main", None, *(part.html for part in parts))
    title = f"{prose(results.study.name)}: a palimpsest study"
    return document(title, _header(results, parts, others), main, _footer(results))


def _header(results: StudyResults, parts: list[Section], others: Sequence[str]) -> Html:
    study = results.study
    links = [element("li", None, element("a", {"href": f"#{part.anchor}"}, part.title)) for part in parts]
    shape = f"{plural(study.layers, 'layer')} of {plural(study.heads, 'head')}"
    setting = element(
        "details",
        None,
        element("summary", None, "What was compared"),
        element(
            "p",
            None,
            f"Models with {shape} and segments of {tokens(study.segment_length)} tokens, trained on at most "
            f"{tokens(study.trained_length)} tokens and asked at "
            f"{listed([tokens(length) for length in study.lengths])}; seeds {listed([str(s) for s in study.seeds])}.",
        ),
        table_html(arms_table(results)),
    )
    return element(
        "header",
        None,
        element("p", {"class": "made"}, "A study made with palimpsest"),
        element("h1", None, prose(study.name)),
        element("p", {"class": "question"}, prose(study.question)),
        tally(results.verdicts) if results.verdicts else "",
        _links(others),
        setting,
        element("nav", {"aria-label": "Sections"}, element("ul", None, *links)),
    )


def _links(others: Sequence[str]) -> Html:
    """Return links to the pages of the other grids."""
    if not others:
        return joined([])
    entries = [
        element("li", None, element("a", {"href": f"{GRIDS}/{quote(name)}/index.html"}, prose(name))) for name in others
    ]
    return joined([element("p", None, "The same models, asked otherwise:"), element("ul", None, *entries)])


def _footer(results: StudyResults) -> Html:
    return element(
        "footer",
        None,
        joined(
            [
                "Every number on this page was computed from the records in ",
                code(results.directory.resolve().name),
                "; n is the number of items, documents or runs behind it.",
            ]
        ),
    )
