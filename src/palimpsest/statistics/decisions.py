"""Decision rules: what a study demands, written down before the run, and the verdict on what it found.

A rule is closed data, loaded from the ``rule:`` of a study file. It has three outcomes. PASS and FAIL are
both claims and both need evidence; all else is INCONCLUSIVE, which asks for more items or more seeds.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field, ValidationError

from palimpsest.errors import InputError, nearest
from palimpsest.statistics.conditions import Conditions
from palimpsest.statistics.intervals import Estimate
from palimpsest.statistics.rules import (
    AtLeast,
    AtMost,
    BandAtLeast,
    Equivalent,
    Greater,
    MeanAtLeast,
    MemoryEffect,
    NonInferior,
    Requirement,
    Within,
)

__all__ = [
    "FAIL",
    "INCONCLUSIVE",
    "PASS",
    "AtLeast",
    "AtMost",
    "BandAtLeast",
    "Conditions",
    "Equivalent",
    "Greater",
    "MeanAtLeast",
    "MemoryEffect",
    "NonInferior",
    "Requirement",
    "Rule",
    "Verdict",
    "Within",
    "decide",
    "explain",
    "parse_rule",
]

Verdict: TypeAlias = Literal["PASS", "FAIL", "INCONCLUSIVE"]
PASS: Verdict = "PASS"
FAIL: Verdict = "FAIL"
INCONCLUSIVE: Verdict = "INCONCLUSIVE"

_AnyRule: TypeAlias = (
    AtLeast
    | AtMost
    | MeanAtLeast
    | Greater
    | Equivalent
    | NonInferior
    | MemoryEffect
    | Within
    | BandAtLeast
    | Conditions
)
Rule: TypeAlias = Annotated[_AnyRule, Field(discriminator="kind")]


def parse_rule(spec: Mapping[str, object], where: str = "rule") -> Rule:
    """Read a rule as it stands in a study file, for example ``{"kind": "at_least", "value": 0.9}``.

    Args:
        spec: the mapping.
        where: what to call it in an error message, for example ``studies/laptop.yaml, claim reach``.

    Raises:
        InputError: an unknown kind or key (with the nearest valid one), a missing key, or a value out of
            range.
    """
    kinds: dict[str, type[_AnyRule]] = {rule.model_fields["kind"].default: rule for rule in get_args(_AnyRule)}
    kind = spec.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise InputError(f"{where}: unknown kind of rule {kind!r}.{nearest(str(kind), kinds)}")
    try:
        return kinds[kind].model_validate(dict(spec))
    except ValidationError as error:
        raise InputError(f"{where}: {_first_fault(error, kinds[kind], kind)}") from error


def decide(rule: Rule, estimates: Estimate | Mapping[str, Estimate]) -> Verdict:
    """Judge by a rule what was estimated.

    Too few units, too few seeds and a number that does not exist (NaN) are INCONCLUSIVE, whatever else was found.

    Args:
        rule: one of the rules of this module.
        estimates: one estimate for each name in ``rule.requires``, at the level stated there; a rule that
            requires a single estimate takes it bare.

    Raises:
        InputError: an estimate missing, unasked for, or of another level.

    Example::

        sources = {"difference": partial(contrast, intact, swapped), "intervened": partial(estimate, swapped)}
        found = {name: sources[need.quantity](level=need.level) for name, need in rule.requires.items()}
        verdict = decide(rule, found)
    """
    found = _required(rule, estimates)
    if _shortcomings(rule, found):
        return INCONCLUSIVE
    if rule._fails(found):
        return FAIL
    return PASS if rule._passes(found) else INCONCLUSIVE


def explain(rule: Rule, estimates: Estimate | Mapping[str, Estimate]) -> str:
    """Return the verdict and the numbers behind it, as one line of plain words.

    Raises:
        InputError: as ``decide``.
    """
    found = _required(rule, estimates)
    numbers = "; ".join(f"{rule.requires[name].quantity} {number}" for name, number in found.items())
    return "; ".join([f"{decide(rule, found)}: {numbers}", *_shortcomings(rule, found)]) + "."


def _required(rule: Rule, estimates: Estimate | Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Return exactly the estimates that the rule requires, in its order, checked."""
    names = ", ".join(rule.requires)
    if isinstance(estimates, Estimate):
        if len(rule.requires) > 1:
            raise InputError(f"Rule '{rule.kind}' needs the estimates {names}, got a single one.")
        estimates = dict.fromkeys(rule.requires, estimates)
    if estimates.keys() != rule.requires.keys():
        got = ", ".join(estimates) or "none"
        raise InputError(f"Rule '{rule.kind}' needs the estimates {names}, got {got}.")
    for name, need in rule.requires.items():
        found = estimates[name]
        if not math.isclose(found.level, need.level):
            raise InputError(
                f"Rule '{rule.kind}': estimate '{name}' has level {found.level:g}, it must be {need.level:g}."
            )
    return {name: estimates[name] for name in rule.requires}


def _shortcomings(rule: Rule, found: Mapping[str, Estimate]) -> list[str]:
    """Return why these numbers cannot decide anything: each reason makes the verdict INCONCLUSIVE."""
    reasons = [
        f"estimate '{name}' is not a number ({number.method})"
        for name, number in found.items()
        if any(math.isnan(end) for end in (number.mean, number.low, number.high))
    ]
    units = min(number.n for number in found.values())
    if units < rule.min_n:
        reasons.append(f"{units} units are fewer than the {rule.min_n} demanded")
    seeds = min(number.seeds or 1 for number in found.values())
    if seeds < rule.min_seeds:
        reasons.append(f"{seeds} seed{'s are' if seeds > 1 else ' is'} fewer than the {rule.min_seeds} demanded")
    return reasons


def _first_fault(error: ValidationError, rule: type[_AnyRule], kind: str) -> str:
    """Say one thing that is wrong; a misspelt key comes before the missing one that it stands for."""
    fault = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"rule '{kind}' has no key '{key}'.{nearest(key, rule.model_fields)}"
    if fault["type"] == "missing":
        return f"rule '{kind}' lacks the key '{key}'."
    if not key:
        return f"rule '{kind}': {message}."
    return f"rule '{kind}', key '{key}': {message[0].lower()}{message[1:]}, got {fault['input']!r}."
