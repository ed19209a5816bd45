"""What a row of the scorecard is decided by: named quantities with intervals at any level, and a figure."""

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel

from palimpsest.errors import InputError
from palimpsest.records import EstimateRecord, FigureRecord
from palimpsest.statistics import Estimate
from palimpsest.study.naming import Name
from palimpsest.study.scorecard.findings import Findings


class PartOf(NamedTuple):
    """Says that an argument is a name under this key of the study file."""

    part: Literal["arms", "ask", "documents"]


ArmName = Annotated[Name, PartOf("arms")]
AskName = Annotated[Name, PartOf("ask")]
DocumentsName = Annotated[Name, PartOf("documents")]

Quantity = Callable[[float], Estimate]
"""From the level of a two-sided interval to the estimate."""


class Measured(NamedTuple):
    """What a measure found.

    Attributes:
        quantities: the numbers that a rule can ask for, by name.
        facts: other numbers worth showing, at 95 %, by a short label.
        figure: the picture of the row, if it has one.
        sources: names of the records that made the numbers: those under ``ask`` and ``documents``, ``usage``,
            ``mechanism``, and so on.
        note: a sentence that the reader should know, such as what could not be measured.
    """

    quantities: Mapping[str, Quantity]
    facts: Mapping[str, EstimateRecord] = {}
    figure: FigureRecord | None = None
    sources: tuple[str, ...] = ()
    note: str = ""


class Missing(InputError):
    """The records that a measure needs are not there; the row is INCONCLUSIVE and says why."""


Names = Callable[[Any], Collection[str]]
"""From the arguments of a measure to the names of the quantities that it can give."""


def always(*names: str) -> Names:
    """Return the names of a measure that gives the same quantities whatever its arguments are."""
    return lambda given: names


class Measure(NamedTuple):
    """How to measure a row.

    Attributes:
        given: the schema of its arguments.
        measure: the function.
        quantities: what the function can give with these arguments, known before there are any records. It gives no
            other, and fewer where the records do not have a number.
    """

    given: type[BaseModel]
    measure: Callable[[Findings, Any], Measured]
    quantities: Names
