"""The figures of a profile: maps of the heads, and gate against usage."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from palimpsest.records import ProfileRecord
from palimpsest.report import canvas
from palimpsest.report.canvas import WIDTH, Plot, draw
from palimpsest.report.numerals import number

Heads = Mapping[tuple[int, int], float]
"""A value by layer and head."""

_ROOM_FOR_NUMBERS = 8  # heads up to which a number fits into a cell


class _Map(NamedTuple):
    """One map: the field, its title, what to look for, whether its colours count orders of magnitude, and their ends.

    Without ends the colours go from the lowest head to the highest.
    """

    field: str
    title: str
    caption: str
    logarithmic: bool = False
    ends: tuple[float, float] | None = None


_MAPS = (
    _Map(
        "gate",
        "Gate",
        "How far each head is open to its memory: 0 is local attention alone, 1 is memory alone.",
        ends=(0.0, 1.0),
    ),
    _Map(
        "rho",
        "rho: share of memory in what a head says",
        "The length of what memory adds to the residual stream, as a part of memory and local attention. Look for "
        "heads that are open in the map of gates and dark here: their memory has nothing to say.",
        ends=(0.0, 1.0),
    ),
    _Map(
        "common_mode",
        "kappa: common mode of the keys",
        "How much stronger than what tells keys apart the part is that answers every query alike. Low is good, save "
        "for memories that solve least squares (ridge), which do not mind it.",
        logarithmic=True,
    ),
    _Map(
        "n50",
        "Predicted capacity: pairs of which half are recalled",
        "0.083 d_eff d_v from the measured keys, for a read of sums without a common mode. A head that is asked for "
        "more pairs than that must confuse them.",
        logarithmic=True,
    ),
    _Map(
        "effect",
        "Effect: what an intervention in the head alone costs",
        "The rise of the loss in nats per token. Where gate and rho are high and this is zero, the memory is read and "
        "not needed.",
    ),
)


def profile_figures(
    records: Sequence[ProfileRecord], means: Callable[[Sequence[ProfileRecord], str], Heads]
) -> list[Plot]:
    """Return a map of the heads for every field that was measured, and gate against rho."""
    plots = [_map(each, values) for each in _MAPS if (values := means(records, each.field))]
    return [*plots, _gate_against_rho(means(records, "gate"), means(records, "rho"))]


def _map(each: _Map, values: Heads) -> Plot:
    layers, heads = sorted({layer for layer, _ in values}), 1 + max(head for _, head in values)
    finite = [value for value in values.values() if math.isfinite(value)]
    low, high = each.ends or (min(finite, default=0.0), max(finite, default=1.0))
    scale = _scale(low, high, logarithmic=each.logarithmic)
    roomy = heads <= _ROOM_FOR_NUMBERS

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.grid(visible=False)
        for (layer, head), value in values.items():
            colour = matplotlib.colormaps[canvas.MAP](scale(value))
            x, y = head, layers.index(layer)
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="#ffffff", linewidth=1))
            if roomy:
                ink = canvas.ink_on(colour)
                axes.text(x, y, _short(value), ha="center", va="center", color=ink, fontsize=8)
        axes.set_xlim(-0.52, heads - 0.48)
        axes.set_ylim(len(layers) - 0.48, -0.52)
        axes.set_xticks(range(heads) if roomy else range(0, heads, 4))
        axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("head")
        axes.set_title(f"layer ({_short(low)} dark, {_short(high)} bright)")

    top = max(values, key=lambda place: values[place])
    return draw(
        f"profile-{each.field.replace('_', '-')}",
        each.title,
        each.caption,
        f"{each.title}, by layer and head: from {number(low)} to {number(high)}, highest in layer {top[0]}, head "
        f"{top[1]}.",
        (WIDTH, 0.9 + 0.34 * len(layers)),
        paint,
    )


def _gate_against_rho(gates: Heads, shares: Heads) -> Plot:
    places = [place for place in gates if place in shares]
    layers = sorted({layer for layer, _ in places})
    depth = max(len(layers) - 1, 1)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=canvas.FAINT, linewidth=0.8, dashes=(4, 2))
        colours = [matplotlib.colormaps[canvas.MAP](layers.index(layer) / depth) for layer, _ in places]
        xs, ys = [gates[place] for place in places], [shares[place] for place in places]
        axes.scatter(xs, ys, c=colours, s=28, edgecolors=canvas.INK, linewidths=0.5, zorder=3)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("mean gate")
        axes.set_title("rho (dark: first layer, bright: last)")

    return draw(
        "profile-gate-rho",
        "Gate against usage",
        "One dot for each head. On the dashed line memory and local attention speak equally loud; below it the gate "
        "is more open than the memory has to say.",
        f"rho against the gate for {len(places)} heads.",
        (WIDTH, 3.0),
        paint,
    )


def _scale(low: float, high: float, *, logarithmic: bool) -> Callable[[float], float]:
    """Return a function from values to 0 .. 1; what is not finite lies at the end."""
    if logarithmic and low > 0:
        low, high = math.log(low), math.log(high)

        def position(value: float) -> float:
            return math.log(value)
    else:

        def position(value: float) -> float:
            return value

    width = high - low

    def scaled(value: float) -> float:
        if not math.isfinite(value):
            return 1.0
        return 0.5 if width <= 0 else min(max((position(value) - low) / width, 0.0), 1.0)

    return scaled


def _short(value: float) -> str:
    """Return a number of two digits, for a cell."""
    if not math.isfinite(value):
        return number(value)
    return number(float(f"{value:.2g}"))
