"""Which tables a report has, and what is in them."""

from collections.abc import Sequence
from statistics import fmean

from palimpsest.report.answers import (
    ERROR_CLASSES,
    Since,
    answers,
    beyond_reach,
    by_compressions,
    cells,
    conditions,
    effects,
    error_classes,
    rate,
)
from palimpsest.report.load import INTACT, StudyResults
from palimpsest.report.numerals import depth, tokens
from palimpsest.report.runs import costs, final_gates, loss_by_position, loss_conditions
from palimpsest.report.tables import Column, Measured, Table, Value

_INTERVALS = "percent of items, 95 % Wilson interval, number of items n"


def data_tables(results: StudyResults) -> list[Table]:
    """Return the tables that are written as CSV: one row per measurement, empty ones left out."""
    tables = [
        _verdicts(results),
        _accuracy(results),
        _compressions(results),
        _answers(results),
        probe_table(results),
        _gates(results),
        _position_loss(results),
        cost_table(results),
    ]
    return [table for table in tables if table.rows]


def grid_table(results: StudyResults, arm: str) -> Table:
    """Return accuracy by depth (rows) and length (columns) of one arm."""
    found = cells(results, arm)
    lengths, depths = (sorted({place[i] for place in found}) for i in (0, 1))
    head = [Column("depth", head=True), *(Column(tokens(int(length)), "share") for length in lengths)]
    rows: list[list[Value]] = [
        [depth(d), *(found[int(n), d].found if (int(n), d) in found else None for n in lengths)] for d in depths
    ]
    return Table(f"grid-{arm}", f"{arm}: accuracy by depth and length in tokens; {_INTERVALS}", head, rows)


def compression_table(results: StudyResults, since: Since = "needle") -> Table:
    """Return accuracy by number of compressions: a row per arm, and one for its swapped memory if that was tested."""
    pairs = [pair for pair in conditions(results) if pair[1] in (INTACT, "swap")]
    curves = {pair: by_compressions(results, *pair, since=since) for pair in pairs}
    bins = sorted({bin_ for curve in curves.values() for bin_ in curve})
    rows: list[list[Value]] = [
        [
            arm if name == INTACT else f"{arm}, memory swapped",
            *(curve[b].pooled if b in curve else None for b in bins),
        ]
        for (arm, name), curve in curves.items()
    ]
    columns = [Column("compressions", head=True), *(Column(b.label, "share") for b in bins)]
    counted = "number of compressions" + (" since the needle" if since == "needle" else " before the answer")
    name = "compressions-wide" if since == "needle" else "lengths-wide"
    return Table(name, f"Whole keys retrieved, by arm and {counted}; {_INTERVALS}", columns, rows)


def score_table(results: StudyResults) -> Table:
    """Return both scores beside each other, for the items beyond local reach."""
    rows: list[list[Value]] = []
    for arm, name in conditions(results):
        items = beyond_reach(answers(results, arm, name))
        if items:
            rows.append([arm, _words(name), rate(items, "exact").pooled, rate(items, "rank").pooled])
    columns = [
        Column("arm", head=True),
        Column("memory", head=True),
        Column("whole key", "share"),
        Column("ranked first", "share"),
    ]
    return Table("scores-wide", f"Exact match and ranking on the items beyond local reach; {_INTERVALS}", columns, rows)


def cost_table(results: StudyResults) -> Table:
    """Return what each arm costs, averaged over its seeds."""
    columns = [
        Column("arm", head=True),
        Column("parameters", "large"),
        Column("memory", "bytes"),
        Column("local state", "bytes"),
        Column("context", "plain"),
        Column("FLOPs/token", "large"),
        Column("tokens", "large"),
        Column("training", "seconds"),
    ]
    rows: list[list[Value]] = []
    for arm in results.arms:
        records = costs(results, arm)
        if records:
            rows.append(
                [
                    arm,
                    _mean([r.parameters for r in records]),
                    _mean([r.memory_bytes for r in records]),
                    _mean([r.local_bytes for r in records]),
                    _mean([r.context for r in records]),
                    _mean([r.flops_per_token for r in records]),
                    _mean([r.training_tokens for r in records]),
                    _mean([r.training_seconds for r in records]),
                ]
            )
    return Table(
        "cost",
        "What each arm costs: state of one sequence after so many tokens of context (memory, and keys and values of "
        "local attention), FLOPs of training per token, tokens and time of training; n is the number of runs",
        columns,
        rows,
    )


def _verdicts(results: StudyResults) -> Table:
    rows: list[list[Value]] = [
        [v.claim, v.verdict, name, found, found.level, found.method, v.statement, v.rule, v.sentence]
        for v in results.verdicts or ()
        for name, found in v.estimates.items()
    ]
    names = ("estimate", "value", "level", "method", "statement", "rule", "sentence")
    columns = [Column("claim", head=True), Column("verdict"), *(Column(name) for name in names)]
    return Table("verdicts", "Verdicts and the estimates they rest on", columns, rows)


def _accuracy(results: StudyResults) -> Table:
    rows: list[list[Value]] = [
        [arm, length, d, str(cell.reachable).lower(), cell.found]
        for arm in results.arms
        for (length, d), cell in cells(results, arm).items()
    ]
    heads = [Column(name, head=True) for name in ("arm", "length", "depth", "locally reachable")]
    return Table("accuracy", "Accuracy by length and depth", [*heads, Column("exact", "share")], rows)


def _compressions(results: StudyResults) -> Table:
    rows: list[list[Value]] = []
    for arm, name in conditions(results):
        exact = by_compressions(results, arm, name, "exact")
        rank = by_compressions(results, arm, name, "rank")
        for bin_, found in exact.items():
            spread = found.by_seed.values()
            rows.append(
                [arm, name, bin_.low, bin_.high, found.pooled, rank[bin_].pooled, len(spread), min(spread), max(spread)]
            )
    heads = ("arm", "intervention", "compressions from", "compressions to")
    columns = [
        *(Column(name, head=True) for name in heads),
        Column("exact", "share"),
        Column("ranked first", "share"),
        Column("seeds"),
        Column("exact of the worst seed", "share"),
        Column("exact of the best seed", "share"),
    ]
    return Table("compressions", "Accuracy by number of compressions", columns, rows)


def _answers(results: StudyResults) -> Table:
    found = {pair: shares for pair in conditions(results) if (shares := error_classes(results, *pair))}
    rows: list[list[Value]] = [[*pair, *(shares[kind] for kind in ERROR_CLASSES)] for pair, shares in found.items()]
    heads = [Column("arm", head=True), Column("intervention", head=True)]
    columns = [*heads, *(Column(kind, "share") for kind in ERROR_CLASSES)]
    return Table("answers", "Kinds of answers to items beyond local reach", columns, rows)


def probe_table(results: StudyResults) -> Table:
    """Return the effects of the interventions with both accuracies and the exact test."""
    rows: list[list[Value]] = [
        [e.arm, _words(e.intervention), e.difference, e.intact, e.intervened, f"{e.p:.2g}", f"{e.p_holm:.2g}"]
        for e in effects(results)
    ]
    columns = [
        Column("arm", head=True),
        Column("memory", head=True),
        Column("difference", "points"),
        Column("intact", "share"),
        Column("intervened", "share"),
        Column("McNemar p"),
        Column("p after Holm"),
    ]
    caption = (
        "Accuracy intact minus accuracy under the intervention, in percentage points, on the same n items beyond local "
        "reach: Newcombe's paired 95 % interval, exact McNemar test over these items, Holm's adjustment over the rows"
    )
    return Table("probes", caption, columns, rows)


def _gates(results: StudyResults) -> Table:
    rows: list[list[Value]] = [
        [arm, head.seed, head.layer, head.head, gate]
        for arm in results.arms
        for head, gate in final_gates(results, arm).items()
    ]
    heads = [Column(name, head=True) for name in ("arm", "seed", "layer", "head")]
    return Table("gates", "Last logged gate of every head", [*heads, Column("gate")], rows)


def _position_loss(results: StudyResults) -> Table:
    rows: list[list[Value]] = [
        [arm, name, bucket.start, bucket.end, loss.found]
        for arm, name in loss_conditions(results)
        for bucket, loss in loss_by_position(results, arm, name).items()
    ]
    heads = [Column(name, head=True) for name in ("arm", "intervention", "from position", "to before position")]
    return Table("position_loss", "Held-out loss by position", [*heads, Column("nats per token")], rows)


def _mean(values: Sequence[float]) -> Measured:
    return Measured(fmean(values), len(values), len(set(values)) == 1)


def _words(intervention: str) -> str:
    return "intact" if intervention == INTACT else intervention.replace("_", " ")
