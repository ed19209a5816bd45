"""The base of all records."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of all records: immutable, closed, strict about types."""

    # strings: JSON has no infinity, and an interval that is not defined has infinite bounds
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
