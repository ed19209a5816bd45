"""All measures that do not come from answered items alone, by the name that a row gives."""

from palimpsest.study.scorecard.measures import (
    contexts,
    costs,
    gates,
    losses,
    mechanism,
    predicted_capacity,
    records_of_runs,
    training_dynamics,
    trainings,
)
from palimpsest.study.scorecard.measures.base import Measure

RUN_MEASURES: dict[str, Measure] = {
    name: measure
    for part in (
        mechanism,
        predicted_capacity,
        losses,
        trainings,
        training_dynamics,
        gates,
        costs,
        contexts,
        records_of_runs,
    )
    for name, measure in part.MEASURES.items()
}
