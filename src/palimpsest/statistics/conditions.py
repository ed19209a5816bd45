"""The general rule: any named numbers, each compared with a value, all of them or any of them."""

from collections.abc import Mapping
from operator import ge, gt, le, lt
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

from palimpsest.statistics.intervals import Estimate
from palimpsest.statistics.rules import Requirement, Requirements, RuleBase

_COMPARISONS = {">=": (ge, "at least"), ">": (gt, "above"), "<=": (le, "at most"), "<": (lt, "below")}

Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Condition(_Closed):
    """One end of the interval of one estimate (or its mean), compared with a value.

    ``level`` is that of the two-sided interval: an end at 0.90 is a one-sided 95 % bound.
    """

    estimate: Name
    bound: Literal["low", "high", "mean"]
    op: Literal[">=", ">", "<=", "<"]
    value: FiniteFloat
    level: float = Field(default=0.95, gt=0, lt=1)

    @property
    def key(self) -> str:
        """The name under which the rule asks for this estimate: with its level, unless that is 95 %."""
        return self.estimate if self.level == 0.95 else f"{self.estimate}_{100 * self.level:g}"

    def holds(self, found: Mapping[str, Estimate]) -> bool:
        """Return whether the comparison is true of what was found."""
        number = found[self.key]
        end = {"low": number.low, "high": number.high, "mean": number.mean}[self.bound]
        return bool(_COMPARISONS[self.op][0](end, self.value))

    def words(self) -> str:
        """Return the comparison as a clause."""
        end = f"the {self.bound} end of the {100 * self.level:g} % interval of {self.estimate}"
        what = f"the mean of {self.estimate}" if self.bound == "mean" else end
        return f"{what} is {_COMPARISONS[self.op][1]} {self.value:g}"


class Clause(_Closed):
    """Several conditions: ``all_of`` them, or ``any_of`` them."""

    all_of: Annotated[tuple[Condition, ...], Field(strict=False)] = ()
    any_of: Annotated[tuple[Condition, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.all_of) == bool(self.any_of):
            raise ValueError("needs conditions under either all_of or any_of")
        return self

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All conditions, whichever way they are joined."""
        return self.all_of or self.any_of

    def holds(self, found: Mapping[str, Estimate]) -> bool:
        """Return whether what was found fulfils the clause."""
        join = all if self.all_of else any
        return join(condition.holds(found) for condition in self.conditions)

    def words(self) -> str:
        """Return the clause in plain words."""
        return (" and " if self.all_of else " or ").join(condition.words() for condition in self.conditions)


class Conditions(RuleBase):
    """A claim about several numbers at once, or about one that no other kind fits.

    Example::

        rule:
          kind: conditions
          pass_when: {all_of: [{estimate: gain, bound: low, op: ">", value: 0.005},
                               {estimate: share, bound: mean, op: ">=", value: 0.5}]}
          fail_when: {all_of: [{estimate: gain, bound: low, level: 0.9, op: ">", value: -0.005},
                               {estimate: gain, bound: high, level: 0.9, op: "<", value: 0.005}]}

    It asks for ``gain`` and ``share`` at 95 % and for ``gain_90`` at 90 %. Without ``fail_when`` it never fails.
    """

    kind: Literal["conditions"] = "conditions"
    pass_when: Clause
    fail_when: Clause | None = None

    @property
    def requires(self) -> Requirements:
        """Every estimate that a condition names, once for each level."""
        conditions = self.pass_when.conditions + (self.fail_when.conditions if self.fail_when else ())
        return {condition.key: Requirement(condition.estimate, condition.level) for condition in conditions}

    def _demand(self) -> str:
        fail = f"FAIL if {self.fail_when.words()}; if not, " if self.fail_when else ""
        return f"{fail}PASS if {self.pass_when.words()}, otherwise INCONCLUSIVE."

    def _passes(self, found: Mapping[str, Estimate]) -> bool:
        return self.pass_when.holds(found)

    def _fails(self, found: Mapping[str, Estimate]) -> bool:
        return self.fail_when is not None and self.fail_when.holds(found)
