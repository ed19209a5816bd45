"""The file of a scorecard: arms and how they are trained, what they are asked, and the rule of every row."""

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from palimpsest.attention import AttentionSpec
from palimpsest.probes import parse_intervention
from palimpsest.schema import Closed
from palimpsest.statistics import Rule
from palimpsest.study.naming import Name, digest
from palimpsest.tasks import Sample, Task, TaskSpec
from palimpsest.training.recipe import ModelSpec, TasksData, TrainingSpec

Count = Annotated[int, Field(ge=1)]


class PhaseSpec(Closed):
    """A part of the training: on what, and how. The rate is that of the arm times ``rate``."""

    data: TasksData
    training: TrainingSpec
    rate: float = Field(default=1.0, gt=0)


class ArmSpec(Closed):
    """One model: how it attends, its peak learning rate, and the phases of its training.

    Attributes:
        attention: what differs between the arms; None: that of the arm it goes on ``after``.
        learning_rate: the peak rate, tuned for this arm.
        phases: names of phases, in order.
        after: the arm whose final weights the first phase starts from; None: new weights.
        model: sizes that differ from those of the study.
        training: what differs from the training of the phases.
        seeds: seeds of this arm; those of the study if None.
    """

    attention: AttentionSpec | None = None
    learning_rate: float = Field(gt=0)
    phases: tuple[Name, ...] = Field(min_length=1)
    after: Name | None = None
    model: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if (self.attention is None) == (self.after is None):
            raise ValueError("give either attention (a new model) or after (the arm to start from)")
        return self


class AskSpec(Closed):
    """Items of one task, at some lengths, answered by some arms, intact and under interventions.

    Attributes:
        task: the task and its knobs.
        vary: other values of some knobs, by name; every value makes a version of the task of its own, and several
            knobs are varied together, value by value.
        lengths: exact lengths in tokens, answer included.
        items: items of each version and length.
        seed: of the items.
        depths: places of the needle (0: first, 1: last); if empty, anywhere.
        interventions: what is done to the memory, on the same items.
        intervened: at most so many items are asked again under interventions; all if None.
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
            assert version.kind == self.task.kind
        return self

    def versions(self) -> list[TaskSpec]:
        """Return the versions of the task, one if nothing varies."""
        if not self.vary:
            return [self.task]
        rows = [dict(zip(self.vary, values, strict=True)) for values in zip(*self.vary.values(), strict=True)]
        fixed = self.task.model_dump()
        return [type(self.task).model_validate(fixed | row) for row in rows]

    def samples(self, task: Task, length: int) -> list[Sample]:
        """Return the items of one version and length, at the given depths or anywhere."""
        depths = self.depths or (None,)
        each = -(-self.items // len(depths))
        return [
            task.sample(split="evaluation", seed=self.seed, index=index, length=length, depth=depth)
            for depth in depths
            for index in range(each)
        ]


class DocumentsSpec(Closed):
    """Loss on held-out symbolic documents, by position, intact and under interventions; and what a prefix is worth.

    Attributes:
        count: documents.
        tokens: of each.
        seed: of the documents.
        interventions: what is done to the memory at every segment boundary.
        distances: distances beyond which the prefix is replaced, for the effective context; none if empty.
        scored: tokens at the end whose loss tells what the prefix was worth.
        copies: lengths of the strings of the forgetting curve; none if empty.
        repeats: strings of each length.
        arms: who reads; every arm if empty.
    """

    count: int = Field(ge=2)
    tokens: int = Field(ge=2)
    seed: int = Field(ge=0)
    interventions: tuple[str, ...] = ()
    distances: tuple[Count, ...] = ()
    scored: Count = 64
    copies: tuple[Count, ...] = ()
    repeats: Count = 10
    arms: tuple[Name, ...] = ()


class UsageSpec(Closed):
    """Gates, the memory's share of what is said, keys and ranks, measured on documents.

    Attributes:
        count, tokens, seed: documents to read.
        arms: whose memories; every arm with a gate if empty.
    """

    count: int = Field(ge=2)
    tokens: int = Field(ge=2)
    seed: int = Field(ge=0)
    arms: tuple[Name, ...] = ()


class MechanismSpec(Closed):
    """Tier 0: memories without training; empty lists stand for all."""

    tests: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    sizes: tuple[Count, ...] = ()
    seed: int = 0
    quick: bool = False


class ValiditySpec(Closed):
    """The suite tested on answerers that are known: perfect recall, the last segment only, guesses."""

    items: Count
    seed: int = Field(ge=0)


class AuditSpec(Closed):
    """The contamination audit of a corpus: its held-out part against what is trained on.

    Attributes:
        source: as in ``palimpsest data prepare``.
        heldout_fraction: share of documents that is never trained on.
        ngram: words that make a hit.
        canaries: passages planted to see whether they are found.
        seed: of the canaries.
    """

    source: str
    heldout_fraction: float = Field(gt=0, lt=1)
    ngram: Count = 13
    canaries: Count = 20
    seed: int = 0


class RowSpec(Closed):
    """One row of the scorecard, with everything that decides it, fixed before the run.

    Attributes:
        id: E01 to E31.
        demand: what the reviewer asked for.
        claim: what is claimed, in a sentence that the verdict affirms or denies.
        published: the published claim that the row tests, if any, with its source.
        measure: how the estimates of the row are computed; see ``palimpsest.study.scorecard.measures``.
        given: the arguments of the measure.
        rule: the decision rule.
        primary: whether the row belongs to the family that is corrected for multiple claims.
    """

    id: Annotated[str, Field(pattern=r"^E(0[1-9]|[12][0-9]|3[01])[a-z]?$")]
    demand: str
    claim: str
    published: str | None = None
    measure: str
    given: dict[str, Any] = Field(default_factory=dict)
    rule: Rule
    primary: bool = False


class ScorecardSpec(Closed):
    """A whole scorecard.

    Raises:
        ValueError: parts that contradict each other.
    """

    kind: Literal["scorecard"]
    name: Name
    question: str
    model: ModelSpec
    segment_length: Count
    phases: dict[Name, PhaseSpec] = Field(min_length=1)
    arms: dict[Name, ArmSpec] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    ask: dict[Name, AskSpec] = Field(default_factory=dict)
    documents: dict[Name, DocumentsSpec] = Field(default_factory=dict)
    usage: UsageSpec | None = None
    mechanism: MechanismSpec | None = None
    validity: ValiditySpec | None = None
    audit: AuditSpec | None = None
    rerun: Name | None = None
    costs: tuple[Count, ...] = ()
    rows: tuple[RowSpec, ...] = ()
    untested: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, arm in self.arms.items():
            where = f"the arm '{name}'"
            self._known(where, arm.phases, self.phases, "phase")
            if arm.after is not None:
                self._known(where, [arm.after], self.arms, "arm")
                before = list(self.arms)
                if before.index(arm.after) > before.index(name):
                    raise ValueError(f"{where} goes on after '{arm.after}', which must stand before it")
            spec = self.attention(name)
            if spec.segment_length != self.segment_length:
                raise ValueError(f"{where} has segments of {spec.segment_length}, the study of {self.segment_length}")
        for name, part in (*self.ask.items(), *self.documents.items()):
            self._known(f"'{name}'", part.arms, self.arms, "arm")
        if self.usage is not None:
            self._known("usage", self.usage.arms, self.arms, "arm")
        if self.rerun is not None:
            self._known("rerun", [self.rerun], self.arms, "arm")
        for one, other in pairwise(sorted(row.id for row in self.rows)):
            if one == other:
                raise ValueError(f"the row {one} is given twice")
        return self

    @staticmethod
    def _known(where: str, names: Any, there: Any, what: str) -> None:
        for name in names:
            if name not in there:
                raise ValueError(f"{where} names the {what} '{name}'; there are {', '.join(there)}")

    def attention(self, arm: str) -> AttentionSpec:
        """Return how an arm attends, perhaps as the arm it goes on after does."""
        spec = self.arms[arm]
        if spec.attention is not None:
            return spec.attention
        assert spec.after is not None
        return self.attention(spec.after)

    def model_of(self, arm: str) -> ModelSpec:
        """Return the sizes of an arm with its attention."""
        first = arm
        while (after := self.arms[first].after) is not None:
            first = after
        changed = self.model.model_dump() | self.arms[first].model | {"attention": self.attention(arm)}
        return ModelSpec.model_validate(changed)

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """Return the seeds that an arm is trained with."""
        own = self.arms[arm].seeds
        return self.seeds if own is None else own

    @property
    def item_seeds(self) -> dict[str, int]:
        """The seed of the items and documents of every part."""
        parts = {**self.ask, **self.documents, "usage": self.usage, "validity": self.validity}
        return {name: part.seed for name, part in parts.items() if part is not None}

    @property
    def sha256(self) -> str:
        """Digest of everything that is fixed before the run; seeds may be added later."""
        return digest(self.model_dump(mode="json", exclude={"seeds"}))
