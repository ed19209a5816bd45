"""Evaluate one checkpoint on tasks: whose settings it takes, its items, and what becomes of their answers."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, field_validator

from palimpsest.attention.kinds import KINDS, exact_start
from palimpsest.cli.console import progress
from palimpsest.cli.item_files import ItemFiles, Place, Setting
from palimpsest.cli.item_lengths import check_lengths, usual_lengths
from palimpsest.cli.task_names import WantedTask, is_symbolic, parse_tasks
from palimpsest.data import load_tokenizer
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.probes import INTERVENTIONS, applicable, parse_intervention
from palimpsest.records import ItemRecord
from palimpsest.schema import Closed
from palimpsest.study.evaluate import Subject, evaluate_items
from palimpsest.study.naming import digest
from palimpsest.study.preregistration import TEST_SEEDS, log_opening, openings
from palimpsest.study.streaming_eval import STREAMED_FROM, evaluate_streamed
from palimpsest.tasks import Passkey, PasskeySpec, Task, TaskSpec, build_task
from palimpsest.tasks.streamed import StreamedPasskey
from palimpsest.training import MixtureData, PasskeyData, Recipe, load_recipe, resolve_checkpoint
from palimpsest.training.checkpoint import sha256_of, weights_sha256
from palimpsest.training.recipe import NeedlesData, SummariesData, TasksData, TextData
from palimpsest.training.run import RECIPE
from palimpsest.training.state import pretrained_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Places of the needle for ``passkey`` unless given; those of the other tasks are anywhere."""

SEGMENTS = 4
"""Segments that a model of which nothing is known is taken to be trained on."""

BATCH = 25
"""Items that are answered together."""

_SHARD = re.compile(r"([0-9]+)/([0-9]+)")
_ROWS_ONLY = {"kind", "min_length", "max_length"}


class Grid(Closed):
    """The items that the user asked for.

    Attributes:
        lengths: exact lengths in tokens; if empty, multiples of the trained length.
        depths: places of the needle, from 0 (first) to 1 (next to the question); if empty, anywhere; None: as usual for
            the task.
        items: items for each length and depth.
        seed: of the items; 10,000 and above are for tests, opened once.
        interventions: what is done to the memory, on the same items.
    """

    lengths: tuple[int, ...] = ()
    depths: tuple[float, ...] | None = None
    items: int = Field(ge=1)
    seed: int = Field(ge=0)
    interventions: tuple[str, ...] = ()

    @field_validator("lengths")
    @classmethod
    def _some_tokens(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(length < 1 for length in value):
            raise ValueError("lengths are numbers of tokens, 1 or more")
        return tuple(dict.fromkeys(value))

    @field_validator("depths")
    @classmethod
    def _fractions(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and any(not 0 <= depth <= 1 for depth in value):
            raise ValueError("depths are fractions from 0 to 1")
        return value if value is None else tuple(dict.fromkeys(value))


class Shard(NamedTuple):
    """Part ``number``, from 1 on, of the ``parts`` that the batches are divided into."""

    number: int = 1
    parts: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read ``2/4``.

        Raises:
            InputError: it is something else, or there is no such part.
        """
        match = _SHARD.fullmatch(text.strip())
        shard = cls(*map(int, match.groups())) if match else cls(0)
        if not 1 <= shard.number <= shard.parts:
            raise InputError(f"--shard {text!r}: expected the number of a part and how many there are, such as 1/4.")
        return shard


class Checkpoint(NamedTuple):
    """A checkpoint that can be asked, and the recipe of its run, if it lies in a run directory."""

    subject: Subject
    recipe: Recipe | None


class Asked(NamedTuple):
    """A task as one checkpoint is asked it, and everything that decides the answers."""

    wanted: WantedTask
    task: Task
    setting: Setting

    @property
    def sha256(self) -> str:
        """Digest of everything that decides the answers."""
        return self.setting.sha256

    @property
    def item_seeds(self) -> dict[str, int]:
        """The seed of the items, under the name that their opening is logged with."""
        return {f"{self.wanted.text} by {self.setting.arm}": self.setting.item_seed}


class Answered(NamedTuple):
    """What has been answered.

    Attributes:
        records: all answers; none as long as batches are missing.
        path: the file that they are in, or will be.
        batches, missing: how many there are in all, and how many are not answered.
        before: how many were answered by earlier calls.
    """

    records: list[ItemRecord]
    path: Path
    batches: int
    missing: int
    before: int


def open_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint, or the newest of a run directory.

    Raises:
        InputError: there is none, or it is damaged.
    """
    directory = resolve_checkpoint(path)
    recipe_file = directory.absolute().parent.parent / RECIPE  # of the run directory that it lies in
    recipe = load_recipe(recipe_file) if recipe_file.is_file() else None
    model = pretrained_model(directory).eval()
    arm = directory.name if recipe is None else recipe.name
    subject = Subject(
        model=model,
        tokenizer=load_tokenizer(directory),
        arm=arm,
        seed=0 if recipe is None else recipe.seed,
        checkpoint=weights_sha256(directory),
        reach={arm: _reach(model)},
    )
    return Checkpoint(subject, recipe)


def passkey_spec(recipe: Recipe | None) -> PasskeySpec:
    """Return the passkeys that a model was trained on, or the usual ones."""
    data = None if recipe is None else recipe.data
    passkey = data.passkey if isinstance(data, MixtureData) else data
    if not isinstance(passkey, PasskeyData):
        return PasskeySpec()
    return PasskeySpec.model_validate(passkey.model_dump(include=set(PasskeySpec.model_fields)))


def possible_interventions(checkpoint: Checkpoint, wanted: list[str] | None) -> list[str]:
    """Return the interventions that were asked for, or all that can change something in a model.

    Raises:
        InputError: one that was asked for is none, or would change nothing, or none would.
    """
    pattern = checkpoint.subject.model.config.attention_spec.pattern
    named = [name for name in INTERVENTIONS if name != "none"] if wanted is None else list(dict.fromkeys(wanted))
    idle = [name for name in named if not applicable([name], pattern)]
    if (wanted is None and idle == named) or (wanted is not None and idle):
        where = {name: [kind for kind in KINDS if applicable([name], [kind])] for name in idle}
        acts = "; ".join(f"{name} acts on layers of kind {', '.join(kinds)}" for name, kinds in where.items())
        raise InputError(
            f"The model '{checkpoint.subject.arm}' has layers of kind {', '.join(dict.fromkeys(pattern))}: {acts}."
        )
    return named if wanted is not None else [name for name in named if name not in idle]


def wanted_tasks(checkpoint: Checkpoint, tasks: list[WantedTask] | None) -> list[WantedTask]:
    """Return the tasks that were asked for, or the passkey in the words of the checkpoint's tokenizer.

    Raises:
        InputError: a task in text for a symbolic tokenizer, or the other way round.
    """
    symbolic = is_symbolic(checkpoint.subject.tokenizer)
    if tasks is None:
        return parse_tasks("sym_passkey" if symbolic else "passkey")
    for task in tasks:
        if task.symbolic != symbolic:
            tokenizers = {True: "the symbolic tokenizer of 512 words", False: "a tokenizer of text"}
            raise InputError(
                f"--tasks: '{task.kind}' needs {tokenizers[task.symbolic]}, and the checkpoint "
                f"'{checkpoint.subject.arm}' has {tokenizers[symbolic]}; see 'palimpsest eval --list'."
            )
    return tasks


def ask(checkpoint: Checkpoint, wanted: WantedTask, grid: Grid) -> Asked:
    """Return a task as a checkpoint is asked it: with the lengths, depths and knobs that were not given filled in.

    Raises:
        InputError: knobs or lengths that cannot be had with this tokenizer and segment length.
    """
    subject, recipe = checkpoint
    segment = subject.model.config.attention_spec.segment_length
    spec = _spec(checkpoint, wanted, grid)
    task = _build(spec, subject.tokenizer, segment)
    trained = spec.max_length if isinstance(task, Passkey) else _trained_length(recipe, segment)
    lengths = grid.lengths or tuple(usual_lengths(task, trained))
    _check_lengths(task, lengths)
    depths = grid.depths
    if depths is None:
        depths = DEPTHS if isinstance(task, Passkey) else ()
    knobs: dict[str, Any] = spec.model_dump(mode="json", exclude=_ROWS_ONLY)
    named = {knob: Path(value) for knob, value in knobs.items() if isinstance(value, str)}
    setting = Setting(
        task=task.name,
        version=task.version,
        knobs=knobs,
        files={knob: sha256_of(path) for knob, path in named.items() if path.is_file()},
        questions=task.questions,
        arm=subject.arm,
        seed=subject.seed,
        checkpoint=subject.checkpoint,
        model=_model_digest(subject.model),
        tokenizer=tokenizer_digest(subject.tokenizer),
        segment_length=segment,
        lengths=lengths,
        depths=depths,
        items=-(-grid.items // task.questions) * task.questions,
        item_seed=grid.seed,
        interventions=grid.interventions,
        batch_size=BATCH,
    )
    return Asked(wanted, task, setting)


def answer(subject: Subject, asked: Asked, out: Path, shard: Shard, say: Callable[[str], None]) -> Answered:
    """Answer the items of a task, or of a shard, that are not answered yet, and return what there is by now.

    Raises:
        InputError: the directory holds answers of something else, or an intervention does not fit the items.
    """
    files = ItemFiles(out, asked.setting)
    if asked.setting.item_seed >= TEST_SEEDS:
        log_opening(asked, out)
        (name,) = asked.item_seeds
        for opening in openings(asked, out):
            if opening.startswith(f"{name} (seed {asked.setting.item_seed}) "):
                say(f"Test items of {opening}")
    missing = files.missing()
    before = len(files.batches) - len(missing)
    mine = [number for number in missing if number % shard.parts == shard.number - 1]
    with progress("tokens") as bars:
        bar = bars.add_task(asked.wanted.text, total=sum(_tokens(files, number) for number in mine))
        for number in mine:
            states = out / "states" / f"{asked.setting.stem}-{number:05d}"
            files.keep(number, _answer(subject, asked, files.batches[number], states, partial(bars.advance, bar)))
            shutil.rmtree(states, ignore_errors=True)
    left = len(files.missing())
    return Answered([] if left else files.read(), files.path, len(files.batches), left, before)


def _answer(
    subject: Subject, asked: Asked, places: Sequence[Place], states: Path, advance: Callable[[int], None]
) -> list[ItemRecord]:
    """Answer one batch, in memory that does not grow with its items where that can be."""
    task, setting = asked.task, asked.setting
    length = places[0].length
    reads = any(parse_intervention(name).needs_reads for name in setting.interventions)
    coordinates = [
        {"seed": setting.item_seed, "index": place.number, "length": length, "depth": place.depth} for place in places
    ]
    if isinstance(task, StreamedPasskey) and length >= STREAMED_FROM and not reads:
        streamed = [task.stream(split="evaluation", **each) for each in coordinates]
        return evaluate_streamed(
            subject,
            task,
            streamed,
            setting.interventions,
            states=states,
            listen=lambda columns: advance(columns * len(places)),
        )
    samples = [task.sample(split="evaluation", **each) for each in coordinates]
    records = evaluate_items(subject, task, samples, setting.interventions)
    advance(length * len(places))
    return records


def tokenizer_digest(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the SHA-256 of what decides the tokens of a text; padding and truncation do not."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    return digest({key: value for key, value in rules.items() if key not in ("padding", "truncation")})


def _build(spec: TaskSpec, tokenizer: "PreTrainedTokenizerBase", segment: int) -> Task:
    """Return the task; the passkey as one whose items can be streamed."""
    if isinstance(spec, PasskeySpec):
        return StreamedPasskey(spec, tokenizer, segment_length=segment)
    return build_task(spec, tokenizer, segment_length=segment)


def _check_lengths(task: Task, lengths: Sequence[int]) -> None:
    """Check that items of these lengths can be made, without making long ones where that can be.

    Raises:
        InputError: one cannot; the sentence names one that can.
    """
    short = lengths
    if isinstance(task, StreamedPasskey):
        short = [length for length in lengths if length < STREAMED_FROM]
        for length in set(lengths) - set(short):
            task.stream(split="evaluation", seed=0, index=0, length=length, depth=None)
    check_lengths(task, short)


def _spec(checkpoint: Checkpoint, wanted: WantedTask, grid: Grid) -> TaskSpec:
    """Return the knobs of a task; those of ``passkey`` are as the model was trained, and allow the longest item."""
    if wanted.kind != Passkey.name:
        return wanted.spec()
    spec = wanted.spec(passkey_spec(checkpoint.recipe).model_dump())
    return spec.model_copy(update={"max_length": max(spec.max_length, *grid.lengths, 0)})


def _trained_length(recipe: Recipe | None, segment_length: int) -> int:
    """Return the tokens of a row that a model was trained on."""
    data = None if recipe is None else recipe.data
    if isinstance(data, MixtureData):
        data = data.text
    if isinstance(data, TextData | NeedlesData):
        return data.sequence_length
    if isinstance(data, TasksData | SummariesData):
        return data.row_length
    return data.max_length if isinstance(data, PasskeyData) else SEGMENTS * segment_length


def _reach(model: PalimpsestForCausalLM) -> Callable[[int], int]:
    """Return the first position that a token can know of through exact attention alone."""
    return partial(exact_start, model.config.attention_spec, model.config.num_hidden_layers)


def _model_digest(model: PalimpsestForCausalLM) -> str:
    """Return the SHA-256 of a configuration, but for where it was loaded from and by which version."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    return digest({key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")})


def _tokens(files: ItemFiles, number: int) -> int:
    return sum(place.length for place in files.batches[number])
