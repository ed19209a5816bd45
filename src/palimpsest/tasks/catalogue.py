"""Every task by the name that recipes, studies and commands use."""

import inspect
from typing import Annotated, Any, Protocol

from pydantic import Field, TypeAdapter

from palimpsest.tasks.passkey import Passkey, PasskeySpec
from palimpsest.tasks.symbolic.catalogue import SYMBOLIC_TASKS, SymbolicTaskSpec
from palimpsest.tasks.task import Row, Task
from palimpsest.tasks.templates import Tokenizer
from palimpsest.tasks.text.catalogue import TEXT_TASKS, TextTaskSpec

TaskSpec = Annotated[PasskeySpec | TextTaskSpec | SymbolicTaskSpec, Field(discriminator="kind")]
"""The knobs of any task; ``kind`` says of which."""

TASKS: dict[str, Any] = {
    "passkey": Passkey,
    **TEXT_TASKS,
    **SYMBOLIC_TASKS,
}


class Trainable(Task, Protocol):
    """A task that also makes rows to train on."""

    def training_sample(self, seed: int, index: int) -> Row:
        """Make training row ``index``; only answers carry labels."""
        ...


def build_task(spec: TaskSpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = 0) -> Trainable:
    """Return the task with these knobs for a tokenizer and a segment length.

    Raises:
        InputError: the tokenizer does not fit the task, or the knobs do not fit each other.
    """
    return TASKS[spec.kind](spec, tokenizer, segment_length=segment_length, pad_id=pad_id)


def task_spec(value: object) -> TaskSpec:
    """Return the knobs that a mapping gives.

    Raises:
        pydantic.ValidationError: an unknown task or knob.
    """
    return TypeAdapter(TaskSpec).validate_python(value)


def describe(kind: str) -> str:
    """Return one line about a task: what it tells and what it asks."""
    return (inspect.getdoc(TASKS[kind]) or "").partition("\n")[0]
