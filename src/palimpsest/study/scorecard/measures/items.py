"""All measures that are made of answers to items."""

from palimpsest.study.scorecard.measures.base import Measure
from palimpsest.study.scorecard.measures.cells import CELLS
from palimpsest.study.scorecard.measures.contrasts import CONTRASTS
from palimpsest.study.scorecard.measures.curves import CURVES
from palimpsest.study.scorecard.measures.drift import DRIFT
from palimpsest.study.scorecard.measures.families import FAMILIES
from palimpsest.study.scorecard.measures.places import PLACES
from palimpsest.study.scorecard.measures.summaries import SUMMARIES

ITEM_MEASURES: dict[str, Measure] = {**CURVES, **CELLS, **CONTRASTS, **PLACES, **FAMILIES, **SUMMARIES, **DRIFT}
"""By name, as ``measure`` of a row calls them."""
