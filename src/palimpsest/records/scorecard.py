"""The rows of a scorecard, their figures, and the suite tested on known answerers."""

from typing import Literal

from pydantic import Field

from palimpsest.records.base import Record
from palimpsest.records.studies import EstimateRecord
from palimpsest.records.training import Provenance


class ValidityRecord(Record):
    """How a reference answerer did on a task (``validity.jsonl``): ``exact`` of ``n`` items.

    ``last_segment`` was asked only what lies before the last segment. ``first`` counts right answers ranked first;
    ``floor`` and ``ceiling`` are the shares of exact answers that the task names.
    """

    task: str
    knobs: str
    responder: str
    n: int
    exact: int
    first: int
    floor: float
    ceiling: float


class Series(Record):
    """One line, or the points, of a figure: ``y`` at ``x``, in [``low``, ``high``] where there is an interval."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    points: bool = False


class FigureRecord(Record):
    """The figure of one row of a scorecard, as numbers; ``marks`` are named values on the axis of x."""

    title: str
    caption: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    share: bool = False
    marks: dict[str, float] = Field(default_factory=dict)


class RowRecord(Record):
    """One row of a scorecard and what became of it (``scorecard.json``).

    Attributes:
        id: E01 to E31.
        demand: what the reviewer asked for.
        claim: what is claimed; ``verdict`` says what became of it, ``sentence`` why.
        published: the published claim that the row tests, and its source.
        rule: the decision rule in words.
        estimates: the numbers that the rule asked for; ``facts`` others worth knowing.
        sources: names of the record files behind the numbers.
        prereg: SHA-256 of the study file that fixed the row.
        tested: False for a row that this study cannot test; ``note`` says why.
    """

    id: str
    demand: str
    claim: str
    published: str | None
    rule: str
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    sentence: str
    estimates: dict[str, EstimateRecord]
    facts: dict[str, EstimateRecord]
    figure: FigureRecord | None
    sources: tuple[str, ...]
    note: str
    prereg: str
    primary: bool
    tested: bool


class ScorecardArm(Record):
    """One arm of a scorecard; ``reach`` is how many tokens back exact attention sees, None without a limit."""

    name: str
    kinds: tuple[str, ...]
    memory: str | None
    parameters: int
    learning_rate: float
    phases: tuple[str, ...]
    reach: int | None


class ScorecardRecord(Record):
    """A whole scorecard: what was asked, of what, and what became of every row (``scorecard.json``).

    Attributes:
        sha256: of the study file.
        seeds: that arms are trained with.
        deviations: sentences on how the study differs from what was fixed before the run.
        opened: when and why items of the test seeds were opened, one sentence each.
        rows: those that were judged.
        untested: why a row that is not among them was not tested, by its id.
        trained: of how many training seeds the estimates of a row speak, by its id; left out where they speak of none.
        provenance: of each trained model, by its name.
    """

    name: str
    question: str
    sha256: str
    seeds: tuple[int, ...]
    arms: tuple[ScorecardArm, ...]
    segment_length: int
    deviations: tuple[str, ...]
    opened: tuple[str, ...]
    rows: tuple[RowRecord, ...]
    untested: dict[str, str] = Field(default_factory=dict)
    trained: dict[str, int] = Field(default_factory=dict)
    provenance: dict[str, Provenance] = Field(default_factory=dict)
