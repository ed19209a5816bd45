"""Decision rules: what a study demands, written down before the run, and the verdict on what it found.

A rule is closed data, loaded from the ``rule:`` of a study file. It has three outcomes. PASS and FAIL are
both claims and both need evidence; all else is INCONCLUSIVE, which asks for more items or more seeds.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple, Self, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from palimpsest.errors import InputError, nearest
from palimpsest.statistics.intervals import Estimate

Verdict: TypeAlias = Literal["PASS", "FAIL", "INCONCLUSIVE"]
PASS: Verdict = "PASS"
FAIL: Verdict = "FAIL"
INCONCLUSIVE: Verdict = "INCONCLUSIVE"


class Requirement(NamedTuple):
    """One estimate that a rule needs: of which quantity, with a two-sided interval of which level."""

    quantity: str
    level: float


Requirements: TypeAlias = Mapping[str, Requirement]

# A claim is shown at 95 %. It is refuted, and equivalence is shown, by the 90 % interval: each of its ends
# is a one-sided 95 % bound, so that this is the usual pair of one-sided 5 % tests.
_ESTIMATE = {"estimate": Requirement("estimate", 0.95)}
_DIFFERENCE = {"difference": Requirement("difference", 0.95)}
_DIFFERENCE_90 = {"difference_90": Requirement("difference", 0.90)}
_INTERVENED = {"intervened": Requirement("intervened", 0.95)}


class _Rule(BaseModel, ABC):
    """Base of all rules. With fewer than ``min_n`` units behind an estimate a rule is INCONCLUSIVE."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    requires: ClassVar[Requirements]

    min_n: int = Field(default=1, ge=1)

    def sentence(self) -> str:
        """Return the whole rule in plain words, for the report."""
        few = f" INCONCLUSIVE with fewer than {self.min_n} units behind a number." if self.min_n > 1 else ""
        return self._demand() + few

    @abstractmethod
    def _demand(self) -> str:
        """Return what each verdict takes."""

    @abstractmethod
    def _passes(self, found: Mapping[str, Estimate]) -> bool:
        """Whether the claim is shown."""

    @abstractmethod
    def _fails(self, found: Mapping[str, Estimate]) -> bool:
        """Whether the claim is refuted; asked first, so it outweighs ``_passes``."""


class AtLeast(_Rule):
    """The true value is at least ``value``."""

    requires: ClassVar[Requirements] = _ESTIMATE

    kind: Literal["at_least"] = "at_least"
    value: FiniteFloat

    def _demand(self) -> str:
        return (
            f"PASS if the whole 95 % interval is at or above {self.value:g}, "
            "FAIL if the whole of it is below, otherwise INCONCLUSIVE."
        )

    def _passes(self, found: Mapping[str, Estimate]) -> bool:
        return found["estimate"].low >= self.value

    def _fails(self, found: Mapping[str, Estimate]) -> bool:
        return found["estimate"].high < self.value


class AtMost(_Rule):
    """The true value is at most ``value``."""

    requires: ClassVar[Requirements] = _ESTIMATE

    kind: Literal["at_most"] = "at_most"
    value: FiniteFloat

    def _demand(self) -> str:
        return (
            f"PASS if the whole 95 % interval is at or below {self.value:g}, "
            "FAIL if the whole of it is above, otherwise INCONCLUSIVE."
        )

    def _passes(self, found: Mapping[str, Estimate]) -> bool:
        return found["estimate"].high <= self.value

    def _fails(self, found: Mapping[str, Estimate]) -> bool:
        return found["estimate"].low > self.value


class MeanAtLeast(_Rule):
    """The measured mean reaches ``value``: a target met or missed, with no claim beyond these items."""

    requires: ClassVar[Requirements] = _ESTIMATE

    kind: Literal["mean_at_least"] = "mean_at_least"
    value: FiniteFloat

    def _demand(self) -> str:
        return f"PASS if the measured mean is at least {self.value:g}, else FAIL; the interval is not asked."

    def _passes(self, found: Mapping[str, Estimate]) -> bool:
        return found["estimate"].mean >= self.value

    def _fails(self, found: Mapping[str, Estimate]) -> bool:
        return found["estimate"].mean < self.value


class Greater(_Rule):
    """A difference exceeds ``margin``; refuted where it is surely below ``negligible`` (default: ``margin``).

    ``negligible`` above ``margin`` says that an effect can be real and still too small to matter: then FAIL.
    """

    requires: ClassVar[Requirements] = _DIFFERENCE | _DIFFERENCE_90

    kind: Literal["greater"] = "greater"
    margin: FiniteFloat = 0.0
    negligible: FiniteFloat | None = None

    def _demand(self) -> str:
        return (
            f"FAIL if the whole 90 % interval of the difference is below {self._bar():g}; "
            f"if not, PASS if its whole 95 % interval is above {self.margin:g}, otherwise INCONCLUSIVE."
        )

    def _passes(self, found: Mapping[str, Estimate]) -> bool:
        return found["difference"].low > self.margin

    def _fails(self, found: Mapping[str, Estimate]) -> bool:
        return found["difference_90"].high < self._bar()

    def _bar(self) -> float:
        return self.margin if self.negligible is None else self.negligible


class Equivalent(_Rule):
    """A difference is smaller than ``margin`` either way: two one-sided tests at 5 % each."""

    requires: ClassVar[Requirements] = _DIFFERENCE_90

    kind: Literal["equivalent"] = "equivalent"
    margin: FiniteFloat = Field(gt=0)

    def _demand(self) -> str:
        inside = f"(-{self.margin:g}, {self.margin:g})"
        return (
            f"PASS if the whole 90 % interval of the difference is inside {inside}, "
            "FAIL if the whole of it is outside, otherwise INCONCLUSIVE."
        )

    def _passes(self, found: Mapping[str, Estimate]) -> bool:
        difference = found["difference_90"]
        return -self.margin < difference.low and difference.high < self.margin

    def _fails(self, found: Mapping[str, Estimate]) -> bool:
        difference = found["difference_90"]
        return difference.low >= self.margin or difference.high <= -self.margin


class MemoryEffect(_Rule):
    """The memory carries the answer: intervening on it costs accuracy, and takes it down to the floor.

    ``difference`` is the accuracy intact minus the accuracy under the intervention, paired by item, where
    local attention cannot reach; ``intervened`` is the accuracy under the intervention; ``floor`` is what
    guessing scores.
    """

    requires: ClassVar[Requirements] = _DIFFERENCE | _DIFFERENCE_90 | _INTERVENED

    kind: Literal["memory_effect"] = "memory_effect"
    floor: float = Field(ge=0, lt=1)
    effect: float = Field(default=0.20, gt=0, le=1)
    tolerance: float = Field(default=0.05, ge=0, le=1)
    negligible: float = Field(default=0.05, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.negligible >= self.effect:
            raise ValueError(f"negligible ({self.negligible:g}) must be below effect ({self.effect:g})")
        return self

    def _demand(self) -> str:
        return (
            f"PASS if the intervention costs at least {self.effect:g} of accuracy (low end of the 95 % "
            f"interval) and leaves at most {self._ceiling():g} (high end; guessing scores {self.floor:g}), "
            f"FAIL if it costs less than {self.negligible:g} (high end of the 90 % interval): "
            "the memory is decorative; otherwise INCONCLUSIVE."
        )

    def _passes(self, found: Mapping[str, Estimate]) -> bool:
        return found["difference"].low >= self.effect and found["intervened"].high <= self._ceiling()

    def _fails(self, found: Mapping[str, Estimate]) -> bool:
        return found["difference_90"].high < self.negligible

    def _ceiling(self) -> float:
        return self.floor + self.tolerance


_AnyRule: TypeAlias = AtLeast | AtMost | MeanAtLeast | Greater | Equivalent | MemoryEffect
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

    Args:
        rule: one of the rules of this module.
        estimates: one estimate for each name in ``rule.requires``, at the level stated there; a rule that
            requires a single estimate takes it bare.

    Raises:
        InputError: an estimate missing, unasked for, not a number, or of another level.

    Example::

        sources = {"difference": partial(contrast, intact, swapped), "intervened": partial(estimate, swapped)}
        found = {name: sources[need.quantity](level=need.level) for name, need in rule.requires.items()}
        verdict = decide(rule, found)
    """
    found = _required(rule, estimates)
    if _fewest(found) < rule.min_n:
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
    fewest = _fewest(found)
    few = f"; {fewest} units are fewer than the {rule.min_n} demanded" if fewest < rule.min_n else ""
    return f"{decide(rule, found)}: {numbers}{few}."


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
        if any(math.isnan(number) for number in (found.mean, found.low, found.high)):
            raise InputError(f"Rule '{rule.kind}': estimate '{name}' ({found.method}) is not a number.")
    return {name: estimates[name] for name in rule.requires}


def _fewest(found: Mapping[str, Estimate]) -> int:
    return min(estimate.n for estimate in found.values())


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
