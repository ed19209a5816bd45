"""How every figure is drawn: one style, no global state, SVG whose bytes depend on the records alone."""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from palimpsest.report.markup import Html, shortened

WIDTH = 4.0
"""Inches: at the width of a phone the text stays legible, and two such figures fit beside each other on a desktop."""

MAP = "viridis"
INK = "#1a1a1a"
FAINT = "#767676"

# Okabe and Ito (2008), without the yellow, which vanishes on white. The lists have lengths without a common factor, so
# that 280 arms differ in colour, marker or line; the first arms differ in all three.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1.2, 1.2)), (0, (8, 2)))

_STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    # DejaVu Sans comes with matplotlib, so that text is measured alike on every machine; it is also wider than what
    # browsers show in its place, so that nothing overlaps there.
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#555555",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.2,
    "legend.borderpad": 0.0,
    "figure.facecolor": "#ffffff",
}
_LEGEND_LINES, _LEGEND_LINE_HEIGHT = 4, 0.2  # lines that any figure has room for; inches that every other one takes
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FAMILY = re.compile(r"font-family:[^;]*;? ?")
_GEOMETRY = frozenset({"d", "x", "y", "width", "height", "transform", "points"})
_DECIMAL = re.compile(r"-?\d+\.\d+")
_NO_TURN = re.compile(r"rotate\(-?0 ")


class ArmStyle(NamedTuple):
    """How an arm looks in every figure."""

    colour: str
    marker: str
    dash: Any


@dataclass(frozen=True)
class Plot:
    """A finished figure.

    Attributes:
        name: of its file, and prefix of every id in it.
        title: what it shows, in a few words.
        caption: what to look for, in one or two plain sentences.
        alt: what is to be seen, for those who cannot see it.
        svg: the drawing, a document of its own with title and description.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str

    @property
    def inline(self) -> Html:
        """The drawing for use inside HTML: without XML declaration and fixed size, as wide as its place."""
        _, _, body = self.svg.partition("?>\n")
        return Html(re.sub(r' (?:width|height)="[^"]*pt"', "", body, count=2))


def draw(
    name: str,
    title: str,
    caption: str,
    alt: str,
    size: tuple[float, float],
    paint: Callable[[Figure], None],
) -> Plot:
    """Return the figure that ``paint`` draws on a sheet of ``size`` (width and height in inches)."""
    # All defaults, so that no matplotlibrc shows through, but for the backend: a figure without pyplot needs none.
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    style: dict[Any, Any] = {**defaults, **_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        raw = io.BytesIO()
        figure.savefig(raw, format="svg", metadata={"Date": None})
    return Plot(name, title, caption, alt, _finished(raw.getvalue(), name, title, alt))


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """Return one style per arm, by its place in the study."""
    return {
        arm: ArmStyle(_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _DASHES[i % len(_DASHES)])
        for i, arm in enumerate(arms)
    }


def label(text: str, limit: int = 24) -> str:
    """Return a name fit for a figure: visible characters only, and not too long."""
    shown = shortened(text, limit)
    # matplotlib leaves labels that begin with an underscore out of legends
    return f"\u200a{shown}" if shown.startswith("_") else shown


def arm_legend(figure: Figure, styles: Mapping[str, ArmStyle]) -> None:
    """Put the names of the arms above a figure, in as many columns as fit; many names make the figure higher."""
    handles = [Line2D([], [], color=s.colour, marker=s.marker, linestyle=s.dash, markersize=5) for s in styles.values()]
    names = [label(arm) for arm in styles]
    widest = max(map(len, names))
    columns = max(1, min(len(names), int(14 * figure.get_figwidth() / (widest + 6.5))))
    more = max(0, -(-len(names) // columns) - _LEGEND_LINES)
    figure.set_figheight(figure.get_figheight() + more * _LEGEND_LINE_HEIGHT)
    figure.legend(handles, names, loc="outside upper left", ncols=columns)


def percent_axis(axes: Axes) -> None:
    """Make y a share from 0 to 100 %, with room for markers on both ends."""
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])


def ink_on(colour: Sequence[float]) -> str:
    """Return black or white, whichever is read better on an RGB colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#ffffff" if luminance < 0.179 else "#000000"


def _finished(raw: bytes, name: str, title: str, alt: str) -> str:
    """Make a small, self-describing document: own ids, system fonts, title and description, nothing of the tool."""
    root = ET.fromstring(raw)
    tag = f"{{{_SVG}}}".__add__
    for child in list(root):
        if child.tag == tag("metadata") or child.find(tag("style")) is not None:
            root.remove(child)
    _own_ids(root, name)
    _compact(root)
    heading, description = ET.Element(tag("title"), id=f"{name}-title"), ET.Element(tag("desc"), id=f"{name}-desc")
    heading.text, description.text = title, alt
    root.insert(0, heading)
    root.insert(1, description)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    root.set("style", f"font-family: {_FONTS}; stroke-linejoin: round; stroke-linecap: butt")
    ET.register_namespace("", _SVG)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _own_ids(root: ET.Element, name: str) -> None:
    """Prefix the ids that something refers to and drop all others, so that figures can share a page."""
    used = set()
    for node in root.iter():
        target = node.attrib.pop(_XLINK, None)
        if target is not None:
            used.add(target.removeprefix("#"))
            node.set("href", f"#{name}-{target.removeprefix('#')}")
        for key, value in node.attrib.items():
            used.update(_REFERENCE.findall(value))
            node.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))
    for node in root.iter():
        identity = node.attrib.pop("id", None)
        if identity in used:
            node.set("id", f"{name}-{identity}")


def _compact(node: ET.Element) -> None:
    """Drop groups without a meaning, font lists (the root has one) and digits beyond a hundredth of a point."""
    children = []
    for child in node:
        _compact(child)
        children += child if child.tag == f"{{{_SVG}}}g" and not child.attrib else [child]
    node[:] = children
    if not (node.text or "").strip():
        node.text = None
    node.tail = None
    for key, value in list(node.attrib.items()):
        if key in _GEOMETRY:
            node.set(key, " ".join(_DECIMAL.sub(_rounded, value).split()))
        elif key == "style":
            node.set(key, _FAMILY.sub("", value))
    if _NO_TURN.match(node.get("transform", "")):
        del node.attrib["transform"]


def _rounded(match: re.Match[str]) -> str:
    text = f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
