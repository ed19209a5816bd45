import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from synthetic_study import small, write_study

from palimpsest.records import write_json
from palimpsest.report import StudyResults, answer_figures, heatmaps, load_records, run_figures
from palimpsest.report.canvas import Plot, arm_legend, arm_styles, draw, ink_on
from palimpsest.report.heatmaps import _stretches

SVG = "{http://www.w3.org/2000/svg}"
PLAN = small(
    seeds=(0, 1), half_life=(("full", 3.0), ("segment_local", 0.0), ("ridge", 9.0)), items_per_cell=6, documents=4
)

FIGURES: dict[str, Callable[[StudyResults], Plot | None]] = {
    "heatmap-3": lambda results: heatmaps.heatmap(results, "ridge", 3),
    "accuracy-exact": lambda results: answer_figures.accuracy_figure(results, "exact"),
    "accuracy-rank": lambda results: answer_figures.accuracy_figure(results, "rank"),
    "errors": answer_figures.error_figure,
    "probes": answer_figures.probe_figure,
    "gates": run_figures.gate_figure,
    "gate-paths": run_figures.gate_path_figure,
    "training-loss": lambda results: run_figures.training_figure(results, "loss"),
    "training-gradients": lambda results: run_figures.training_figure(results, "grad_norm"),
    "position-loss": run_figures.loss_figure,
    "position-loss-probes": run_figures.loss_probe_figure,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return load_records(write_study(tmp_path_factory.mktemp("records"), PLAN))


@pytest.fixture(scope="module")
def plots(results: StudyResults) -> dict[str, Plot]:
    return {name: plot for name, make in FIGURES.items() if (plot := make(results)) is not None}


def texts(plot: Plot) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(plot.svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_describes_itself_and_is_closed(plots: dict[str, Plot], name: str):
    plot = plots[name]
    root = ET.fromstring(plot.svg)
    assert (plot.name, root[0].text, root[1].text) == (name, plot.title, plot.alt)
    assert root.get("role") == "img"
    assert len(plot.caption) > 60
    assert 1 <= plot.caption.count(".") <= 6
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", plot.svg)) | {
        h.removeprefix("#") for node in root.iter() if (h := node.get("href"))
    }
    assert used <= set(ids)
    assert all(identity.startswith(name) for identity in ids if identity)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg\")", plot.svg)
    assert not list(root.iter(f"{SVG}style"))
    assert not list(root.iter(f"{SVG}image"))
    assert len(plot.svg) < 120_000


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_smaller_than_8_points_on_a_sheet_fit_for_a_phone(plots: dict[str, Plot], name: str):
    root = ET.fromstring(plots[name].svg)
    assert float(root.get("viewBox", "").split()[2]) <= 5 * 72
    sizes = [
        float(s)
        for node in root.iter(f"{SVG}text")
        for s in re.findall(r"font-size: ([\d.]+)px", node.get("style", ""))
    ]
    assert sizes
    assert min(sizes) >= 8


def test_the_same_records_give_the_same_bytes_whatever_the_settings_of_the_program(
    results: StudyResults, plots: dict[str, Plot]
):
    with matplotlib.rc_context(
        {"font.size": 30, "svg.fonttype": "path", "axes.grid": False, "lines.markeredgewidth": 9}
    ):
        again = FIGURES["accuracy-exact"](results)
    assert again == plots["accuracy-exact"]
    assert matplotlib.rcParams["svg.fonttype"] == "path"


def test_figures_with_the_same_shapes_share_no_ids(results: StudyResults):
    first, second = (heatmaps.heatmap(results, "ridge", i) for i in (1, 2))
    assert first is not None
    assert second is not None
    ids = [set(re.findall(r' id="([^"]+)"', plot.svg)) for plot in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_heatmap_says_share_interval_n_and_trained_length(plots: dict[str, Plot], results: StudyResults):
    shown = texts(plots["heatmap-3"])
    assert "depth of the needle (n = 12 in a cell)" in shown
    assert {"64", "256", "1K", "0 %", "50 %", "100 %", "trained", "local reach", "wide interval"} <= set(shown)
    for cell in heatmaps.cells(results, "ridge").values():
        assert heatmaps.percent(cell.found.mean) in shown
        assert f"{heatmaps.percent(cell.found.low)}–{heatmaps.percent(cell.found.high)}" in shown
    patterns = plots["heatmap-3"].svg.count("<pattern ")
    assert patterns > 1, "cells of 12 items are uncertain and must be hatched, not the legend alone"


def test_edges_are_joined_into_stretches():
    assert _stretches([(0, 2), (0, 0), (0, 1), (1, 5), (0, 4)]) == [(0, 0, 3), (0, 4, 5), (1, 5, 6)]


def test_accuracy_names_every_arm_and_draws_every_seed(plots: dict[str, Plot], results: StudyResults):
    assert set(results.arms) <= set(texts(plots["accuracy-exact"]))
    thin = re.findall(r"stroke-opacity: 0\.55; stroke-width: 0\.7", plots["accuracy-exact"].svg)
    assert len(thin) == len(results.arms) * len(results.seeds)
    assert "thin lines are the 2 seeds" in plots["accuracy-exact"].caption
    assert "chance" in texts(plots["accuracy-rank"])


def test_the_forest_has_a_row_for_every_intervention(plots: dict[str, Plot]):
    shown = texts(plots["probes"])
    assert {"ridge, swap", "ridge, zero", "ridge, gate closed"} <= set(shown)
    assert sum(text.startswith("n ") for text in shown) == 3


def test_skipped_updates_are_told(plots: dict[str, Plot]):
    assert "Crosses mark 12 skipped updates." in plots["training-loss"].caption


def test_names_that_look_like_formulas_or_markup_stay_names(tmp_path: Path):
    names = ("$\\alpha$", "_hidden", "<b>&'\"", "\u202eevil\x1b[0m", "数")
    plan = small(half_life=tuple((name, 2.0) for name in names), items_per_cell=1, steps=2, documents=2, lengths=(64,))
    plot = answer_figures.accuracy_figure(load_records(write_study(tmp_path, plan)), "exact")
    assert plot is not None
    shown = {text.strip("\u200a") for text in texts(plot)}
    assert {"$\\alpha$", "_hidden", "<b>&'\"", "\\u202eevil\\x1b[0m", "数"} <= shown


def test_many_arms_look_different():
    styles = arm_styles([f"arm {i}" for i in range(200)])
    assert len({(s.colour, s.marker, str(s.dash)) for s in styles.values()}) == 200
    assert len({s.colour for s in list(styles.values())[:7]}) == 7


def test_a_legend_of_many_arms_leaves_room_for_the_axes():
    heights: dict[int, float] = {}

    def paint(figure: Figure, arms: int) -> None:
        axes = figure.subplots(2, 1)
        arm_legend(figure, arm_styles([f"sliding_window_published-p{i}" for i in range(arms)]))
        figure.draw_without_rendering()
        heights[arms] = axes[0].get_position().height * figure.get_figheight()

    for arms in (12, 60, 120):
        draw("legend", "title", "caption", "alt", (7.0, 4.6), partial(paint, arms=arms))
    assert min(heights.values()) > 0.9 * heights[12] > 0


def test_ink_is_readable_on_every_colour_of_the_map():
    def luminance(rgb: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for i in range(101):
        colour = matplotlib.colormaps["viridis"](i / 100)
        ink = 1.0 if ink_on(colour) == "#ffffff" else 0.0
        bright, dark = sorted((luminance(colour), ink), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_a_study_without_records_has_no_figures(tmp_path: Path):
    write_json(tmp_path / "study.json", PLAN.study)
    empty = load_records(tmp_path)
    assert [name for name, make in FIGURES.items() if make(empty) is not None] == []
