"""Interventions as they are written in a study file or on the command line: ``swap``, ``drop[needle]+bfloat16``.

    expression   intervention { "+" intervention }      the first acts first
    intervention name [ "[" argument { "," argument } "]" ]
    argument     segments | "layer=" numbers | "head=" numbers | "seed=" number
    segments     "2" | "2-5" | "2-" (to the end of the text) | "needle"
    numbers      "2" | "2-5"; given twice, both

Layers, heads and segments count from 0.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import torch

from palimpsest.attention.kinds import KINDS
from palimpsest.errors import InputError, nearest
from palimpsest.probes.interventions import (
    NEEDLE,
    Intervention,
    Segments,
    Span,
    drop,
    freeze,
    gate_at,
    gate_initial,
    intact,
    mean,
    precision,
    reset,
    shuffle,
    swapped,
    zeroed,
)

_TERM = re.compile(r"([a-z0-9_]+)(?:\[([^\[\]]*)\])?")
_SPAN = re.compile(r"(\d+)(?:(-)(\d+)?)?")


class _Arguments(NamedTuple):
    """What stands in the brackets; ``segments`` holds every range that is given."""

    segments: tuple[Segments, ...] = ()
    layers: frozenset[int] | None = None
    heads: frozenset[int] | None = None
    seed: int | None = None


_SIMPLE: dict[str, Callable[[], Intervention]] = {
    "none": intact,
    "swap": swapped,
    "zero": zeroed,
    "gate_closed": lambda: gate_at("gate_closed", 0.0),
    "gate_open": lambda: gate_at("gate_open", 1.0),
    "gate_initial": gate_initial,
    "mean": mean,
    "reset": reset,
    "bfloat16": lambda: precision("bfloat16", torch.bfloat16),
    "float16": lambda: precision("float16", torch.float16),
}
_SEGMENTED = ("drop", "freeze", "shuffle")
NAMES = (*_SIMPLE, *_SEGMENTED)
"""The names of all interventions."""


def parse_intervention(expression: str) -> Intervention:
    """Read an expression; see the module's docstring.

    Raises:
        InputError: an unknown name, arguments that it does not take or that cannot be read.
    """
    terms = [_term(term, expression) for term in re.sub(r"\s", "", expression).split("+")]
    result = terms[0]
    for term in terms[1:]:
        result = result.then(term)
    return result


def split_interventions(text: str) -> list[str]:
    """Split a list of expressions at the commas that stand outside brackets."""
    return [part.strip() for part in re.split(r",(?![^\[\]]*\])", text)]


def applicable(names: Iterable[str], pattern: Iterable[str]) -> tuple[str, ...]:
    """Return those interventions that can change something in a model with layers of these kinds.

    Raises:
        InputError: a name that is none.
    """
    kinds = [KINDS[kind] for kind in pattern]
    return tuple(name for name in names if any(issubclass(kind, parse_intervention(name).needs) for kind in kinds))


def _term(term: str, expression: str) -> Intervention:
    match = _TERM.fullmatch(term)
    if match is None or match[1] not in NAMES:
        name = term if match is None else match[1]
        hint = nearest(name, NAMES)
        listed = hint if "Known" in hint else f"{hint} Known: {', '.join(NAMES)}."
        raise InputError(f"Unknown intervention '{name}'{_inside(term, expression)}.{listed}")
    name, inside = match[1], match[2]
    arguments = _arguments(inside, term) if inside is not None else _Arguments()
    found = _segmented(name, arguments, term) if name in _SEGMENTED else _simple(name, arguments, term)
    if arguments.layers is None and arguments.heads is None:
        return found
    placed = found.only(arguments.layers, arguments.heads)
    return replace(placed, name=_placed_name(found.name, arguments))


def _simple(name: str, arguments: _Arguments, term: str) -> Intervention:
    if arguments.segments or arguments.seed is not None:
        raise InputError(f"The intervention '{term}' takes no segments or seed: {name} takes layer= and head= alone.")
    return _SIMPLE[name]()


def _segmented(name: str, arguments: _Arguments, term: str) -> Intervention:
    if len(arguments.segments) != 1:
        raise InputError(f"The intervention '{term}' must name segments, once: {name}[2], or {name}[{NEEDLE}].")
    (segments,) = arguments.segments
    if arguments.seed is not None and name != "shuffle":
        raise InputError(f"The intervention '{term}' takes no seed: nothing in it is drawn.")
    if name == "shuffle":
        return shuffle(segments, arguments.seed or 0)
    if name == "drop":
        return drop(segments)
    if segments is not None and segments.last != segments.first:
        raise InputError(f"The intervention '{term}' must say from which segment on, as freeze[{segments.first}] does.")
    return freeze(None if segments is None else segments.first)


def _arguments(inside: str, term: str) -> _Arguments:
    found = _Arguments()
    for argument in inside.split(","):
        key, equals, value = argument.rpartition("=")
        if not equals:
            segments = None if value == NEEDLE else _span(value, term)
            found = found._replace(segments=(*found.segments, segments))
        elif key == "seed" and value.isdecimal():
            found = found._replace(seed=int(value))
        elif key in ("layer", "head"):
            span = _span(value, term)
            if span.last is None:
                raise InputError(f"The intervention '{term}': {key}={value} has no end; write {key}=2-5.")
            numbers = frozenset(range(span.first, span.last + 1))
            field = f"{key}s"
            found = found._replace(**{field: numbers | (getattr(found, field) or frozenset())})
        else:
            raise InputError(f"The intervention '{term}' has the argument '{argument}'; known: layer=, head=, seed=.")
    return found


def _span(text: str, term: str) -> Span:
    match = _SPAN.fullmatch(text)
    if match is None or (match[3] is not None and int(match[3]) < int(match[1])):
        raise InputError(f"The intervention '{term}' has the range '{text}'; write 2, 2-5, 2- or {NEEDLE}.")
    first = int(match[1])
    return Span(first, None if match[2] and match[3] is None else int(match[3] or first))


def _placed_name(name: str, arguments: _Arguments) -> str:
    """Return the name with its layers and heads, in one way of the many in which they may be given."""
    places = [f"layer={span}" for span in _runs(arguments.layers)] + [f"head={span}" for span in _runs(arguments.heads)]
    before, bracket, inside = name.partition("[")
    return f"{before}[{','.join(([inside.removesuffix(']')] if bracket else []) + places)}]"


def _runs(numbers: frozenset[int] | None) -> list[Span]:
    """Return numbers as ranges."""
    runs: list[Span] = []
    for number in sorted(numbers or ()):
        if runs and runs[-1].last == number - 1:
            runs[-1] = Span(runs[-1].first, number)
        else:
            runs.append(Span(number, number))
    return runs


def _inside(term: str, expression: str) -> str:
    return "" if term == expression else f" in '{expression}'"


class _ByName(dict[str, Intervention]):
    """Interventions by name, and by any other expression."""

    def __missing__(self, expression: str) -> Intervention:
        """Read the expression."""
        return parse_intervention(expression)


INTERVENTIONS: dict[str, Intervention] = _ByName(
    {name: parse_intervention(name) for name in ("none", "swap", "zero", "gate_closed")}
)
"""The usual interventions by name; any other expression can be looked up too, and is parsed."""
