"""The page of the mechanism tests: why a memory fades, seen on the memory alone. Records in, one page out; no torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from palimpsest.errors import InputError
from palimpsest.records import MechanismRecord, read_jsonl, write_atomic
from palimpsest.report.canvas import ArmStyle, Plot
from palimpsest.report.document import document
from palimpsest.report.markup import Html, code, element
from palimpsest.report.mechanism_figures import Lines, bar_figure, line_figure, name_of, styles_of
from palimpsest.report.mechanism_tables import (
    cells_table,
    half_loads_table,
    harm_table,
    in_cell,
    leading,
    lines_in,
    margins_table,
    of_test,
    sweep_table,
    usual_size,
)
from palimpsest.report.numerals import plural
from palimpsest.report.tables import Column, Table, Value, table_html

RECORDS = Path("records") / "mechanism.jsonl"
Records = Sequence[MechanismRecord]


class Part(NamedTuple):
    """One section: what it is about, in one sentence, its figures and its tables."""

    anchor: str
    title: str
    lead: str
    plots: Sequence[Plot | None]
    tables: Sequence[Table]


def write_mechanism_report(records_path: Path, out_dir: Path) -> Path:
    """Write ``index.html``, a page without scripts that needs no other file, and return its path.

    Raises:
        InputError: the file has a line that is no mechanism record, or none at all.
    """
    records = list(read_jsonl(records_path, MechanismRecord))
    if not records:
        raise InputError(f"{records_path}: has no records; 'palimpsest probe memory' writes them.")
    page = out_dir / "index.html"
    write_atomic(page, mechanism_page(records, records_path.name))
    return page


def mechanism_page(records: Records, source: str) -> str:
    """Return the page; ``source`` is the name of the file with the records."""
    parts = [part for make in _PARTS if (part := make(records)) is not None]
    links = [element("li", None, element("a", {"href": f"#{part.anchor}"}, part.title)) for part in parts]
    header = element(
        "header",
        None,
        element("p", {"class": "made"}, "Mechanism tests made with palimpsest: memories alone, nothing trained"),
        element("h1", None, "Why memories fade"),
        element(
            "p",
            {"class": "question"},
            "Random keys and values go through the memories themselves. Markers are what was measured, bands and "
            "brackets its 95 % intervals, dashed lines what theory says. Random keys are a null model: training can do "
            "better, by making keys unlike each other.",
        ),
        element("nav", {"aria-label": "Sections"}, element("ul", None, *links)),
    )
    footer = element(
        "footer", None, "Every number was computed from the ", f"{len(records):,} records in ", code(source),
        "; n is the number of outcomes or draws behind it.",
    )  # fmt: skip
    main = element("main", None, *(_section(part) for part in parts))
    return document("Why memories fade", header, main, footer)


def _section(part: Part) -> Html:
    figures = [
        element("figure", None, element("h3", None, plot.title), plot.inline, element("figcaption", None, plot.caption))
        for plot in part.plots
        if plot is not None
    ]
    tables = [
        element("details", None, element("summary", None, table.caption), table_html(table)) for table in part.tables
    ]
    return element(
        "section",
        {"id": part.anchor},
        element("h2", None, part.title),
        element("p", None, part.lead),
        element("div", {"class": "figures"}, *figures) if figures else "",
        *tables,
    )


def _capacity(records: Records) -> Part | None:
    found = of_test(records, "capacity", "accuracy")
    if not found:
        return None
    size, large = usual_size(found), max(record.size for record in found)
    memories, styles = leading(records), _styles(records)
    curve = Lines(
        "capacity-raw", f"Recall of n pairs, keys N(0,1) of size {size}",
        "With keys of ELU + 1 a sum fades early: every key has most of itself in common with every other, and that "
        "common part answers each query with the mean of all values. Least squares and zero-mean keys hold many more. "
        "Dotted: n = d, and 1/n.",
        ("pairs stored", lambda record: record.load), "share recalled, %", marks={"n = d": size}, guess=True,
    )  # fmt: skip
    raw = lines_in(found, {"size": size, "keys": "N(0,1)", "codes": 1024, "decoding": "raw"}, memories)
    centred = lines_in(found, {"size": size, "keys": "N(0,1)", "codes": 1024, "decoding": "centred"}, memories)
    sparse = lines_in(found, {"size": large, "keys": "N(-3,4)", "codes": 1024, "decoding": "raw"}, memories)
    by_size = _linear_by_size(found)
    plots = [
        line_figure(curve, raw, styles),
        line_figure(
            _changed(
                curve, "capacity-centred", "The same reads without their common mode",
                "The information was there: once the mean read is taken away, the linear memory recalls what a sum of "
                "zero-mean keys does.",
            ),
            centred, styles,
        ),
        line_figure(
            _changed(
                curve, "capacity-sparse", f"Keys that are sparse after ELU + 1: N(-3,4), size {large}",
                "Sparse keys overlap little, and a sum of them lasts longer: this is what training can do for it.",
                large,
            ),
            sparse, styles,
        ),
        line_figure(
            _changed(
                curve, "capacity-sizes", "Linear memory, centred, 256 values: recall by size",
                "The load that halves recall grows as the product of the sizes of keys and values, not as the rank d.",
                None,
            ),
            by_size, styles_of(by_size),
        ),
    ]  # fmt: skip
    return Part(
        "capacity",
        "How many pairs",
        "Each pair is written once. A memory fades as it fills: what was written by others is noise in every answer.",
        plots,
        [
            half_loads_table(found),
            sweep_table(found),
            cells_table("capacity", "Recall by load", [record for line in raw.values() for record in line]),
        ],
    )


def _linear_by_size(found: Records) -> dict[str, list[MechanismRecord]]:
    """Return the curves of the linear memory with ELU + 1 among 256 values, which the printed law is about."""
    return {
        f"d = {d}": [
            record
            for record in in_cell(found, {"size": d, "codes": 256, "decoding": "centred"})
            if (record.memory, record.features) == ("linear", "elu1")
        ]
        for d in sorted({record.size for record in found})
    }


def _features(records: Records) -> Part | None:
    found = of_test(records, "features")
    if not found:
        return None
    rows: list[list[Value]] = [
        [record.features, record.keys, record.size, record.measure, record.mean, record.theory] for record in found
    ]
    columns = (
        Column("features", head=True), Column("keys"), Column("d"), Column("quantity"), Column("value"),
        Column("closed form"),
    )  # fmt: skip
    return Part(
        "features",
        "How much keys have in common",
        "kappa compares, for one pair, the part of a mapped key that all keys share with the part that is its own: "
        "n pairs put kappa n of noise on each answer. The effective dimension is what is left for telling keys apart.",
        [],
        [Table("features", "kappa and effective dimension of every feature map", columns, rows)],
    )


def _interference(records: Records) -> Part | None:
    found = of_test(records, "interference", "P(new)")
    if not found:
        return None
    memories, styles = leading(records), _styles(records)
    plots = []
    for rewrites, name in ((0, "once"), (1, "twice"), (4, "five times")):
        cell = {"rewrites": rewrites, "segment_length": 1, "decoding": "centred", "age": None}
        what = Lines(
            f"interference-{rewrites}", f"32 keys written {name}, token by token",
            "The share of keys that are answered with their newest value: likeness of keys and rewrites are what a "
            "sum cannot bear.",
            ("cosine between keys", lambda record: record.similarity or 0.0), "newest value, %", logarithmic=False,
        )  # fmt: skip
        plots.append(line_figure(what, lines_in(found, cell, memories), styles))
    return Part(
        "interference",
        "Keys that are alike, and come again",
        "Keys with a given cosine are written once, twice and five times, each time with another value and in another "
        "order, in segments of one token, of one pass, and of all.",
        plots,
        [cells_table("interference", "Newest and older values, centred, by likeness, rewrites and segment",
                     in_cell(records, {"test": "interference", "age": None, "decoding": "centred"}))],
    )  # fmt: skip


def _overwriting(records: Records) -> Part | None:
    found = [record for record in records if record.test in ("overwriting", "replacement")]
    if not found:
        return None
    bars: dict[str, dict[str, MechanismRecord]] = {}
    for record in in_cell(found, {"test": "overwriting", "keys": "N(0,1)", "segment_length": 1, "decoding": "centred"}):
        bars.setdefault(name_of(record), {})[record.measure] = record
    plot = bar_figure(
        "overwriting",
        "32 keys written twice, token by token",
        "A sum keeps both values and answers with either. A delta rule with a normalised read takes back only about "
        "1/n of the old value; without the normaliser it takes back all of it.",
        bars,
    )
    return Part(
        "overwriting",
        "What is written again",
        "Each key is written a second time with another value. A memory that overwrites answers with the second.",
        [plot],
        [
            margins_table(found),
            cells_table("overwriting", "Keys written twice, and streams with replacement", found),
        ],
    )


def _age(records: Records) -> Part | None:
    found = of_test(records, "age")
    if not found:
        return None
    memories, styles = leading(records), _styles(records)
    plots = []
    for measure, what in (("cosine", "cosine between value and read"), ("accuracy", "share recalled, %")):
        lines = Lines(
            f"age-{measure}", f"{what.split(',')[0].capitalize()}, by age",
            "A token-wise delta rule forgets by age, a share 1/d with every write, so that the newest are read best; "
            "sums and least squares treat old and new alike, and lose all of them together.",
            ("writes since; leftmost: none", lambda record: float(record.age or 0)), what, share=measure == "accuracy",
        )  # fmt: skip
        plots.append(line_figure(lines, lines_in(found, {"measure": measure}, memories), styles))
    load = found[0].load
    return Part(
        "age",
        "What is old",
        f"{load} pairs are written in segments of {found[0].segment_length}; each is asked for by the number of writes "
        "since.",
        plots,
        [cells_table("age", "Accuracy and cosine by age", found)],
    )


def _compressions(records: Records) -> Part | None:
    found = of_test(records, "compressions")
    if not found:
        return None
    memories, styles = leading(records), _styles(records)
    plots = []
    for keys in dict.fromkeys(record.keys for record in found):
        what = Lines(
            f"compressions-{keys}".replace("(", "-").replace(")", "").replace(",", "-"),
            f"Pairs of the first segment, keys {keys}, size {found[0].size}",
            "That accuracy drops with the number of compressions is the load, 64 pairs more each time, and no loss of "
            "the compression itself: the theory of load alone runs through the points.",
            ("segments written", lambda record: float(record.updates or 0)), "share recalled, %",
        )  # fmt: skip
        plots.append(line_figure(what, lines_in(found, {"keys": keys}, memories), styles))
    return Part(
        "compressions",
        "How often it was compressed",
        "64 novel pairs per segment; those of the first segment are asked for after S segments.",
        plots,
        [cells_table("compressions", "Recall of the first segment", found)],
    )


def _filler(records: Records) -> Part | None:
    found = of_test(records, "filler")
    if not found:
        return None
    memories, styles = leading(records), _styles(records)
    said = {
        ("novel", 1.0): ("Novel filler", "Nothing of fixed size outlives filler that never repeats: load kills."),
        ("novel", 0.1): ("Novel filler, written with a tenth of the strength",
                         "Filler loads a sum with the square of its strength: a gate that writes it with a tenth lets "
                         "a needle live among a hundred times as much."),
        ("repeated", 1.0): ("Filler that repeats 24 pairs",
                            "Repeats pile up in a sum and drown it sooner than novel filler; a token-wise delta rule "
                            "and least squares see 24 directions, however often they come."),
    }  # fmt: skip
    plots = []
    for (kind, strength), (title, caption) in said.items():
        what = Lines(
            f"filler-{kind}-{strength:g}".replace(".", "-"), title, caption,
            ("tokens of filler", lambda record: float(record.load)), "needles recalled, %",
        )  # fmt: skip
        plots.append(line_figure(what, lines_in(found, {"filler": kind, "strength": strength}, memories), styles))
    return Part(
        "filler",
        "A needle in filler",
        "Needles stand at a tenth of the stream; keys N(0,1). What else was written decides whether they are found.",
        plots,
        [cells_table("filler", "Needles among filler", found)],
    )


def _precision(records: Records) -> Part | None:
    kept, recall = of_test(records, "saturation"), of_test(records, "precision")
    if not kept or not recall:
        return None
    shrinking = {}
    for record in in_cell(kept, {"state": "bfloat16"}):
        if record.measure in ("normaliser kept", "gram kept", "root kept") and record.segment_length == 64:
            shrinking.setdefault(f"{record.memory}: {record.measure.split()[0]}", []).append(record)
    what = Lines(
        "saturation", "What bfloat16 keeps of sums that grow",
        "One is everything. A sum in bfloat16 stops growing when an increment falls below its last digit: after some "
        "hundred segments the rest is lost.",
        ("segments written", lambda record: float(record.updates or 0)), "share of the float64 leaf", share=False,
    )  # fmt: skip
    return Part(
        "precision",
        "How finely it is written",
        "The state is rounded to bfloat16 after every write, everything else unchanged. The same 32 pairs come in "
        "every segment, so that recall can only be lost to rounding.",
        [line_figure(what, shrinking, styles_of(shrinking))],
        [
            harm_table(recall),
            cells_table("precision", "Recall with a state in float32 and in bfloat16", recall),
            cells_table("saturation", "Leaves of the state against float64", kept),
        ],
    )


def _bytes(records: Records) -> Part | None:
    found = of_test(records, "bytes")
    if not found:
        return None
    rows: list[list[Value]] = [
        [name_of(record), record.size, record.load, record.mean, record.theory, f"4 ({record.law})",
         record.mean / (2 * 4 * record.size)]
        for record in found
    ]  # fmt: skip
    columns = (
        Column("memory", head=True), Column("d"), Column("tokens written"), Column("bytes", "bytes"),
        Column("formula", "bytes"), Column("of"), Column("tokens whose keys and values take as much"),
    )  # fmt: skip
    equal = sum(record.mean == record.theory for record in found)
    return Part(
        "bytes",
        "What it costs",
        f"Bytes of one head in float32: {equal} of {plural(len(found), 'count')} equal their formula, whatever was "
        "written. The baseline of any ratio is in the last column: keys and values of so many tokens in float32.",
        [],
        [Table("bytes", "Bytes of state after 64 to 16,384 tokens", columns, rows)],
    )


_PARTS: Sequence[Callable[[Records], Part | None]] = (
    _capacity, _features, _interference, _overwriting, _age, _compressions, _filler, _precision, _bytes,
)  # fmt: skip


def _styles(records: Records) -> dict[str, ArmStyle]:
    return styles_of(f"{memory}, {features}" for memory, features in leading(records))


def _changed(what: Lines, name: str, title: str, caption: str, size: int | None = 0) -> Lines:
    """Return the same figure of other records; with the mark of another size, without one, or as it was."""
    marks = what.marks if size == 0 else {} if size is None else {"n = d": size}
    return Lines(name, title, caption, what.x, what.y, marks=marks, guess=what.guess)
