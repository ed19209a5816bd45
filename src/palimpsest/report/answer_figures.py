"""Figures of what the models answered: accuracy by compressions, kinds of answers, effects of the probes."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from palimpsest.records import ErrorClass
from palimpsest.report import canvas
from palimpsest.report.answers import (
    ERROR_CLASSES,
    Bin,
    Effect,
    Rate,
    Score,
    Since,
    by_compressions,
    chance,
    conditions,
    effects,
    error_classes,
)
from palimpsest.report.canvas import FAINT, INK, WIDTH, ArmStyle, Plot, arm_styles, draw, label
from palimpsest.report.load import INTACT, StudyResults
from palimpsest.report.numerals import DASH, listed, percent, points
from palimpsest.statistics import Estimate

ERROR_NAMES: Mapping[ErrorClass, str] = {
    "correct": "right key",
    "other_number": "another number",
    "no_number": "no number",
    "other_value": "another value of the context",
    "absent_value": "a value not in the context",
    "not_finite": "logits not finite",
}
_ERROR_LOOKS: Mapping[ErrorClass, tuple[str, str]] = {
    "correct": ("#0072B2", ""),
    "other_number": ("#E69F00", "///"),
    "no_number": ("#d9d9d9", ""),
    "other_value": ("#E69F00", "///"),
    "absent_value": ("#d9d9d9", ""),
    "not_finite": ("#000000", ""),
}


_COUNTED = {
    "needle": "compressions between needle and answer",
    "start": "compressions before the answer, needles at all depths",
}


def accuracy_figure(
    results: StudyResults, score: Score, *, since: Since = "needle", width: float = WIDTH
) -> Plot | None:
    """Draw accuracy by number of compressions for all arms, None without answers.

    Bands are Wilson intervals of the pooled items; with several seeds each seed is a thin line.
    """
    curves = {arm: curve for arm in results.arms if (curve := by_compressions(results, arm, score=score, since=since))}
    if not curves:
        return None
    bins = sorted({bin_ for curve in curves.values() for bin_ in curve})
    styles = arm_styles(results.arms)
    floor = chance(results) if score == "rank" else None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        if floor is not None:
            axes.axhline(floor, color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
            axes.annotate("chance", (-0.4, floor), (3, 2), textcoords="offset points", color=FAINT, fontsize=8)
        for arm, curve in curves.items():
            _paint_curve(axes, bins, curve, styles[arm])
        canvas.percent_axis(axes)
        axes.set_xlim(-0.4, len(bins) - 0.6)
        axes.set_xticks(range(len(bins)), [_folded(bin_.label, 10 * width / len(bins)) for bin_ in bins])
        axes.set_xlabel(_COUNTED[since])
        what = "whole keys retrieved" if score == "exact" else "right key ranked first"
        axes.set_title(f"{what}, %")
        canvas.arm_legend(figure, {arm: styles[arm] for arm in curves})

    seeds = len(results.seeds)
    band = "Bands are 95 % Wilson intervals over items" + (
        f"; thin lines are the {seeds} seeds." if seeds > 1 else " of one trained model per arm."
    )
    counted = "since the needle, all lengths together" if since == "needle" else "in all, all depths together"
    what = (
        f"How often greedy generation gives the whole key, against how often the memory was written on {counted}: a "
        "memory that keeps what it was told stays high to the right."
        if score == "exact"
        else "The same, asked more gently: is the right key the likeliest of "
        f"{round(1 / floor) if floor else 'all'} candidates? Knowledge that generation cannot spell out shows here."
    )
    ends = [f"{label(arm, 60)} {percent(c[max(c)].pooled.mean)} % at {max(c).label}" for arm, c in curves.items()]
    return draw(
        f"accuracy-{score}" + ("" if since == "needle" else "-by-length"),
        "Whole keys retrieved" if score == "exact" else "Right key ranked first",
        f"{what} {band}",
        f"At the largest number of compressions: {listed(ends)}.",
        (width, 3.5 + 0.2 * (len(curves) // 3)),
        paint,
    )


def error_figure(results: StudyResults) -> Plot | None:
    """Draw the shares of kinds of answers, one bar per arm and intervention, None without items beyond reach."""
    rows = {pair: shares for pair in conditions(results) if (shares := error_classes(results, *pair))}
    if not rows:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for y, shares in enumerate(rows.values()):
            _paint_bar(axes, y, shares)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100 %"])
        axes.set_yticks(range(len(rows)), [_row_name(arm, name) for arm, name in rows])
        _indent_interventions(axes, list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        handles = [
            Patch(facecolor=colour, hatch=hatch, edgecolor=INK if hatch else "#ffffff", linewidth=0.5)
            for colour, hatch in _ERROR_LOOKS.values()
        ]
        figure.legend(handles, list(ERROR_NAMES.values()), loc="outside upper left", ncols=3)

    right = [f"{_said(arm, name)} {percent(shares['correct'].mean)} %" for (arm, name), shares in rows.items()]
    return draw(
        "errors",
        "What was answered",
        "Answers to items whose needle local attention cannot reach. Another number instead of the key means that the "
        "model looked for a key and found a wrong one; no number means that it did not even try.",
        f"Share of right keys: {listed(right)}.",
        (WIDTH, 0.75 + 0.27 * len(rows)),
        paint,
    )


def probe_figure(results: StudyResults) -> Plot | None:
    """Draw the effects of the interventions as a forest plot, None where no intervention was made."""
    found = effects(results)
    if not found:
        return None
    styles = arm_styles(results.arms)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=1)
        for y, effect in enumerate(found):
            _paint_effect(axes, y, effect, styles[effect.arm])
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.set_yticks(range(len(found)), [f"{label(e.arm, 16)}, {_words(e.intervention)}" for e in found])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        low = min(0.0, *(e.difference.low for e in found), *(v for e in found for v in e.by_seed.values()))
        axes.set_xlim(min(-0.05, low - 0.05), 1.05)
        ticks = [t / 4 for t in range(-4, 5) if min(-0.05, low - 0.05) <= t / 4]
        axes.set_xticks(ticks, [points(t) for t in ticks])
        axes.set_xlabel("lost without its memory, percentage points")

    seeds = (
        " Bars are 95 % intervals over items; the small open circles are the single seeds."
        if len(results.seeds) > 1
        else " Bars are 95 % intervals over items of one trained model."
    )
    said = [f"{_said(e.arm, e.intervention)} {points(e.difference.mean)} points" for e in found]
    return draw(
        "probes",
        "What the memory does",
        "Accuracy with the memory intact minus accuracy with it changed, on the same items beyond local reach. An "
        "interval that touches zero means that the memory was not shown to matter; far to the right, it does the work."
        f"{seeds}",
        f"Paired differences: {listed(said)}.",
        (WIDTH, 0.75 + 0.32 * len(found)),
        paint,
    )


def _paint_curve(axes: Axes, bins: Sequence[Bin], curve: Mapping[Bin, Rate], style: ArmStyle) -> None:
    xs = [bins.index(bin_) for bin_ in curve]
    found = [rate.pooled for rate in curve.values()]
    axes.fill_between(xs, [e.low for e in found], [e.high for e in found], color=style.colour, alpha=0.16, linewidth=0)
    seeds = sorted({seed for rate in curve.values() for seed in rate.by_seed})
    if len(seeds) > 1:
        for seed in seeds:
            line = [(x, rate.by_seed[seed]) for x, rate in zip(xs, curve.values(), strict=True) if seed in rate.by_seed]
            axes.plot(*zip(*line, strict=True), color=style.colour, linewidth=0.7, alpha=0.55)
    axes.plot(
        xs,
        [e.mean for e in found],
        color=style.colour,
        linestyle=style.dash,
        marker=style.marker,
        clip_on=False,
        zorder=3,
    )


def _paint_bar(axes: Axes, y: int, shares: Mapping[ErrorClass, Estimate]) -> None:
    left = 0.0
    for kind in ERROR_CLASSES:
        share, (colour, hatch) = shares[kind].mean, _ERROR_LOOKS[kind]
        edge = INK if hatch else "#ffffff"
        axes.barh(y, share, left=left, height=0.74, color=colour, hatch=hatch, edgecolor=edge, linewidth=0.4)
        if share >= 0.12:
            behind = {"facecolor": colour, "edgecolor": "none", "pad": 1.2}
            ink = canvas.ink_on(to_rgb(colour))
            axes.text(left + share / 2, y, percent(share), ha="center", va="center", color=ink, bbox=behind)
        left += share
    axes.annotate(
        f"n {shares['correct'].n:,}",
        (1, y),
        (4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        annotation_clip=False,
    )


def _paint_effect(axes: Axes, y: int, effect: Effect, style: ArmStyle) -> None:
    found = effect.difference
    axes.plot([found.low, found.high], [y, y], color=style.colour, linewidth=2.2, solid_capstyle="butt")
    if len(effect.by_seed) > 1:
        axes.plot(
            list(effect.by_seed.values()), [y + 0.27] * len(effect.by_seed), linestyle="", marker="o", markersize=3.2,
            markerfacecolor="none", color=style.colour, markeredgewidth=0.8,
        )  # fmt: skip
    axes.plot(found.mean, y, marker=style.marker, color=style.colour, markersize=5.5)
    axes.annotate(
        f"n {found.n:,}", (1.05, y), (4, 0), textcoords="offset points", va="center", fontsize=8, annotation_clip=False
    )


def _indent_interventions(axes: Axes, rows: Sequence[tuple[str, str]]) -> None:
    for text, (_, name) in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_fontweight("bold" if name == INTACT else "normal")


def _row_name(arm: str, intervention: str) -> str:
    return label(arm, 20) if intervention == INTACT else _words(intervention)


def _said(arm: str, intervention: str) -> str:
    return label(arm, 60) + ("" if intervention == INTACT else f" {_words(intervention)}")


def _words(intervention: str) -> str:
    """Return an intervention in words: ``gate_closed`` becomes ``gate closed``."""
    return label(intervention.replace("_", " "), 20)


def _folded(text: str, room: float) -> str:
    """Break a range after its dash if it has more characters than there is room for."""
    return text.replace(DASH, f"{DASH}\n") if len(text) > room else text
