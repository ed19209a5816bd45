"""Tasks: items with a known answer at a known place, and scores for what a model made of them. No torch."""

from palimpsest.tasks.passkey import Passkey, PasskeySpec
from palimpsest.tasks.task import Output, Reference, Row, Sample, Score, Split, Task

__all__ = ["Output", "Passkey", "PasskeySpec", "Reference", "Row", "Sample", "Score", "Split", "Task"]
