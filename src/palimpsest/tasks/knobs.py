"""What the knobs of all tasks have in common."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Length = Annotated[int, Field(ge=1)]


class TaskKnobs(BaseModel):
    """The knobs of a task: a closed schema, with the lengths of what it trains on.

    Attributes:
        min_length, max_length: range of the training samples' lengths, prompt and answer together; rows are
            padded to ``max_length``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_length: Length
    max_length: Length

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} exceeds max_length {self.max_length}")
        return self
