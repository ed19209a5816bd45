"""What the models of a scorecard answered, predicted and opened, arm by arm, as Markdown made from its records."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from palimpsest.records import ItemRecord, PositionLossRecord, ScorecardRecord, StepRecord, line_files, read_jsonl
from palimpsest.statistics import Estimate, estimate_across_seeds

INTACT, SAMPLES = "none", ".samples"
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
VERSIONS = 12
"""A fact with more values than this tells items apart, and not versions of a task."""
Values = dict[str, dict[str, tuple[list[float], list[int]]]]
"""By arm and column: values, and the training seed behind each."""


def tables(results: Path, card: ScorecardRecord) -> str:
    """Return all tables: right answers beyond exact attention, loss by position, and gates; intervals over seeds."""
    unbounded = {arm.name for arm in card.arms if arm.reach is None}
    parts = [_answers(name, path, unbounded) for name, path in line_files(results / "items").items()]
    parts += [_losses(name, path) for name, path in line_files(results / "documents").items()]
    parts.append(_gates(line_files(results / "metrics")))
    found = [part for part in parts if part]
    if not found:
        return ""
    words = (
        "Means with 95 % intervals over training seeds, none where there is one seed or all agree exactly. Right "
        "answers are those to items that exact attention of no bounded reach can see."
    )
    return "\n\n".join(["## Arm by arm", words, *found]) + "\n"


def _answers(name: str, path: Path, unbounded: set[str]) -> str:
    """Right answers in percent, of items that no arm with a bounded reach can see, by what the items vary in."""
    if name.endswith(SAMPLES):
        return ""
    items = [
        item
        for item in read_jsonl(path, ItemRecord)
        if item.intervention == INTACT and set(item.reachable_by) <= unbounded
    ]
    varied = _varied(items)

    def column(item: ItemRecord) -> str:
        return ", ".join([f"{item.length} tokens", *(_said(fact, item.facts[fact]) for fact in varied)])

    values = _collected((item.arm, column(item), float(item.exact), item.seed) for item in items)
    return _table(f"Right answers, percent: {name}", values, lambda share: f"{100 * min(max(share, 0.0), 1.0):.0f}")


def _varied(items: list[ItemRecord]) -> list[str]:
    """Return the facts that tell versions of a task apart, each saying something that those before it do not."""
    chosen: list[str] = []
    versions: set[tuple[object, ...]] = {()}
    for fact in sorted({fact for item in items for fact in item.facts}, reverse=True):
        finer = {tuple(item.facts.get(each) for each in (*chosen, fact)) for item in items}
        if len(versions) < len(finer) <= VERSIONS:
            chosen, versions = [*chosen, fact], finer
    return chosen


def _said(fact: str, value: float | str) -> str:
    return f"{fact} {value}" if isinstance(value, str) else f"{fact} {value:g}"


def _losses(name: str, path: Path) -> str:
    """Nats per token of the documents, intact, from every position of the buckets on."""
    if not name.endswith(".positions"):
        return ""
    records = [record for record in read_jsonl(path, PositionLossRecord) if record.intervention == INTACT]
    starts = sorted({record.position_start for record in records})
    rows = []
    for start in starts:
        sums: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for record in records:
            if record.position_start >= start:
                sums[record.arm, record.seed][0] += record.nll
                sums[record.arm, record.seed][1] += record.tokens
        rows += [(arm, f"from {start}", nll / tokens, seed) for (arm, seed), (nll, tokens) in sums.items()]
    return _table(f"Nats per token: {name}", _collected(rows), lambda number: f"{number:.2f}")


def _gates(logs: Mapping[str, Path]) -> str:
    """Mean gates at the end of the training, of all layers and of each."""
    rows = []
    for name, path in logs.items():
        arm, _, seed = name.rpartition("-s")
        *_, last = read_jsonl(path, StepRecord)
        gated = [layer for layer in last.layers if layer.gates]
        means = [(f"layer {layer.layer}", sum(layer.gates) / len(layer.gates)) for layer in gated]
        if means:
            rows.append((arm, "all layers", sum(mean for _, mean in means) / len(means), int(seed)))
        rows += [(arm, layer, mean, int(seed)) for layer, mean in means]
    return _table("Gates at the end of the training", _collected(rows), lambda number: f"{number:.2f}")


def _collected(rows: Iterable[tuple[str, str, float, int]]) -> Values:
    found: Values = defaultdict(dict)
    for arm, column, value, seed in rows:
        values, seeds = found[arm].setdefault(column, ([], []))
        values.append(value)
        seeds.append(seed)
    return found


def _table(title: str, values: Values, shown: Callable[[float], str]) -> str:
    if not values:
        return ""
    columns = sorted({column for row in values.values() for column in row}, key=_natural)
    lines = [f"### {title}", "", f"| arm | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for arm, row in values.items():
        cells = [_cell(_estimate(*row[column]), shown) if column in row else "–" for column in columns]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _estimate(values: list[float], seeds: list[int]) -> Estimate:
    """Return the mean over seeds of the means of their values."""
    own: dict[int, list[float]] = defaultdict(list)
    for value, seed in zip(values, seeds, strict=True):
        own[seed].append(value)
    return estimate_across_seeds([sum(each) / len(each) for each in own.values()], list(own), within="t")


def _cell(found: Estimate, shown: Callable[[float], str]) -> str:
    interval = f" [{shown(found.low)}, {shown(found.high)}]" if found.bounded else ""
    return f"{shown(found.mean)}{interval}"


def _natural(text: str) -> list[tuple[float, str]]:
    """Order numbers inside a text by their value."""
    return [(float(word), "") if NUMBER.fullmatch(word) else (0.0, word) for word in text.replace(",", "").split()]
