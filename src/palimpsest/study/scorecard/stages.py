"""What each kind of stage of a scorecard does. A stage reads the directories of its inputs and writes its own."""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palimpsest.data import CorpusSpec, TokenizerSpec, load_tokenizer, open_corpus, prepare_corpus
from palimpsest.data.audit import AuditOptions, audit, open_evaluated, open_training
from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.models.flops import forward_flops_per_token
from palimpsest.models.streaming import prefill
from palimpsest.probes.effects import gate_effect
from palimpsest.probes.mechanism import run_mechanism
from palimpsest.probes.profile import Origin, profile
from palimpsest.records import (
    EffectRecord,
    ItemRecord,
    StateCostRecord,
    ValidityRecord,
    read_jsonl,
    write_json,
    write_jsonl,
)
from palimpsest.schema import parse
from palimpsest.study.evaluate import Subject, batches, evaluate_items
from palimpsest.study.plan import Stage
from palimpsest.study.scorecard.ask import AskSpec
from palimpsest.study.scorecard.spec import AuditSpec, DocumentsSpec, MechanismSpec, UsageSpec, ValiditySpec
from palimpsest.study.scorecard.texts import CORPUS, corpus_of, documents_of, tokenizer_of
from palimpsest.study.text_probes import forgetting_curve, perturb, place_losses
from palimpsest.tasks import build_task, task_spec
from palimpsest.tasks.documents import stacked
from palimpsest.tasks.symbolic.vocabulary import spelled
from palimpsest.tasks.toys import Decode, Validity, validity
from palimpsest.training import Recipe, resolve_checkpoint, train
from palimpsest.training.alignment import AlignmentRecipe, align, restore_run, write_turns
from palimpsest.training.checkpoint import sha256_of
from palimpsest.training.state import WEIGHTS

Inputs = Mapping[str, Path]

TIMED_TOKENS = 256
"""Tokens that are read for one timing, after a context of the length that is timed."""

TIMINGS = 5
"""Timings of each length."""

TURNS = "turns.jsonl"
"""How far the weights of a training have turned from where it began, if it went on from another."""

PARTS = "parts"
"""The folder of the batches of items that are answered already, until all are."""


def recipe_of_phase(settings: Mapping[str, Any], name: str, *, init: Path | None, corpus: Path | None) -> Recipe:
    """Return the recipe of a phase.

    Args:
        settings: of its stage.
        name: of the run.
        init: the run that it goes on from, None if its weights are new.
        corpus: where the corpus of the study lies, None if it is symbolic.
    """
    recipe: dict[str, Any] = {key: settings[key] for key in ("seed", "data", "training")}
    recipe |= {"model": settings["model"]} if init is None else {"init": str(init)}
    if corpus is not None and settings["data"]["kind"] == "text":
        recipe["data"] = settings["data"] | {"directory": str(corpus)}
    elif corpus is not None:
        recipe["data"] = settings["data"] | {"tokenizer": str(open_corpus(corpus).tokenizer_directory)}
    return parse(Recipe, recipe | {"name": name}, name)


def open_subject(stage: Stage, run_dir: Path) -> Subject:
    """Load the model of a training stage, onto the accelerator if there is one."""
    checkpoint = resolve_checkpoint(run_dir)
    model = PalimpsestForCausalLM.from_pretrained(checkpoint).eval()
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")  # transformers' own loses its signature
    sha256 = sha256_of(checkpoint / WEIGHTS)
    return Subject(model, load_tokenizer(checkpoint), stage.settings["arm"], stage.settings["seed"], sha256)


def _corpus(stage: Stage, directory: Path, inputs: Inputs) -> None:
    corpus = parse(CorpusSpec, stage.settings["corpus"], stage.name)
    tokenizer = parse(TokenizerSpec, stage.settings["tokenizer"], stage.name)
    prepare_corpus(corpus, tokenizer, directory / CORPUS)


def _train(stage: Stage, directory: Path, inputs: Inputs) -> None:
    before = inputs.get("train")
    if "restore" in stage.settings:
        assert before is not None  # an arm is restored after its training
        base = directory.with_name(stage.settings["base"])
        restore_run(before, base, stage.settings["restore"], directory)
        before = base
    else:
        _train_phase(stage.settings, directory, init=before, corpus=corpus_of(inputs))
    if before is not None:
        write_turns(directory, before, directory / TURNS)


def _train_phase(settings: Mapping[str, Any], run_dir: Path, *, init: Path | None, corpus: Path | None) -> Path:
    """Train, or align if the phase has a method, and return the final checkpoint."""
    if "method" not in settings:
        return train(recipe_of_phase(settings, run_dir.name, init=init, corpus=corpus), run_dir)
    recipe = {key: settings[key] for key in ("seed", "method", "data", "training")}
    recipe |= {"name": run_dir.name, "init": str(init)}
    return align(parse(AlignmentRecipe, recipe, run_dir.name), run_dir)


def _ask(stage: Stage, directory: Path, inputs: Inputs) -> None:
    part = parse(AskSpec, stage.settings["part"] | {"task": stage.settings["task"]}, stage.name)
    subject = open_subject(stage, inputs["train"])
    spec = subject.model.config.attention_spec
    task = build_task(part.task, subject.tokenizer, segment_length=spec.segment_length)
    records: list[ItemRecord] = []
    for length in part.lengths:
        again, once = part.samples(task, length)
        work = [(batch, part.interventions) for batch in batches(again, part.batch_size)]
        work += [(batch, ()) for batch in batches(once, part.batch_size)]
        for number, (batch, interventions) in enumerate(work):
            path = directory / PARTS / f"{length}-{number}.jsonl.gz"
            if not path.exists():  # a stage that was stopped goes on with the batch it was at
                write_jsonl(path, evaluate_items(subject, task, batch, interventions))
            records += read_jsonl(path, ItemRecord)
    write_jsonl(directory / "items.jsonl.gz", records)
    shutil.rmtree(directory / PARTS)


def _documents(stage: Stage, directory: Path, inputs: Inputs) -> None:
    part = parse(DocumentsSpec, stage.settings["part"], stage.name)
    subject = open_subject(stage, inputs["train"])
    documents = documents_of(inputs, part)
    losses = place_losses(subject, documents, part.interventions)
    write_jsonl(directory / "position_loss.jsonl.gz", losses.positions)
    write_jsonl(directory / "place_loss.jsonl.gz", losses.places)
    if part.distances:
        spoilt = perturb(subject, documents, part.distances, part.scored, part.seed)
        write_jsonl(directory / "perturbation.jsonl.gz", spoilt)
    if part.copies:
        curve = forgetting_curve(subject, documents, part.copies, part.repeats, part.seed)
        write_jsonl(directory / "forgetting.jsonl.gz", curve)


def _usage(stage: Stage, directory: Path, inputs: Inputs) -> None:
    part = parse(UsageSpec, stage.settings["part"], stage.name)
    subject = open_subject(stage, inputs["train"])
    documents = documents_of(inputs, part)
    tokens = torch.from_numpy(stacked(documents)).to(subject.model.device)
    origin = Origin(subject.arm, subject.seed, subject.checkpoint)
    found = profile(subject.model, [tokens], documents=[name for name, _ in documents], origin=origin)
    write_jsonl(directory / "profile.jsonl.gz", found)
    effects = [
        EffectRecord(arm=subject.arm, seed=subject.seed, checkpoint=subject.checkpoint, **each._asdict())
        for each in gate_effect(subject.model, tokens)
    ]
    write_jsonl(directory / "effects.jsonl", effects)


@torch.inference_mode()
def _cost(stage: Stage, directory: Path, inputs: Inputs) -> None:
    """Measure what a model keeps and takes after contexts of several lengths."""
    subject = open_subject(stage, inputs["train"])
    model, rng = subject.model, np.random.default_rng(0)
    records = []
    for length in stage.settings["lengths"]:
        tokens = torch.from_numpy(rng.integers(16, model.config.vocab_size, (1, length + TIMED_TOKENS)))
        cache = PalimpsestCache(model.config)
        prefill(model, tokens[:, :length], cache)
        memory, local = cache.bytes()
        for _ in range(TIMINGS):
            copy = cache.clone()
            _wait_for(model.device)
            started = time.perf_counter()
            prefill(model, tokens[:, length:], copy).cpu()  # waits for the accelerator
            records.append(
                StateCostRecord(
                    arm=subject.arm,
                    seed=subject.seed,
                    context=length,
                    memory_bytes=memory,
                    local_bytes=local,
                    seconds_per_token=(time.perf_counter() - started) / TIMED_TOKENS,
                    flops_per_token=forward_flops_per_token(model.config, length),
                    parameters=model.num_parameters(),
                )
            )
    write_jsonl(directory / "cost.jsonl", records)


def _wait_for(device: torch.device) -> None:
    """Wait until an accelerator has done what it was told: it works while the program goes on."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _mechanism(stage: Stage, directory: Path, inputs: Inputs) -> None:
    part = parse(MechanismSpec, stage.settings["part"], stage.name)
    found = run_mechanism(
        part.tests or None, part.kinds or None, part.features or None, part.sizes or None, part.seed, part.quick
    )
    write_jsonl(directory / "mechanism.jsonl.gz", found)


def _validity(stage: Stage, directory: Path, inputs: Inputs) -> None:
    part = parse(ValiditySpec, stage.settings["part"], stage.name)
    tokenizer, segment = tokenizer_of(inputs), stage.settings["segment_length"]
    decode: Decode = spelled if corpus_of(inputs) is None else lambda ids: str(tokenizer.decode(ids))
    records: list[ValidityRecord] = []
    for asked in stage.settings["tasks"]:
        spec = task_spec(asked["task"])
        task = build_task(spec, tokenizer, segment_length=segment)
        knobs = spec.model_dump_json(exclude_defaults=True)
        found = validity([task], part.items, length=asked["length"], seed=part.seed, decode=decode)
        records += [_validity_record(each, knobs) for each in found]
    write_jsonl(directory / "validity.jsonl", records)


def _validity_record(found: Validity, knobs: str) -> ValidityRecord:
    return ValidityRecord(
        task=found.task,
        knobs=knobs,
        responder=found.responder,
        n=found.n,
        exact=found.exact,
        first=found.first,
        floor=found.floor.exact,
        ceiling=found.ceiling.exact,
    )


def _audit(stage: Stage, directory: Path, inputs: Inputs) -> None:
    part = parse(AuditSpec, stage.settings["part"], stage.name)
    training = open_training(part.source, heldout_fraction=part.heldout_fraction)
    found = audit(training, open_evaluated(training, []), AuditOptions(part.ngram, part.canaries, part.seed))
    write_jsonl(directory / "audit.jsonl", found.records)
    write_jsonl(directory / "canaries.jsonl", found.canaries)
    write_json(directory / "audit.json", found.setting)


def _rerun(stage: Stage, directory: Path, inputs: Inputs) -> None:
    """Train a model again from its beginning, and compare the weights of both."""
    last: Path | None = None
    for number, settings in enumerate(stage.settings["phases"]):
        run_dir = directory / f"phase-{number}"
        last = _train_phase(settings, run_dir, init=last, corpus=corpus_of(inputs))
    assert last is not None  # there is a phase
    digests = [sha256_of(path / WEIGHTS) for path in (resolve_checkpoint(inputs["train"]), last)]
    write_json(directory / "rerun.json", {"first": digests[0], "again": digests[1]})


SCORECARD_STAGES: dict[str, Callable[[Stage, Path, Inputs], None]] = {
    CORPUS: _corpus,
    "train": _train,
    "ask": _ask,
    "documents": _documents,
    "usage": _usage,
    "cost": _cost,
    "mechanism": _mechanism,
    "validity": _validity,
    "audit": _audit,
    "rerun": _rerun,
}
"""What each kind of stage does."""
