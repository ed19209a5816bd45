"""Tables of numbers: one value, three forms (HTML for reading, CSV for computing, Markdown for a README).

No number stands without the count of what it was taken from.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from palimpsest.records import EstimateRecord
from palimpsest.report.markup import Html, element, escaped, joined, visible
from palimpsest.report.numerals import DASH, bounded, duration, magnitude, number, percent, points, size
from palimpsest.statistics import Estimate

Unit = Literal["share", "points", "plain", "bytes", "large", "seconds"]


class Measured(NamedTuple):
    """The mean of ``n`` runs, without an interval; ``same`` if all of them agree."""

    value: float
    n: int
    same: bool


Value: TypeAlias = str | int | float | Estimate | EstimateRecord | Measured | None


@dataclass(frozen=True)
class Column:
    """One column; a ``head`` is a coordinate of the row rather than a measurement."""

    name: str
    unit: Unit = "plain"
    head: bool = False


@dataclass(frozen=True)
class Table:
    """A table; ``name`` is that of its file."""

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]


_WRITERS: Mapping[Unit, Callable[[float], str]] = {
    "share": percent,
    "points": points,
    "plain": number,
    "bytes": size,
    "large": magnitude,
    "seconds": duration,
}
_SIGNS: Mapping[Unit, str] = {"share": " %"}


def table_html(table: Table) -> Html:
    """Return the table inside a box that scrolls by itself where it is wider than the page."""
    head = element("tr", None, *(element("th", {"scope": "col"}, column.name) for column in table.columns))
    body = [
        element("tr", None, *(_cell(column, value) for column, value in zip(table.columns, row, strict=True)))
        for row in table.rows
    ]
    inner = element("table", None, element("thead", None, head), element("tbody", None, joined(body)))
    box = element("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": table.caption}, inner)
    return element("div", {"class": "table"}, element("p", {"class": "caption"}, table.caption), box)


def table_csv(table: Table) -> str:
    """Return the table as CSV in full precision; an estimate takes a column for each of mean, low, high and n."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    wide = [_fields(row[i] for row in table.rows) for i in range(len(table.columns))]
    writer.writerow(
        [f"{column.name} {f}" if f else column.name for column, fs in zip(table.columns, wide, strict=True) for f in fs]
    )
    for row in table.rows:
        writer.writerow([_raw(value, f) for value, fs in zip(row, wide, strict=True) for f in fs])
    return out.getvalue()


def table_markdown(table: Table) -> str:
    """Return the table in GitHub's Markdown."""
    lines = [
        [column.name for column in table.columns],
        [":--" if column.head else ":-:" for column in table.columns],
        *([_plain(c, value) for c, value in zip(table.columns, row, strict=True)] for row in table.rows),
    ]
    quoted = [[cell if i == 1 else _markdown(cell) for cell in line] for i, line in enumerate(lines)]
    return "".join(f"| {' | '.join(line)} |\n" for line in quoted)


def markdown_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in GitHub's Markdown whose cells are Markdown already: only what would end one is quoted."""
    lines = [_row(head), "|" + "---|" * len(head), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ").strip() for cell in cells) + " |"


def written(value: float, unit: Unit) -> str:
    """Return a bare value in its unit, with its sign."""
    return _WRITERS[unit](value) + _SIGNS.get(unit, "")


def estimate_html(found: Estimate | EstimateRecord, unit: Unit = "plain") -> Html:
    """Return an estimate with its interval and n."""
    parts = (
        element("b", None, written(found.mean, unit)),
        element("span", {"class": "interval"}, f"[{interval(found, unit)}]"),
        element("span", {"class": "n"}, f"n {found.n:,}"),
    )
    return Html(" ".join(parts))


def interval(found: Estimate | EstimateRecord, unit: Unit) -> str:
    """Return the interval of an estimate in words, or that it has none."""
    if not bounded(found):
        return "no interval"
    write = _WRITERS[unit]
    between = " to " if unit == "points" or found.low < 0 else DASH
    return f"{write(found.low)}{between}{write(found.high)}"


def _cell(column: Column, value: Value) -> Html:
    if column.head:
        return element("th", {"scope": "row"}, _plain(column, value))
    if isinstance(value, Estimate | EstimateRecord):
        return element("td", {"class": "number"}, estimate_html(value, column.unit))
    if isinstance(value, Measured):
        about = "" if value.same else "mean "
        return element(
            "td",
            {"class": "number"},
            about,
            element("b", None, written(value.value, column.unit)),
            " ",
            element("span", {"class": "n"}, f"n {value.n:,}"),
        )
    kind = {"class": "number"} if isinstance(value, int | float) else None
    return element("td", kind, value if isinstance(value, Html) else _plain(column, value))


def _plain(column: Column, value: Value) -> str:
    if value is None:
        return DASH
    if isinstance(value, Estimate | EstimateRecord):
        return f"{_WRITERS[column.unit](value.mean)} [{interval(value, column.unit)}] n {value.n:,}"
    if isinstance(value, Measured):
        return f"{written(value.value, column.unit)} (n {value.n:,})"
    return value if isinstance(value, str) else written(value, column.unit)


def _fields(values: Iterable[Value]) -> tuple[str, ...]:
    for value in values:
        if isinstance(value, Estimate | EstimateRecord):
            return "mean", "low", "high", "n"
        if isinstance(value, Measured):
            return "mean", "n"
    return ("",)


def _raw(value: Value, field: str) -> str:
    if value is None:
        return ""
    if isinstance(value, Estimate | EstimateRecord):
        return repr(getattr(value, field))
    if isinstance(value, Measured):
        return repr(value.n if field == "n" else value.value)
    if isinstance(value, str):
        shown = visible(value)
        # a spreadsheet takes a cell that begins like this for a formula
        return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown
    return repr(value)


def _markdown(text: str) -> str:
    for mark in "\\`*_|":
        text = text.replace(mark, f"\\{mark}")
    return escaped(text).replace("&#x27;", "'").replace("&gt;", ">")
