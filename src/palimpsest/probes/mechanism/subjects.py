"""What is tested: every kind of memory, with each of its options, and the feature maps that it takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from pydantic import ValidationError

from palimpsest.attention.memories import MemoryRule, MemorySpec
from palimpsest.errors import InputError, nearest
from palimpsest.memory import FEATURE_MAPS, Memory

RIDGE = 0.01
"""lambda of memories that have one: small beside one pair, so that the read is that of least squares."""

SPECS: dict[str, type[MemoryRule]] = {
    spec.model_fields["kind"].default: spec for spec in get_args(get_args(MemorySpec)[0])
}
KINDS = tuple(SPECS)
_COMMON = ("kind", "strength", "features")


@dataclass(frozen=True)
class Subject:
    """A memory under test.

    Attributes:
        spec: its configuration.
        option: the value of the option in which it differs from the defaults of its kind, empty for the defaults.
        arithmetic: whether that option changes the arithmetic alone, and in exact arithmetic nothing.
    """

    spec: MemoryRule
    option: str = ""
    arithmetic: bool = False

    @property
    def kind(self) -> str:
        """The kind, as in a configuration."""
        return str(self.spec.model_dump()["kind"])

    @property
    def name(self) -> str:
        """The kind, and the option if there is one."""
        return f"{self.kind} {self.option}".strip()

    @property
    def features(self) -> str:
        """The name of the feature map."""
        return self.spec.features

    def build(self) -> Memory[Any]:
        """Return the memory, with the initial values of what it would learn."""
        # double precision: what is learned must not limit the float64 reference
        learned = {name: torch.tensor([value], dtype=torch.float64) for name, value in self.spec.learned().items()}
        return self.spec.build(learned)

    def takes(self, features: str) -> bool:
        """Whether this memory can work with a feature map."""
        return self._with(features) is not None

    def with_features(self, features: str) -> "Subject":
        """Return the same memory with another feature map.

        Raises:
            InputError: one that it cannot work with.
        """
        spec = self._with(features)
        if spec is None:
            raise InputError(f"The memory '{self.name}' cannot work with the features '{features}'.")
        return Subject(spec, self.option, self.arithmetic)

    def _with(self, features: str) -> MemoryRule | None:
        try:
            return type(self.spec).model_validate({**self.spec.model_dump(), "features": features})
        except ValidationError:
            return None


def subjects(kinds: Sequence[str] | None = None, features: Sequence[str] | None = None) -> list[Subject]:
    """Return the memories to test: every kind with each of its options, or those that are named.

    Without ``features`` each has those of its configuration; with them, all of those that it takes.

    Raises:
        InputError: an unknown kind or feature map, or features that none of the kinds takes.
    """
    chosen = list(KINDS if kinds is None else dict.fromkeys(kinds))
    known_names("kind of memory", chosen, KINDS)
    plain = [subject for kind in chosen for subject in _options(kind)]
    if features is None:
        return plain
    known_names("feature map", features, FEATURE_MAPS)
    for name in features:
        if not any(subject.takes(name) for subject in plain):
            raise InputError(f"The features '{name}' fit none of the memories {', '.join(chosen)}; ridge takes any.")
    wanted = dict.fromkeys(features)
    return [subject.with_features(name) for subject in plain for name in wanted if subject.takes(name)]


def known_names(what: str, names: Sequence[str], known: Sequence[str] | dict[str, Any]) -> None:
    """Raise InputError, with the nearest name that there is, for an unknown name or for none at all."""
    if not names:
        raise InputError(f"No {what} is named; known: {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise InputError(f"Unknown {what} '{name}'.{nearest(name, known)}")


def _options(kind: str) -> Iterator[Subject]:
    """Yield a kind with its defaults, and with each other value of an option that has a few."""
    spec = SPECS[kind]
    fixed: dict[str, object] = {"ridge": RIDGE} if "ridge" in spec.model_fields else {}
    yield Subject(spec.model_validate(fixed))
    for name, field in spec.model_fields.items():
        if name not in _COMMON:
            for value in get_args(field.annotation):
                if isinstance(value, str) and value != field.default:
                    yield Subject(spec.model_validate({**fixed, name: value}), value, arithmetic=name == "form")
