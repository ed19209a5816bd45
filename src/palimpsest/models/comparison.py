"""One table of all kinds of attention and memory, with the sizes of one model: what each keeps, costs and reaches."""

import math
from collections.abc import Sequence
from typing import NamedTuple, get_args

import torch

from palimpsest.attention.base import Facts
from palimpsest.attention.kinds import KINDS
from palimpsest.attention.memories import MemoryRule, MemorySpec
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import BLOCKS, AttentionSpec, CompressiveSpec
from palimpsest.memory import state_bytes
from palimpsest.models.configuration import PalimpsestConfig
from palimpsest.schema import parse


class KindRow(NamedTuple):
    """A layer of one kind in a model of given sizes, for one sequence.

    Attributes:
        name: the kind, and of a memory its own kind, as ``memory/ridge``.
        used: whether the model has layers of this kind.
        facts: state, reach, gradient path and streaming, in words and formulas.
        kept: bytes of the state and of the open segment, one number for each length asked for.
        flops: operations per token, forward, of attention and of the weights that it has beside LLaMA's four
            projections, likewise.
    """

    name: str
    used: bool
    facts: Facts
    kept: tuple[int, ...]
    flops: tuple[float, ...]


def compare(config: PalimpsestConfig, lengths: Sequence[int], dtype: torch.dtype = torch.float32) -> list[KindRow]:
    """Return a row for every kind, for a layer of a model with these sizes, gate and segments.

    Kinds and the memory that the model has are as it has them, the others with their defaults.

    Args:
        config: the model.
        lengths: tokens of a context, for the operations.
        dtype: that of keys and values.
    """
    spec, sizes = config.attention_spec, Sizes.of(config)
    rows = []
    for name, of_kind in kinds_of(spec).items():
        kind = KINDS[of_kind.pattern[0]]
        own = 2 * kind.weights(sizes, of_kind)
        opened = kind.open_segment_bytes(sizes, of_kind, dtype.itemsize)
        rows.append(
            KindRow(
                name=name,
                used=name in _names(spec),
                facts=_facts(of_kind),
                kept=tuple(kind.state_bytes(sizes, of_kind, dtype, length) + opened for length in lengths),
                flops=tuple(kind.flops(sizes, of_kind, length) + own for length in lengths),
            )
        )
    return rows


def _facts(spec: AttentionSpec) -> Facts:
    """Return the facts of the first kind of a pattern, with the formula of the memory if it is one."""
    facts = KINDS[spec.pattern[0]].facts
    if spec.pattern[0] != "memory":
        return facts
    strengths = " + H N" if spec.memory.strength == "token" else ""
    return facts._replace(state=f"2 G d N + H ({spec.memory.keeps}){strengths}")


def layer_bytes(sizes: Sizes, spec: AttentionSpec, kind: str, dtype: torch.dtype) -> tuple[int, int]:
    """Return what a layer keeps of one sequence at most: the bytes of its state and of its open segment."""
    empty = KINDS[kind].empty(sizes, spec, 1, dtype, torch.device("meta"))
    state = 0 if empty is None else state_bytes(empty)
    return state, KINDS[kind].open_segment_bytes(sizes, spec, dtype.itemsize)


def kinds_of(spec: AttentionSpec) -> dict[str, AttentionSpec]:
    """Return an attention block of one kind for every row of the table."""
    given = spec.model_dump(exclude_none=True)
    shared = {key: given[key] for key in ("segment_length", "gate", "first_segment")}
    specs = {}
    for kind in KINDS:
        if kind != "memory":
            own = {kind: given.get(kind, _default_block(kind, spec))}
            own = own if kind in BLOCKS else {}
            specs[kind] = parse(AttentionSpec, {**shared, "pattern": [kind], **own}, kind)
    for rule in memory_kinds():
        memory = given["memory"] if rule == spec.memory.kind else {"kind": rule}
        specs[f"memory/{rule}"] = parse(AttentionSpec, {**shared, "pattern": ["memory"], "memory": memory}, rule)
    return specs


def _default_block(kind: str, spec: AttentionSpec) -> dict[str, object]:
    """Return what a kind needs that the model does not have: a ratio that divides the model's segments."""
    return {"ratio": math.gcd(CompressiveSpec().ratio, spec.segment_length)} if kind == "compressive" else {}


def memory_kinds() -> dict[str, type[MemoryRule]]:
    """Return the configuration class of every kind of memory, by its name."""
    union, _ = get_args(MemorySpec)
    return {rule.model_fields["kind"].default: rule for rule in get_args(union)}


def _names(spec: AttentionSpec) -> set[str]:
    return {f"memory/{spec.memory.kind}" if kind == "memory" else kind for kind in spec.pattern}
