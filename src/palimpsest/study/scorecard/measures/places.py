"""Where in the memory an answer lies: which segment was written, and which heads read it."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from palimpsest.records import FigureRecord, ItemRecord, Series
from palimpsest.schema import Closed
from palimpsest.statistics import Estimate, spearman
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.answers import Answers, Cells, answers, paired, scored, select
from palimpsest.study.scorecard.measures.base import ArmName, AskName, Measure, Measured, Missing, Quantity, always
from palimpsest.study.scorecard.measures.numbers import accuracy, difference, over_seeds, ratio, share_of_loss
from palimpsest.study.scorecard.measures.quantities import facts_of, series

Head = tuple[int, int]
"""Layer and head, from 0."""


class DropsGiven(Closed):
    """What ``segment_drops`` is of.

    Attributes:
        ask: a name under ``ask`` with the interventions ``drop[0]``, ``drop[1]`` and so on.
        arm: whose memory.
        cells: which answers count.
        floor: what guessing scores.
    """

    ask: AskName
    arm: ArmName
    cells: Cells = Cells(reach="own")
    floor: float = Field(default=0.0, ge=0, lt=1)


def segment_drops(findings: Findings, given: DropsGiven) -> Measured:
    """Estimate what it costs when one segment is not written: that of the needle, and every other.

    Quantities: ``intact`` accuracy; ``removed``, the share of (accuracy - floor) that is lost with the needle's
    segment; ``largest_other``, the largest loss with any other segment, on the items whose needle is not there, with an
    interval for all segments at once (Bonferroni).
    """
    intact = select(findings, given.ask, given.arm, given.cells)
    segments = sorted({_segment(item) for item in intact})
    dropped = {s: select(findings, given.ask, given.arm, given.cells, f"drop[{s}]") for s in segments}
    own = scored([item for s in segments for item in dropped[s] if _segment(item) == s])
    kept, lost = paired(scored(intact), own)
    others = {}
    for s in segments:
        elsewhere = [item for item in dropped[s] if _segment(item) != s]
        if elsewhere:
            others[s] = difference(scored(intact), scored(elsewhere))
    if not others:
        raise Missing(f"All needles of '{given.ask}' lie in one segment, so that no other could be dropped.")
    remaining = ratio(lost, kept, floor=given.floor)

    def removed(level: float) -> Estimate:
        found = remaining(level)
        return Estimate(
            1 - found.mean, 1 - found.high, 1 - found.low, found.n, f"1 - {found.method}", level, found.seeds
        )

    def largest_other(level: float) -> Estimate:
        found = [quantity(1 - (1 - level) / len(others)) for quantity in others.values()]
        method = f"largest of {len(found)} segments, Bonferroni; {found[0].method}"
        ends = [max(number[i] for number in [(f.mean, f.low, f.high) for f in found]) for i in range(3)]
        return Estimate(ends[0], ends[1], ends[2], min(f.n for f in found), method, level, found[0].seeds)

    quantities = {"intact": accuracy(kept), "removed": removed, "largest_other": largest_other}
    return Measured(
        quantities=quantities,
        facts=facts_of({**quantities, "loss with the needle's segment": difference(kept, lost)}),
        figure=_drops_figure(given.arm, scored(intact), dropped, others),
        sources=(f"items/{given.ask}",),
    )


class HeadsGiven(Closed):
    """What ``head_halves`` is of.

    Attributes:
        ask: a name under ``ask`` with ``swap``, ``swap[layer=L,head=H]`` of every head, and the swap of every half of
            all heads, joined by ``+`` in the order of layers and heads (``swap[layer=L]`` for a whole layer).
        arm: whose heads.
        cells: which answers count.
    """

    ask: AskName
    arm: ArmName
    cells: Cells = Cells()


def head_halves(findings: Findings, given: HeadsGiven) -> Measured:
    """Swap the heads that say most from memory (largest rho), and the others.

    Quantities: ``difference`` D, what the swap of all heads costs; ``top_share`` and ``bottom_share``, what the swap of
    either half costs, as shares of D; ``correlation``, Spearman's of rho with what the swap of the head alone costs,
    one for each seed, with the t interval over seeds.
    """
    rho = _rho(findings, given.arm)
    intact = answers(findings, given.ask, given.arm, given.cells)
    swapped = answers(findings, given.ask, given.arm, given.cells, "swap")
    heads = sorted(next(iter(rho.values())))
    alone = {head: answers(findings, given.ask, given.arm, given.cells, _swap([head], heads)) for head in heads}
    seeds = sorted(set(intact.seeds) & set(rho))
    if not seeds:
        raise Missing(f"No seed of '{given.arm}' has both answers and a profile of its heads.")
    halves: dict[str, list[Answers]] = {"top": [], "bottom": []}
    correlations, points = [], []
    for seed in seeds:
        ranked = sorted(heads, key=lambda head: -rho[seed][head])
        for name, half in (("top", ranked[: len(heads) // 2]), ("bottom", ranked[len(heads) // 2 :])):
            under = answers(findings, given.ask, given.arm, given.cells, _swap(half, heads))
            halves[name].append(under.of_seeds({seed}))
        costs = [_cost(intact, alone[head], seed) for head in heads]
        shares_of_memory = [rho[seed][head] for head in heads]
        correlations.append(spearman(shares_of_memory, costs).mean)
        points.append(Series(name=f"seed {seed}", x=tuple(shares_of_memory), y=tuple(costs), points=True))
    shares = {f"{name}_share": share_of_loss(intact, _joined(parts), swapped) for name, parts in halves.items()}
    quantities: dict[str, Quantity] = {
        "difference": difference(intact, swapped),
        **shares,
        "correlation": over_seeds(correlations),
    }
    single = {f"layer {layer}, head {head}": difference(intact, alone[layer, head]) for layer, head in heads}
    return Measured(
        quantities=quantities,
        facts=facts_of({**quantities, **{f"loss with {name}": number for name, number in single.items()}}),
        figure=FigureRecord(
            title=f"What the heads of {given.arm} say from memory, and what it costs to swap one",
            caption="Every point is a head; the memory of that head alone is that of another text.",
            x_label="rho, the memory's share of what the head says",
            y_label="lost share of right answers",
            series=tuple(points),
        ),
        sources=(f"items/{given.ask}", "usage"),
    )


def _segment(item: ItemRecord) -> int:
    """Return the segment of an item's needle."""
    return item.needle_start // item.segment_length


def _rho(findings: Findings, arm: str) -> dict[int, dict[Head, float]]:
    """Return by seed the memory's share of what each head says, over documents."""
    found: dict[int, dict[Head, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in findings.profiles:
        if record.arm == arm:
            found[record.seed][record.layer, record.head].append(record.rho)
    if not found:
        raise Missing(f"The heads of '{arm}' were not profiled.")
    return {seed: {head: float(np.mean(values)) for head, values in each.items()} for seed, each in found.items()}


def _swap(chosen: Sequence[Head], heads: Sequence[Head]) -> str:
    """Return the expression of the intervention that swaps some heads."""
    parts = []
    for layer in sorted({layer for layer, _ in chosen}):
        mine = sorted(head for at, head in chosen if at == layer)
        if len(mine) > 1 and len(mine) == sum(at == layer for at, _ in heads):
            parts.append(f"swap[layer={layer}]")
        else:
            parts += [f"swap[layer={layer},head={head}]" for head in mine]
    return "+".join(parts)


def _cost(intact: Answers, under: Answers, seed: int) -> float:
    a, b = paired(intact.of_seeds({seed}), under.of_seeds({seed}))
    return float(np.mean(a.values) - np.mean(b.values))


def _joined(parts: Sequence[Answers]) -> Answers:
    return Answers(
        [value for part in parts for value in part.values],
        [seed for part in parts for seed in part.seeds],
        [item for part in parts for item in part.items],
        [cluster for part in parts for cluster in part.clusters],
    )


def _drops_figure(
    arm: str, intact: Answers, dropped: dict[int, list[ItemRecord]], others: dict[int, Quantity]
) -> FigureRecord:
    mine = {}
    for s, items in dropped.items():
        here = [item for item in items if _segment(item) == s]
        if here:
            mine[s] = difference(intact, scored(here))
    return FigureRecord(
        title=f"What {arm} loses with one segment",
        caption="The memory is not told one segment. 95 % intervals over seeds, at least as wide as those over items.",
        x_label="segment that is not written",
        y_label="lost share of right answers",
        series=tuple(_line(name, numbers) for name, numbers in (("the needle's", mine), ("another one", others))),
        share=True,
    )


def _line(name: str, numbers: dict[int, Quantity]) -> Series:
    return series(name, ((float(x), quantity(0.95)) for x, quantity in numbers.items()), dots=True)


PLACES = {
    "segment_drops": Measure(DropsGiven, segment_drops, always("intact", "removed", "largest_other")),
    "head_halves": Measure(HeadsGiven, head_halves, always("difference", "top_share", "bottom_share", "correlation")),
}
