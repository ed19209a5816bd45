"""The ``memory`` block of a configuration: one class per kind, which says what is learned and what it costs."""

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from palimpsest.memory import FEATURE_MAPS, DeltaMemory, LinearMemory, Memory, RidgeMemory, RidgeRootMemory
from palimpsest.schema import Closed

Features = Literal["elu1"]


class MemoryRule(Closed, ABC):
    """What every kind of memory has."""

    features: Features = "elu1"

    def learned(self) -> dict[str, float]:
        """Return the initial values of the quantities that are learned per head, by name: none, unless overridden."""
        return {}

    @abstractmethod
    def build(self, learned: dict[str, Tensor]) -> Memory:
        """Return the memory for the learned quantities, ``[H]`` each."""

    @abstractmethod
    def flops(self, size: int, segment_length: float) -> float:
        """Return one head's operations per token, forward: read and write of keys and values of this size.

        What is done once per segment counts as one part in ``segment_length``.
        """

    def width(self, size: int) -> int:
        """Return F, the number of features of a key of this size."""
        return FEATURE_MAPS[self.features].width(size)


class LinearSpec(MemoryRule):
    """``LinearMemory``."""

    kind: Literal["linear"] = "linear"

    def build(self, learned: dict[str, Tensor]) -> Memory:
        """Return the memory."""
        return LinearMemory(FEATURE_MAPS[self.features])

    def flops(self, size: int, segment_length: float) -> float:
        """Return 4 F d + 2 F: read phi(q) M and phi(q) z; write phi(k)^T v."""
        width = self.width(size)
        return 4 * width * size + 2 * width


class DeltaSpec(MemoryRule):
    """``DeltaMemory``."""

    kind: Literal["delta"] = "delta"
    normaliser: Literal["exclusive", "inclusive"] = "exclusive"

    def build(self, learned: dict[str, Tensor]) -> Memory:
        """Return the memory."""
        return DeltaMemory(FEATURE_MAPS[self.features], self.normaliser)

    def flops(self, size: int, segment_length: float) -> float:
        """Return 6 F d + 4 F: linear, and what the memory answers already, phi(k) M and phi(k) z."""
        width = self.width(size)
        return 6 * width * size + 4 * width


class RidgeSpec(MemoryRule):
    """``RidgeMemory``, or ``RidgeRootMemory`` with ``form: square_root``; ``ridge`` is lambda at initialisation."""

    kind: Literal["ridge"] = "ridge"
    ridge: float = Field(default=1.0, gt=0.0)
    form: Literal["normal", "square_root"] = "normal"

    def learned(self) -> dict[str, float]:
        """Return the initial value of the raw lambda (softplus of it is lambda)."""
        return {"ridge": self.ridge + math.log(-math.expm1(-self.ridge))}

    def build(self, learned: dict[str, Tensor]) -> Memory:
        """Return the memory for the learned raw lambdas ``[H]``."""
        memory = RidgeMemory if self.form == "normal" else RidgeRootMemory
        return memory(FEATURE_MAPS[self.features], softplus(learned["ridge"]))

    def flops(self, size: int, segment_length: float) -> float:
        """Return 2 F F + 4 F d + (F^3 / 3 + 2 F F d) / N.

        Write phi(k)^T phi(k) and phi(k)^T v, read phi(q) W; once per segment a Cholesky factor of H + lambda I and two
        triangular solves for W. The square-root form is counted alike.
        """
        width = self.width(size)
        per_segment = width**3 / 3 + 2 * width * width * size
        return 2 * width * width + 4 * width * size + per_segment / segment_length


MemorySpec = Annotated[LinearSpec | DeltaSpec | RidgeSpec, Field(discriminator="kind")]
