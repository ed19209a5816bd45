"""The contamination audit: what evaluated texts share with the text a model is trained on; numpy only, no torch."""

from palimpsest.data.audit.search import Audit, AuditOptions, CleanSplit, audit, split
from palimpsest.data.audit.sources import TrainingCorpus, open_evaluated, open_training

__all__ = [
    "Audit",
    "AuditOptions",
    "CleanSplit",
    "TrainingCorpus",
    "audit",
    "open_evaluated",
    "open_training",
    "split",
]
