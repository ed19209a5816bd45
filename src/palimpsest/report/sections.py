"""The sections of the page, in the order in which a sceptical reader asks."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from palimpsest.records import ItemRecord, Provenance, VerdictRecord
from palimpsest.report import answer_figures, run_figures
from palimpsest.report.answers import ERROR_CLASSES, answers, beyond_reach
from palimpsest.report.canvas import Plot
from palimpsest.report.catalogue import compression_table, cost_table, grid_table, probe_table, score_table
from palimpsest.report.heatmaps import heatmap
from palimpsest.report.limits import limits
from palimpsest.report.load import STAGES, Stage, StudyResults, find_lines
from palimpsest.report.markup import Html, code, element, joined, prose
from palimpsest.report.numerals import listed, magnitude, plural, tokens
from palimpsest.report.tables import Column, Table, Value, estimate_html, table_html

VERDICT_LOOKS: Mapping[str, str] = {"PASS": "pass", "FAIL": "fail", "INCONCLUSIVE": "open"}

# Told apart by shape as well as by colour: a disc with a tick, a square with a cross, a diamond with a bar.
MARKS: Mapping[str, Html] = {
    verdict: Html(
        '<svg class="mark" viewBox="0 0 24 24" aria-hidden="true" fill="none" stroke="var(--card)" stroke-width="2.6" '
        f'stroke-linecap="round">{shape}</svg>'
    )
    for verdict, shape in {
        "PASS": '<circle cx="12" cy="12" r="11" fill="var(--tone)" stroke="none"/><path d="M7 12.5l3.5 3.5 6.5-7.5"/>',
        "FAIL": '<rect x="1.5" y="1.5" width="21" height="21" rx="2" fill="var(--tone)" stroke="none"/>'
        '<path d="M7.5 7.5l9 9m0-9l-9 9"/>',
        "INCONCLUSIVE": '<path d="M12 .5L23.5 12 12 23.5.5 12z" fill="var(--tone)" stroke="none"/><path d="M8 12h8"/>',
    }.items()
}


@dataclass(frozen=True)
class Section:
    """One section of the page and the figures in it."""

    anchor: str
    title: str
    body: Html
    plots: Sequence[Plot] = ()

    @property
    def html(self) -> Html:
        """The section as markup."""
        return element("section", {"id": self.anchor}, element("h2", None, self.title), self.body)


def sections(results: StudyResults, out_dir: Path) -> list[Section]:
    """Return all sections of a page that will lie in ``out_dir``."""
    return [
        _verdicts(results, out_dir),
        _heatmaps(results),
        _compressions(results),
        _kinds(results),
        _probes(results),
        _gates(results),
        _training(results),
        _position(results),
        _cost(results),
        _provenance(results),
        _limits(results),
    ]


def tally(verdicts: Sequence[VerdictRecord]) -> Html:
    """Return how many claims passed, failed and stayed open."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    entries = [
        element("li", {"class": look}, MARKS[word], element("span", None, f"{counts[word]} {word}"))
        for word, look in VERDICT_LOOKS.items()
        if counts[word]
    ]
    return element("ul", {"class": "tally"}, *entries)


def arms_table(results: StudyResults) -> Table:
    """Return the arms as the study defines them."""
    rows: list[list[Value]] = [
        [
            arm.name,
            ", ".join(arm.kinds),
            arm.memory or "none",
            "everything" if arm.reach is None else f"{tokens(arm.reach)} tokens",
            f"{arm.learning_rate:g}",
        ]
        for arm in results.study.arms
    ]
    names = ("layers", "memory", "attention reaches", "learning rate")
    return Table("arms", "The arms of the study", [Column("arm", head=True), *map(Column, names)], rows)


def _verdicts(results: StudyResults, out_dir: Path) -> Section:
    if results.is_further_grid:
        first = element("a", {"href": "../../index.html#verdicts"}, "page of its first grid")
        return Section(
            "verdicts", "Verdicts", element("p", None, "All claims of the study are judged on the ", first, ".")
        )
    if not results.verdicts:
        body = _nothing(
            "No claim has been judged: the study is unfinished or makes none."
            if results.verdicts is None
            else "The study makes no claim."
        )
        return Section("verdicts", "Verdicts", body)
    cards = [_verdict(verdict, results, out_dir) for verdict in results.verdicts]
    words = "Every claim and its rule were written down before the run. INCONCLUSIVE asks for more evidence."
    if len(results.seeds) == 1:
        words += (
            " One training seed: intervals are over items or documents and speak of these very models; others, trained "
            "alike with another seed, may do otherwise."
        )
    intro = element("p", None, words)
    return Section("verdicts", "Verdicts", joined([intro, element("div", {"class": "verdicts"}, *cards)]))


def _verdict(verdict: VerdictRecord, results: StudyResults, out_dir: Path) -> Html:
    estimates = [
        element(
            "li",
            None,
            f"{name.replace('_', ' ')}: ",
            estimate_html(found),
            f", {100 * found.level:g} %, {prose(found.method)}",
        )
        for name, found in verdict.estimates.items()
    ]
    links = [records_link(name, results.directory, out_dir) for name in verdict.items]
    parts = [
        element(
            "header", None, MARKS[verdict.verdict], element("span", {"class": "word"}, verdict.verdict),
            element("span", {"class": "n"}, prose(verdict.claim)),
        ),
        element("h3", None, prose(verdict.statement)),
        element("p", None, prose(verdict.sentence)),
        element("p", {"class": "rule"}, f"Rule: {prose(verdict.rule)}"),
    ]  # fmt: skip
    if estimates:
        parts.append(element("ul", {"class": "estimates"}, *estimates))
    if links:
        parts.append(element("p", {"class": "rests"}, "Records: ", joined(between(links, ", "))))
    return element("article", {"class": f"verdict {VERDICT_LOOKS[verdict.verdict]}"}, *parts)


def records_link(name: str, records: Path, out_dir: Path) -> Html:
    """Return a link to a records file, or its bare name if there is no such file inside the records directory."""
    path = find_lines(records / name)
    if path is None or not path.resolve().is_relative_to(records.resolve()):
        return joined([code(name), " (not found)"])
    target = Path(os.path.relpath(path, out_dir)).as_posix()
    # a first part like "x:" would read as a scheme
    return element("a", {"href": quote(target) if target.startswith(".") else f"./{quote(target)}"}, code(name))


def _heatmaps(results: StudyResults) -> Section:
    plots = [plot for i, arm in enumerate(results.arms, 1) if (plot := heatmap(results, arm, i)) is not None]
    lacking = [arm for arm in results.arms if not answers(results, arm)]
    parts = [
        element(
            "p", None, "Percent of whole keys retrieved, with the 95 % Wilson interval",
            f" over the items of {plural(len(results.seeds), 'trained model')} per arm. " if plots else ". ",
            "Hatched cells are uncertain by more than 10 points either way.",
        ),
        _figures(plots, "No answers were recorded."),
    ]  # fmt: skip
    if plots and lacking:
        parts.append(_nothing(f"No answers yet from {listed(lacking)}."))
    if plots:
        grids = [grid_table(results, arm) for arm in results.arms if arm not in lacking]
        parts.append(_numbers(grids, "accuracy"))
    return Section("length-and-depth", "Accuracy by length and depth", joined(parts), plots)


def _compressions(results: StudyResults) -> Section:
    plots = _present(
        [
            answer_figures.accuracy_figure(results, "exact", since="start"),
            answer_figures.accuracy_figure(results, "exact"),
            answer_figures.accuracy_figure(results, "rank"),
        ]
    )
    parts = [
        element(
            "p", None, "A compression is one segment boundary, at which the memory is written over. They are counted "
            "from the start of the text, which is its length in segments, or since the needle, where zero means that "
            "local attention still sees it.",
        ),
        _figures(plots, "No answers were recorded."),
    ]  # fmt: skip
    if plots:
        parts.append(
            _numbers(
                [compression_table(results, "start"), compression_table(results), score_table(results)], "compressions"
            )
        )
    return Section("compressions", "Accuracy by number of compressions", joined(parts), plots)


def _kinds(results: StudyResults) -> Section:
    plots = _present([answer_figures.error_figure(results)])
    samples = _samples(results)
    beside = [joined([table_html(samples), _file_link("answers")])] if samples.rows else []
    body = _figures(plots, "No items beyond local reach were answered.", beside)
    return Section("answers", "Kinds of answers", body, plots)


def _samples(results: StudyResults) -> Table:
    """Return one answer of every kind per arm, memory intact: the one with the most compressions."""
    rows: list[list[Value]] = []
    for arm in results.arms:
        items = beyond_reach(answers(results, arm))
        for kind in ERROR_CLASSES:
            of_kind = [item for item in items if item.error_class == kind]
            if of_kind:
                rows.append([arm, *_sample(max(of_kind, key=lambda item: item.compressions), len(of_kind))])
    names = ("kind", "asked for", "answered", "compressions")
    columns = [Column("arm", head=True), *map(Column, names)]
    caption = "In the models' own words: of every kind the answer after the most compressions; n is how many there are"
    return Table("", caption, columns, rows)


def _sample(item: ItemRecord, count: int) -> list[Value]:
    name, total = answer_figures.ERROR_NAMES[item.error_class], element("span", {"class": "n"}, f"n {count:,}")
    kind = element("span", {"class": "kind"}, name, " ", total)
    return [kind, code(item.answer), code(item.output, 60), f"{item.compressions:,}"]


def _probes(results: StudyResults) -> Section:
    plots = _present([answer_figures.probe_figure(results)])
    parts = [
        element(
            "p", None, "The causal question: is it the memory that answers? Swap gives the model the memory of another "
            "document, zero an empty one, gate closed none at all.",
        ),
        _figures(
            plots, "No intervention was made, so it is not shown that any memory does the work.",
            [joined([table_html(probe_table(results)), _file_link("probes")])] if plots else [],
        ),
    ]  # fmt: skip
    return Section("probes", "Is it the memory?", joined(parts), plots)


def _gates(results: StudyResults) -> Section:
    plots = _present([run_figures.gate_figure(results), run_figures.gate_path_figure(results)])
    body = [_figures(plots, "No gates were logged: no arm has any, or its training log is missing.")]
    return Section("gates", "Gates", joined(body), plots)


def _training(results: StudyResults) -> Section:
    plots = _present(run_figures.training_figure(results, quantity) for quantity in ("loss", "grad_norm"))
    return Section("training", "Training", _figures(plots, "No training was logged."), plots)


def _position(results: StudyResults) -> Section:
    plots = _present([run_figures.loss_figure(results), run_figures.loss_probe_figure(results)])
    body = _figures(plots, "No held-out loss was recorded.")
    return Section("held-out-loss", "Held-out loss by position", body, plots)


def _cost(results: StudyResults) -> Section:
    table = cost_table(results)
    return Section("cost", "Cost", table_html(table) if table.rows else _nothing("No costs were recorded."))


def _provenance(results: StudyResults) -> Section:
    if not results.provenance:
        return Section("provenance", "Provenance", _nothing("No provenance was recorded."))
    records = results.provenance.values()
    shared: list[list[Value]] = [
        ["study", code(results.study.sha256)],
        ["commit", variants(r.commit for r in records)],
        ["data", variants(r.data_fingerprint for r in records)],
        ["hardware", variants(f"{r.hardware}, {plural(r.cores, 'core')}" for r in records)],
        ["versions", variants(", ".join(f"{k} {v}" for k, v in sorted(r.versions.items())) for r in records)],
    ]
    known = sorted(results.provenance, key=lambda s: (_place(results.arms, s.arm), s.seed, _place(STAGES, s.stage)))
    runs = [_origin(stage, results.provenance[stage]) for stage in known]
    names = ("seed", "stage", "seeds", "recipe (SHA-256)", "parameters", "FLOPs", "started")
    columns = [Column("run", head=True), *map(Column, names)]
    summary = Table(
        "", "The same for all runs, unless more than one is named", [Column("what", head=True), Column("value")], shared
    )
    fold = element(
        "details",
        None,
        element("summary", None, plural(len(runs), "run")),
        table_html(Table("", "Runs", columns, runs)),
    )
    return Section("provenance", "Provenance", joined([table_html(summary), fold]))


def _origin(stage: Stage, record: Provenance) -> list[Value]:
    seeds = ", ".join(f"{name} {seed}" for name, seed in sorted(record.seeds.items()))
    recipe, size, work = code(record.recipe_sha256, 13), f"{record.parameters:,}", magnitude(record.flops)
    return [stage.arm, str(stage.seed), stage.stage, seeds, recipe, size, work, record.started]


def _limits(results: StudyResults) -> Section:
    entries = [
        joined([element("dt", None, prose(limit.what)), element("dd", None, prose(limit.why))])
        for limit in limits(results)
    ]
    return Section("limits", "What was not tested, and why", element("dl", {"class": "limits"}, *entries))


def _numbers(tables: Iterable[Table], file: str) -> Html:
    return element("details", None, element("summary", None, "The numbers"), *map(table_html, tables), _file_link(file))


def _file_link(file: str) -> Html:
    return element(
        "p", {"class": "file"}, "All numbers as a file: ", element("a", {"href": f"tables/{file}.csv"}, f"{file}.csv")
    )


def _figures(plots: Sequence[Plot], otherwise: str, beside: Iterable[Html] = ()) -> Html:
    if not plots:
        return _nothing(otherwise)
    cards = [*map(figure_html, plots), *(element("div", {"class": "beside"}, other) for other in beside)]
    return element("div", {"class": "figures"}, *cards)


def figure_html(plot: Plot) -> Html:
    """Return a figure with its title and caption."""
    return element(
        "figure", None, element("h3", None, plot.title), plot.inline, element("figcaption", None, plot.caption)
    )


def _nothing(text: str) -> Html:
    return element("p", {"class": "nothing"}, text)


def _present(plots: Iterable[Plot | None]) -> list[Plot]:
    return [plot for plot in plots if plot is not None]


def variants(values: Iterable[str]) -> Html:
    """Return the different values, and how many runs have each."""
    counts = Counter(values)
    several = len(counts) > 1
    return joined(
        between([joined([code(v, 400), f" ({plural(n, 'run')})" if several else ""]) for v, n in counts.items()], ", ")
    )


def between(parts: Sequence[Html], separator: str) -> list[str]:
    """Return the parts with a separator between them."""
    return [piece for i, part in enumerate(parts) for piece in ((separator, part) if i else (part,))]


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)
