"""How long a study will take: its operations by formula, its seconds by really training a few steps on this machine."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from palimpsest.data import IGNORED, load_tokenizer
from palimpsest.data.tokenizer import vocabulary_size
from palimpsest.models import PalimpsestCache, PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.models.flops import flops_per_token, forward_flops_per_token
from palimpsest.records import read_json
from palimpsest.study.evaluate import answer_greedily, rank_candidates
from palimpsest.study.plan import Evaluation, Stage
from palimpsest.study.readings import (
    Reading,
    answer_flops,
    conditions_of,
    document_tokens,
    knobs_of,
    reading_flops,
    readings_of,
)
from palimpsest.study.run import ready
from palimpsest.study.spec import StudySpec
from palimpsest.study.stages import DONE, is_done
from palimpsest.training.data import Batch
from palimpsest.training.loop import accumulate_gradients
from palimpsest.training.optimizer import build_optimizer
from palimpsest.training.recipe import TrainingSpec
from palimpsest.training.state import model_config, new_model

WARMUP_STEPS = 2
TIMED_STEPS = 5
TIMED_ROWS = 8
TIMED_FLOPS = 2e13
"""Operations of an update above which a machine without an accelerator is not asked to take one for the timing."""


class Work(NamedTuple):
    """What a stage computes: input tokens, padding included, and floating-point operations, by formula."""

    tokens: int
    flops: float


class StageEstimate(NamedTuple):
    """What a stage will take; ``work`` is None for the corpus, ``seconds`` where nothing was measured.

    Of a stage that is done, ``seconds`` is what it took.
    """

    stage: Stage
    work: Work | None
    seconds: float | None
    done: bool


class Slot(NamedTuple):
    """When a stage runs, in seconds from now."""

    stage: Stage
    start: float
    end: float


def schedule(stages: Sequence[Stage], seconds: Mapping[str, float], jobs: int) -> list[Slot]:
    """Return when each stage runs on so many workers, by the rule of ``run_study``.

    Args:
        stages: stages, each after its inputs.
        seconds: by name, what a stage takes; those that are not named are done.
        jobs: workers.
    """
    waiting = [stage for stage in stages if stage.name in seconds]
    done = {stage.name for stage in stages} - {stage.name for stage in waiting}
    running: list[Slot] = []
    slots: list[Slot] = []
    now = 0.0
    while waiting or running:
        for stage in ready(waiting, done)[: jobs - len(running)]:
            waiting.remove(stage)
            running.append(Slot(stage, now, now + seconds[stage.name]))
        first = min(running, key=lambda slot: slot.end)
        running.remove(first)
        slots.append(first)
        done.add(first.stage.name)
        now = first.end
    return slots


def estimate_stages(
    spec: StudySpec,
    stages: Sequence[Stage],
    root: Path,
    *,
    threads: int = 1,
    timing: bool = True,
    listen: Callable[[str], None] = lambda arm: None,
) -> list[StageEstimate]:
    """Estimate every stage of a plan.

    Args:
        spec: the study.
        stages: its stages, or some of them.
        root: the directory that holds one directory per stage, some of them perhaps done.
        threads: threads of each worker.
        timing: whether to measure; if not, or if an update is too much for a machine without an accelerator, only
            stages that are done have seconds.
        listen: told the name of each arm that is about to be measured.

    Raises:
        InputError: the tokenizer that the study names cannot be loaded, and ``model.vocab_size`` does not say what it
            has.
    """
    vocab_size = spec.model.vocab_size or spec.tokenizer.vocab_size
    vocab_size = vocab_size or vocabulary_size(load_tokenizer(str(spec.tokenizer.path)))
    configs = {
        name: model_config(spec.model.model_copy(update={"attention": arm.attention}), vocab_size)
        for name, arm in spec.arms.items()
    }
    measurable = torch.cuda.is_available() or _flops_per_update(spec, configs) <= TIMED_FLOPS
    finished = {stage.name for stage in stages if is_done(stage, root)}
    measured: dict[str, _Pace] = {}
    if timing and measurable:
        with torch_threads(threads):
            waiting = [stage for stage in stages if stage.name not in finished and stage.arm]
            for arm in dict.fromkeys(stage.arm for stage in waiting if stage.arm):
                listen(arm)
                asked = next((each for each in stages if each.arm == arm and each.kind == "passkey"), None)
                measured[arm] = _measure(spec, arm, configs[arm], asked)
    found = []
    for stage in stages:
        work = None if stage.arm is None else stage_work(spec, stage, configs[stage.arm])
        seconds = None
        if stage.name in finished:
            seconds = float(read_json(root / stage.directory / DONE)["seconds"])
        elif stage.arm in measured and stage.arm is not None:
            seconds = measured[stage.arm].seconds(spec, stage, configs[stage.arm])
        found.append(StageEstimate(stage, work, seconds, stage.name in finished))
    return found


def stage_work(spec: StudySpec, stage: Stage, config: PalimpsestConfig) -> Work:
    """Return what a stage of an arm computes."""
    if stage.kind in ("pretrain", "finetune"):
        training, row = _training(spec, stage)
        tokens = training.steps * training.batch_size * row
        return Work(tokens, tokens * flops_per_token(config, row))
    if stage.kind == "passkey":
        tokens, flops = 0, 0.0
        for reading in readings_of(spec, stage, config):
            conditions = conditions_of(stage, reading.length)
            tokens += reading.rows * (reading.prompt + conditions * reading.answer)
            flops += reading_flops(config, reading) + conditions * answer_flops(config, reading)
        return Work(tokens, flops)
    assert spec.position_loss is not None
    loss = spec.position_loss
    tokens = loss.documents * loss.tokens * (1 + len(stage.settings["loss"]["interventions"]))
    return Work(tokens, tokens * forward_flops_per_token(config, loss.tokens))


def _training(spec: StudySpec, stage: Stage) -> tuple[TrainingSpec, int]:
    """Return how a training stage trains, and the tokens in its rows."""
    if stage.kind == "pretrain":
        return spec.pretrain.training, spec.pretrain.sequence_length
    assert stage.arm is not None  # only the corpus has none
    tuning = spec.finetuning(stage.arm)
    return tuning.training, tuning.row_length


def _flops_per_update(spec: StudySpec, configs: Mapping[str, PalimpsestConfig]) -> float:
    """Return the operations of the largest update of pretraining."""
    training, row = spec.pretrain.training, spec.pretrain.sequence_length
    return max(training.batch_size * row * flops_per_token(config, row) for config in configs.values())


class _Pace(NamedTuple):
    """What was measured of an arm.

    Attributes:
        steps: seconds per update, by kind of stage.
        reading: seconds per operation of reading.
        answering: seconds per operation of answering.
    """

    steps: Mapping[str, float]
    reading: float
    answering: float

    def seconds(self, spec: StudySpec, stage: Stage, config: PalimpsestConfig) -> float:
        """Return what a stage will take."""
        if stage.kind in self.steps:
            return self.steps[stage.kind] * _training(spec, stage)[0].steps
        if stage.kind == "passkey":
            return sum(
                self.reading * reading_flops(config, reading)
                + self.answering * conditions_of(stage, reading.length) * answer_flops(config, reading)
                for reading in readings_of(spec, stage, config)
            )
        return self.reading * stage_work(spec, stage, config).flops


def _measure(spec: StudySpec, arm: str, config: PalimpsestConfig, asked: Stage | None) -> _Pace:
    """Train and evaluate a new model of an arm for a moment, on random tokens in the shapes of the study.

    Without a stage that asks, nothing is evaluated, and what would take time per operation takes none.
    """
    model = new_model(config, seed=0)
    nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")  # transformers' own loses its signature
    pretrain, tuning = spec.pretrain, spec.finetuning(arm)
    answer = tuning.passkey.key_digits if tuning.passkey is not None else tuning.row_length
    steps = {
        "pretrain": step_seconds(
            model,
            pretrain.training,
            pretrain.sequence_length,
            pretrain.sequence_length,
            document_tokens=document_tokens(spec, config.vocab_size),
        ),
        "finetune": step_seconds(model, tuning.training, tuning.row_length, answer),
    }
    if asked is None:
        return _Pace(steps, 0.0, 0.0)
    grid = spec.named_grids[Evaluation.of_facts(asked.settings.get("facts", {})).grid]
    knobs, readings = knobs_of(spec.items(grid)), readings_of(spec, asked, config)
    reading = readings[len(readings) // 2]._replace(rows=min(TIMED_ROWS, grid.batch_size))
    read, answered = evaluation_seconds(model.eval(), reading, knobs.candidates, knobs.digits)
    per_operation = read / reading_flops(config, reading) if reading.prompt else answered
    return _Pace(steps, per_operation, answered / answer_flops(config, reading))


def step_seconds(
    model: PalimpsestForCausalLM,
    training: TrainingSpec,
    row_length: int,
    labelled: int,
    *,
    document_tokens: int | None = None,
) -> float:
    """Return the median seconds of an update on random rows, the last ``labelled`` tokens of each with a label.

    A row is one document, or documents of ``document_tokens``.
    """
    optimizer = build_optimizer(model.train(), training)
    generator = torch.Generator().manual_seed(0)
    size = (training.batch_size // training.accumulation, row_length)
    seconds = []
    for step in range(WARMUP_STEPS + TIMED_STEPS):
        started = time.perf_counter()
        batches = []
        for _ in range(training.accumulation):
            tokens = torch.randint(model.config.vocab_size, size, generator=generator)
            labels = tokens.clone()
            labels[:, : row_length - labelled] = IGNORED
            documents = torch.arange(row_length).div(document_tokens or row_length, rounding_mode="floor")
            batches.append(Batch(tokens, labels, documents.expand(size), torch.ones(size[0])))
        accumulate_gradients(
            model,
            batches,
            bfloat16=training.precision == "bfloat16",
            segments=training.backpropagate_segments,
        )
        nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if step >= WARMUP_STEPS:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


@torch.inference_mode()
def evaluation_seconds(
    model: PalimpsestForCausalLM, reading: Reading, candidates: int, digits: int
) -> tuple[float, float]:
    """Return the seconds of reading a batch of prompts, and of answering it once."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randint(model.config.vocab_size, size, generator=generator).to(model.device)

    def now() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return time.perf_counter()

    prompts = random(reading.rows, reading.length - digits)
    options = random(reading.rows, candidates, digits)

    def once() -> tuple[float, float]:
        cache = PalimpsestCache(model.config)
        started = now()
        if reading.prompt:
            model(prompts[:, : reading.prompt], past_key_values=cache, use_cache=True, logits_to_keep=1)
        read = now()
        past = cache.clone()
        logits = model(prompts[:, reading.prompt :], past_key_values=past, use_cache=True, logits_to_keep=1).logits
        rank_candidates(model, logits, past, options)
        answer_greedily(model, logits, past, digits)
        return read - started, now() - read

    once()  # warms up
    return once()


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch use so many threads inside a ``with`` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
