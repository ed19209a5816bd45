"""Accuracy by length and depth, one heatmap per arm."""

from collections.abc import Iterable, Set

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from palimpsest.report import canvas
from palimpsest.report.answers import Cell, cells, grid
from palimpsest.report.canvas import WIDTH, Plot, draw, label
from palimpsest.report.load import StudyResults
from palimpsest.report.numerals import DASH, depth, percent, tokens

_ROOM_FOR_INTERVALS = 6  # columns up to which an interval fits into a cell


def heatmap(results: StudyResults, arm: str, position: int) -> Plot | None:
    """Draw accuracy by length and depth of one arm, None if it has no answers; ``position`` numbers the file."""
    found = cells(results, arm)
    if not found:
        return None
    lengths, depths = grid(results)
    counts = sorted({cell.found.n for cell in found.values()})
    each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}{DASH}{counts[-1]}"
    roomy = len(lengths) <= _ROOM_FOR_INTERVALS
    height = 1.0 + len(depths) * (0.4 if roomy else 0.26)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.grid(visible=False)
        for place, cell in found.items():
            x, y = lengths.index(place[0]), depths.index(place[1])
            _paint_cell(axes, x, y, cell, with_interval=roomy)
        _outline(axes, {(lengths.index(n), depths.index(d)) for (n, d), cell in found.items() if cell.reachable})
        trained = sum(length <= results.study.trained_length for length in lengths) - 0.5
        axes.axvline(trained, color="#D55E00", dashes=(4, 2), linewidth=1.6, clip_on=False)
        axes.set_xlim(-0.52, len(lengths) - 0.48)
        axes.set_ylim(len(depths) - 0.48, -0.52)
        axes.set_xticks(range(len(lengths)), [tokens(length) for length in lengths])
        axes.set_yticks(range(len(depths)), [depth(value) for value in depths])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("length in tokens")
        axes.set_title(f"depth of the needle (n = {each} in a cell)")
        _legend(figure)

    reach = _reach_words(results, arm, any(cell.reachable for cell in found.values()))
    worst = min(found, key=lambda place: found[place].found.mean)
    return draw(
        f"heatmap-{position}",
        label(arm, 60),
        "Look for the first dark column right of the dashed orange line: that is how far beyond its training this arm "
        f"still retrieves. {reach}",
        f"Accuracy of {label(arm, 60)} by length and depth, n = {each} items in a cell; lowest "
        f"{percent(found[worst].found.mean)} % at {tokens(worst[0])} tokens, depth {depth(worst[1])}.",
        (WIDTH, height),
        paint,
    )


def _paint_cell(axes: Axes, x: int, y: int, cell: Cell, *, with_interval: bool) -> None:
    colour = matplotlib.colormaps[canvas.MAP](cell.found.mean)
    ink = canvas.ink_on(colour)
    hatch = "////" if cell.wide else None
    edge = (*to_rgb(ink), 0.45) if cell.wide else "none"
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor=edge, hatch=hatch, linewidth=0))
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor="none", edgecolor="#ffffff", linewidth=1))
    behind = {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
    place = {"ha": "center", "va": "center", "color": ink, "bbox": behind}
    mean = percent(cell.found.mean)
    if with_interval:
        axes.text(x, y - 0.18, mean, fontsize=10, fontweight="bold", **place)
        axes.text(x, y + 0.22, f"{percent(cell.found.low)}{DASH}{percent(cell.found.high)}", fontsize=8, **place)
    else:
        axes.text(x, y, mean, fontsize=9, **place)


def _outline(axes: Axes, places: Set[tuple[int, int]]) -> None:
    """Draw a dashed line around cells, given as (column, row)."""
    across = [(y + side, x) for x, y in places for side in (0, 1) if (x, y + 2 * side - 1) not in places]
    down = [(x + side, y) for x, y in places for side in (0, 1) if (x + 2 * side - 1, y) not in places]
    lines = [([a - 0.5, b - 0.5], [at - 0.5] * 2) for at, a, b in _stretches(across)]
    lines += [([at - 0.5] * 2, [a - 0.5, b - 0.5]) for at, a, b in _stretches(down)]
    for xs, ys in lines:
        axes.plot(xs, ys, color="#ffffff", linewidth=2.8, clip_on=False, zorder=4)
    for xs, ys in lines:
        axes.plot(xs, ys, color="#000000", dashes=(2.5, 1.5), linewidth=1.5, clip_on=False, zorder=5)


def _stretches(edges: Iterable[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Join edges of length 1, given as (line, start), into stretches (line, start, end)."""
    joined: list[tuple[int, int, int]] = []
    for at, start in sorted(edges):
        if joined and joined[-1][0] == at and joined[-1][2] == start:
            joined[-1] = (at, joined[-1][1], start + 1)
        else:
            joined.append((at, start, start + 1))
    return joined


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], color="#D55E00", dashes=(4, 2), linewidth=1.6),
        Line2D([], [], color="#000000", dashes=(2.5, 1.5), linewidth=1.5),
        Patch(facecolor="#ffffff", edgecolor="#555555", hatch="////", linewidth=0.5),
    ]
    names = ["trained", "local reach", "wide interval"]
    figure.legend(handles, names, loc="outside lower left", ncols=3, handlelength=2.2)


def _reach_words(results: StudyResults, arm: str, any_reachable: bool) -> str:
    reach = results.arm(arm).reach
    if reach is None:
        return "It attends to everything at once; outlined is what local attention alone would reach."
    if not any_reachable:
        return f"No needle lies within the {tokens(reach)} tokens that its local attention sees."
    return f"In the outlined cells local attention ({tokens(reach)} tokens) may reach the needle without any memory."
