"""The page of a profile: what every head does with its memory, drawn from ``profile.jsonl`` alone."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from palimpsest.records import ProfileRecord, read_jsonl, write_atomic
from palimpsest.report.document import document
from palimpsest.report.markup import Html, code, element, prose
from palimpsest.report.numerals import plural, tokens
from palimpsest.report.profile_figures import profile_figures
from palimpsest.report.tables import Column, Table, table_html
from palimpsest.statistics import Estimate, estimate

THIRDS = ("early", "middle", "late")


class Third(NamedTuple):
    """The layers of one third of a model: means over documents, with Student t intervals; None where all are NaN.

    Attributes:
        name: which third.
        layers: those of its layers that have a gate, counted from 0.
        heads: the part of all heads with a gate that is in it, what ``share`` would be if all were used alike.
        gate: mean gate.
        rho: mean share of memory in what a head says.
        share: the part of the sum of rho over all heads that is in this third.
    """

    name: str
    layers: tuple[int, ...]
    heads: float
    gate: Estimate | None
    rho: Estimate | None
    share: Estimate | None


def thirds(records: Sequence[ProfileRecord]) -> list[Third]:
    """Return the early, middle and late third of the layers, those without a gate left out.

    Layer l of L is in third floor(3 l / L). The unit is the document.
    """
    documents = list(dict.fromkeys(record.document_id for record in records))
    found = []
    for number, name in enumerate(THIRDS):
        inside = [record for record in records if 3 * record.layer // record.layers == number]
        layers = tuple(sorted({record.layer for record in inside}))
        if inside:
            found.append(
                Third(
                    name,
                    layers,
                    len(inside) / len(records),
                    _over(documents, inside, lambda rows: _mean(rows, "gate")),
                    _over(documents, inside, lambda rows: _mean(rows, "rho")),
                    _over(documents, records, partial(_share, layers=layers)),
                )
            )
    return found


def rank_correlation(xs: Sequence[float], ys: Sequence[float], level: float = 0.95) -> Estimate:
    """Return Spearman's rank correlation of n pairs with its interval.

    The interval is that of Fisher's z with variance (1 + r^2 / 2) / (n - 3) (Bonett and Wright 2000); it is everything
    for fewer than 4 pairs, and so is it, around 0, where one side does not vary.
    """
    pairs = len(xs)
    name = f"Spearman over {plural(pairs, 'head')}"
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        return Estimate(0.0, -math.inf, math.inf, pairs, f"{name}: not defined, one side does not vary", level)
    r = float(np.corrcoef(stats.rankdata(xs), stats.rankdata(ys))[0, 1])
    if pairs < 4:
        return Estimate(r, -math.inf, math.inf, pairs, f"{name}: needs four or more", level)
    half = float(stats.norm.ppf(0.5 + level / 2)) * math.sqrt((1 + r**2 / 2) / (pairs - 3))
    centre = math.atanh(max(min(r, 1 - 1e-12), -1 + 1e-12))
    return Estimate(r, math.tanh(centre - half), math.tanh(centre + half), pairs, name, level)


def head_means(records: Sequence[ProfileRecord], name: str) -> dict[tuple[int, int], float]:
    """Return the mean of a field over documents, by layer and head; heads that have no such thing are left out."""
    values: dict[tuple[int, int], list[float]] = {}
    for record in records:
        value = getattr(record, name)
        if value is not None and not math.isnan(value):
            values.setdefault((record.layer, record.head), []).append(float(value))
    return {place: float(np.mean(found)) for place, found in sorted(values.items())}


def correlation(records: Sequence[ProfileRecord], x: str, y: str) -> Estimate:
    """Return the rank correlation over heads of two fields, each the mean over documents."""
    left, right = head_means(records, x), head_means(records, y)
    places = [place for place in left if place in right]
    return rank_correlation([left[place] for place in places], [right[place] for place in places])


def write_profile_page(records_file: Path, page: Path) -> Path:
    """Draw the page of a profile from its records; it needs no network, no script and no other file.

    Raises:
        InputError: a line that is no record.
    """
    records = list(read_jsonl(records_file, ProfileRecord))
    write_atomic(page, profile_page(records, records_file.name))
    return page


def profile_page(records: Sequence[ProfileRecord], source: str) -> str:
    """Return the page as HTML; the same records give the same bytes."""
    first = records[0]
    title = f"Profile of {prose(first.arm) or 'a model'}"
    header = element(
        "header",
        None,
        element("p", {"class": "made"}, "Made with palimpsest"),
        element("h1", None, title),
        element("p", {"class": "question"}, _setting(records)),
    )
    figures = [
        element("figure", None, element("h3", None, plot.title), plot.inline, element("figcaption", None, plot.caption))
        for plot in profile_figures(records, head_means)
    ]
    main = element(
        "main",
        None,
        _section("Where memory is used", _words(records), table_html(thirds_table(records))),
        _section(
            "Head by head",
            "Means over documents; – where a layer has no such thing.",
            element("div", {"class": "figures"}, *figures),
        ),
        _section("All numbers", "Every head, means over documents.", table_html(heads_table(records))),
    )
    footer = element("footer", None, "Every number was computed from the records in ", code(source), ".")
    return document(title, header, main, footer)


def thirds_table(records: Sequence[ProfileRecord]) -> Table:
    """Return one row for each third of the layers."""
    columns = [Column("third", head=True), Column("layers"), Column("of all heads", "share")]
    columns += [Column("gate"), Column("rho", "share"), Column("of all rho", "share")]
    rows = [[t.name, ", ".join(map(str, t.layers)), t.heads, t.gate, t.rho, t.share] for t in thirds(records)]
    return Table("thirds", "By third of the layers, with 95 % t intervals over documents", columns, rows)


_FIELDS = (
    ("gate", "gate"),
    ("gate moved", "gate_shift"),
    ("rho", "rho"),
    ("|read|", "read_norm"),
    ("write strength", "write_strength"),
    ("load", "load"),
    ("|M|", "memory_norm"),
    ("effective rank", "effective_rank"),
    ("least divisor", "denominator_min"),
    ("d_eff", "key_dimension"),
    ("kappa", "common_mode"),
    ("n50", "n50"),
    ("n50 with common mode", "n50_common_mode"),
    ("bytes", "state_bytes"),
    ("effect, nats", "effect"),
)


def heads_table(records: Sequence[ProfileRecord]) -> Table:
    """Return one row for each head."""
    means = {field: head_means(records, field) for _, field in _FIELDS}
    shown = [(name, field) for name, field in _FIELDS if means[field]]
    places = sorted({(record.layer, record.head) for record in records})
    rows = [[f"{layer}.{head}", *(means[field].get((layer, head)) for _, field in shown)] for layer, head in places]
    return Table("heads", "Layer and head", [Column("head", head=True), *(Column(name) for name, _ in shown)], rows)


def _section(title: str, words: str, *body: Html) -> Html:
    return element("section", None, element("h2", None, title), element("p", None, words), *body)


def _setting(records: Sequence[ProfileRecord]) -> str:
    first = records[0]
    lengths = sorted({record.tokens for record in records})
    documents = len({record.document_id for record in records})
    read = tokens(lengths[0]) if len(lengths) == 1 else f"{tokens(lengths[0])} to {tokens(lengths[-1])}"
    return (
        f"{plural(documents, 'document')} of {read} tokens, read in segments of {tokens(first.segment_length)} by "
        f"{plural(first.layers, 'layer')}."
    )


def _words(records: Sequence[ProfileRecord]) -> str:
    """Say what is to be seen, with its interval."""
    related = correlation(records, "gate", "rho")
    words = (
        "rho is the length of what the memory of a head adds to the residual stream, as a part of that and what local "
        f"attention adds. A gate is not usage: over heads the rank correlation of gate and rho is {related}."
    )
    if head_means(records, "effect"):
        named = next(record.intervention for record in records if record.intervention is not None)
        effect = correlation(records, "rho", "effect")
        words += f" That of rho and what '{prose(named)}' costs in the head alone is {effect}."
    return words


def _mean(rows: Iterable[ProfileRecord], name: str) -> float:
    """Return the mean of a field, without those that are not a number (a head that says nothing has no share)."""
    values = [value for row in rows if not math.isnan(value := getattr(row, name))]
    return float(np.mean(values)) if values else math.nan


def _over(
    documents: Sequence[str], records: Sequence[ProfileRecord], value: Callable[[Sequence[ProfileRecord]], float]
) -> Estimate | None:
    """Return the mean of a value over those documents that have it, None if none has."""
    each = [value([record for record in records if record.document_id == name]) for name in documents]
    there = [number for number in each if not math.isnan(number)]
    return estimate(there, method="t") if there else None


def _share(rows: Sequence[ProfileRecord], layers: Collection[int]) -> float:
    """Return the part of the sum of rho over heads that is in these layers."""
    shares = [(row.layer in layers, row.rho) for row in rows if not math.isnan(row.rho)]
    total = sum(rho for _, rho in shares)
    return sum(rho for inside, rho in shares if inside) / total if total else math.nan
