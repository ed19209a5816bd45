"""Part of the file of a scorecard: which items of a task are asked, of whom, and under which interventions."""

from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from palimpsest.probes import parse_intervention
from palimpsest.schema import Closed
from palimpsest.study.naming import Name
from palimpsest.tasks import Sample, Task, TaskSpec

Count = Annotated[int, Field(ge=1)]


class AskedItems(NamedTuple):
    """Items of one version and length: those that are asked under interventions too, and the others."""

    again: list[Sample]
    once: list[Sample]


class AskSpec(Closed):
    """Items of one task, at some lengths, answered by some arms, intact and under interventions.

    Attributes:
        task: the task and its knobs.
        vary: other values of some knobs, by name; every value makes a version of the task of its own, and several
            knobs are varied together, value by value.
        lengths: exact lengths in tokens, answer included.
        items: items of each version and length, equally many at every depth (rounded up).
        seed: of the items.
        depths: places of the needle (0: first, 1: last); if empty, anywhere.
        interventions: what is done to the memory, on the same items.
        intervened: at most so many items are asked again under interventions, equally many at every depth; all if
            None.
        arms: who answers; every arm if empty.
        batch_size: haystacks read together.
    """

    task: TaskSpec
    vary: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    lengths: tuple[Count, ...] = Field(min_length=1)
    items: Count
    seed: int = Field(ge=0)
    depths: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    interventions: tuple[str, ...] = ()
    intervened: Count | None = None
    arms: tuple[Name, ...] = ()
    batch_size: int = Field(default=50, ge=2)

    @field_validator("interventions")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for expression in value:
            parse_intervention(expression)
        return value

    @model_validator(mode="after")
    def _varied_together(self) -> Self:
        if len({len(values) for values in self.vary.values()}) > 1:
            raise ValueError("knobs that are varied together need equally many values")
        for version in self.versions():  # the knobs must fit each other
            self._whole_haystacks(getattr(version, "questions", 1))
        return self

    def _whole_haystacks(self, questions: int) -> None:
        """Check that every haystack is asked all its questions, and that none is alone where another is needed."""
        for what, items in (("items", self.items), ("intervened", self.intervened)):
            each = None if items is None else self._each(items, up=what == "items")
            if each is not None and (each < 1 or each % questions):
                raise ValueError(
                    f"{what} is {items}, which is {each} at each of {len(self.depths) or 1} depths; every haystack is "
                    f"asked {questions} questions, so it must be a positive multiple of that"
                )
        rows = max((parse_intervention(name).needs_rows for name in self.interventions), default=1)
        again = self._each(self.items if self.intervened is None else self.intervened, up=self.intervened is None)
        if again * (len(self.depths) or 1) // questions < rows:
            raise ValueError(f"swap takes the memory of another haystack, and {again} items have only one; ask more")

    def _each(self, items: int, *, up: bool) -> int:
        """Return how many of so many items there are at each depth."""
        depths = len(self.depths) or 1
        return -(-items // depths) if up else items // depths

    def versions(self) -> list[TaskSpec]:
        """Return the versions of the task, one if nothing varies."""
        if not self.vary:
            return [self.task]
        rows = [dict(zip(self.vary, values, strict=True)) for values in zip(*self.vary.values(), strict=True)]
        fixed = self.task.model_dump()
        return [type(self.task).model_validate(fixed | row) for row in rows]

    def samples(self, task: Task, length: int) -> AskedItems:
        """Return the items of one version and length, at the given depths or anywhere."""
        each = self._each(self.items, up=True)
        again = each if self.intervened is None else min(each, self._each(self.intervened, up=False))

        def made(numbers: range) -> list[Sample]:
            return [
                task.sample(split="evaluation", seed=self.seed, index=index, length=length, depth=depth)
                for depth in self.depths or (None,)
                for index in numbers
            ]

        return AskedItems(made(range(again)), made(range(again, each)))
