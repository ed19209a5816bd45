"""Tables of results for a terminal; the numbers come from records and estimates."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from palimpsest.records import ItemRecord, RowRecord, VerdictRecord
from palimpsest.statistics import Estimate, align, contrast, estimate, mcnemar

if TYPE_CHECKING:
    from palimpsest.bench import BenchRecord
    from palimpsest.models.comparison import KindRow
    from palimpsest.study.estimate import StageEstimate

NOTHING = "–"
COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}


def verdict_table(verdicts: Iterable[VerdictRecord]) -> Table:
    """Return one row per claim."""
    table = Table("verdict", "claim", "why", show_lines=True)
    for found in verdicts:
        table.add_row(f"[{COLOURS[found.verdict]}]{found.verdict}[/]", escape(found.statement), escape(found.sentence))
    return table


def rows_table(rows: Iterable[RowRecord]) -> Table:
    """Return one row per row of a scorecard."""
    table = Table("row", "verdict", "claim", "why", show_lines=True)
    for row in rows:
        verdict = f"[{COLOURS[row.verdict]}]{row.verdict}[/]"
        table.add_row(row.id, verdict, escape(row.claim), escape(row.sentence))
    return table


def plan_table(estimates: "Sequence[StageEstimate]", jobs: int, *, timing: bool) -> tuple[Table, str]:
    """Return one row per stage, and a sentence on the whole."""
    from palimpsest.study.estimate import schedule

    table = Table("stage", "kind")
    for heading in ("tokens", "operations", "seconds", "state"):
        table.add_column(heading, justify="right")
    for each in estimates:
        table.add_row(
            each.stage.name,
            each.stage.kind,
            NOTHING if each.work is None else f"{each.work.tokens:,}",
            NOTHING if each.work is None else f"{each.work.flops:.3g}",
            NOTHING if each.seconds is None else f"{each.seconds:,.1f}",
            "done" if each.done else "",
        )
    left = [each for each in estimates if not each.done]
    flops = sum(each.work.flops for each in estimates if each.work is not None)
    tokens = sum(each.work.tokens for each in estimates if each.work is not None)
    summary = f"{len(estimates)} stages, {len(left)} to do; {tokens:,} tokens, {flops:.3g} operations in all."
    if timing and left:
        seconds = {each.stage.name: each.seconds or 0.0 for each in left}
        makespan = max(slot.end for slot in schedule([each.stage for each in estimates], seconds, jobs))
        unknown = [each.stage.name for each in left if each.seconds is None]
        beside = f", beside {', '.join(unknown)}" if unknown else ""
        summary += f" About {duration(makespan)} from now with {jobs} jobs{beside}."
    return table, summary


def passkey_table(records: Sequence[ItemRecord]) -> Table:
    """Return accuracy by length and depth with Wilson intervals (95 %), and how often the key was ranked first."""
    depths = sorted({record.depth for record in records})
    table = Table("tokens", title="Whole keys retrieved: % [95 % Wilson interval]", title_justify="left")
    for heading in ("compressions", "n", "all depths", *(f"depth {depth:g}" for depth in depths), "ranked first"):
        table.add_column(heading, justify="right")
    for length, items in sorted(_by_length(records).items()):
        compressions = [item.compressions for item in items]
        low, high = min(compressions), max(compressions)
        table.add_row(
            f"{length:,}",
            str(low) if low == high else f"{low}–{high}",
            str(len(items)),
            percent(estimate([float(item.exact) for item in items])),
            *(percent(estimate([float(i.exact) for i in items if i.depth == depth])) for depth in depths),
            percent(estimate([float(item.rank == 1) for item in items])),
        )
    return table


def probe_table(records: Sequence[ItemRecord], interventions: Sequence[str]) -> Table:
    """Return what each intervention takes away, paired by item, over the items that only the memory can reach."""
    table = Table(
        "tokens",
        "intervention",
        title="Items beyond the reach of local attention; difference [95 % Newcombe interval]; exact McNemar test",
        title_justify="left",
    )
    for heading in ("n", "intact", "intervened", "difference", "p"):
        table.add_column(heading, justify="right")
    groups = [(f"{length:,}", items) for length, items in sorted(_by_length(records).items())]
    if len(groups) > 1:
        groups.append(("all", list(records)))
    for length, items in groups:
        for name in interventions:
            table.add_row(length, name, *_effect(items, name))
    return table


def _effect(items: Iterable[ItemRecord], intervention: str) -> tuple[str, ...]:
    remote = [item for item in items if not item.locally_reachable]
    outcomes = [
        {item.item_id: float(item.exact) for item in remote if item.intervention == condition}
        for condition in ("none", intervention)
    ]
    _, intact, intervened = align(*outcomes)
    if not intact:
        return ("0", NOTHING, NOTHING, NOTHING, NOTHING)
    difference = contrast(intact, intervened)
    return (
        str(len(intact)),
        f"{100 * sum(intact) / len(intact):.0f} %",
        f"{100 * sum(intervened) / len(intervened):.0f} %",
        f"{100 * difference.mean:+.0f} [{100 * difference.low:+.0f}, {100 * difference.high:+.0f}]",
        f"{mcnemar(intact, intervened):.2g}",
    )


def bench_tables(record: "BenchRecord") -> list[Table]:
    """Return the equalities of a benchmark, and its timings if they hold."""
    title = "float64: largest relative RMS error of outputs, state and gradients"
    equal = Table("memory", "error", title=title, title_justify="left")
    for found in record.equalities:
        verdict = "equal" if found.holds else "[red]DIFFERENT[/]"
        equal.add_row(found.memory, f"{found.error:.1e} ({found.worst}) {verdict}")
    if not record.timings:
        return [equal]
    tokens = sorted(record.timings[0].seconds)
    speed = Table("memory", "form", title="Forward and backward, medians of processor seconds", title_justify="left")
    for heading in (*(f"T = {t:,}" for t in tokens), f"ratio {tokens[-1] // tokens[0]}x tokens"):
        speed.add_column(heading, justify="right")
    for timing in record.timings:
        medians = [f"{timing.median_cpu_seconds[t]:.4g} s" for t in tokens]
        speed.add_row(timing.memory, timing.form, *medians, f"{timing.ratio:.2f}")
    return [equal, speed]


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def percent(found: Estimate) -> str:
    """Return a share with its interval, in percent."""
    return f"{100 * found.mean:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def _by_length(records: Iterable[ItemRecord]) -> dict[int, list[ItemRecord]]:
    groups: dict[int, list[ItemRecord]] = {}
    for record in records:
        groups.setdefault(record.length, []).append(record)
    return groups


def kinds_table(kinds: "Sequence[KindRow]", lengths: Sequence[int]) -> Table:
    """Return one row per kind of attention; those that the model has are marked."""
    title = "One layer of every kind at these sizes, for one sequence; * as this model has it, the others with defaults"
    caption = (
        "Operations are those of one token of a forward pass, without the four projections that all kinds share. "
        "N: segment, T: context, W: window, M: cache, C: capacity, c: ratio, k: keys found; see docs/kinds.md."
    )
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("kind", no_wrap=True)
    for heading in ("bytes kept of", "operations at"):
        for length in lengths:
            table.add_column(f"{heading}\n{length:,} tokens", justify="right", no_wrap=True)
    for heading in ("reach", "gradient", "streaming"):
        table.add_column(heading)
    for kind in kinds:
        table.add_row(
            f"* {kind.name}" if kind.used else f"  {kind.name}",
            *(f"{kept:,}" for kept in kind.kept),
            *(f"{flops:,.0f}" for flops in kind.flops),
            kind.facts.reach,
            kind.facts.gradient,
            kind.facts.streaming,
        )
    return table
