"""How modules with weights of their own say what these are before training."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class HasInitialValues(Protocol):
    """A module whose direct parameters do not begin as transformers would begin them."""

    def initial_values(self) -> dict[str, Tensor]:
        """Return new values by the name of the parameter, broadcastable to it; draws come from torch's generator."""
        ...
