"""The measure of effective context: up to which distance a model notices whose text it has read."""

from collections.abc import Sequence

from pydantic import Field

from palimpsest.records import EstimateRecord, FigureRecord, PerturbationRecord
from palimpsest.schema import Closed
from palimpsest.statistics.text_probes import MARGIN, effective_context, forgetting, memory_spans
from palimpsest.study.scorecard.findings import Findings
from palimpsest.study.scorecard.measures.base import (
    ArmName,
    DocumentsName,
    Measure,
    Measured,
    Missing,
    Quantity,
    always,
)
from palimpsest.study.scorecard.measures.loss_tables import Losses, difference_of
from palimpsest.study.scorecard.measures.quantities import LEVEL, count_of, needs_some, series

TRUE, OTHER = "true", "other"


class ContextGiven(Closed):
    """Whose effective context must be longer than so many segments.

    Attributes:
        documents, arm: whose losses.
        segments: what the effective context must exceed.
        margin: nats per token by which a text must be predicted worse for its context to count.
    """

    documents: DocumentsName
    arm: ArmName
    segments: int = Field(default=4, ge=1)
    margin: float = Field(default=MARGIN, gt=0)


def context(findings: Findings, given: ContextGiven) -> Measured:
    """Replace the text beyond a distance by that of another document, and see whether the end is predicted worse.

    ``difference`` is the rise of the loss, in nats per token over seeds and documents, at the smallest tested distance
    that is larger than ``segments`` segments: above ``margin``, the effective context is at least that. Facts: the
    effective context, and the longest texts of which something, and all, is repeated (the forgetting curve).
    """
    records = [record for record in findings.perturbations.get(given.documents, ()) if record.arm == given.arm]
    needs_some(records, f"perturbed losses of '{given.arm}' on the documents '{given.documents}'")
    beyond = given.segments * findings.spec.segment_length
    tested = sorted({record.distance for record in records if record.condition == OTHER})
    further = [distance for distance in tested if distance > beyond]
    if not further:
        raise Missing(f"No tested distance is beyond {beyond} tokens ({given.segments} segments).")
    rises = {(condition, distance): _rise(records, condition, distance) for condition, distance in _spoilt(records)}
    facts = {f"rise beyond {distance} tokens": rises[OTHER, distance](LEVEL).record() for distance in tested} | _spans(
        findings, given, records
    )
    conditions = dict.fromkeys(condition for condition, _ in rises)
    figure = FigureRecord(
        title="What it costs when the text beyond a distance is not its own",
        caption=f"Arm '{given.arm}', documents '{given.documents}'; the margin is {given.margin:g} nats per token.",
        x_label="distance in tokens",
        y_label="rise of the loss, nats per token",
        series=tuple(
            series(condition, [(float(d), rise(LEVEL)) for (own, d), rise in rises.items() if own == condition])
            for condition in conditions
        ),
        log_x=True,
        marks={f"{given.segments} segments": float(beyond)},
    )
    note = f"The rise is that beyond {further[0]} tokens, {further[0] / findings.spec.segment_length:g} segments."
    return Measured({"difference": rises[OTHER, further[0]]}, facts, figure, (f"documents/{given.documents}",), note)


def _spoilt(records: Sequence[PerturbationRecord]) -> list[tuple[str, int]]:
    """Return the conditions and distances at which something was changed, in order of distance."""
    found = {(record.condition, record.distance) for record in records if record.condition != TRUE}
    return sorted(found, key=lambda where: (where[1], where[0]))


def _rise(records: Sequence[PerturbationRecord], condition: str, distance: int) -> Quantity:
    spoilt = [record for record in records if record.condition == condition and record.distance == distance]
    return difference_of(_losses(spoilt), _losses([record for record in records if record.condition == TRUE]))


def _losses(records: Sequence[PerturbationRecord]) -> Losses:
    return {(record.seed, record.document_id): record.nll / record.tokens for record in records}


def _spans(findings: Findings, given: ContextGiven, records: Sequence[PerturbationRecord]) -> dict[str, EstimateRecord]:
    """Return the effective context and the memory spans; 0 stands for none beyond what a segment holds."""
    documents = len({record.document_id for record in records})
    found = {"effective context, tokens": effective_context(records, margin=given.margin).distance}
    curve = [record for record in findings.forgetting.get(given.documents, ()) if record.arm == given.arm]
    if curve:
        spans = memory_spans(forgetting(curve))
        found |= {"coarse memory span, tokens": spans.coarse, "fine memory span, tokens": spans.fine}
    return {name: count_of(value or 0, documents)(LEVEL).record() for name, value in found.items()}


MEASURES: dict[str, Measure] = {"effective_context": Measure(ContextGiven, context, always("difference"))}
