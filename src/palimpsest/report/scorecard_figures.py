"""Figures of a scorecard: whatever numbers a row gives, drawn in one way."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from palimpsest.errors import InputError
from palimpsest.records import FigureRecord, RowRecord, Series
from palimpsest.report import canvas
from palimpsest.report.canvas import FAINT, WIDTH, ArmStyle, Plot, arm_styles, draw, label
from palimpsest.report.numerals import MINUS, listed, magnitude, number, percent, plural, tokens

_MOST_TICKS = 7
_SAME_PLACE = 0.04
"""Marks that are closer than this share of the axis share a label."""


def shown_arms(arms: Iterable[str], rows: Iterable[RowRecord]) -> list[str]:
    """Return the arms that are drawn in any row, in their order: these look the same in all figures."""
    drawn = {series.name for row in rows if row.figure is not None for series in row.figure.series}
    return [arm for arm in arms if arm in drawn]


def row_figure(row: RowRecord, arms: Sequence[str]) -> Plot | None:
    """Draw the figure of a row; None if it has none, or none of its numbers is finite.

    Args:
        row: with numbers for a figure.
        arms: names that look alike in all figures (``shown_arms``); other series take the looks that are free.

    Raises:
        InputError: a series whose numbers do not pair up, or two series of one name.
    """
    record = row.figure
    if record is None:
        return None
    _check(row.id, record)
    curves = {series.name: curve for series in record.series if (curve := _finite(series)).x}
    if not curves:
        return None
    styles = {
        name: style._replace(dash="none") if curves[name].points else style
        for name, style in _styles(list(curves), arms).items()
    }

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name, series in curves.items():
            _paint(axes, series, styles[name])
        _y_axis(axes, record, curves.values())
        _x_axis(axes, record, [x for series in curves.values() for x in series.x])
        if record.marks:
            _paint_marks(axes, record.marks)
        axes.set_xlabel(label(record.x_label, 60))
        axes.set_title(label(f"{record.y_label}, %" if record.share else record.y_label, 56))
        if len(curves) > 1 or not record.title:
            canvas.arm_legend(figure, styles)

    columns = max(1, int(14 * WIDTH / (max(len(label(name)) for name in curves) + 6.5)))
    height = 2.9 + 0.19 * math.ceil(len(curves) / columns) + (0.5 if record.marks else 0)
    return draw(
        row.id.lower(),
        record.title or row.demand,
        _caption(record, curves.values()),
        _alt(record, curves),
        (WIDTH, height),
        paint,
    )


def _check(row: str, record: FigureRecord) -> None:
    names = [series.name for series in record.series]
    for series in record.series:
        if names.count(series.name) > 1:
            raise InputError(f"Figure of row {row}: there are two series '{series.name}'; give each its own name.")
        for part in ("y", "low", "high"):
            count = len(getattr(series, part))
            if count != len(series.x) and (count or part == "y"):
                raise InputError(
                    f"Figure of row {row}, series '{series.name}': {plural(len(series.x), 'value')} of x and {count} "
                    f"of {part}; there must be as many."
                )
        if bool(series.low) != bool(series.high):
            raise InputError(f"Figure of row {row}, series '{series.name}': an interval needs both low and high.")


def _finite(series: Series) -> Series:
    """Return the series with only those points that can be drawn, in the order of x unless they are bare points."""
    kept = [i for i, (x, y) in enumerate(zip(series.x, series.y, strict=True)) if math.isfinite(x) and math.isfinite(y)]
    if not series.points:
        kept.sort(key=lambda i: series.x[i])
    values = {part: tuple(getattr(series, part)[i] for i in kept) for part in ("x", "y")}
    for part in ("low", "high"):
        ends = getattr(series, part)
        # an end that does not exist is drawn as no interval on that side
        values[part] = tuple(ends[i] if math.isfinite(ends[i]) else series.y[i] for i in kept) if ends else ()
    return series.model_copy(update=values)


def _styles(names: Sequence[str], arms: Sequence[str]) -> dict[str, ArmStyle]:
    fixed = arm_styles([*arms, *(name for name in names if name not in arms)])
    free = [name for name in arms if name not in names]
    others = [name for name in names if name not in arms]
    looks = {name: fixed[name] for name in names}
    # a look that no arm of this figure has is better than one further down the list, which repeats colours sooner
    looks.update({other: fixed[arm] for other, arm in zip(others, free, strict=False)})
    return looks


def _paint(axes: Axes, series: Series, style: ArmStyle) -> None:
    if series.low and not _has_bars(series):
        axes.fill_between(series.x, series.low, series.high, color=style.colour, alpha=0.14, linewidth=0)
    look: dict[str, Any] = {"color": style.colour, "marker": style.marker, "markersize": 4}
    if series.low and _has_bars(series):
        below = [max(y - low, 0.0) for y, low in zip(series.y, series.low, strict=True)]
        above = [max(high - y, 0.0) for y, high in zip(series.y, series.high, strict=True)]
        axes.errorbar(series.x, series.y, yerr=[below, above], linestyle="none", elinewidth=1.1, capsize=2.5, **look)
    else:
        axes.plot(series.x, series.y, linestyle=style.dash, **look)


def _y_axis(axes: Axes, record: FigureRecord, curves: Iterable[Series]) -> None:
    ends = [end for series in curves for end in (*series.y, *series.low, *series.high)]
    if record.share and min(ends) >= 0 and max(ends) <= 1:
        canvas.percent_axis(axes)
        return
    if min(ends) < 0 < max(ends):
        axes.axhline(0, color=FAINT, linewidth=0.9, zorder=1)
    write = (lambda value, _: number(round(100 * value, 6))) if record.share else (lambda value, _: _tick(value))
    axes.yaxis.set_major_formatter(write)


def _x_axis(axes: Axes, record: FigureRecord, xs: Sequence[float]) -> None:
    marks = [mark for mark in record.marks.values() if math.isfinite(mark)]
    positive = [x for x in (*xs, *marks) if x > 0]
    if record.log_x and positive:
        low, high = min(positive), max(positive)
        if any(x <= 0 for x in xs):
            axes.set_xscale("symlog", base=2, linthresh=low, linscale=0.7)
            ticks = [0.0, *_powers(low, high)]
        else:
            axes.set_xscale("log", base=2)
            ticks = _powers(low, high)
        axes.set_xticks(ticks, [_tick(tick) for tick in ticks])
        axes.minorticks_off()
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=all(x == int(x) for x in xs)))
        axes.xaxis.set_major_formatter(lambda value, _: _tick(value))
    axes.margins(x=0.04)


def _powers(low: float, high: float) -> list[float]:
    """Return powers of two, or of ten where these would be too many, that lie in a range (or around it)."""
    for base in (2.0, 4.0, 8.0, 10.0, 100.0):
        first, last = (math.log(end, base) for end in (low, high))
        found = [base**power for power in range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)]
        if len(found) <= _MOST_TICKS:
            return found if len(found) > 1 else sorted({low, high})
    return [float(value) for value in np.geomspace(low, high, 4)]


def _tick(value: float) -> str:
    if value == int(value) and 1024 <= abs(value) < 2**24 and value % 1024 == 0:
        return tokens(int(value))
    if abs(value) >= 1e5:
        return magnitude(value).replace("-", MINUS)
    return number(float(f"{value:.3g}"))


def _paint_marks(axes: Axes, marks: Mapping[str, float]) -> None:
    """Draw a dotted line at every mark, named above the axes, where no curve can hide the name."""
    forward = axes.transScale.transform
    there = sorted((value, name) for name, value in marks.items() if math.isfinite(value))
    if axes.get_xscale() == "log":
        there = [(value, name) for value, name in there if value > 0]
    if not there:
        return
    for value, _ in there:
        axes.axvline(value, color=FAINT, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    low, high = (float(forward((end, 0))[0]) for end in axes.get_xlim())
    groups: list[tuple[float, list[str]]] = []
    for value, name in there:
        place = (float(forward((value, 0))[0]) - low) / (high - low)
        if groups and place - (float(forward((groups[-1][0], 0))[0]) - low) / (high - low) < _SAME_PLACE:
            groups[-1][1].append(name)
        else:
            groups.append((value, [name]))
    top = axes.secondary_xaxis("top")
    names = [label(", ".join(names), 28) for _, names in groups]
    turned = {"rotation": 30, "ha": "left", "rotation_mode": "anchor"} if len(groups) > 1 else {}
    top.set_xticks([value for value, _ in groups], names, fontsize=8, color=FAINT, **turned)
    top.minorticks_off()
    top.spines["top"].set_visible(False)
    top.tick_params(length=2)


def _caption(record: FigureRecord, curves: Iterable[Series]) -> str:
    marks = sorted((value, name) for name, value in record.marks.items() if math.isfinite(value))
    said = [record.caption]
    if marks:
        said.append(f"Dotted: {listed([f'{name} ({number(value)})' for value, name in marks])}.")
    drawn = {"Bars" if _has_bars(series) else "Bands" for series in curves if series.low}
    if drawn and "interval" not in record.caption.lower():
        said.append(f"{' and '.join(sorted(drawn)).capitalize()} are intervals.")
    return " ".join(part for part in said if part)


def _has_bars(series: Series) -> bool:
    return series.points or len(series.x) == 1


def _alt(record: FigureRecord, curves: Mapping[str, Series]) -> str:
    write = (lambda value: f"{percent(value)} %") if record.share else number

    def said(series: Series) -> str:
        points = [f"{write(y)} at {number(x)}" for x, y in zip(series.x, series.y, strict=True)]
        return f"from {points[0]} to {points[-1]}" if len(points) > 1 else "".join(points)

    ends = [f"{label(name, 60)} {said(series)}" for name, series in curves.items()]
    return f"{record.y_label} by {record.x_label}: {'; '.join(ends)}."
