"""The file of a scorecard: arms and how they are trained, what they are asked, and the rule of every row."""

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from palimpsest.attention import AttentionSpec
from palimpsest.data import CorpusSpec, TokenizerSpec
from palimpsest.models.restore import Part
from palimpsest.probes import parse_intervention
from palimpsest.schema import Closed, Sparse
from palimpsest.statistics import Rule
from palimpsest.study.naming import Name, digest
from palimpsest.study.scorecard.ask import AskSpec
from palimpsest.tasks import TaskSpec
from palimpsest.tasks.symbolic.catalogue import SYMBOLIC_TASKS
from palimpsest.training.alignment.recipe import MethodSpec, require_answers_only, require_whole_gradients
from palimpsest.training.recipe import ModelSpec, TasksData, TrainingSpec

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


class CorpusText(Closed):
    """Running text of the corpus of the study, in rows of ``sequence_length`` tokens."""

    kind: Literal["text"]
    sequence_length: Annotated[int, Field(ge=2)]


class PhaseSpec(Sparse):
    """A part of the training: on what, and how. The rate is that of the arm times ``rate``.

    With a ``method`` it is an alignment, by TRL's loss, on tasks alone; see ``AlignmentRecipe``.
    """

    later: ClassVar[frozenset[str]] = frozenset({"method"})

    data: Annotated[TasksData | CorpusText, Field(discriminator="kind")]
    training: TrainingSpec
    rate: float = Field(default=1.0, gt=0)
    method: MethodSpec | None = None

    @model_validator(mode="after")
    def _alignable(self) -> Self:
        if self.method is not None:
            if isinstance(self.data, CorpusText):
                raise ValueError(f"the method {self.method.kind} learns from answers: give data of kind tasks")
            require_answers_only(self.data)
            require_whole_gradients(self.training)
        return self

    @property
    def row_length(self) -> int:
        """Tokens in a row of the training."""
        return self.data.sequence_length if isinstance(self.data, CorpusText) else self.data.row_length

    @property
    def tasks(self) -> list[TaskSpec]:
        """The tasks that are trained on."""
        return [] if isinstance(self.data, CorpusText) else [each.task for each in self.data.tasks]


class ArmSpec(Sparse):
    """One model: how it attends, its peak learning rate, and the phases of its training.

    Attributes:
        attention: what differs between the arms; None: that of the arm it goes on ``after``.
        learning_rate: the peak rate, tuned for this arm.
        phases: names of phases, in order.
        after: the arm whose final weights the first phase starts from; None: new weights.
        model: sizes that differ from those of the study.
        training: what differs from the training of the phases.
        seeds: seeds of this arm; those of the study if None.
        restore: parts of the model that get back, after its one phase, the weights of the arm that it went on
            ``after``. An arm that differs in nothing else shares its training with this one.
    """

    later: ClassVar[frozenset[str]] = frozenset({"restore"})

    attention: AttentionSpec | None = None
    learning_rate: float = Field(gt=0)
    phases: tuple[Name, ...] = Field(min_length=1)
    after: Name | None = None
    model: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[Seed, ...] | None = Field(default=None, min_length=1)
    restore: tuple[Part, ...] = ()

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if (self.attention is None) == (self.after is None):
            raise ValueError("give either attention (a new model) or after (the arm to start from)")
        if self.restore and (self.after is None or len(self.phases) > 1):
            raise ValueError("restore needs after (the arm whose weights are put back) and a single phase")
        return self


class DocumentsSpec(Closed):
    """Loss on held-out documents, by position, intact and under interventions; and what a prefix is worth.

    Attributes:
        count: documents.
        tokens: of each.
        seed: of the documents; see ``palimpsest.study.scorecard.texts``.
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

    @field_validator("interventions")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for expression in value:
            parse_intervention(expression)
        return value

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        furthest = max((distance + self.scored + 1 for distance in self.distances), default=0)
        for what, needed in (("distances and scored", furthest), ("copies", max(self.copies, default=0))):
            if needed > self.tokens:
                raise ValueError(f"{what} need documents of {needed} tokens, and they have {self.tokens}")
        return self


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


class ScorecardSpec(Sparse):
    """A whole scorecard.

    Without a corpus the documents and the tokenizer are symbolic. With one, its held-out documents are those of
    ``documents`` and ``usage``, its tokenizer is that of every model, and ``ask`` has the text forms of the tasks.

    Raises:
        ValueError: parts that contradict each other.
    """

    later: ClassVar[frozenset[str]] = frozenset({"corpus", "tokenizer"})

    kind: Literal["scorecard"]
    name: Name
    question: str
    model: ModelSpec
    segment_length: Count
    phases: dict[Name, PhaseSpec] = Field(min_length=1)
    arms: dict[Name, ArmSpec] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(min_length=1)
    corpus: CorpusSpec | None = None
    tokenizer: TokenizerSpec | None = None
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
            elif self.phases[arm.phases[0]].method is not None:
                raise ValueError(f"{where} begins with the phase '{arm.phases[0]}', but an alignment needs a model")
            spec = self.attention(name)
            if spec.segment_length != self.segment_length:
                raise ValueError(f"{where} has segments of {spec.segment_length}, the study of {self.segment_length}")
        for name, part in (*self.ask.items(), *self.documents.items()):
            self._known(f"'{name}'", part.arms, self.arms, "arm")
        if self.usage is not None:
            self._known("usage", self.usage.arms, self.arms, "arm")
        if self.rerun is not None:
            self._known("rerun", [self.rerun], self.arms, "arm")
            if self.arms[self.rerun].restore:
                raise ValueError(f"rerun names '{self.rerun}', which is not trained but restored; name another arm")
        for one, other in pairwise(sorted(row.id for row in self.rows)):
            if one == other:
                raise ValueError(f"the row {one} is given twice")
        for where, seeds in (
            ("seeds", self.seeds),
            *((f"the arm '{name}'", self.seeds_of(name)) for name in self.arms),
        ):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{where} names the seed {next(s for s in seeds if seeds.count(s) > 1)} twice")
        for name, arm in self.arms.items():
            if arm.after is not None and (alone := set(self.seeds_of(name)) - set(self.seeds_of(arm.after))):
                raise ValueError(
                    f"the arm '{name}' goes on after '{arm.after}', which is not trained with the seed {min(alone)}"
                )
        return self

    @model_validator(mode="after")
    def _one_vocabulary(self) -> Self:
        if (self.corpus is None) != (self.tokenizer is None):
            raise ValueError("corpus and tokenizer belong together: give both, or neither for symbolic words")
        symbolic = self.corpus is None
        tasks = [(f"the phase '{name}'", task) for name, phase in self.phases.items() for task in phase.tasks]
        for where, task in (*tasks, *((f"'{name}'", part.task) for name, part in self.ask.items())):
            if (task.kind in SYMBOLIC_TASKS) != symbolic:
                form = (
                    "symbolic task, but the study has a corpus" if not symbolic else "text, but the study has no corpus"
                )
                raise ValueError(f"{where} has the task {task.kind}, a {form}; take the other form of the task")
        for name, phase in self.phases.items():
            text = isinstance(phase.data, CorpusText)
            if symbolic and text:
                raise ValueError(f"the phase '{name}' trains on text, but the study has no corpus")
            if not symbolic and isinstance(phase.data, TasksData) and phase.data.documents + phase.data.repeats > 0:
                raise ValueError(
                    f"the phase '{name}' mixes symbolic documents or repeats with text tasks; set both to 0, and give "
                    "the text of the corpus a phase of its own (kind: text)"
                )
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
