"""The contamination audit as numbers to decide by and as one page: who shares what with the training text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from palimpsest.records import AuditRecord, AuditSetting, CanaryRecord, EstimateRecord, Record, write_atomic
from palimpsest.report.canvas import WIDTH, Plot, draw
from palimpsest.report.document import document
from palimpsest.report.markup import Html, code, element, joined
from palimpsest.report.numerals import number, plural
from palimpsest.report.tables import Column, Table, estimate_html, table_html
from palimpsest.statistics import estimate

HIT_SHARE_ALLOWED = 0.01
CANARY_SHARE_WANTED = 0.95
CANARIES_NEEDED = 20

_STYLE = """
.pair { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.pair p { background: var(--shade); border-radius: .35rem; padding: .6rem .8rem; margin: .2rem 0 .8rem; }
main > section > p { margin: 0 0 1rem; }
"""


class AuditSummary(Record):
    """What the audit comes to (``summary.json``): the inputs of the decision, with intervals, and the decision.

    Attributes:
        documents: evaluated texts.
        long_matches: texts with a match of more than ``longest_allowed`` tokens (that is, of 50 and more).
        any_ngram: share of texts with an n-gram that stands in the training text.
        covered_eightgrams: texts of whose 8-grams at least 70 % stand in the training text.
        same_ids: texts whose identifier a training document carries.
        dirty: texts with any of these findings.
        canary_recall: share of planted passages that were found; None where none was planted.
        megabytes_per_second: training text, whole run.
        verdict: see :func:`summarise`.
        sentence: the verdict in words.
    """

    documents: int
    long_matches: int
    any_ngram: EstimateRecord
    covered_eightgrams: int
    same_ids: int
    dirty: int
    canary_recall: EstimateRecord | None
    megabytes_per_second: float
    verdict: str
    sentence: str


def summarise(setting: AuditSetting, records: Sequence[AuditRecord], canaries: Sequence[CanaryRecord]) -> AuditSummary:
    """Decide on the text alone; the contrast of a metric on clean and dirty texts needs the metric.

    PASS: no text has a match of 50 tokens, fewer than 1 % have an n-gram of the training text, and at least 19 of 20
    planted passages were found. FAIL: one of the first two does not hold. INCONCLUSIVE: they hold, but fewer than 20
    passages were planted, or the audit found too few of them to be believed. Intervals: Clopper-Pearson.
    """
    hits = [1.0 if "ngram" in record.reasons else 0.0 for record in records]
    any_ngram = estimate(hits, method="clopper_pearson").record()
    long_matches = sum("longest_match" in record.reasons for record in records)
    found = [float(canary.found) for canary in canaries]
    recall = estimate(found, method="clopper_pearson").record() if found else None
    sensitive = len(found) >= CANARIES_NEEDED and sum(found) >= CANARY_SHARE_WANTED * len(found)
    clean = long_matches == 0 and any_ngram.mean < HIT_SHARE_ALLOWED
    verdict = "FAIL" if not clean else "PASS" if sensitive else "INCONCLUSIVE"
    planted = "no passage was planted" if recall is None else f"{sum(found):.0f} of {len(found)} planted ones found"
    return AuditSummary(
        documents=len(records),
        long_matches=long_matches,
        any_ngram=any_ngram,
        covered_eightgrams=sum("coverage" in record.reasons for record in records),
        same_ids=sum(record.same_id for record in records),
        dirty=sum(bool(record.reasons) for record in records),
        canary_recall=recall,
        megabytes_per_second=round(setting.training_bytes / 1e6 / max(setting.seconds, 1e-3), 2),
        verdict=verdict,
        sentence=(
            f"{verdict}: of {plural(len(records), 'evaluated text')} {long_matches} share a passage of "
            f"{setting.longest_allowed + 1} tokens or more with the training text and {sum(hits):.0f} any "
            f"{setting.ngram} words in a row; {planted}."
        ),
    )


def documents_table(setting: AuditSetting, records: Sequence[AuditRecord]) -> Table:
    """Return one row for every evaluated text, the longest match first."""
    columns = [
        Column("Evaluated text", head=True),
        Column("Words"),
        Column(f"{setting.ngram}-grams seen"),
        Column("Words covered", unit="share"),
        Column("8-grams seen", unit="share"),
        Column("Longest, words"),
        Column("Longest, tokens"),
        Column("Finding"),
        Column("Training documents"),
    ]
    rows = [
        (
            record.document_id,
            record.words,
            record.hits,
            record.covered,
            record.eightgrams_seen,
            record.longest_words,
            record.longest_tokens,
            ", ".join(reason.replace("_", " ") for reason in record.reasons) or "clean",
            ", ".join(record.offending[:3]) + (" …" if len(record.offending) > 3 else ""),
        )
        for record in sorted(records, key=lambda record: (-record.longest_words, record.document_id))
    ]
    caption = f"What every evaluated text shares with the training text; tokens are {setting.unit}."
    return Table("audit", caption, columns, rows)


def longest_match_plot(setting: AuditSetting, records: Sequence[AuditRecord]) -> Plot:
    """Return the histogram of the longest match of every evaluated text, in tokens."""
    longest = np.array([max(record.longest_tokens, 1) for record in records])
    edges = 2.0 ** np.arange(0, np.ceil(np.log2(max(longest.max(), 64))) + 0.5, 0.5)
    limit = setting.longest_allowed + 1
    above = int(np.count_nonzero(longest >= limit))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.hist(longest, bins=[float(edge) for edge in edges], color="#0072B2")
        axes.axvline(limit, color="#D55E00", linestyle="--")
        axes.annotate(
            f"{limit} tokens",
            (limit, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -10),
            textcoords="offset points",
            color="#D55E00",
        )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
        axes.set_xlabel("longest match with the training text, tokens")
        axes.set_ylabel("evaluated texts")

    return draw(
        "longest-match",
        "Longest match of every evaluated text",
        f"From {limit} tokens on (dashed) a match is a finding. Texts without a match of 8 tokens stand at 1.",
        f"Histogram of {plural(len(records), 'text')}: longest matches from {longest.min()} to {longest.max()} tokens, "
        f"{above} of them of {limit} tokens or more.",
        (WIDTH, 2.6),
        paint,
    )


def write_audit_page(
    out: Path, setting: AuditSetting, records: Sequence[AuditRecord], canaries: Sequence[CanaryRecord]
) -> Path:
    """Write ``index.html``, which needs no network and no script, into ``out`` and return its path."""
    summary = summarise(setting, records, canaries)
    header = element(
        "header",
        None,
        element("p", {"class": "made"}, "A contamination audit made with palimpsest"),
        element("h1", None, "What the evaluated texts share with the training text"),
        element("p", {"class": "question"}, summary.sentence),
    )
    parts = [_numbers(setting, summary), _matches(setting, records), _passages(records), _canaries(canaries)]
    main = element("main", None, *parts, _repeated(setting))
    page = out / "index.html"
    write_atomic(page, document("Contamination audit", header, main, style=_STYLE))
    return page


def _section(title: str, *children: str) -> Html:
    return element("section", None, element("h2", None, title), *children)


def _numbers(setting: AuditSetting, summary: AuditSummary) -> Html:
    recall = "none planted" if summary.canary_recall is None else estimate_html(summary.canary_recall, "share")
    lines: list[tuple[str, str]] = [
        ("Training text", f"{plural(setting.training_documents, 'document')}, {setting.training_bytes / 1e6:.1f} MB"),
        (f"Texts with a match of {setting.longest_allowed + 1} tokens or more", f"{summary.long_matches}"),
        (f"Texts with any {setting.ngram}-gram of the training text", estimate_html(summary.any_ngram, "share")),
        ("Texts of whose 8-grams 70 % or more are seen", f"{summary.covered_eightgrams}"),
        ("Texts whose identifier is in the training text", f"{summary.same_ids}"),
        ("Planted passages found", recall),
        ("Time", f"{number(setting.seconds)} s, {number(summary.megabytes_per_second)} MB/s"),
    ]
    items = [element("li", None, f"{name}: ", value) for name, value in lines]
    return _section("The numbers", element("ul", None, *items))


def _matches(setting: AuditSetting, records: Sequence[AuditRecord]) -> Html:
    plot = longest_match_plot(setting, records)
    figure = element(
        "figure", None, element("h3", None, plot.title), plot.inline, element("figcaption", None, plot.caption)
    )
    return _section(
        "Longest matches", element("div", {"class": "figures"}, figure), table_html(documents_table(setting, records))
    )


def _passages(records: Sequence[AuditRecord]) -> Html:
    dirty = sorted((record for record in records if record.passages), key=lambda record: -record.longest_words)
    if not dirty:
        return _section("Shared passages", element("p", {"class": "nothing"}, "There are none."))
    return _section("Shared passages", *(_document(record) for record in dirty))


def _document(record: AuditRecord) -> Html:
    pairs = [
        element(
            "div",
            {"class": "pair"},
            element(
                "div",
                None,
                joined([code(record.document_id), f", {passage.words} words from word {passage.start}"]),
                element("p", None, passage.evaluated_text),
            ),
            element(
                "div",
                None,
                joined(["in training: ", code(passage.training_document)]),
                element("p", None, passage.training_text),
            ),
        )
        for passage in record.passages
    ]
    about = f": {record.longest_words} words in a row"
    return element("details", None, element("summary", None, code(record.document_id), about), *pairs)


def _canaries(canaries: Sequence[CanaryRecord]) -> Html:
    if not canaries:
        return _section("Planted passages", element("p", {"class": "nothing"}, "None was planted."))
    columns = [
        Column("Copied from", head=True),
        Column("Planted in"),
        Column("Changed"),
        Column("Longest, words"),
        Column("Longest, tokens"),
        Column("Found"),
    ]
    rows = [
        (c.document_id, c.host, c.perturbation, c.longest_words, c.longest_tokens, "yes" if c.found else "no")
        for c in canaries
    ]
    caption = "Passages planted in a copy of the training stream, to see whether the audit finds them."
    return _section("Planted passages", table_html(Table("canaries", caption, columns, rows)))


def _repeated(setting: AuditSetting) -> Html:
    if not setting.repeated:
        return _section("Formulas", element("p", {"class": "nothing"}, "No n-gram is shared by three texts."))
    rows = [(passage.text, passage.documents) for passage in setting.repeated]
    caption = "N-grams that several evaluated texts share with the training text: candidates for a list of boilerplate."
    columns = [Column("Words", head=True), Column("Evaluated texts")]
    return _section("Formulas", table_html(Table("formulas", caption, columns, rows)))
