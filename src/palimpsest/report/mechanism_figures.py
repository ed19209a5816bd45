"""Figures of the mechanism tests: what was measured over what theory says."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from palimpsest.records import MechanismRecord
from palimpsest.report import canvas
from palimpsest.report.canvas import FAINT, WIDTH, ArmStyle, Plot, arm_styles, draw
from palimpsest.report.numerals import listed, number

Axis = Callable[[MechanismRecord], float]
HEIGHT, LEGEND_ROW = 3.1, 0.17
SHOWN_AT_ZERO = 0.5
"""Where an age of zero stands on a logarithmic axis."""


@dataclass(frozen=True)
class Lines:
    """What a figure of lines shows.

    Attributes:
        name: of the figure.
        title: what it shows.
        caption: one plain sentence on what to see.
        x: what stands on the x axis, and its name.
        y: the name of what is measured.
        logarithmic: whether x is.
        share: whether y is a share.
        marks: vertical lines by their name.
        guess: whether to draw 1 / n, the chance of guessing among what is stored.
    """

    name: str
    title: str
    caption: str
    x: tuple[str, Axis]
    y: str
    logarithmic: bool = True
    share: bool = True
    marks: Mapping[str, float] = field(default_factory=dict)
    guess: bool = False


def name_of(record: MechanismRecord) -> str:
    """Return the memory with its feature map."""
    return f"{record.memory}, {record.features}"


def styles_of(names: Iterable[str]) -> dict[str, ArmStyle]:
    """Return one look per line, by its place among all memories of the page; dashes are left to theory."""
    looks = arm_styles(list(dict.fromkeys(names)))
    return {name: ArmStyle(look.colour, look.marker, "-") for name, look in looks.items()}


def line_figure(
    what: Lines, series: Mapping[str, Sequence[MechanismRecord]], styles: Mapping[str, ArmStyle]
) -> Plot | None:
    """Draw means with their intervals as markers and bands, and theory as dashed lines; None without records."""
    shown = {name: sorted(records, key=what.x[1]) for name, records in series.items() if records}
    if not shown:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name, records in shown.items():
            _paint_line(axes, what, records, styles[name])
        if what.logarithmic:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: "0" if value == SHOWN_AT_ZERO else number(round(value, 3)))
            axes.minorticks_off()
        if what.share:
            canvas.percent_axis(axes)
        for name, place in what.marks.items():
            axes.axvline(place, color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
            axes.annotate(
                name, (place, 0.5), (2, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
                color=FAINT, fontsize=8, rotation=90, va="center",
            )  # fmt: skip
        if what.guess:
            loads = sorted({record.load for records in shown.values() for record in records})
            axes.plot(loads, [1 / load for load in loads], color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_xlabel(what.x[0])
        axes.set_title(what.y)
        canvas.arm_legend(figure, {name: styles[name] for name in shown})

    ends = [f"{name} {number(round(records[-1].mean, 3))}" for name, records in shown.items()]
    alt = f"{what.y} against {what.x[0]}. At the right end: {listed(ends)}."
    return draw(what.name, what.title, what.caption, alt, (WIDTH, HEIGHT + LEGEND_ROW * len(shown)), paint)


def bar_figure(name: str, title: str, caption: str, bars: Mapping[str, Mapping[str, MechanismRecord]]) -> Plot | None:
    """Draw shares as bars with intervals: a row for each memory, a bar for each measure; None without records."""
    if not bars:
        return None
    measures = list(dict.fromkeys(measure for row in bars.values() for measure in row))
    looks = arm_styles(measures)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        height = 0.8 / len(measures)
        for y, row in enumerate(bars.values()):
            for i, measure in enumerate(measures):
                if (found := row.get(measure)) is not None:
                    at, colour = y - 0.4 + (i + 0.5) * height, looks[measure].colour
                    axes.barh(at, found.mean, height=height * 0.9, color=colour, label=measure if y == 0 else None)
                    axes.plot([found.low, found.high], [at, at], color=canvas.INK, linewidth=1)
        axes.set_yticks(range(len(bars)), [canvas.label(each, 30) for each in bars])
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_xlim(0, 1.02)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100 %"])
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside upper left", ncols=len(measures))

    said = [
        f"{row} {listed([f'{m} {number(round(r.mean, 2))}' for m, r in found.items()])}" for row, found in bars.items()
    ]
    return draw(name, title, caption, f"{'; '.join(said)}.", (WIDTH, 0.9 + 0.36 * len(bars)), paint)


def _paint_line(axes: Axes, what: Lines, records: Sequence[MechanismRecord], style: ArmStyle) -> None:
    xs = [max(what.x[1](record), SHOWN_AT_ZERO) if what.logarithmic else what.x[1](record) for record in records]
    low, high = [record.low for record in records], [record.high for record in records]
    if all(record.method != "exact" for record in records):
        axes.fill_between(xs, low, high, color=style.colour, alpha=0.16, linewidth=0)
    predicted = [(x, record.theory) for x, record in zip(xs, records, strict=True) if record.theory is not None]
    line = "" if len(predicted) == len(records) else "-"
    axes.plot(
        xs, [record.mean for record in records], color=style.colour, marker=style.marker, markersize=4, linestyle=line,
        linewidth=1.1, clip_on=False, zorder=3,
    )  # fmt: skip
    if predicted:
        axes.plot(*zip(*predicted, strict=True), color=style.colour, linestyle=(0, (4, 1.5)), linewidth=1.2)
