"""Measures of what a state costs: bytes and time against the length of the context, and what a ratio compares."""

import math

from pydantic import Field

from palimpsest.models.compression import Heads, cache_numbers, equal_length, memory_numbers, store_numbers
from palimpsest.probes.mechanism.numerics import FLOAT32_BYTES, numbers_kept
from palimpsest.records import FigureRecord, Series, StateCostRecord
from palimpsest.schema import Closed
from palimpsest.statistics import Estimate, slope
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import ArmName, Measure, Measured, Missing, always
from palimpsest.study.scorecard.measures.quantities import LEVEL, count_of, facts_of, needs_some, series

SOURCES = ("cost",)


class StateGiven(Closed):
    """An arm with a memory, and the arm whose keys and values grow with every token."""

    arm: ArmName
    cache: ArmName


class RatioGiven(Closed):
    """The sizes behind a published ratio of memories; the defaults are those of Infini-attention, Table 2.

    Attributes:
        layers, heads, head_dim: of the model.
        stored: keys and values of the k-nearest-neighbour memory in one layer (Memorizing Transformers).
        window: tokens that every layer of that model keeps besides.
        claimed: the published ratio.
    """

    layers: int = Field(default=12, ge=1)
    heads: int = Field(default=8, ge=1)
    head_dim: int = Field(default=128, ge=1)
    stored: int = Field(default=65_000, ge=1)
    window: int = Field(default=2048, ge=0)
    claimed: float = Field(default=114.0, gt=0)


def state(findings: Findings, given: StateGiven) -> Measured:
    """Measure the state of an arm after contexts of several lengths.

    Quantities: ``growth``, bytes after the longest minus bytes after the shortest context; ``formula``, the largest
    difference in bytes from layers x heads x numbers of the kind of memory x 4; ``slowdown``, by which share of its
    mean the time per token rises when the context doubles (least squares on log2 of the length). Facts: the ratio of
    the cache's keys and values to the state, each with its context.
    """
    own, cache = _costs(findings, given.arm), _costs(findings, given.cache)
    sizes = {record.context: record.memory_bytes for record in own}
    kept = {record.context: record.memory_bytes + record.local_bytes for record in cache}
    expected = _formula(findings, given.arm)
    seconds = {record.context: record.seconds_per_token for record in own}
    doublings = [math.log2(record.context) for record in own]
    mean = sum(record.seconds_per_token for record in own) / len(own)
    relative = [record.seconds_per_token / mean for record in own]
    ends = min(sizes), max(sizes)
    quantities = {
        "growth": count_of(sizes[ends[1]] - sizes[ends[0]], len(sizes)),
        "formula": count_of(max(abs(size - expected) for size in sizes.values()), len(sizes)),
        "slowdown": lambda level: slope(doublings, relative, level=level),
    }
    facts = facts_of(quantities) | facts_of({"bytes of the state": count_of(sizes[ends[0]], len(sizes))})
    facts |= facts_of(
        {
            f"bytes of '{given.cache}' over bytes of the state, at N = {context:,}": count_of(kept[context] / size, 1)
            for context, size in sorted(sizes.items())
            if context in kept and size
        }
    )
    figure = FigureRecord(
        title="Bytes kept of one sequence",
        caption=f"State of '{given.arm}' against keys and values of '{given.cache}', in float32; time per token of "
        f"'{given.arm}': {min(seconds.values()):.2g} to {max(seconds.values()):.2g} s.",
        x_label="tokens of context, N",
        y_label="bytes",
        series=(_bytes_line(given.arm, sizes), _bytes_line(given.cache, kept)),
        log_x=True,
    )
    return Measured(quantities, facts, figure, SOURCES)


def published_ratio(findings: Findings, given: RatioGiven) -> Measured:
    """Recompute a published ratio of memory sizes against each thing that it could be a ratio to.

    Quantities, all exact: ``against_store``, the numbers of a k-nearest-neighbour memory in one layer with a window in
    every layer, over those of the compressive memory; ``against_cache``, the numbers of the same model's own keys and
    values after ``stored`` tokens over the same, 2 N / (d + 1); ``equal_at``, the context N at which its own cache is
    ``claimed`` times as large.
    """
    model = Heads(given.layers, given.heads, given.head_dim)
    memory = memory_numbers(model)
    store = store_numbers(model, given.stored, given.window)
    quantities = {
        "against_store": count_of(store / memory, 1),
        "against_cache": count_of(cache_numbers(model, given.stored) / memory, 1),
        "equal_at": count_of(equal_length(model, given.claimed), 1),
    }
    contexts = [2**power for power in range(10, 21)]
    points = [
        (float(context), Estimate(ratio, ratio, ratio, 1, "computed"))
        for context in contexts
        if (ratio := cache_numbers(model, context) / memory)
    ]
    figure = FigureRecord(
        title="How many times smaller the memory is than a cache of keys and values",
        caption=f"{given.layers} layers of {given.heads} heads of {given.head_dim}: {memory:,} numbers in the memory. "
        f"The claim is {given.claimed:g}; {store / memory:.1f} is the ratio to a store of {given.stored:,} tokens in "
        f"one layer and a window of {given.window:,} in each.",
        x_label="tokens of context, N",
        y_label="ratio to the model's own cache of N tokens",
        series=(series("own cache", points),),
        log_x=True,
        marks={"claimed ratio": quantities["equal_at"](LEVEL).mean},
    )
    return Measured(quantities, facts_of(quantities), figure)


def _costs(findings: Findings, arm: str) -> list[StateCostRecord]:
    found = sorted((record for record in findings.costs if record.arm == arm), key=lambda record: record.context)
    needs_some(found, f"costs of the state of '{arm}'")
    if len({record.context for record in found}) < 2:
        raise Missing(f"The state of '{arm}' was measured after one context; a trend needs two lengths or more.")
    return found


def _formula(findings: Findings, arm: str) -> int:
    """Return the bytes that the memories of all heads should take."""
    spec, model = findings.spec.attention(arm), findings.spec.model_of(arm)
    layers = [spec.kind(layer) for layer in range(model.num_hidden_layers)]
    size = model.head_dim or model.hidden_size // model.num_attention_heads
    numbers = numbers_kept(spec.memory.keeps, spec.memory.width(size), size)
    return FLOAT32_BYTES * layers.count("memory") * model.num_attention_heads * numbers


def _bytes_line(name: str, sizes: dict[int, int]) -> Series:
    return Series(name=name, x=tuple(map(float, sizes)), y=tuple(map(float, sizes.values())))


MEASURES: dict[str, Measure] = {
    "state_costs": Measure(StateGiven, state, always("growth", "formula", "slowdown")),
    "published_ratio": Measure(RatioGiven, published_ratio, always("against_store", "against_cache", "equal_at")),
}
