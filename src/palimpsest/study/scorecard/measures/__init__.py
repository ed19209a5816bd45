"""How the rows of a scorecard are measured."""

from palimpsest.study.scorecard.measures.base import Measure, Measured, Missing
from palimpsest.study.scorecard.measures.items import ITEM_MEASURES
from palimpsest.study.scorecard.measures.runs import RUN_MEASURES

MEASURES: dict[str, Measure] = {**ITEM_MEASURES, **RUN_MEASURES}
"""All measures by name."""

__all__ = ["MEASURES", "Measure", "Measured", "Missing"]
