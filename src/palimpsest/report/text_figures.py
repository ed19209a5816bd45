"""Figures of the text probes: the forgetting curve, context gain, the sawtooth, effective context."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from palimpsest.records import ForgettingRecord, PerturbationRecord, PlaceLossRecord, PositionLossRecord
from palimpsest.report import canvas
from palimpsest.report.canvas import FAINT, INK, WIDTH, ArmStyle, Plot, arm_styles, draw, label
from palimpsest.report.numerals import bounded, listed, number, percent, tokens
from palimpsest.statistics import Estimate
from palimpsest.statistics.text_probes import (
    INTACT,
    MARGIN,
    EffectiveContext,
    Forgetting,
    Loss,
    Range,
    context_gain,
    effective_context,
    forgetting,
    mean_loss,
    memory_spans,
)

_SPOILT_NAMES: Mapping[str, str] = {
    "other": "another document",
    "sentences": "sentences shuffled",
    "tokens": "tokens shuffled",
    "dropped": "dropped",
}

R = TypeVar("R", ForgettingRecord, PerturbationRecord, PlaceLossRecord, PositionLossRecord)


class Curve(NamedTuple):
    """A line with its band, and how it is drawn."""

    points: Sequence[tuple[float, Estimate]]
    style: ArmStyle


def forgetting_figure(records: Sequence[ForgettingRecord]) -> Plot | None:
    """Draw how much of a text is said again by its length, for all arms; None without records."""
    curves = {arm: forgetting(each) for arm, each in _by_arm(records).items()}
    if not curves:
        return None
    styles, segment = arm_styles(list(curves)), records[0].segment_length

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for arm, curve in curves.items():
            after_other = styles[arm]._replace(dash=(0, (1, 2)), marker="")
            _paint(axes, Curve([(point.length, point.lm) for point in curve], after_other))
            _paint(axes, Curve([(point.length, point.copy) for point in curve], styles[arm]))
        canvas.percent_axis(axes)
        axes.set_title("last half of the text said again, %")
        _doubling_axis([axes], segment)
        axes.set_xlabel("length of the text, tokens")
        canvas.arm_legend(figure, styles)

    said = [f"{label(arm, 60)} {_spans_said(curve)}" for arm, curve in curves.items()]
    return draw(
        "text-forgetting",
        "Forgetting curve",
        "Every token is guessed after all those before it: once after the same text (line with marks), once after "
        "another text of the same length (fine dots). Between the two lies what was remembered; up to the dotted line, "
        "one segment, local attention may have seen it. Bands are 95 % t intervals, clustered by document.",
        f"{listed(said)}.",
        (WIDTH, 3.5),
        paint,
    )


def gain_figure(records: Sequence[PositionLossRecord], segment_length: int) -> Plot | None:
    """Draw the context gain G(t) of all arms, a panel per intervention; None where none was made."""
    arms = _by_arm(records)
    names = list(dict.fromkeys(record.intervention for record in records if record.intervention != INTACT))
    gains = {
        name: {
            arm: context_gain(each, name)
            for arm, each in arms.items()
            if any(record.intervention == name for record in each)
        }
        for name in names
    }
    if not gains:
        return None
    styles = arm_styles(list(arms))

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(gains), 1, squeeze=False, sharex=True)[:, 0]
        for axes, (name, curves) in zip(panels, gains.items(), strict=True):
            axes.axhline(0, color=INK, linewidth=1)
            for arm, gain in curves.items():
                points = [(math.sqrt(where.start * (where.end - 1)), loss.found) for where, loss in gain.items()]
                _paint(axes, Curve(points, styles[arm]))
            axes.set_title(f"{label(name.replace('_', ' '))}: rise of loss, nats per token")
        _doubling_axis(panels, segment_length)
        panels[-1].set_xlabel("position in the document, tokens")
        canvas.arm_legend(figure, styles)

    ends = [
        f"{label(arm, 60)} {label(name.replace('_', ' '))} {number(gain[max(gain)].found.mean)}"
        for name, curves in gains.items()
        for arm, gain in curves.items()
    ]
    return draw(
        "text-gain",
        "Context gain",
        "How much worse every document is predicted when the memory is changed, by position: above zero the "
        f"memory helps. Bands are 95 % t intervals over documents.{_omitted(_losses_of(gains))}",
        f"Gain at the last positions: {listed(ends)}.",
        (WIDTH, 0.9 + 1.7 * len(gains)),
        paint,
    )


def sawtooth_figure(records: Sequence[PlaceLossRecord]) -> Plot | None:
    """Draw loss by place in the segment, intact and under interventions, a panel per arm; None without records."""
    arms = _by_arm(records)
    if not arms:
        return None
    names = list(dict.fromkeys(record.intervention for record in records))
    styles = arm_styles(names)
    curves = {
        arm: {name: mean_loss(each, name) for name in names if any(record.intervention == name for record in each)}
        for arm, each in arms.items()
    }

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(curves), 1, squeeze=False, sharex=True)[:, 0]
        for axes, (arm, teeth) in zip(panels, curves.items(), strict=True):
            for name, tooth in teeth.items():
                points = [((where.start + where.end - 1) / 2, loss.found) for where, loss in tooth.items()]
                _paint(axes, Curve(points, styles[name]))
            axes.set_title(f"{label(arm)}: loss, nats per token")
        panels[-1].set_xlabel("place in the segment, tokens")
        canvas.arm_legend(figure, {_condition_said(name): style for name, style in styles.items()})

    fall = [f"{label(arm, 60)} {number(_fall(teeth[INTACT]))}" for arm, teeth in curves.items() if INTACT in teeth]
    return draw(
        "text-sawtooth",
        "Loss within a segment",
        "Loss by the place, in its segment, of the token that predicts; the first segment is left out. Local attention "
        "sees nothing before the segment: a tooth that falls from left to right is what the memory does not carry. "
        f"Bands are 95 % t intervals over documents.{_omitted(_losses_of(curves))}",
        f"Loss at the first places minus that at the last: {listed(fall)}.",
        (WIDTH, 0.9 + 1.9 * len(curves)),
        paint,
    )


def effective_context_figure(records: Sequence[PerturbationRecord], *, margin: float = MARGIN) -> Plot | None:
    """Draw what it costs to spoil the text beyond a distance, a panel per arm; None without records."""
    found = {arm: effective_context(each, margin=margin) for arm, each in _by_arm(records).items()}
    if not found:
        return None
    styles = arm_styles(list(_SPOILT_NAMES))

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(found), 1, squeeze=False, sharex=True)[:, 0]
        for axes, (arm, context) in zip(panels, found.items(), strict=True):
            axes.axhline(0, color=INK, linewidth=1)
            axes.axhline(margin, color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
            for condition, style in styles.items():
                points = [(row.distance, row.rise.found) for row in context.table if row.condition == condition]
                _paint(axes, Curve(points, style))
            axes.set_title(f"{label(arm)}: rise of loss, nats per token")
        _doubling_axis(panels, records[0].segment_length)
        panels[-1].set_xlabel("distance beyond which the text is not its own, tokens")
        canvas.arm_legend(figure, {_SPOILT_NAMES[name]: style for name, style in styles.items()})

    said = [f"{label(arm, 60)} {_distance_said(context)}" for arm, context in found.items()]
    losses = [row.rise for context in found.values() for row in context.table]
    return draw(
        "text-effective-context",
        "Effective context",
        "How much worse the end of a document is predicted when the text further back is spoilt. The effective context "
        f"is the largest distance at which another document's text costs more than {number(margin)} nats per token "
        f"(fine line), with its whole 95 % t interval over documents.{_omitted(losses)}",
        f"Effective context: {listed(said)}.",
        (WIDTH, 0.9 + 2.2 * len(found)),
        paint,
    )


def _by_arm(records: Iterable[R]) -> dict[str, list[R]]:
    groups: dict[str, list[R]] = {}
    for record in records:
        groups.setdefault(record.arm, []).append(record)
    return groups


def _paint(axes: Axes, curve: Curve) -> None:
    """Draw a line and, where its intervals are bounded, a band."""
    points = [(x, found) for x, found in curve.points if math.isfinite(found.mean)]
    if not points:
        return
    xs, means, style = [x for x, _ in points], [found.mean for _, found in points], curve.style
    low = [found.low if bounded(found) else found.mean for _, found in points]
    high = [found.high if bounded(found) else found.mean for _, found in points]
    axes.fill_between(xs, low, high, color=style.colour, alpha=0.14, linewidth=0)
    axes.plot(xs, means, color=style.colour, linestyle=style.dash, marker=style.marker, markersize=4)


def _doubling_axis(panels: Iterable[Axes], segment: int) -> None:
    """Make x logarithmic, with a dotted line at one segment."""
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.axvline(segment, color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
        axes.xaxis.set_major_formatter(lambda value, _: tokens(round(value)) if value >= 1 else "")
        low, high = axes.get_xlim()
        powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
        axes.set_xticks([2.0**power for power in powers if len(powers) <= 8 or power % 2 == 0])
        axes.minorticks_off()


def _losses_of(curves: Mapping[str, Mapping[str, Mapping[Range, Loss]]]) -> list[Loss]:
    return [loss for inner in curves.values() for curve in inner.values() for loss in curve.values()]


def _omitted(losses: Iterable[Loss]) -> str:
    """Say how many documents have losses that are not finite."""
    names = sorted({name for loss in losses for name in loss.left_out})
    return f" Left out, for losses that are not finite: {listed([label(name) for name in names])}." if names else ""


def _condition_said(name: str) -> str:
    return "intact" if name == INTACT else name.replace("_", " ")


def _fall(tooth: Mapping[Range, Loss]) -> float:
    return tooth[min(tooth)].found.mean - tooth[max(tooth)].found.mean


def _spans_said(curve: Sequence[Forgetting]) -> str:
    coarse, fine = memory_spans(curve)
    longest = curve[-1]
    something = "nothing beyond a segment" if coarse is None else f"something of {tokens(coarse)} tokens"
    everything = "" if fine is None else f" and all of {tokens(fine)}"
    return f"remembers {something}{everything} ({percent(longest.copy.mean)} % at {tokens(longest.length)})"


def _distance_said(context: EffectiveContext) -> str:
    return "none that was asked for" if context.distance is None else f"{tokens(context.distance)} tokens"
