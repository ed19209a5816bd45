"""The ``memory`` block of a configuration: one class per kind, which says what is learned and what it costs."""

import math
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticKnownError
from torch import Tensor
from torch.nn.functional import softplus

from palimpsest.memory import (
    FEATURE_MAPS,
    AssociativeMemory,
    DecayedRidgeMemory,
    DeltaMemory,
    HebbianMemory,
    LinearMemory,
    Memory,
    RidgeMemory,
    RidgeRootMemory,
    TokenDeltaMemory,
)
from palimpsest.schema import Closed


def _known(name: str) -> str:
    """Refuse a name that no feature map has, as pydantic refuses a value that a literal type does not list."""
    if name not in FEATURE_MAPS:
        raise PydanticKnownError("literal_error", {"expected": ", ".join(f"'{known}'" for known in FEATURE_MAPS)})
    return name


def _never_negative(name: str) -> str:
    if FEATURE_MAPS[name].signed:
        raise ValueError(
            "should be features that are never negative, for reads divide by a sum of them; those of a name with "
            "identity or _centred can be (the memories hebbian, ridge, decayed_ridge and token_delta take them)"
        )
    return name


def _at_most_one(name: str) -> str:
    if not name.endswith(("_l2", "_sum")) and not name.startswith("softmax"):
        raise ValueError(
            "should be features of norm at most one, for a token-wise delta rule grows without bound on longer ones: "
            "their names end in _l2 or _sum, or begin with softmax"
        )
    return name


Features = Annotated[str, AfterValidator(_known)]
"""The name of a feature map."""
UnsignedFeatures = Annotated[Features, AfterValidator(_never_negative)]
"""The name of a feature map whose features are never negative."""
ShortFeatures = Annotated[Features, AfterValidator(_at_most_one)]
"""The name of a feature map whose features have a norm of at most one."""


class MemoryRule(Closed, ABC):
    """What every kind of memory has.

    Attributes:
        features: the feature map of keys and queries.
        strength: how much of each token is written: ``one``, all of it; ``token``, the sigmoid of a learned projection
            of the token, per head (the beta of Schlag et al. 2021).
        keeps: how many numbers a head keeps, as a formula in F features and the size d of a value.
    """

    keeps: ClassVar[str]

    features: Features = "elu1"
    strength: Literal["one", "token"] = "one"

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

    keeps: ClassVar[str] = "F d + F"

    kind: Literal["linear"] = "linear"
    features: UnsignedFeatures = "elu1"

    def build(self, learned: dict[str, Tensor]) -> Memory:
        """Return the memory."""
        return LinearMemory(FEATURE_MAPS[self.features])

    def flops(self, size: int, segment_length: float) -> float:
        """Return 4 F d + 2 F: read phi(q) M and phi(q) z; write phi(k)^T v."""
        width = self.width(size)
        return 4 * width * size + 2 * width


class DeltaSpec(MemoryRule):
    """``DeltaMemory``."""

    keeps: ClassVar[str] = "F d + F"

    kind: Literal["delta"] = "delta"
    features: UnsignedFeatures = "elu1"
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

    keeps: ClassVar[str] = "F F + F d"

    kind: Literal["ridge"] = "ridge"
    ridge: float = Field(default=1.0, gt=0.0)
    form: Literal["normal", "square_root"] = "normal"

    def learned(self) -> dict[str, float]:
        """Return the initial value of the raw lambda (softplus of it is lambda)."""
        return {"ridge": inverse_softplus(self.ridge)}

    def build(self, learned: dict[str, Tensor]) -> Memory:
        """Return the memory for the learned raw lambdas ``[H]``."""
        memory = RidgeMemory if self.form == "normal" else RidgeRootMemory
        return memory(FEATURE_MAPS[self.features], softplus(learned["ridge"]))

    def flops(self, size: int, segment_length: float) -> float:
        """Return 2 F F + 4 F d + (F^3 / 3 + 2 F F d) / N.

        Write phi(k)^T phi(k) and phi(k)^T v, read phi(q) W; once per segment a Cholesky factor of H + lambda I and two
        triangular solves for W. The square-root form is counted alike.
        """
        return _ridge_flops(self.width(size), size, segment_length)


class HebbianSpec(MemoryRule):
    """``HebbianMemory``: without a normaliser, for features that may be negative."""

    keeps: ClassVar[str] = "F d"

    kind: Literal["hebbian"] = "hebbian"
    features: Features = "identity_l2"

    def build(self, learned: dict[str, Tensor]) -> Memory:
        """Return the memory."""
        return HebbianMemory(FEATURE_MAPS[self.features])

    def flops(self, size: int, segment_length: float) -> float:
        """Return 4 F d: read phi(q) M, write phi(k)^T v."""
        return 4 * self.width(size) * size


class DecayedRidgeSpec(MemoryRule):
    """``DecayedRidgeMemory``.

    Attributes:
        ridge: lambda at initialisation.
        half_life: after how many tokens what was written counts for half, at initialisation.
    """

    keeps: ClassVar[str] = "F F + F d"

    kind: Literal["decayed_ridge"] = "decayed_ridge"
    ridge: float = Field(default=1.0, gt=0.0)
    half_life: float = Field(default=4096.0, ge=1e-3)

    def learned(self) -> dict[str, float]:
        """Return the initial values of the raw lambda (softplus of it is lambda) and the raw decay.

        Softplus of the raw decay is -log a, which is log 2 / half_life.
        """
        return {"ridge": inverse_softplus(self.ridge), "decay": inverse_softplus(math.log(2.0) / self.half_life)}

    def build(self, learned: dict[str, Tensor]) -> Memory:
        """Return the memory for the learned raw lambdas and decays, ``[H]`` each."""
        features = FEATURE_MAPS[self.features]
        return DecayedRidgeMemory(features, softplus(learned["ridge"]), -softplus(learned["decay"]))

    def flops(self, size: int, segment_length: float) -> float:
        """Return what ridge costs: to let the sums fade multiplies no matrices."""
        return _ridge_flops(self.width(size), size, segment_length)


class TokenDeltaSpec(MemoryRule):
    """``TokenDeltaMemory``.

    Attributes:
        half_life: after how many tokens what was written counts for half, at initialisation; None: it does not fade.
    """

    keeps: ClassVar[str] = "F d"

    kind: Literal["token_delta"] = "token_delta"
    features: ShortFeatures = "identity_l2"
    strength: Literal["one", "token"] = "token"
    half_life: float | None = Field(default=None, ge=1e-3)

    def learned(self) -> dict[str, float]:
        """Return the initial value of the raw decay, if there is one: softplus of it is -log a, log 2 / half_life."""
        return {} if self.half_life is None else {"decay": inverse_softplus(math.log(2.0) / self.half_life)}

    def build(self, learned: dict[str, Tensor]) -> Memory:
        """Return the memory for the learned raw decays ``[H]``, if there are any."""
        log_decay = None if self.half_life is None else -softplus(learned["decay"])
        return TokenDeltaMemory(FEATURE_MAPS[self.features], log_decay)

    def flops(self, size: int, segment_length: float) -> float:
        """Return 6 F d: read phi(q) M; write what the memory answers already, phi(k) M, and phi(k)^T of the rest."""
        return 6 * self.width(size) * size


class AssociativeSpec(MemoryRule):
    """``AssociativeMemory``."""

    keeps: ClassVar[str] = "F d + F"

    kind: Literal["associative"] = "associative"
    features: UnsignedFeatures = "dpfp3_l2"
    strength: Literal["one", "token"] = "token"

    def build(self, learned: dict[str, Tensor]) -> Memory:
        """Return the memory."""
        return AssociativeMemory(FEATURE_MAPS[self.features])

    def flops(self, size: int, segment_length: float) -> float:
        """Return 6 F d + 6 F: delta, and phi(k) z once more, for gamma."""
        width = self.width(size)
        return 6 * width * size + 6 * width


def inverse_softplus(value: float) -> float:
    """Return the x for which softplus(x) is this positive value."""
    return value + math.log(-math.expm1(-value))


def _ridge_flops(width: int, size: int, segment_length: float) -> float:
    per_segment = width**3 / 3 + 2 * width * width * size
    return 2 * width * width + 4 * width * size + per_segment / segment_length


MemorySpec = Annotated[
    LinearSpec | DeltaSpec | RidgeSpec | HebbianSpec | DecayedRidgeSpec | TokenDeltaSpec | AssociativeSpec,
    Field(discriminator="kind"),
]
