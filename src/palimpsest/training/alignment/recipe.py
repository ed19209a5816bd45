"""The recipe of an alignment: one closed YAML file that says what is taught, by which loss, to which checkpoint."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from palimpsest.schema import Closed, parse_yaml
from palimpsest.training.recipe import TasksData, TrainingSpec

Count = Annotated[int, Field(ge=1)]


class SftSpec(Closed):
    """Supervised fine-tuning: the mean negative log-likelihood of all labelled tokens of an update."""

    kind: Literal["sft"] = "sft"


class DpoSpec(Closed):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    ``beta`` is the price of leaving the reference, the model that the run starts from.
    """

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0)


def _by_name(value: object) -> object:
    """Let the name of a method stand for the method with its defaults."""
    return {"kind": value} if isinstance(value, str) else value


MethodSpec = Annotated[
    Annotated[SftSpec | DpoSpec, Field(discriminator="kind")],
    BeforeValidator(_by_name),
]


class Conversations(Closed):
    """Where rows of conversations come from, and how they become tokens.

    Attributes:
        source: a ``.jsonl`` or ``.parquet`` file, a folder of them, or the name of a dataset on the Hugging Face hub.
        config, split, revision: select within a hub dataset.
        limit: only the first rows are taken.
        max_length: the longest row in tokens, answers included; None: any length.
        too_long: what becomes of a row that is longer: the recipe is refused, or the row is dropped, or it is cut at
            its end, and dropped if no token of an answer is left.
        template: a file with the chat template (Jinja) to render messages with. None: that of the tokenizer, or, if it
            has none, ``palimpsest.training.alignment.templates.PLAIN``.
    """

    source: str = Field(min_length=1)
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    limit: Count | None = None
    max_length: Annotated[int, Field(ge=2)] | None = None
    too_long: Literal["refuse", "drop", "cut"] = "refuse"
    template: Path | None = None

    @model_validator(mode="after")
    def _takes_effect(self) -> Self:
        if self.max_length is None and self.too_long != "refuse":
            raise ValueError(f"too_long: {self.too_long} has no effect without max_length; give the longest row")
        return self


class ChatsData(Conversations):
    """Chats: rows with ``messages``, or with ``prompt`` and ``completion``, each a text or a list of messages.

    A message has a ``role`` and a ``content``. Only what the assistant says has labels: all its turns, with the token
    that ends each, or the completion with the end of text.
    """

    kind: Literal["chats"] = "chats"


class PreferencesData(Conversations):
    """Preferences: rows with ``prompt``, ``chosen`` and ``rejected``, each a text or a list of messages.

    Without ``prompt`` both answers are whole conversations, and the messages they begin with in common are the prompt.
    """

    kind: Literal["preferences"] = "preferences"


AlignmentData = Annotated[ChatsData | PreferencesData | TasksData, Field(discriminator="kind")]


class AlignmentRecipe(Closed):
    """One alignment: ``init``, the checkpoint or run directory to start from; ``method``; ``data``; ``training``.

    ``data`` of kind ``tasks`` makes conversations of tasks: for ``sft`` a haystack and all its questions, with labels
    on the answers; for ``dpo`` a haystack and one question, where the rejected answer is another value of the haystack.
    ``training`` is that of any run; a row of ``batch_size`` is a chat, or a pair. With ``gate_learning_rate`` 0 the
    gates stay as they are. ``seed`` decides which rows come when.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    init: Path
    method: MethodSpec
    data: AlignmentData
    training: TrainingSpec

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        wanted = {"sft": ChatsData, "dpo": PreferencesData}[self.method.kind]
        if isinstance(self.data, TasksData):
            require_answers_only(self.data)
        elif not isinstance(self.data, wanted):
            raise ValueError(
                f"method: {self.method.kind} learns from data of kind {wanted.model_fields['kind'].default} or tasks, "
                f"not {self.data.kind}"
            )
        require_whole_gradients(self.training)
        return self

    def digest(self) -> str:
        """Return the SHA-256 of the recipe, whatever the layout of the file it was read from."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def require_answers_only(data: TasksData) -> None:
    """Check that rows of tasks hold nothing but tasks, all of one weight: the losses here know no other.

    Raises:
        ValueError: there are documents or repeats among them, answers of another weight, or a tokenizer of their own.
    """
    if data.documents or data.repeats:
        raise ValueError(
            f"alignment learns from answers alone: set documents and repeats to 0 (they are {data.documents:g} and "
            f"{data.repeats:g})"
        )
    if data.answer_weight != 1:
        raise ValueError(f"alignment weighs all answers alike: leave out answer_weight ({data.answer_weight:g})")
    if data.tokenizer is not None:
        raise ValueError("alignment speaks with the tokenizer of the model that it starts from: leave out tokenizer")


def require_whole_gradients(training: TrainingSpec) -> None:
    """Check that a training asks for nothing that TRL's loop cannot do.

    Raises:
        ValueError: gradients are to flow through some segments only.
    """
    if training.backpropagate_segments is not None:
        raise ValueError("alignment lets gradients flow through whole rows: leave out backpropagate_segments")


def load_alignment(path: Path) -> AlignmentRecipe:
    """Read the recipe of an alignment from a YAML file.

    Raises:
        InputError: the file is missing, is not YAML, has an unknown key, or parts that contradict each other.
    """
    return parse_yaml(AlignmentRecipe, path)
