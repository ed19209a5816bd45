"""Tables of results for a terminal; the numbers come from records and estimates."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from palimpsest.records import RowRecord, VerdictRecord

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
        unknown = Counter(each.stage.kind for each in left if each.seconds is None)
        stages = ", ".join(f"{count} of kind {kind}" for kind, count in unknown.items())
        beside = f", beside stages that cannot be timed before: {stages}" if unknown else ""
        summary += f" About {duration(makespan)} from now with {jobs} jobs{beside}."
    return table, summary


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
