"""The kinds of rules, one class each: what shows a claim, and what refutes it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from palimpsest.statistics.intervals import Estimate


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
_LOWEST = {"lowest": Requirement("lowest", 0.95)}


class RuleBase(BaseModel, ABC):
    """Base of all rules: INCONCLUSIVE with fewer than ``min_n`` units or ``min_seeds`` seeds behind an estimate.

    An estimate that does not say over how many seeds it generalises speaks of one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    needs: ClassVar[Requirements] = {}

    min_n: int = Field(default=1, ge=1)
    min_seeds: int = Field(default=1, ge=1)

    @property
    def requires(self) -> Requirements:
        """The estimates that the rule asks for, by name."""
        return self.needs

    def sentence(self) -> str:
        """Return the whole rule in plain words, for the report."""
        few = [f"{self.min_n} units behind a number"] if self.min_n > 1 else []
        few += [f"{self.min_seeds} seeds"] if self.min_seeds > 1 else []
        return self._demand() + (f" INCONCLUSIVE with fewer than {' or '.join(few)}." if few else "")

    @model_serializer(mode="wrap")
    def _without_default_seeds(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out ``min_seeds`` where it asks nothing: the digest of a study that never named it stays the same."""
        content = serialize(self)
        if self.min_seeds == 1:
            del content["min_seeds"]
        return content

    @abstractmethod
    def _demand(self) -> str:
        """Return what each verdict takes."""

    @abstractmethod
    def _passes(self, found: Mapping[str, Estimate]) -> bool:
        """Whether the claim is shown."""

    @abstractmethod
    def _fails(self, found: Mapping[str, Estimate]) -> bool:
        """Whether the claim is refuted; asked first, so it outweighs ``_passes``."""


class AtLeast(RuleBase):
    """The true value is at least ``value``."""

    needs: ClassVar[Requirements] = _ESTIMATE

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


class AtMost(RuleBase):
    """The true value is at most ``value``."""

    needs: ClassVar[Requirements] = _ESTIMATE

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


class MeanAtLeast(RuleBase):
    """The measured mean reaches ``value``: a target met or missed, with no claim beyond these items."""

    needs: ClassVar[Requirements] = _ESTIMATE

    kind: Literal["mean_at_least"] = "mean_at_least"
    value: FiniteFloat

    def _demand(self) -> str:
        return f"PASS if the measured mean is at least {self.value:g}, else FAIL; the interval is not asked."

    def _passes(self, found: Mapping[str, Estimate]) -> bool:
        return found["estimate"].mean >= self.value

    def _fails(self, found: Mapping[str, Estimate]) -> bool:
        return found["estimate"].mean < self.value


class Greater(RuleBase):
    """A difference exceeds ``margin``; refuted where it is surely below ``negligible`` (default: ``margin``).

    ``negligible`` above ``margin`` says that an effect can be real and still too small to matter: then FAIL.
    """

    needs: ClassVar[Requirements] = _DIFFERENCE | _DIFFERENCE_90

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


class Equivalent(RuleBase):
    """A difference is smaller than ``margin`` either way: two one-sided tests at 5 % each."""

    needs: ClassVar[Requirements] = _DIFFERENCE_90

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


class NonInferior(RuleBase):
    """A loss is smaller than ``margin``: a difference (larger is better) is above -margin, one-sided at 5 %."""

    needs: ClassVar[Requirements] = _DIFFERENCE_90

    kind: Literal["non_inferior"] = "non_inferior"
    margin: FiniteFloat = Field(gt=0)

    def _demand(self) -> str:
        return (
            f"PASS if the whole 90 % interval of the difference is above {-self.margin:g}, "
            f"FAIL if the whole of it is at or below, otherwise INCONCLUSIVE."
        )

    def _passes(self, found: Mapping[str, Estimate]) -> bool:
        return found["difference_90"].low > -self.margin

    def _fails(self, found: Mapping[str, Estimate]) -> bool:
        return found["difference_90"].high <= -self.margin


class Within(RuleBase):
    """The true value, such as a ratio of measured to predicted, lies between ``low`` and ``high``.

    Refuted where it is surely below ``fail_below`` (default: ``low``) or surely above ``fail_above``, if that is given.
    """

    needs: ClassVar[Requirements] = _ESTIMATE

    kind: Literal["within"] = "within"
    low: FiniteFloat
    high: FiniteFloat
    fail_below: FiniteFloat | None = None
    fail_above: FiniteFloat | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self._floor() > self.low:
            raise ValueError(f"fail_below ({self.fail_below:g}) must not be above low ({self.low:g})")
        if self.fail_above is not None and self.fail_above < self.high:
            raise ValueError(f"fail_above ({self.fail_above:g}) must not be below high ({self.high:g})")
        return self

    def _demand(self) -> str:
        above = "" if self.fail_above is None else f" or above {self.fail_above:g}"
        return (
            f"PASS if the whole 95 % interval is between {self.low:g} and {self.high:g}, "
            f"FAIL if the whole of it is below {self._floor():g}{above}, otherwise INCONCLUSIVE."
        )

    def _passes(self, found: Mapping[str, Estimate]) -> bool:
        return self.low <= found["estimate"].low and found["estimate"].high <= self.high

    def _fails(self, found: Mapping[str, Estimate]) -> bool:
        too_high = self.fail_above is not None and found["estimate"].low > self.fail_above
        return found["estimate"].high < self._floor() or too_high

    def _floor(self) -> float:
        return self.low if self.fail_below is None else self.fail_below


class BandAtLeast(RuleBase):
    """A whole curve is at least ``value``: its simultaneous band, judged where it is lowest.

    ``lowest`` is ``LogisticCurve.lowest()`` over the distances that the claim names; the lowest ends of a simultaneous
    95 % band are a 95 % interval of the lowest point of the curve.
    """

    needs: ClassVar[Requirements] = _LOWEST

    kind: Literal["band_at_least"] = "band_at_least"
    value: FiniteFloat
    fail_below: FiniteFloat | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self._floor() > self.value:
            raise ValueError(f"fail_below ({self.fail_below:g}) must not be above value ({self.value:g})")
        return self

    def _demand(self) -> str:
        return (
            f"PASS if the simultaneous 95 % band is at or above {self.value:g} everywhere, "
            f"FAIL if the whole band is below {self._floor():g} somewhere, otherwise INCONCLUSIVE."
        )

    def _passes(self, found: Mapping[str, Estimate]) -> bool:
        return found["lowest"].low >= self.value

    def _fails(self, found: Mapping[str, Estimate]) -> bool:
        return found["lowest"].high < self._floor()

    def _floor(self) -> float:
        return self.value if self.fail_below is None else self.fail_below


class MemoryEffect(RuleBase):
    """The memory carries the answer: intervening on it costs accuracy, and takes it down to the floor.

    ``difference`` is the accuracy intact minus the accuracy under the intervention, paired by item, where
    local attention cannot reach; ``intervened`` is the accuracy under the intervention; ``floor`` is what
    guessing scores.
    """

    needs: ClassVar[Requirements] = _DIFFERENCE | _DIFFERENCE_90 | _INTERVENED

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
