"""The results of continual pretraining as Markdown: every number of the tables comes from the records."""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from continual_records import Results

from palimpsest.records import PositionLossRecord
from palimpsest.report.tables import markdown_of
from palimpsest.statistics import Estimate
from palimpsest.statistics.seeds import contrast_of_models
from palimpsest.statistics.text_probes import Range, mean_loss
from palimpsest.study.perplexity import UNITS, DocumentLossRecord, loss_per, perplexity

R = TypeVar("R", DocumentLossRecord, PositionLossRecord)
Key = tuple[int, str, int]
"""Seed, document, and first position of a bucket."""
BEFORE, AFTER = "converted", "trained"
COSTS = (
    *("arm", "updates", "tokens", "operations", "operations a token"),
    *("bytes of state", "of the open segment", "seconds, all seeds"),
)


def render(results: Results) -> str:
    """Return all tables of a result file."""
    chosen = results.settings
    stages = ", ".join(f"{steps} updates on rows of {length}" for length, steps in chosen.curriculum)
    cut, several = chosen.backpropagate_segments, len(chosen.seeds) > 1
    hardware = sorted({each for cost in results.costs for each in cost.hardware})
    sizes = [record.tokens for record in results.losses]
    parts = [
        f"# Continual pretraining on long documents ({results.date[:10]}, {', '.join(hardware)})",
        f"{results.what} Segments of {chosen.segment_length} tokens; rows of {chosen.tokens} tokens of "
        f"`{chosen.corpus}`, {chosen.batch_size} an update"
        + (f", before them {stages}" if stages else "")
        + (f"; gradients flow through {cut} segments" if cut else "")
        + f"; learning rate {chosen.learning_rate:g}, of gates {chosen.gate_learning_rate:g}; seeds "
        f"{', '.join(map(str, chosen.seeds))}; {results.threads} thread(s). Held out: the first {chosen.words:,} words "
        f"of {chosen.documents} documents, read whole. Intervals: 95 %, Student's t, clustered by document; they speak "
        "of these checkpoints, not of other seeds"
        + (", but for differences: those are over seeds, and never narrower than over documents" if several else "")
        + ". A seed is an order of the rows: all begin with the same weights.",
        f"## Cost (equal {chosen.equal})",
        _costs(results),
        "## Whole documents",
        _units(results.losses),
        "## By position",
        f"Nats per token, each document once; the documents end after {min(sizes):,} to {max(sizes):,} tokens.",
        _positions(results.positions),
        "## Differences by position",
        "Nats per token, paired by document; below 0 the first of the two predicts better.",
        _differences(results.positions, chosen.arms),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _costs(results: Results) -> str:
    rows = (
        (
            cost.arm,
            f"{cost.steps:,}",
            f"{cost.tokens:,}",
            f"{cost.flops:.4g}",
            f"{cost.flops_per_token:.4g}",
            f"{cost.state_bytes:,}",
            f"{cost.open_segment_bytes:,}",
            f"{sum(cost.seconds):,.0f}",
        )
        for cost in results.costs
    )
    return markdown_of(COSTS, rows)


def _units(losses: Sequence[DocumentLossRecord]) -> str:
    rows = []
    for name, each in _models(losses).items():
        finite = [_intact(record) for record in each if math.isfinite(record.nll)]
        rows.append((name, *(_shown(perplexity(finite, unit), 2) for unit in UNITS), _shown(loss_per(finite), 4)))
    return markdown_of(("model", *(f"perplexity per {unit}" for unit in UNITS), "nats per token"), rows)


def _positions(records: Sequence[PositionLossRecord]) -> str:
    curves = {name: mean_loss([_intact(each) for each in one]) for name, one in _models(records).items()}
    where = sorted({place for curve in curves.values() for place in curve})
    rows = ((_place(place), *(_shown(curve[place].found, 3) for curve in curves.values())) for place in where)
    return markdown_of(("positions", *curves), rows)


def _intact(record: R) -> R:
    """Return the record as one of the intact model, whose condition is in the name of its column."""
    return record.model_copy(update={"intervention": "none"})


def _models(records: Sequence) -> dict[str, list]:
    """Return records by arm, state and condition, with a name for each."""
    found: dict[str, list] = {}
    for record in records:
        closed = "" if record.intervention == "none" else ", gates closed"
        found.setdefault(f"{record.arm}, {record.checkpoint}{closed}", []).append(record)
    return found


def _differences(records: Sequence[PositionLossRecord], arms: Sequence[str]) -> str:
    """Compare the first arm with each other one, and each memory with itself when its gates are closed."""
    seeds = {record.seed for record in records}
    sides = {
        name: {
            (seed, *key[1:]): loss
            for key, loss in _by_key(each).items()
            for seed in (seeds if name.endswith(f", {BEFORE}") else (key[0],))  # before training there are no seeds
        }
        for name, each in _models(records).items()
    }
    first = f"{arms[0]}, {AFTER}"
    pairs = [(first, f"{arm}, {AFTER}") for arm in arms[1:]]
    pairs += [(f"{arm}, {AFTER}", f"{arm}, {AFTER}, gates closed") for arm in arms]
    pairs += [(f"{arm}, {AFTER}", f"{arm}, {BEFORE}") for arm in arms]
    pairs = [pair for pair in pairs if all(name in sides for name in pair)]
    where = sorted({Range(record.position_start, record.position_end) for record in records})
    rows = (
        (_place(place), *(_shown(_difference(sides[a], sides[b], place.start), 4) for a, b in pairs)) for place in where
    )
    return markdown_of(("positions", *(f"{a} − {b}" for a, b in pairs)), rows)


def _by_key(records: Iterable[PositionLossRecord]) -> dict[Key, float]:
    return {(each.seed, each.document_id, each.position_start): each.nll / each.tokens for each in records}


def _difference(a: dict[Key, float], b: dict[Key, float], start: int) -> Estimate:
    """Return the mean of a − b at some positions.

    The interval of several seeds is that over seeds, never narrower than the one over documents; that of one seed is
    over documents alone.
    """
    keys = [key for key in a if key[2] == start and key in b]
    mine, other = ([side[key] for key in keys] for side in (a, b))
    seeds, documents = [key[0] for key in keys], [key[1] for key in keys]
    return contrast_of_models(mine, other, seeds, within="paired_t", clusters=documents)


def _place(where: Range) -> str:
    return f"{where.start:,}–{where.end - 1:,}"


def _shown(found: Estimate, digits: int) -> str:
    mean = f"{found.mean:,.{digits}f}"
    return f"{mean} [{found.low:,.{digits}f}, {found.high:,.{digits}f}]" if found.bounded else mean
