"""The study file: arms, stages, evaluation and claims, all written down before the run."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from palimpsest.attention import AttentionSpec
from palimpsest.data import CorpusSpec, TokenizerSpec
from palimpsest.probes import INTERVENTIONS
from palimpsest.schema import Closed, Sparse
from palimpsest.statistics import Rule
from palimpsest.study.naming import Name, digest
from palimpsest.tasks import PasskeySpec
from palimpsest.tasks.published import SHORTEST_FILLER, PublishedItems
from palimpsest.training.recipe import ModelSpec, NeedlesData, TrainingSpec

ItemsSpec: TypeAlias = Annotated[PasskeySpec | PublishedItems, Field(discriminator="kind")]
"""What the items of a grid are: passkeys, or needles as they were published."""

Trained = Literal["pretrained", "finetuned"]
"""When a model is asked: before its fine-tuning (zero-shot), or after it."""

FINETUNED: Trained = "finetuned"

ONLY = "passkey"
"""The name of the grid of a study that has only one."""


class ArmSpec(Sparse):
    """One way to build and train the model.

    Attributes:
        attention: what differs between the arms.
        pretrain_learning_rate, finetune_learning_rate: the peak learning rates of this arm, tuned for it.
        finetune: which of ``finetunes`` it gets, in a study that has several.
    """

    later: ClassVar[frozenset[str]] = frozenset({"finetune"})

    attention: AttentionSpec
    pretrain_learning_rate: float = Field(gt=0)
    finetune_learning_rate: float = Field(gt=0)
    finetune: Name | None = None


class PretrainSpec(Closed):
    """Language modelling on the corpus."""

    sequence_length: int = Field(ge=2)
    training: TrainingSpec


class FinetuneSpec(Sparse):
    """Fine-tuning, on either of two kinds of data.

    Attributes:
        passkey: one passkey a row, the loss on the answer's digits only.
        needles: needles as they were published, or as intended; see ``NeedlesData``.
    """

    later: ClassVar[frozenset[str]] = frozenset({"passkey", "needles"})

    passkey: PasskeySpec | None = None
    needles: NeedlesData | None = None
    training: TrainingSpec

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.passkey is None) == (self.needles is None):
            raise ValueError("give either passkey or needles, what the models are fine-tuned on")
        return self

    @property
    def data(self) -> PasskeySpec | NeedlesData:
        """What the models are fine-tuned on."""
        found = self.passkey or self.needles
        assert found is not None  # the schema sees to it
        return found

    @property
    def row_length(self) -> int:
        """Tokens in a row."""
        data = self.data
        return data.sequence_length if isinstance(data, NeedlesData) else data.max_length


class PasskeyGrid(Sparse):
    """Passkey items to evaluate: every length at every depth.

    Attributes:
        lengths: exact lengths in tokens, answer included; of needles as published lengths of the haystack, in the
            units that ``items`` counts in.
        depths: from 0 (the needle first) to 1 (next to the question).
        items_per_cell: items for each length and depth.
        seed: seed of the items; 10,000 and above are for tests, opened once.
        interventions: what is done to the memory before the last segment, on the same items.
        intervened_lengths: the lengths at which interventions are made; all of them if empty.
        batch_size: items processed together.
        items: what the items are; by default the passkeys that the models were fine-tuned on.
        new_tokens: tokens that a model asked for passkeys may say, those of the key unless given: ``exact`` then judges
            the beginning of what it says, ``contains`` the whole.
        trained: when models are asked.
    """

    later: ClassVar[frozenset[str]] = frozenset({"items", "new_tokens", "trained"})

    lengths: list[int] = Field(min_length=1)
    depths: list[float] = Field(min_length=1)
    items_per_cell: int = Field(ge=1)
    seed: int = Field(ge=0)
    interventions: tuple[str, ...] = ()
    intervened_lengths: tuple[int, ...] = ()
    batch_size: int = Field(default=25, ge=2)
    items: ItemsSpec | None = None
    new_tokens: int | None = Field(default=None, ge=1)
    trained: tuple[Trained, ...] = Field(default=(FINETUNED,), min_length=1)

    @field_validator("interventions")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in INTERVENTIONS or name == "none":
                known = ", ".join(sorted(set(INTERVENTIONS) - {"none"}))
                raise ValueError(f"unknown intervention '{name}'; known: {known}")
        return value

    @field_validator("depths")
    @classmethod
    def _fractions(cls, value: list[float]) -> list[float]:
        if any(not 0 <= depth <= 1 for depth in value):
            raise ValueError("depths are fractions from 0 to 1")
        return value

    @model_validator(mode="after")
    def _subset(self) -> "PasskeyGrid":
        unknown = sorted(set(self.intervened_lengths) - set(self.lengths))
        if unknown:
            raise ValueError(f"intervened_lengths {unknown} are not among the lengths {self.lengths}")
        if isinstance(self.items, PublishedItems):
            if self.new_tokens is not None:
                raise ValueError("published needles have a new_tokens of their own (items.new_tokens)")
            if self.interventions:
                raise ValueError("interventions need items of equal length in tokens (items of kind passkey)")
            if self.items.units == "characters" and min(self.lengths) < SHORTEST_FILLER:
                raise ValueError(f"published needles need at least {SHORTEST_FILLER} characters of filler (lengths)")
        return self


class PositionLossSpec(Closed):
    """Held-out loss by position, on the pretrained model.

    Attributes:
        documents: how many held-out documents, the longest first.
        tokens: tokens read of each; shorter documents are left out.
        interventions: what is done to the memory at every segment boundary.
    """

    documents: int = Field(ge=1)
    tokens: int = Field(ge=2)
    interventions: tuple[Literal["swap", "zero", "gate_closed"], ...] = ()


class ClaimSpec(Sparse):
    """One claim, its numbers and its rule, fixed before the run.

    ``estimate`` is the accuracy (or loss) of ``arm``; ``difference`` is that of ``arm`` minus that of ``against``, or,
    with ``intervention``, intact minus intervened; ``intervened`` is that under the intervention. Accuracy counts only
    items that local attention cannot reach unless ``memory_only`` is False.

    Attributes:
        lengths: the lengths that count, all if empty (accuracy only).
        from_position: the first token position that counts (loss only).
        grid: which grid's items count, in a study that has several (accuracy only).
        trained: of which models (accuracy only).
        depths: the depths that count, all if empty (accuracy only).
        score: ``exact``: the whole key and nothing else; ``contains``: the key anywhere in what was said.
    """

    later: ClassVar[frozenset[str]] = frozenset({"grid", "trained", "depths", "score"})

    id: Name
    statement: str
    measure: Literal["accuracy", "loss"] = "accuracy"
    arm: str
    against: str | None = None
    intervention: str | None = None
    lengths: tuple[int, ...] = ()
    memory_only: bool = True
    from_position: int = 0
    grid: Name = ONLY
    trained: Trained = FINETUNED
    depths: tuple[float, ...] = ()
    score: Literal["exact", "contains"] = "exact"
    rule: Rule


class StudySpec(Sparse):
    """A whole study.

    Attributes:
        finetune, finetunes: how all arms are fine-tuned, or several ways by name, of which each arm names one.
        passkey, grids: the items that all arms are asked, or several grids of them by name.

    Raises:
        ValueError: parts that contradict each other.
    """

    later: ClassVar[frozenset[str]] = frozenset({"finetune", "finetunes", "passkey", "grids"})

    name: Name
    question: str
    corpus: CorpusSpec
    tokenizer: TokenizerSpec
    model: ModelSpec
    arms: dict[Name, ArmSpec] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    pretrain: PretrainSpec
    finetune: FinetuneSpec | None = None
    finetunes: dict[Name, FinetuneSpec] = Field(default_factory=dict)
    passkey: PasskeyGrid | None = None
    grids: dict[Name, PasskeyGrid] = Field(default_factory=dict)
    position_loss: PositionLossSpec | None = None
    claims: tuple[ClaimSpec, ...] = ()

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        for one, several, what in (("finetune", "finetunes", "fine-tuning"), ("passkey", "grids", "grid")):
            if (getattr(self, one) is None) == (not getattr(self, several)):
                raise ValueError(f"give either {one} (one {what}) or {several} (several, by name)")
        for name, arm in self.arms.items():
            if self.finetunes and arm.finetune not in self.finetunes:
                raise ValueError(f"arm '{name}' must name one of the finetunes ({', '.join(self.finetunes)})")
            if not self.finetunes and arm.finetune is not None:
                raise ValueError(f"arm '{name}' names the fine-tuning '{arm.finetune}', and there is only one")
        for name in self.grids:
            if name == ONLY or name.endswith("-pretrained"):
                raise ValueError(f"a grid cannot be called '{name}', which means something else among the records")
        for name, grid in self.named_grids.items():
            if grid.items is None and self._shared_passkey is None:
                raise ValueError(f"the grid '{name}' must say which items it has (items), as the fine-tunings differ")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        segment_lengths = {arm.attention.segment_length for arm in self.arms.values()}
        if len(segment_lengths) > 1:
            raise ValueError(f"all arms must have one segment_length, got {sorted(segment_lengths)}")
        for claim in self.claims:
            self._require_measured(claim)
        return self

    def _require_measured(self, claim: ClaimSpec) -> None:
        for arm in (claim.arm, claim.against):
            if arm is not None and arm not in self.arms:
                raise ValueError(f"claim '{claim.id}' names the arm '{arm}'; there are {', '.join(self.arms)}")
        wanted = {need.quantity for need in claim.rule.requires.values()}
        if unknown := sorted(wanted - {"estimate", "difference", "intervened"}):
            raise ValueError(
                f"claim '{claim.id}': its rule asks for {', '.join(unknown)}, which a claim does not estimate"
            )
        if (claim.against is None) == (claim.intervention is None) and "difference" in wanted:
            raise ValueError(f"claim '{claim.id}' needs either 'against' or 'intervention' for a difference")
        if claim.measure == "loss":
            if self.position_loss is None:
                raise ValueError(f"claim '{claim.id}' is about loss, and the study has no position_loss")
            return
        if (grid := self.named_grids.get(claim.grid)) is None:
            raise ValueError(
                f"claim '{claim.id}' is about the grid '{claim.grid}'; there are {', '.join(self.named_grids)}"
            )
        if unmeasured := sorted(set(claim.lengths) - set(grid.lengths)):
            raise ValueError(f"claim '{claim.id}' names lengths {unmeasured} that are not evaluated")
        if unmeasured := sorted(set(claim.depths) - set(grid.depths)):
            raise ValueError(f"claim '{claim.id}' names depths {unmeasured} that are not evaluated")
        if claim.trained not in grid.trained:
            raise ValueError(f"claim '{claim.id}' is about {claim.trained} models, whom nobody asks '{claim.grid}'")

    @property
    def segment_length(self) -> int:
        """Tokens per segment, the same in all arms."""
        return next(iter(self.arms.values())).attention.segment_length

    @property
    def named_grids(self) -> Mapping[str, PasskeyGrid]:
        """The grids by name; the only one of a study is called ``passkey``."""
        return self.grids if self.passkey is None else {ONLY: self.passkey}

    def finetuning(self, arm: str) -> FinetuneSpec:
        """Return how an arm is fine-tuned."""
        name = self.arms[arm].finetune
        found = self.finetune if name is None else self.finetunes[name]
        assert found is not None  # the schema sees to it
        return found

    def items(self, grid: PasskeyGrid) -> PasskeySpec | PublishedItems:
        """Return the knobs of the items of a grid."""
        found = grid.items or self._shared_passkey
        assert found is not None  # the schema sees to it
        return found

    def counts_characters(self, grid: PasskeyGrid) -> bool:
        """Whether the lengths of a grid are in characters."""
        items = self.items(grid)
        return isinstance(items, PublishedItems) and items.units == "characters"

    @property
    def _shared_passkey(self) -> PasskeySpec | None:
        """The passkeys that every arm is fine-tuned on, None if there are no such."""
        found = [each.passkey for each in ((self.finetune,) if self.finetune else self.finetunes.values())]
        return found[0] if all(each == found[0] for each in found) else None

    @property
    def item_seeds(self) -> dict[str, int]:
        """The seed of the items of every grid."""
        return {name: grid.seed for name, grid in self.named_grids.items()}

    @property
    def sha256(self) -> str:
        """Digest of everything that is fixed before the run; seeds may be added later."""
        return digest(self.model_dump(mode="json", exclude={"seeds"}))
