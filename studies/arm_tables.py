"""Tables of Markdown with a row for every arm: means with 95 % intervals over training seeds."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from palimpsest.report.tables import markdown_of
from palimpsest.statistics import Estimate, Method, estimate_across_seeds

NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")

LOGGED = 8
"""A loss at the end of a training is the mean of so many of its last logged updates."""


class Value(NamedTuple):
    """One number of one trained model, and where in the table it belongs."""

    arm: str
    column: str
    number: float
    seed: int


def arm_table(title: str, values: Iterable[Value], shown: Callable[[float], str], within: Method = "t") -> str:
    """Return a table with a title, "" if there are no values; columns in the order of the numbers in their names.

    Args:
        title: the heading.
        values: any number of them per arm, column and seed.
        shown: how a number is written.
        within: no interval is narrower than this one over the values themselves; "t" asks for the spread between
            seeds alone.
    """
    found: dict[str, dict[str, list[Value]]] = defaultdict(lambda: defaultdict(list))
    for value in values:
        found[value.arm][value.column].append(value)
    if not found:
        return ""
    columns = sorted({column for row in found.values() for column in row}, key=_natural)
    rows = [
        (arm, *(_cell(_estimate(row[column], within), shown) if column in row else "–" for column in columns))
        for arm, row in found.items()
    ]
    return f"### {title}\n\n{markdown_of(('arm', *columns), rows)}"


def gate_values(arm: str, seed: int, gates: Mapping[int, Sequence[float]]) -> list[Value]:
    """Return the mean gates of a model, of all layers and of each; ``gates`` by layer, none where nothing is gated."""
    means = {layer: sum(each) / len(each) for layer, each in gates.items() if each}
    if not means:
        return []
    return [
        Value(arm, "all layers", sum(means.values()) / len(means), seed),
        *(Value(arm, f"layer {layer}", mean, seed) for layer, mean in means.items()),
    ]


def percent(share: float) -> str:
    """Write a share in percent; an interval may not leave what a share can be."""
    return f"{100 * min(max(share, 0.0), 1.0):.0f}"


def _estimate(values: Sequence[Value], within: Method) -> Estimate:
    """Return the mean over seeds, each of which has the same say."""
    if within != "t":
        return estimate_across_seeds([each.number for each in values], [each.seed for each in values], within=within)
    own: dict[int, list[float]] = defaultdict(list)
    for value in values:
        own[value.seed].append(value.number)
    return estimate_across_seeds([sum(each) / len(each) for each in own.values()], list(own), within="t")


def _cell(found: Estimate, shown: Callable[[float], str]) -> str:
    interval = f" [{shown(found.low)}, {shown(found.high)}]" if found.bounded else ""
    return f"{shown(found.mean)}{interval}"


def _natural(text: str) -> list[tuple[float, str]]:
    """Order numbers inside a text by their value."""
    return [(float(word), "") if NUMBER.fullmatch(word) else (0.0, word) for word in text.replace(",", "").split()]
