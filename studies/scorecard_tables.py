"""What the models of a scorecard answered, predicted and opened, arm by arm, as Markdown made from its records."""

from collections import defaultdict
from pathlib import Path

from arm_tables import Value, arm_table, gate_values, percent

from palimpsest.records import (
    ItemRecord,
    PositionLossRecord,
    ProfileRecord,
    ScorecardRecord,
    StepRecord,
    line_files,
    read_jsonl,
)

INTACT, SAMPLES, PROFILE = "none", ".samples", "profile"
VERSIONS = 12
"""A fact with more values than this tells items apart, and not versions of a task."""


def tables(results: Path, card: ScorecardRecord) -> str:
    """Return all tables: right answers beyond exact attention, loss by position, and gates; intervals over seeds."""
    unbounded = {arm.name for arm in card.arms if arm.reach is None}
    parts = [_answers(name, path, unbounded) for name, path in line_files(results / "items").items()]
    parts += [_losses(name, path) for name, path in line_files(results / "documents").items()]
    parts.append(_gates(results))
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

    values = [Value(item.arm, column(item), float(item.exact), item.seed) for item in items]
    return arm_table(f"Right answers, percent: {name}", values, percent)


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
        rows += [Value(arm, f"from {start}", nll / tokens, seed) for (arm, seed), (nll, tokens) in sums.items()]
    return arm_table(f"Nats per token: {name}", rows, lambda number: f"{number:.2f}")


def _gates(results: Path) -> str:
    """Mean gates of the finished models; a model that got old gates back has the new ones in its log."""
    rows: dict[tuple[str, int], list[Value]] = {}
    for name, path in line_files(results / "metrics").items():
        arm, _, seed = name.rpartition("-s")
        *_, last = read_jsonl(path, StepRecord)
        rows[arm, int(seed)] = gate_values(arm, int(seed), {layer.layer: layer.gates for layer in last.layers})
    found: dict[tuple[str, int], dict[int, list[float]]] = {}
    profile = line_files(results / "usage").get(PROFILE)
    for head in read_jsonl(profile, ProfileRecord) if profile is not None else ():
        if head.gate is not None:
            found.setdefault((head.arm, head.seed), defaultdict(list))[head.layer].append(head.gate)
    rows |= {model: gate_values(*model, layers) for model, layers in found.items()}
    return arm_table("Gates", [value for values in rows.values() for value in values], lambda gate: f"{gate:.2f}")
