"""The passkey test of Infini-attention with a small model: fine-tuned on few segments, asked after a million tokens.

python studies/passkey_1m/run.py --out runs/passkey-1m                # all of study.yaml, or what is left of it
python studies/passkey_1m/run.py --out runs/passkey-1m --arms ridge --seeds 0 --lengths 1024,32768
python studies/passkey_1m/run.py --out runs/passkey-1m --publish      # what is there by now, into results/

Training goes on from its last checkpoint and a reading from its last state, so that a call of ten minutes advances.
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from pydantic import BaseModel, Field
from tables import publish
from transformers.utils import logging as transformers_logging

from palimpsest.attention import AttentionSpec
from palimpsest.attention.memories import MemorySpec
from palimpsest.cli.console import list_of, resumable
from palimpsest.cli.evaluation import Checkpoint, Grid, Shard, answer, ask, open_checkpoint
from palimpsest.cli.task_names import parse_tasks
from palimpsest.data import CorpusSpec, TokenizerSpec, prepare_corpus
from palimpsest.errors import InputError, refused
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.schema import Closed, parse, parse_yaml
from palimpsest.study.naming import Name
from palimpsest.study.spec import ClaimSpec
from palimpsest.tasks import PasskeySpec
from palimpsest.training import Recipe, TrainingSpec, train
from palimpsest.training.recipe import ModelSpec

HERE = Path(__file__).parent


class Reading(Closed):
    """The weights of an arm, asked with another memory that has the same learned quantities."""

    of: Name
    memory: MemorySpec


class Pretrain(Closed):
    """Language modelling on the corpus."""

    sequence_length: int
    training: TrainingSpec


class Finetune(Closed):
    """Fine-tuning on passkeys."""

    passkey: PasskeySpec
    training: TrainingSpec


class Evaluation(Closed):
    """What is asked: ``items`` for each depth, by their length in tokens."""

    seed: int = Field(ge=0)
    depths: tuple[float, ...]
    items: dict[int, int]


class Study(Closed):
    """The study file."""

    name: Name
    question: str
    corpus: CorpusSpec
    tokenizer: TokenizerSpec
    model: ModelSpec
    arms: dict[Name, AttentionSpec]
    readings: dict[Name, Reading] = Field(default_factory=dict)
    seeds: tuple[int, ...]
    pretrain: Pretrain
    finetunes: dict[Name, Finetune]
    evaluation: Evaluation
    claims: tuple[ClaimSpec, ...] = ()


class Part(NamedTuple):
    """One trained model: an arm, a fine-tuning and a seed."""

    arm: str
    finetune: str
    seed: int


class Folder:
    """Where everything of one study is kept.

    corpus/, pretrain/ARM-sSEED/, finetune/ARM-FINETUNE-sSEED/ and answers/ as ``palimpsest eval`` writes them.
    """

    def __init__(self, study: Study, out: Path) -> None:
        self.study = study
        self.out = out

    def pretrain(self, arm: str, seed: int) -> Path:
        """Return the run of a pretraining, finished."""
        corpus = self.out / "corpus"
        prepare_corpus(self.study.corpus, self.study.tokenizer, corpus)
        run = self.out / "pretrain" / f"{arm}-s{seed}"
        model = self.study.model.model_copy(update={"attention": self.study.arms[arm]})
        spec = self.study.pretrain
        data = {"kind": "text", "sequence_length": spec.sequence_length, "directory": str(corpus)}
        _train({"name": arm, "seed": seed, "model": model, "data": data, "training": spec.training}, run)
        return run

    def finetune(self, part: Part) -> Path:
        """Return the run of a fine-tuning, finished."""
        begin = self.pretrain(part.arm, part.seed)
        run = self.out / "finetune" / f"{part.arm}-{part.finetune}-s{part.seed}"
        spec = self.study.finetunes[part.finetune]
        name = f"{part.arm}-{part.finetune}"
        recipe = {"name": name, "seed": part.seed, "init": str(begin), "data": spec.passkey, "training": spec.training}
        _train(recipe, run)
        return run

    def ask(self, run: Path, part: Part, length: int) -> None:
        """Ask a trained model, and every reading of its arm, for items of one length."""
        opened = open_checkpoint(run)
        for subject in (opened, *self._readings(opened, part)):
            wanted = {
                "lengths": [length],
                "depths": self.study.evaluation.depths,
                "items": self.study.evaluation.items[length],
                "seed": self.study.evaluation.seed,
            }
            began = time.monotonic()
            asked = ask(subject, parse_tasks("passkey")[0], parse(Grid, wanted, "The items"))
            found = answer(subject.subject, asked, self.out / "answers", Shard(), _quiet)
            if found.before < found.batches:
                right = sum(record.exact for record in found.records)
                seconds = time.monotonic() - began
                tokens = length * len(found.records)
                _say(
                    f"{subject.subject.arm} s{part.seed}, {length:,} tokens: {right} of {len(found.records)} whole "
                    f"keys, {seconds:.0f} s, {tokens / seconds:,.0f} tokens/s"
                )

    def _readings(self, opened: Checkpoint, part: Part) -> Iterator[Checkpoint]:
        for name, reading in self.study.readings.items():
            if reading.of == part.arm:
                attention = self.study.arms[part.arm].model_copy(update={"memory": reading.memory})
                arm = f"{name}-{part.finetune}"
                yield opened._replace(
                    subject=dataclasses.replace(
                        opened.subject,
                        model=rebuilt(opened.subject.model, attention),
                        arm=arm,
                        reach={arm: next(iter(opened.subject.reach.values()))},
                    )
                )


def rebuilt(model: PalimpsestForCausalLM, attention: AttentionSpec) -> PalimpsestForCausalLM:
    """Return the model with the same weights and another attention that has the same ones."""
    config = PalimpsestConfig.from_dict(model.config.to_dict() | {"attention": attention.model_dump(mode="json")})
    other = PalimpsestForCausalLM(config).eval()
    other.load_state_dict(model.state_dict())
    return other


def _train(values: dict, run: Path) -> None:
    """Train by a recipe, or go on with it, or find it done."""
    plain = {key: each.model_dump(mode="json") if isinstance(each, BaseModel) else each for key, each in values.items()}
    began = time.monotonic()
    train(parse(Recipe, plain, str(run)), run)
    if time.monotonic() - began > 1.0:
        _say(f"{run}: {time.monotonic() - began:.0f} s")


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)


def _quiet(sentence: str) -> None:
    """Say nothing: when items were opened is in ``opened.json``."""


def main(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything is kept.")],
    arms: Annotated[str | None, typer.Option("--arms", help="Only these, separated by commas.")] = None,
    finetunes: Annotated[str | None, typer.Option("--finetunes", help="Only these.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Only these.")] = None,
    lengths: Annotated[str | None, typer.Option("--lengths", help="Only these, in tokens.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of torch.")] = 1,
    study: Annotated[Path, typer.Option("--study", help="The study file.")] = HERE / "study.yaml",
    published: Annotated[bool, typer.Option("--publish", help="Only write results/ from what is there.")] = False,
) -> None:
    """Train what is not trained, ask what is not answered, write the tables."""
    spec = parse_yaml(Study, study)
    chosen = {
        "arms": _chosen("--arms", arms, tuple(spec.arms), str),
        "finetunes": _chosen("--finetunes", finetunes, tuple(spec.finetunes), str),
        "seeds": _chosen("--seeds", seeds, spec.seeds, int),
        "lengths": _chosen("--lengths", lengths, tuple(spec.evaluation.items), int),
    }
    if published:
        _say(f"Results: {publish(spec.name, spec.claims, out, HERE / 'results')}")
        return
    torch.set_num_threads(threads)
    transformers_logging.disable_progress_bar()
    folder = Folder(spec, out)
    with resumable(f"Stopped; what is done is kept in {out}; the same command continues."):
        for arm in chosen["arms"]:
            for finetune in chosen["finetunes"]:
                parts = [Part(arm, finetune, seed) for seed in chosen["seeds"]]
                runs = [folder.finetune(part) for part in parts]
                for length in chosen["lengths"]:  # all seeds of a length before the next, longer one
                    for part, run in zip(parts, runs, strict=True):
                        folder.ask(run, part, length)


def _chosen(option: str, text: str | None, known: tuple, kind: type) -> tuple:
    """Return what an option names, or all there is.

    Raises:
        InputError: it names something that the study has not.
    """
    wanted = known if text is None else tuple(list_of(option, text, kind))
    for each in wanted:
        if each not in known:
            raise InputError(f"{option}: the study has no {each}; it has {', '.join(map(str, known))}.")
    return wanted


if __name__ == "__main__":
    with refused("passkey_1m"):
        typer.run(main)
