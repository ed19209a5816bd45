"""Figures of training and of held-out text: curves, gates, loss by position."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter

from palimpsest.report import canvas
from palimpsest.report.canvas import FAINT, INK, WIDTH, ArmStyle, Plot, arm_styles, draw, label
from palimpsest.report.load import INTACT, STAGE_NAMES, STAGES, StudyResults
from palimpsest.report.numerals import bounded, listed, magnitude, number, plural, tokens
from palimpsest.report.runs import (
    Bucket,
    Head,
    Loss,
    Point,
    TrainingCurve,
    final_gates,
    gate_paths,
    local_arm,
    loss_by_position,
    loss_conditions,
    loss_difference,
    training_curves,
)

_LOG_SPAN = 20  # ratio of largest to smallest gradient norm from which a logarithmic axis is easier to read
_LOSS_UNITS: Mapping[str, str] = {"pretrain": "nats per token", "finetune": "nats per token of the answer"}


def training_figure(results: StudyResults, quantity: str) -> Plot | None:
    """Draw ``"loss"`` or ``"grad_norm"`` over training tokens, one panel per stage, None without logs."""
    stages = {stage: curves for stage in STAGES if (curves := training_curves(results, stage))}
    if not stages:
        return None
    styles = arm_styles(results.arms)
    skipped = sum(len(curve.skipped) for curves in stages.values() for curve in curves)

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(stages), 1, squeeze=False)[:, 0]
        for axes, (stage, curves) in zip(panels, stages.items(), strict=True):
            _paint_training(axes, curves, quantity, styles)
            unit = _LOSS_UNITS[stage] if quantity == "loss" else "gradient norm"
            axes.set_title(f"{STAGE_NAMES[stage]}: {unit}")
        panels[-1].set_xlabel("training tokens")
        shown = {curve.stage.arm for curves in stages.values() for curve in curves}
        canvas.arm_legend(figure, {arm: style for arm, style in styles.items() if arm in shown})

    marked = f" Crosses mark {plural(skipped, 'skipped update')}." if skipped else " No update was skipped."
    what = (
        "Training loss, one line per seed. A plateau followed by a drop is the moment at which retrieval is learned; a "
        "line that never drops has not learned it in this budget."
        if quantity == "loss"
        else "Gradient norm before clipping, one line per seed; each point is the largest of its stretch. Spikes and "
        "drifts upwards are signs of instability."
    )
    last = [
        f"{label(c.stage.arm, 60)} seed {c.stage.seed} ends at {number(getattr(c, quantity)[-1].value)}"
        for c in list(stages.values())[-1]
        if getattr(c, quantity)
    ]
    return draw(
        "training-loss" if quantity == "loss" else "training-gradients",
        "Training loss" if quantity == "loss" else "Gradient norm",
        what + marked,
        f"In {STAGE_NAMES[list(stages)[-1]]}: {listed(last)}.",
        (WIDTH, 0.8 + 1.9 * len(stages)),
        paint,
    )


def gate_figure(results: StudyResults) -> Plot | None:
    """Draw the last gate of every head, a panel per arm and a block of columns per seed; None without gates."""
    arms = {arm: gates for arm in results.arms if (gates := final_gates(results, arm))}
    if not arms:
        return None
    layers = sorted({head.layer for gates in arms.values() for head in gates})

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(arms), 1, squeeze=False)[:, 0]
        for axes, (arm, gates) in zip(panels, arms.items(), strict=True):
            _paint_gates(axes, gates, layers, named=axes is panels[-1])
            axes.set_title(label(arm))

    means = [f"{label(arm, 60)} {number(sum(g.values()) / len(g))}" for arm, g in arms.items()]
    return draw(
        "gates",
        "Gates after training",
        "How much of a head's output comes from memory: 0 is local attention alone, 1 is memory alone. A dark cell is "
        "a head that has closed its gate; look for where the bright ones are.",
        f"Mean gate over layers, heads and seeds: {listed(means)}.",
        (WIDTH, 0.5 + len(arms) * (0.35 + 0.28 * len(layers))),
        paint,
    )


def gate_path_figure(results: StudyResults) -> Plot | None:
    """Draw every head's gate over training, a panel per arm, None without gates."""
    arms = {arm: found for arm in results.arms if (found := gate_paths(results, arm))[0]}
    if not arms:
        return None
    layers = sorted({head.layer for paths, _ in arms.values() for head in paths})
    shades = {
        layer: matplotlib.colormaps[canvas.MAP](0.9 * i / max(1, len(layers) - 1)) for i, layer in enumerate(layers)
    }
    dashes: dict[int, Any] = {layer: ("-", (0, (5, 1.5)), (0, (1.2, 1.2)))[i % 3] for i, layer in enumerate(layers)}

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(arms), 1, squeeze=False, sharex=True)[:, 0]
        for axes, (arm, (paths, begin)) in zip(panels, arms.items(), strict=True):
            for head, path in paths.items():
                axes.plot(
                    *zip(*path, strict=True), color=shades[head.layer], linestyle=dashes[head.layer], linewidth=1.1
                )
            if begin is not None:
                axes.axvline(begin, color=FAINT, linewidth=1, dashes=(4, 2))
            axes.set_title(label(arm))
            axes.set_ylim(-0.04, 1.04)
            axes.set_yticks([0, 0.5, 1])
            _token_axis(axes)
        panels[-1].set_xlabel("training tokens")
        shown = layers if len(layers) <= 6 else [layers[0], layers[len(layers) // 2], layers[-1]]
        handles = [Line2D([], [], color=shades[layer], linestyle=dashes[layer]) for layer in shown]
        figure.legend(handles, [f"layer {layer}" for layer in shown], loc="outside upper left", ncols=3)

    moved = [f"{label(arm, 60)} {number(max(map(_movement, paths.values())))}" for arm, (paths, _) in arms.items()]
    return draw(
        "gate-paths",
        "Gates during training",
        "One line per head and seed; the grey dashed line is where fine-tuning begins. Gates that never leave their "
        "starting value say that training did not use them, whatever that value is.",
        f"Largest movement of a gate: {listed(moved)}.",
        (WIDTH, 0.8 + 1.25 * len(arms)),
        paint,
    )


def loss_figure(results: StudyResults) -> Plot | None:
    """Draw held-out loss by position, and below it the difference from local attention; None without losses."""
    curves = {arm: loss_by_position(results, arm) for arm, name in loss_conditions(results) if name == INTACT}
    if not curves:
        return None
    base = local_arm(results)
    gaps = {
        arm: gap
        for arm in curves
        if base is not None and arm != base and (gap := loss_difference(results, (arm, INTACT), (base, INTACT)))
    }
    styles = arm_styles(results.arms)

    def paint(figure: Figure) -> None:
        panels = figure.subplots(2 if gaps else 1, 1, squeeze=False, sharex=True)[:, 0]
        for arm, curve in curves.items():
            _paint_loss(panels[0], curve, styles[arm])
        panels[0].set_title("held-out loss, nats per token")
        if gaps and base is not None:
            panels[1].axhline(0, color=INK, linewidth=1)
            for arm, gap in gaps.items():
                _paint_loss(panels[1], gap, styles[arm])
            panels[1].set_title(f"the same, minus that of {label(base)}")
        _position_axis(panels, results)
        panels[-1].set_xlabel("position in the document, tokens")
        canvas.arm_legend(figure, {arm: styles[arm] for arm in curves})

    below = (
        " In the lower panel each document is compared with itself: below zero, an arm predicts better than local "
        "attention."
        if gaps
        else ""
    )
    documents = max(loss.found.n for curve in curves.values() for loss in curve.values())
    last = [f"{label(arm, 60)} {number(curve[max(curve)].found.mean)}" for arm, curve in curves.items()]
    return draw(
        "position-loss",
        "Held-out loss by position",
        "Left of the dotted line (one segment) no arm needs a memory; a memory that helps ordinary text bends its "
        f"curve down to the right.{below} Bands are 95 % t intervals over {plural(documents, 'document')}.",
        f"Loss at the last positions: {listed(last)}.",
        (WIDTH, 4.9 if gaps else 3.1),
        paint,
    )


def loss_probe_figure(results: StudyResults) -> Plot | None:
    """Draw how much held-out loss rises under each intervention, by position; None where none was made."""
    curves = {
        (arm, name): gap
        for arm, name in loss_conditions(results)
        if name != INTACT and (gap := loss_difference(results, (arm, name), (arm, INTACT)))
    }
    if not curves:
        return None
    styles = arm_styles(results.arms)
    names = sorted({name for _, name in curves})

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0]
        for axes, intervention in zip(panels, names, strict=True):
            axes.axhline(0, color=INK, linewidth=1)
            for (arm, name), curve in curves.items():
                if name == intervention:
                    _paint_loss(axes, curve, styles[arm])
            axes.set_title(f"{label(intervention.replace('_', ' '))}: rise of loss, nats per token")
        _position_axis(panels, results)
        panels[-1].set_xlabel("position in the document, tokens")
        canvas.arm_legend(figure, {arm: styles[arm] for arm in results.arms if arm in {a for a, _ in curves}})

    ends = [
        f"{label(arm, 60)} {label(name.replace('_', ' '))} {number(curve[max(curve)].found.mean)}"
        for (arm, name), curve in curves.items()
    ]
    return draw(
        "position-loss-probes",
        "What the memory does for ordinary text",
        "Held-out loss with the memory changed minus that with it intact, document by document. Above zero the memory "
        "helped to predict; on zero it was not used.",
        f"Rise at the last positions: {listed(ends)}.",
        (WIDTH, 0.8 + 1.7 * len(names)),
        paint,
    )


def _paint_training(axes: Axes, curves: Sequence[TrainingCurve], quantity: str, styles: Mapping[str, ArmStyle]) -> None:
    values = []
    for curve in curves:
        style, path = styles[curve.stage.arm], getattr(curve, quantity)
        if path:
            axes.plot(*zip(*path, strict=True), color=style.colour, linestyle=style.dash, linewidth=1.2)
            values += [point.value for point in path]
    if quantity == "grad_norm" and values and max(values) > _LOG_SPAN * min(values) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: number(value))
        axes.yaxis.set_minor_formatter(NullFormatter())
    for curve in curves:
        style = styles[curve.stage.arm]
        axes.plot(
            curve.skipped, [0.96] * len(curve.skipped), linestyle="", marker="x", color=style.colour,
            transform=axes.get_xaxis_transform(), markersize=5.5, markeredgewidth=1.6,
        )  # fmt: skip
    _token_axis(axes)


def _paint_gates(axes: Axes, gates: Mapping[Head, float], layers: Sequence[int], *, named: bool) -> None:
    """Draw the gates of one arm, with the names of the heads below if ``named``."""
    columns = sorted({(head.seed, head.head) for head in gates})
    for head, gate in gates.items():
        x, y = columns.index((head.seed, head.head)), layers.index(head.layer)
        colour = matplotlib.colormaps[canvas.MAP](min(1.0, max(0.0, gate)))
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="#ffffff", linewidth=1))
        if len(columns) <= 9:
            axes.text(x, y, f"{gate:.2f}", ha="center", va="center", color=canvas.ink_on(colour))
    seeds = sorted({seed for seed, _ in columns})
    starts = [next(i for i, (seed, _) in enumerate(columns) if seed == wanted) for wanted in seeds]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="#ffffff", linewidth=5)
    if not named:
        axes.set_xticks([])
    elif len(columns) <= 16:
        axes.set_xticks(range(len(columns)), [str(head) for _, head in columns])
    else:
        axes.set_xticks(starts, [f"seed {seed}" for seed in seeds])
    if named:
        axes.set_xlabel("head" if len(seeds) == 1 else f"head; blocks are seeds {listed([str(s) for s in seeds])}")
    axes.set_yticks(range(len(layers)), [f"layer {layer}" for layer in layers])
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def _paint_loss(axes: Axes, curve: Mapping[Bucket, Loss], style: ArmStyle) -> None:
    xs = [bucket.middle for bucket in curve]
    found = [loss.found for loss in curve.values()]
    low = [e.low if bounded(e) else e.mean for e in found]
    high = [e.high if bounded(e) else e.mean for e in found]
    axes.fill_between(xs, low, high, color=style.colour, alpha=0.14, linewidth=0)
    seeds = sorted({seed for loss in curve.values() for seed in loss.by_seed})
    if len(seeds) > 1:
        for seed in seeds:
            line = [(x, loss.by_seed[seed]) for x, loss in zip(xs, curve.values(), strict=True) if seed in loss.by_seed]
            axes.plot(*zip(*line, strict=True), color=style.colour, linewidth=0.6, alpha=0.5)
    axes.plot(xs, [e.mean for e in found], color=style.colour, linestyle=style.dash, marker=style.marker, markersize=4)


def _movement(path: Sequence[Point]) -> float:
    values = [point.value for point in path]
    return max(values) - min(values)


def _position_axis(panels: Iterable[Axes], results: StudyResults) -> None:
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.axvline(results.study.segment_length, color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
        axes.xaxis.set_major_formatter(lambda value, _: tokens(round(value)) if value >= 1 else "")
        low, high = axes.get_xlim()
        powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
        axes.set_xticks([2.0**power for power in powers if len(powers) <= 8 or power % 2 == 0])
        axes.minorticks_off()


def _token_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda value, _: "0" if value == 0 else magnitude(value).replace(" ", ""))
    axes.set_xlim(left=0)
