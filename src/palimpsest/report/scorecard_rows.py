"""The rows of a scorecard: the table of all of them, the published claims among them, and a section for each."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from palimpsest.errors import InputError
from palimpsest.records import EstimateRecord, RowRecord, ScorecardRecord
from palimpsest.report.canvas import Plot
from palimpsest.report.markup import Html, code, element, joined, prose
from palimpsest.report.numerals import listed
from palimpsest.report.sections import MARKS, VERDICT_LOOKS, between, figure_html, records_link
from palimpsest.report.tables import Column, Table, Value, estimate_html, table_html

ALL = tuple(f"E{place:02d}" for place in range(1, 32))
"""The demands of the scorecard; a row may be a variant of one, with a letter."""

UNTESTED = "NOT TESTED"
OUTCOMES: Mapping[str, str] = {"PASS": "confirmed here", "FAIL": "refuted here", "INCONCLUSIVE": "open"}
"""What a verdict means for the published claim that its row tests."""

_ID = re.compile(r"E(0[1-9]|[12][0-9]|3[01])[a-z]?")
_FEW_FACTS = 6
_FEW_ESTIMATES = 3
_RING = Html(
    '<svg class="mark" viewBox="0 0 24 24" aria-hidden="true" fill="none" stroke="var(--tone)" stroke-width="2.4" '
    'stroke-dasharray="3.4 3.1"><circle cx="12" cy="12" r="9.8"/></svg>'
)


class Place(NamedTuple):
    """Where the records are, where the page will be, and which asks have a page of single items there."""

    records: Path
    out_dir: Path
    asks: Collection[str]


def check_rows(card: ScorecardRecord) -> None:
    """Assert that every row has a name of its own that a scorecard knows.

    Raises:
        InputError: an unknown name, or one given twice.
    """
    names = [*(row.id for row in card.rows), *(name for name in card.untested)]
    for name in names:
        if not _ID.fullmatch(name):
            raise InputError(f"Scorecard '{card.name}': there is no row '{name}'; rows are E01 to E31, or E08b.")
        if names.count(name) > 1:
            raise InputError(f"Scorecard '{card.name}': row {name} is given twice; give each row once.")


def status(row: RowRecord) -> str:
    """Return the verdict of a row, or that it was not tested."""
    return row.verdict if row.tested else UNTESTED


def reasons(card: ScorecardRecord) -> dict[str, str]:
    """Return why rows were not tested, by their names, where the study gives a reason."""
    judged = {row.id: row.note or row.sentence for row in card.rows if not row.tested}
    return dict(sorted({**card.untested, **judged}.items()))


def absent(card: ScorecardRecord) -> str:
    """Return a sentence on the demands that the study says nothing of, "" where there is none."""
    covered = {name[:3] for name in (*(row.id for row in card.rows), *card.untested)}
    missing = [(place, name) for place, name in enumerate(ALL) if name not in covered]
    names: list[str] = []
    for _, group in groupby(enumerate(missing), key=lambda each: each[1][0] - each[0]):  # neighbours
        span = [name for _, (_, name) in group]
        names += span if len(span) < 3 else [f"{span[0]} to {span[-1]}"]
    return f"Not part of this study: {listed(names)}." if names else ""


def tally(card: ScorecardRecord) -> Html:
    """Return how many rows passed, failed, stayed open and were not tested."""
    counts = Counter(status(row) for row in card.rows if row.tested)
    counts[UNTESTED] = len(reasons(card))
    entries = [
        element("li", {"class": _look(word)}, _mark(word), element("span", None, f"{counts[word]} {word}"))
        for word in (*VERDICT_LOOKS, UNTESTED)
        if counts[word]
    ]
    return element("ul", {"class": "tally"}, *entries)


def overview(card: ScorecardRecord) -> Html:
    """Return the table of all rows, with those that were not tested, and the list of the primary ones."""
    rows = {row.id: _overview_cells(row, card.trained.get(row.id)) for row in card.rows}
    for name, why in reasons(card).items():
        if name not in rows:
            rows[name] = [name, _verdict(UNTESTED), None, prose(why), None, None]
    columns = [Column("row", head=True), Column("verdict"), Column("demand"), Column("claim, or why it was not tested")]
    columns += [Column("what the rule asks for"), Column("seeds")]
    caption = "n is the number of units that an interval rests on, seeds how many trainings of each arm"
    table = table_html(Table("", caption, columns, [rows[name] for name in sorted(rows)]))
    primaries = [element("a", {"href": f"#{anchor(row)}"}, row.id) for row in card.rows if row.primary]
    family = joined(["Primary rows, one family for Holm's correction: ", *between(primaries, ", "), "."])
    since = "; what was changed since stands above" if card.deviations else ""
    words = f"Every claim and its rule were written down before the run{since}. INCONCLUSIVE asks for more evidence."
    parts = [element("p", None, words), table, element("p", None, family) if primaries else ""]
    others = absent(card)
    parts += [element("p", None, others) if others else "", _file("rows")]
    return element("div", {"class": "overview"}, *parts)


def published(card: ScorecardRecord) -> Html:
    """Return the published claims that were tested, and what became of each."""
    rows = [row for row in card.rows if row.published is not None]
    if not rows:
        return element("p", {"class": "nothing"}, "No row of this study tests a published claim.")
    cells: list[list[Value]] = [
        [_link(row), prose(row.published or ""), _outcome(row), prose(row.claim), _few(row)] for row in rows
    ]
    names = ("published claim", "what became of it", "tested as", "what the rule asks for")
    caption = "A verdict speaks of the models of this study: it refutes a mechanism or a claim made for all sizes"
    table = table_html(Table("", caption, [Column("row", head=True), *map(Column, names)], cells))
    return element("div", {"class": "overview"}, table)


def row_html(row: RowRecord, card: ScorecardRecord, plot: Plot | None, place: Place) -> Html:
    """Return the section of one row."""
    word = status(row)
    head = [_mark(word), element("span", {"class": "word"}, word)]
    if row.primary:
        head.append(element("span", {"class": "n"}, "primary"))
    parts = [element("header", None, *head), element("h3", None, prose(row.claim))]
    if row.published is not None:
        parts.append(element("p", {"class": "published"}, f"Published: {prose(row.published)} ", _outcome(row)))
    parts.append(element("p", None, prose(row.sentence)))
    parts.append(element("p", {"class": "rule"}, f"Rule: {prose(row.rule)}"))
    if row.estimates:
        lines = [element("li", None, _estimate(*pair)) for pair in row.estimates.items()]
        parts.append(element("ul", {"class": "estimates"}, *lines))
    if row.id in card.trained:
        trained = card.trained[row.id]
        parts.append(element("p", {"class": "rests"}, f"Training seeds behind the intervals: {trained}."))
    if row.note:
        parts.append(element("p", None, prose(row.note)))
    if row.prereg != card.sha256:
        parts.append(element("p", {"class": "rests"}, "Fixed by another version of the study file: ", code(row.prereg)))
    links = [link for name in row.sources for link in _sources(name, place)]
    if links:
        parts.append(element("p", {"class": "rests"}, "Records: ", joined(between(links, ", "))))
    article = element("article", {"class": f"verdict {_look(word)}"}, *parts, _facts(row))
    beside = figure_html(plot) if plot is not None else ""
    body = element("div", {"class": "verdicts"}, article, beside)
    title = element("h2", None, f"{row.id} ", element("span", {"class": "demand"}, prose(row.demand)))
    return element("section", {"id": anchor(row)}, title, body)


def anchor(row: RowRecord) -> str:
    """Return the name of the section of a row."""
    return row.id.lower()


def data_tables(card: ScorecardRecord) -> list[Table]:
    """Return what lies beside the page as CSV: rows, the estimates of their rules, and other facts."""
    names = ("demand", "claim", "published", "outcome", "verdict", "primary", "sentence", "rule", "note", "seeds")
    texts: list[list[Value]] = [
        [row.id, row.demand, row.claim, row.published, OUTCOMES[row.verdict] if row.published and row.tested else None,
         status(row), "yes" if row.primary else "no", row.sentence, row.rule, row.note, card.trained.get(row.id)]
        for row in card.rows
    ]  # fmt: skip
    there = {row.id for row in card.rows}
    texts += [
        [name, *[None] * 4, UNTESTED, None, why, None, None, None]
        for name, why in reasons(card).items()
        if name not in there
    ]
    rows = Table("rows", "All rows", [Column("row", head=True), *map(Column, names)], sorted(texts, key=_name))
    return [
        rows,
        _numbers("estimates", ((row.id, row.estimates) for row in card.rows)),
        _numbers("facts", ((row.id, row.facts) for row in card.rows)),
    ]


def _name(cells: Sequence[Value]) -> str:
    return str(cells[0])


def _numbers(name: str, groups: Iterable[tuple[str, Mapping[str, EstimateRecord]]]) -> Table:
    columns = [Column("row", head=True), Column("quantity", head=True)]
    columns += [Column(part) for part in ("mean", "low", "high", "n", "level", "method")]
    rows: list[list[Value]] = [
        [row, quantity, found.mean, found.low, found.high, found.n, found.level, found.method]
        for row, estimates in groups
        for quantity, found in estimates.items()
    ]
    return Table(name, name, columns, rows)


def _overview_cells(row: RowRecord, trained: int | None) -> list[Value]:
    claim = prose(row.claim) if row.tested else prose(row.note or row.sentence)
    seeds = None if trained is None else f"{trained}"
    return [_link(row), _verdict(status(row)), prose(row.demand), claim, _few(row), seeds]


def _few(row: RowRecord) -> Html | None:
    """Return the first estimates of a row, and how many there are besides."""
    if not row.estimates:
        return None
    shown = list(row.estimates.items())[:_FEW_ESTIMATES]
    lines = [element("li", None, f"{_words(name)} ", estimate_html(found)) for name, found in shown]
    if len(row.estimates) > len(shown):
        more = element("a", {"href": f"#{anchor(row)}"}, f"and {len(row.estimates) - len(shown)} more")
        lines.append(element("li", None, more))
    return element("ul", None, *lines)


def _estimate(name: str, found: EstimateRecord) -> Html:
    return joined([f"{_words(name)}: ", estimate_html(found), f", {100 * found.level:g} %, {prose(found.method)}"])


def _facts(row: RowRecord) -> Html:
    if not row.facts:
        return Html()
    rows: list[list[Value]] = [[_words(name), found, prose(found.method)] for name, found in row.facts.items()]
    columns = [Column("also measured", head=True), Column("value"), Column("interval")]
    caption = f"Other numbers of {row.id}; intervals at {_levels(row.facts.values())}"
    fold = {"open": "open"} if len(rows) <= _FEW_FACTS else None
    summary = element("summary", None, f"{len(rows)} more number{'s' if len(rows) > 1 else ''}")
    return element("details", fold, summary, table_html(Table("", caption, columns, rows)))


def _levels(found: Iterable[EstimateRecord]) -> str:
    return listed([f"{100 * level:g} %" for level in sorted({each.level for each in found})])


def _sources(name: str, place: Place) -> Iterator[Html]:
    """Yield links to a file of records, or to all files of a folder, and to the browser of its items."""
    folder = place.records / name
    inside = os.path.isdir(folder) and folder.resolve().is_relative_to(place.records.resolve())
    files = sorted(path.name for path in folder.iterdir() if path.is_file()) if name and inside else []
    for file in [f"{name}/{file}" for file in files] or [name]:
        yield records_link(file, place.records, place.out_dir)
    kind, _, ask = name.partition("/")
    if kind == "items" and ask in place.asks:
        yield element("a", {"href": f"./items/{quote(ask)}.html"}, f"single items of {prose(ask)}")


def _link(row: RowRecord) -> Html:
    return element("a", {"href": f"#{anchor(row)}"}, row.id)


def _verdict(word: str) -> Html:
    return element("span", {"class": f"said {_look(word)}"}, _mark(word), element("span", {"class": "word"}, word))


def _outcome(row: RowRecord) -> Html:
    word = OUTCOMES[row.verdict] if row.tested else "not tested"
    return element("span", {"class": f"said {_look(status(row))}"}, _mark(status(row)), element("b", None, word))


def _look(word: str) -> str:
    return VERDICT_LOOKS.get(word, "open")


def _mark(word: str) -> Html:
    return MARKS.get(word, _RING)


def _words(name: str) -> str:
    return prose(name).replace("_", " ")


def _file(file: str) -> Html:
    link = element("a", {"href": f"tables/{file}.csv"}, f"{file}.csv")
    return element("p", {"class": "file"}, "All numbers as a file: ", link)
