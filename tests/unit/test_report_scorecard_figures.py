import math
import re
import xml.etree.ElementTree as ET

import pytest
from synthetic_scorecard import ARMS, make_figure, make_row

from palimpsest.errors import InputError
from palimpsest.records import FigureRecord, Series
from palimpsest.report.canvas import Plot, arm_styles
from palimpsest.report.scorecard_figures import row_figure, shown_arms


def drawn(record: FigureRecord | None) -> Plot | None:
    return row_figure(make_row(5).model_copy(update={"figure": record}), ARMS)


def figure(*series: Series, **changes: object) -> FigureRecord:
    record = FigureRecord(title="t", caption="c", x_label="x", y_label="y", series=series)
    return record.model_copy(update=changes)


def words(plot: Plot | None) -> list[str]:
    assert plot is not None
    return ["".join(node.itertext()) for node in ET.fromstring(plot.svg).iter("{http://www.w3.org/2000/svg}text")]


def line(name: str = "a", **changes: object) -> Series:
    return Series(name=name, x=(1.0, 2.0, 4.0), y=(0.2, 0.4, 0.6)).model_copy(update=changes)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_every_kind_of_figure_is_drawn_and_described(number: int):
    record = make_figure(number)
    plot = drawn(record)
    assert plot is not None
    assert plot.title == record.title
    assert record.y_label in plot.alt
    for series in record.series:
        assert series.name in plot.alt


def test_a_row_without_numbers_has_no_figure():
    assert drawn(None) is None
    assert drawn(figure()) is None
    assert drawn(figure(line(y=(math.nan, math.inf, math.nan)))) is None


def test_points_that_are_not_finite_are_left_out():
    plot = drawn(figure(line(y=(0.2, math.nan, 0.6), low=(0.1, 0.1, -math.inf), high=(0.3, 0.3, math.inf))))
    assert plot is not None
    assert plot.alt == "y by x: a from 0.2 at 1 to 0.6 at 4."
    assert "nan" not in plot.svg
    assert "inf" not in re.sub(r"<(title|desc).*?</\1>", "", plot.svg)


def test_zero_has_a_place_on_a_logarithmic_axis():
    shown = words(drawn(figure(line(x=(0.0, 4.0, 64.0)), log_x=True)))
    assert {"0", "4", "64"} <= set(shown)


def test_a_long_axis_has_few_ticks():
    xs = tuple(float(2**power) for power in range(21))
    shown = words(drawn(figure(Series(name="a", x=xs, y=tuple(0.5 for _ in xs)), log_x=True)))
    assert 2 <= len([word for word in shown if re.fullmatch(r"[\d,.]+[KM]?( [kM])?", word)]) <= 16
    assert "256K" in shown


def test_shares_are_percent_and_differences_of_shares_go_below_zero():
    assert {"0", "100"} <= set(words(drawn(figure(line(), share=True))))
    shown = words(drawn(figure(line(y=(-0.2, 0.0, 0.2)), share=True)))
    assert "\u221220" in shown
    assert "y, %" in shown


def test_marks_are_named_above_and_those_in_one_place_share_a_name():
    record = figure(line(), marks={"half": 2.0, "middle": 2.01, "end": 4.0, "nowhere": math.nan})
    shown = words(drawn(record))
    assert "half, middle" in shown
    assert "end" in shown
    plot = drawn(record)
    assert plot is not None
    assert "Dotted: half (2), middle (2.01) and end (4)." in plot.caption


def test_the_caption_says_what_the_intervals_look_like():
    ends = {"low": (0.1, 0.3, 0.5), "high": (0.3, 0.5, 0.7)}
    for series, said in (
        (line(**ends), "c Bands are intervals."),
        (line(points=True, **ends), "c Bars are intervals."),
    ):
        plot = drawn(figure(series))
        assert plot is not None
        assert plot.caption == said
    told = drawn(figure(line(**ends), caption="95 % intervals."))
    assert told is not None
    assert told.caption == "95 % intervals."


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (figure(line(y=(1.0,))), "3 values of x and 1 of y"),
        (figure(line(low=(0.1,), high=(0.1,))), "3 values of x and 1 of low"),
        (figure(line(low=(0.1, 0.1, 0.1))), "both low and high"),
        (figure(line(), line()), "two series 'a'"),
    ],
)
def test_numbers_that_do_not_pair_up_are_refused(record: FigureRecord, said: str):
    with pytest.raises(InputError, match=said):
        drawn(record)


def test_an_arm_looks_the_same_in_all_figures_and_others_do_not_look_like_it():
    styles = arm_styles(ARMS)
    alone, beside = drawn(figure(line("ridge"))), drawn(figure(line("theory"), line("ridge")))
    assert alone is not None
    assert beside is not None
    assert styles["ridge"].colour.lower() in alone.svg.lower()
    assert styles["ridge"].colour.lower() in beside.svg.lower()
    assert styles["full"].colour.lower() in beside.svg.lower()  # the first look that no arm of the figure has


def test_only_arms_that_are_drawn_take_up_looks():
    rows = [make_row(5).model_copy(update={"figure": figure(line("ridge"), line("theory"))})]
    assert shown_arms(ARMS, rows) == ["ridge"]
