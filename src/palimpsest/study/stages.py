"""What each kind of stage does. A stage reads the directories of its inputs and writes its own, nothing else."""

import time
from collections.abc import Mapping
from pathlib import Path

from transformers.utils import logging as transformers_logging

from palimpsest.data import CorpusSpec, TokenizerSpec, load_tokenizer, open_corpus, prepare_corpus
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.records import read_json, write_json, write_jsonl
from palimpsest.schema import parse
from palimpsest.study.evaluate import Subject, evaluate_items, passkey_items, position_loss
from palimpsest.study.plan import Stage
from palimpsest.study.scorecard.stages import SCORECARD_STAGES
from palimpsest.study.spec import PasskeyGrid, PositionLossSpec
from palimpsest.tasks import Passkey, PasskeySpec
from palimpsest.training import Recipe, resolve_checkpoint, train

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
        recipe["data"] = settings["passkey"]
    return parse(Recipe, recipe, stage.name)


def _corpus(stage: Stage, directory: Path, inputs: Mapping[str, Path]) -> None:
    corpus = parse(CorpusSpec, stage.settings["corpus"], "corpus")
    tokenizer = parse(TokenizerSpec, stage.settings["tokenizer"], "tokenizer")
    prepare_corpus(corpus, tokenizer, directory / CORPUS)


def _train(stage: Stage, directory: Path, inputs: Mapping[str, Path]) -> None:
    train(recipe_of(stage, inputs), directory)


def _passkey(stage: Stage, directory: Path, inputs: Mapping[str, Path]) -> None:
    settings = stage.settings
    subject = _subject(stage, inputs["finetune"])
    grid = parse(PasskeyGrid, settings["grid"], stage.name)
    task = Passkey(
        parse(PasskeySpec, settings["passkey"], stage.name),
        subject.tokenizer,
        segment_length=settings["segment_length"],
    )
    intervened = set(grid.intervened_lengths or grid.lengths)
    records = []
    for samples in passkey_items(task, grid):
        interventions = grid.interventions if samples[0].length in intervened else []
        records += evaluate_items(subject, task, samples, interventions)
    write_jsonl(directory / "items.jsonl", records)


def _position_loss(stage: Stage, directory: Path, inputs: Mapping[str, Path]) -> None:
    spec = parse(PositionLossSpec, stage.settings["loss"], stage.name)
    subject = _subject(stage, inputs["pretrain"])
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


def _subject(stage: Stage, run: Path) -> Subject:
    """Load the model that a training stage ended with."""
    checkpoint = resolve_checkpoint(run)
    model = PalimpsestForCausalLM.from_pretrained(checkpoint).eval()
    manifest = read_json(checkpoint / "manifest.json")
    return Subject(
        model,
        load_tokenizer(checkpoint),
        stage.settings["arm"],
        stage.settings["seed"],
        manifest["files"]["model.safetensors"]["sha256"],
    )


_STAGES = {
    "corpus": _corpus,
    "pretrain": _train,
    "finetune": _train,
    "passkey": _passkey,
    "position_loss": _position_loss,
    **SCORECARD_STAGES,
}
