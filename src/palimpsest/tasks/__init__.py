"""Tasks: items with a known answer at a known place, and scores for what a model made of them. No torch."""

from palimpsest.tasks.catalogue import TASKS, TaskSpec, Trainable, build_task, task_spec
from palimpsest.tasks.passkey import Passkey, PasskeySpec
from palimpsest.tasks.task import Output, Reference, Row, Sample, Score, Span, Split, Task

__all__ = [
    "TASKS",
    "Output",
    "Passkey",
    "PasskeySpec",
    "Reference",
    "Row",
    "Sample",
    "Score",
    "Span",
    "Split",
    "Task",
    "TaskSpec",
    "Trainable",
    "build_task",
    "task_spec",
]
