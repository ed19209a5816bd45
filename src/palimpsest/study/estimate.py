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
from palimpsest.study.plan import Stage
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


class Reading(NamedTuple):
    """The tokens that one batch of passkey items of one length costs: read once, and per condition."""

    length: int
    rows: int
    prompt: int
    answer: int


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
        timing: whether to measure; if not, only stages that are done have seconds.
        listen: told the name of each arm that is about to be measured.

    Raises:
        InputError: the tokenizer that the study names cannot be loaded.
    """
    vocab_size = spec.tokenizer.vocab_size or vocabulary_size(load_tokenizer(str(spec.tokenizer.path)))
    configs = {
        name: model_config(spec.model.model_copy(update={"attention": arm.attention}), vocab_size)
        for name, arm in spec.arms.items()
    }
    finished = {stage.name for stage in stages if is_done(stage, root)}
    measured: dict[str, _Pace] = {}
    if timing:
        with torch_threads(threads):
            for arm in dict.fromkeys(stage.arm for stage in stages if stage.name not in finished and stage.arm):
                listen(arm)
                measured[arm] = _measure(spec, arm, configs[arm])
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
        for reading in _readings(spec):
            conditions = _conditions(stage, reading.length)
            tokens += reading.rows * (reading.prompt + conditions * reading.answer)
            flops += reading_flops(config, reading) + conditions * answer_flops(config, reading)
        return Work(tokens, flops)
    assert spec.position_loss is not None
    loss = spec.position_loss
    tokens = loss.documents * loss.tokens * (1 + len(stage.settings["loss"]["interventions"]))
    return Work(tokens, tokens * forward_flops_per_token(config, loss.tokens))


def reading_flops(config: PalimpsestConfig, reading: Reading) -> float:
    """Return the operations of reading the prompts up to their last segment."""
    return reading.rows * reading.prompt * forward_flops_per_token(config, max(1, reading.prompt))


def answer_flops(config: PalimpsestConfig, reading: Reading) -> float:
    """Return the operations of answering under one condition: rank the candidates, generate."""
    # a token after T others meets as many keys as the mean token of a row of 2 T
    return reading.rows * reading.answer * forward_flops_per_token(config, 2 * reading.length)


def _readings(spec: StudySpec) -> list[Reading]:
    """Return the evaluation of passkeys, one entry per length, all its items together."""
    grid, task = spec.passkey, spec.finetune.passkey
    readings = []
    for length in grid.lengths:
        prompt = (length - task.key_digits - 1) // spec.segment_length * spec.segment_length
        last = length - task.key_digits - prompt
        answer = last + (task.candidates + 1) * (task.key_digits - 1)
        readings.append(Reading(length, len(grid.depths) * grid.items_per_cell, prompt, answer))
    return readings


def _conditions(stage: Stage, length: int) -> int:
    """Return how often the items of a length are answered: intact, and under each intervention."""
    grid = stage.settings["grid"]
    intervened = grid["intervened_lengths"] or grid["lengths"]
    return 1 + (len(grid["interventions"]) if length in intervened else 0)


def _training(spec: StudySpec, stage: Stage) -> tuple[TrainingSpec, int]:
    """Return how a training stage trains, and the tokens in its rows."""
    if stage.kind == "pretrain":
        return spec.pretrain.training, spec.pretrain.sequence_length
    return spec.finetune.training, spec.finetune.passkey.max_length


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
                + self.answering * _conditions(stage, reading.length) * answer_flops(config, reading)
                for reading in _readings(spec)
            )
        return self.reading * stage_work(spec, stage, config).flops


def _measure(spec: StudySpec, arm: str, config: PalimpsestConfig) -> _Pace:
    """Train and evaluate a new model of an arm for a moment, on random tokens in the shapes of the study."""
    model = new_model(config, seed=0)
    digits, pretrain, finetune = spec.finetune.passkey.key_digits, spec.pretrain, spec.finetune
    steps = {
        "pretrain": step_seconds(model, pretrain.training, pretrain.sequence_length, pretrain.sequence_length),
        "finetune": step_seconds(model, finetune.training, finetune.passkey.max_length, digits),
    }
    readings = _readings(spec)
    reading = readings[len(readings) // 2]._replace(rows=min(TIMED_ROWS, spec.passkey.batch_size))
    read, answered = evaluation_seconds(model.eval(), reading, spec.finetune.passkey.candidates, digits)
    per_operation = read / reading_flops(config, reading) if reading.prompt else answered
    return _Pace(steps, per_operation, answered / answer_flops(config, reading))


def step_seconds(model: PalimpsestForCausalLM, training: TrainingSpec, row_length: int, labelled: int) -> float:
    """Return the median seconds of an update on random rows, the last ``labelled`` tokens of each with a label."""
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
            batches.append(Batch(tokens, labels, torch.zeros_like(tokens), torch.ones(size[0])))
        accumulate_gradients(model, batches, bfloat16=training.precision == "bfloat16")
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
        return torch.randint(model.config.vocab_size, size, generator=generator)

    prompts = random(reading.rows, reading.length - digits)
    options = random(reading.rows, candidates, digits)

    def once() -> tuple[float, float]:
        cache = PalimpsestCache(model.config)
        started = time.perf_counter()
        if reading.prompt:
            model(prompts[:, : reading.prompt], past_key_values=cache, use_cache=True, logits_to_keep=1)
        read = time.perf_counter()
        past = cache.clone()
        logits = model(prompts[:, reading.prompt :], past_key_values=past, use_cache=True, logits_to_keep=1).logits
        rank_candidates(model, logits, past, options)
        answer_greedily(model, logits, past, digits)
        return read - started, time.perf_counter() - read

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
