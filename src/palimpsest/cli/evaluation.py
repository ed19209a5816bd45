"""Evaluate one checkpoint on the passkey task: whose settings it takes, its items, their records on disk."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from palimpsest.attention.kinds import KINDS
from palimpsest.cli.console import progress
from palimpsest.data import load_tokenizer
from palimpsest.errors import InputError
from palimpsest.probes import INTERVENTIONS, applicable
from palimpsest.records import ItemRecord, write_jsonl
from palimpsest.schema import parse
from palimpsest.study.evaluate import Subject, evaluate_items, passkey_items
from palimpsest.study.spec import PasskeyGrid
from palimpsest.tasks import Passkey, PasskeySpec
from palimpsest.training import MixtureData, PasskeyData, Recipe, load_recipe, resolve_checkpoint
from palimpsest.training.checkpoint import sha256_of
from palimpsest.training.run import RECIPE
from palimpsest.training.state import WEIGHTS, pretrained_model

MULTIPLES = (1, 2, 4)
"""Lengths that are evaluated unless given, in units of the longest the model was trained on."""


class Grid(NamedTuple):
    """What the user asked for; empty lengths stand for multiples of the trained length."""

    lengths: list[int]
    depths: list[float]
    items: int
    seed: int
    interventions: list[str]


class Checkpoint(NamedTuple):
    """A checkpoint that can be asked, and the recipe of its run, if it lies in a run directory."""

    subject: Subject
    recipe: Recipe | None


def open_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint, or the newest of a run directory.

    Raises:
        InputError: there is none, or it is damaged.
    """
    directory = resolve_checkpoint(path)
    recipe_file = directory.absolute().parent.parent / RECIPE  # of the run directory that it lies in
    recipe = load_recipe(recipe_file) if recipe_file.is_file() else None
    weights = directory / WEIGHTS
    subject = Subject(
        model=pretrained_model(directory).eval(),
        tokenizer=load_tokenizer(directory),
        arm=directory.name if recipe is None else recipe.name,
        seed=0 if recipe is None else recipe.seed,
        checkpoint=sha256_of(weights) if weights.is_file() else "",
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
        InputError: one that was asked for would change nothing, or none would.
    """
    pattern = checkpoint.subject.model.config.attention_spec.pattern
    named = [name for name in INTERVENTIONS if name != "none"] if wanted is None else wanted
    idle = [name for name in named if name in INTERVENTIONS and not applicable([name], pattern)]
    if (wanted is None and idle == named) or (wanted is not None and idle):
        where = {name: [kind for kind in KINDS if applicable([name], [kind])] for name in idle}
        acts = "; ".join(f"{name} acts on layers of kind {', '.join(kinds)}" for name, kinds in where.items())
        raise InputError(
            f"The model '{checkpoint.subject.arm}' has layers of kind {', '.join(dict.fromkeys(pattern))}: {acts}."
        )
    return named if wanted is not None else [name for name in named if name not in idle]


def evaluate(checkpoint: Checkpoint, wanted: Grid, out: Path) -> tuple[list[ItemRecord], Path]:
    """Answer the items of a grid, intact and under interventions, and return the records and the file they are in.

    Raises:
        InputError: lengths or depths that cannot be had, an intervention that there is not, one item to swap.
    """
    subject, spec = checkpoint.subject, passkey_spec(checkpoint.recipe)
    longest = max(wanted.lengths, default=spec.max_length)
    task = Passkey(
        spec.model_copy(update={"max_length": max(spec.max_length, longest)}),
        subject.tokenizer,
        segment_length=subject.model.config.attention_spec.segment_length,
    )
    lengths = wanted.lengths or [
        task.nearest_length(spec.max_length * multiple, at_most=spec.max_length * multiple) for multiple in MULTIPLES
    ]
    grid = parse(
        PasskeyGrid,
        {
            "lengths": lengths,
            "depths": wanted.depths,
            "items_per_cell": wanted.items,
            "seed": wanted.seed,
            "interventions": wanted.interventions,
        },
        "The items",
    )
    records = list(_records(subject, task, grid))
    key = json.dumps([subject.checkpoint, spec.model_dump(mode="json"), grid.model_dump(mode="json")], sort_keys=True)
    path = out / "items" / f"{task.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.jsonl"
    write_jsonl(path, records)
    return records, path


def _records(subject: Subject, task: Passkey, grid: PasskeyGrid) -> Iterator[ItemRecord]:
    batches = list(passkey_items(task, grid))
    with progress("tokens") as bars:
        bar = bars.add_task(task.name, total=sum(len(batch) * batch[0].length for batch in batches))
        for batch in batches:
            yield from evaluate_items(subject, task, batch, grid.interventions)
            bars.advance(bar, len(batch) * batch[0].length)
