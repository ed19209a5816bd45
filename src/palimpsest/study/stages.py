"""What each kind of stage does. A stage reads the directories of its inputs and writes its own, nothing else."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging as transformers_logging

from palimpsest.data import CorpusSpec, TokenizerSpec, open_corpus, prepare_corpus
from palimpsest.errors import InputError
from palimpsest.records import ItemRecord, read_jsonl, write_json, write_jsonl
from palimpsest.schema import parse
from palimpsest.study.evaluate import evaluate_items, passkey_items, position_loss
from palimpsest.study.plan import Stage
from palimpsest.study.scorecard.stages import PARTS, SCORECARD_STAGES, open_subject
from palimpsest.study.spec import PasskeyGrid, PositionLossSpec
from palimpsest.tasks import Passkey, PasskeySpec, Task
from palimpsest.tasks.published import PublishedItems, PublishedPasskey
from palimpsest.training import Recipe, train

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DONE = "done.json"
CORPUS = "corpus"


def is_done(stage: Stage, root: Path) -> bool:
    """Whether the result of a stage is there: its directory is named by its digest and marked complete."""
    return (root / stage.directory / DONE).exists()


def execute(stage: Stage, root: Path, inputs: Mapping[str, Stage], threads: int) -> float:
    """Run one stage in this process and mark it complete.

    Args:
        stage: the stage.
        root: the directory that holds one directory per stage.
        inputs: the stages whose results it reads, by kind.
        threads: threads that torch may use.

    Returns:
        The seconds it took, this time.

    Raises:
        InputError: something that the user gave cannot be used.
    """
    import torch

    torch.set_num_threads(threads)
    transformers_logging.disable_progress_bar()
    started = time.perf_counter()
    directories = {kind: root / each.directory for kind, each in inputs.items()}
    _STAGES[stage.kind](stage, root / stage.directory, directories)
    seconds = time.perf_counter() - started
    write_json(root / stage.directory / DONE, {"digest": stage.digest, "seconds": seconds})
    return seconds


def recipe_of(stage: Stage, directories: Mapping[str, Path]) -> Recipe:
    """Return the recipe of a training stage, given the directories of its inputs."""
    settings = stage.settings
    recipe = {"name": stage.directory, "seed": settings["seed"], "training": settings["training"]}
    if stage.kind == "pretrain":
        recipe["model"] = settings["model"]
        recipe["data"] = {
            "kind": "text",
            "sequence_length": settings["sequence_length"],
            "directory": str(directories["corpus"] / CORPUS),
        }
    else:
        recipe["init"] = str(directories["pretrain"])
        recipe["data"] = settings["needles"] if "needles" in settings else settings["passkey"]
    return parse(Recipe, recipe, stage.name)


def _corpus(stage: Stage, directory: Path, inputs: Mapping[str, Path]) -> None:
    corpus = parse(CorpusSpec, stage.settings["corpus"], "corpus")
    tokenizer = parse(TokenizerSpec, stage.settings["tokenizer"], "tokenizer")
    prepare_corpus(corpus, tokenizer, directory / CORPUS)


def _train(stage: Stage, directory: Path, inputs: Mapping[str, Path]) -> None:
    train(recipe_of(stage, inputs), directory)


def _passkey(stage: Stage, directory: Path, inputs: Mapping[str, Path]) -> None:
    settings = stage.settings
    subject = open_subject(stage, inputs["finetune"] if "finetune" in inputs else inputs["pretrain"])
    grid = parse(PasskeyGrid, settings["grid"], stage.name)
    task = _task(settings, subject.tokenizer, stage.name)
    intervened = set(grid.intervened_lengths or grid.lengths)
    records: list[ItemRecord] = []
    for number, samples in enumerate(passkey_items(task, grid)):
        path = directory / PARTS / f"{number}.jsonl.gz"
        if not path.exists():  # a stage that was stopped goes on with the batch it was at
            interventions = grid.interventions if samples[0].length in intervened else ()
            write_jsonl(path, evaluate_items(subject, task, samples, interventions))
        records += read_jsonl(path, ItemRecord)
    told = settings.get("facts", {})
    write_jsonl(directory / "items.jsonl", [each.model_copy(update={"facts": each.facts | told}) for each in records])
    shutil.rmtree(directory / PARTS)


def _task(settings: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase", where: str) -> Task:
    """Return the task that makes and scores the items of a grid."""
    knobs, segment_length = settings["passkey"], settings["segment_length"]
    if knobs["kind"] == "published":
        return PublishedPasskey(parse(PublishedItems, knobs, where), tokenizer, segment_length=segment_length)
    return Passkey(parse(PasskeySpec, knobs, where), tokenizer, segment_length=segment_length)


def _position_loss(stage: Stage, directory: Path, inputs: Mapping[str, Path]) -> None:
    spec = parse(PositionLossSpec, stage.settings["loss"], stage.name)
    subject = open_subject(stage, inputs["pretrain"])
    corpus = open_corpus(inputs["corpus"] / CORPUS)
    documents = [(name, tokens[: spec.tokens]) for name, tokens in corpus.heldout_documents(spec.tokens)]
    if len(documents) < spec.documents:
        raise InputError(
            f"{stage.name}: position_loss asks for {spec.documents} held-out documents of at least {spec.tokens} "
            f"tokens, and there are {len(documents)}; ask for fewer or shorter ones, or hold out a larger fraction."
        )
    write_jsonl(
        directory / "position_loss.jsonl", position_loss(subject, documents[: spec.documents], spec.interventions)
    )


_STAGES = {
    "corpus": _corpus,
    "pretrain": _train,
    "finetune": _train,
    "passkey": _passkey,
    "position_loss": _position_loss,
    **SCORECARD_STAGES,
}
