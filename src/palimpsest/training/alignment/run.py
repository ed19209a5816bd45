"""``align``: TRL's loss and loop inside a run directory of ours, which continues to the same bits where it was stopped.

TRL computes the gradient of an update; what becomes of it is decided here, before the optimizer's step and behind it,
as in ``palimpsest.training.loop``: rates, clipping, updates that are skipped, metrics, checkpoints. Rows are functions
of (seed, index) and nothing is dropped at random, so that a run needs only weights, moments and its number to go on.
"""

import importlib.util
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from palimpsest.data import load_tokenizer
from palimpsest.data.tokenizer import vocabulary_size
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.training.alignment.directory import (
    PREFERENCES,
    PreferenceLog,
    PreferenceRecord,
    claim_alignment,
    record_origin,
)
from palimpsest.training.alignment.recipe import AlignmentRecipe
from palimpsest.training.alignment.rows import AlignmentRows, Tokens, alignment_rows
from palimpsest.training.checkpoint import Checkpoints, disk_full_as_input_error, resolve_checkpoint
from palimpsest.training.console import Report, StopRequest, progress_bar, stop_on_signals
from palimpsest.training.course import Course
from palimpsest.training.data import Batch
from palimpsest.training.metrics import MetricsLog, layer_metrics
from palimpsest.training.optimizer import build_optimizer, set_learning_rates
from palimpsest.training.run import CHECKPOINTS, METRICS
from palimpsest.training.state import Learner, Progress, pretrained_model, read_checkpoint

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)


def align(recipe: AlignmentRecipe, run_dir: Path | str, *, progress: bool = False) -> Path:
    """Align a model by a recipe, or continue where an earlier call with it was stopped; return the final checkpoint.

    On the CPU in float32 with the same number of threads, the final weights are the same bits whether and wherever the
    run was interrupted. SIGINT and SIGTERM finish the update, save, and exit; a run that is finished is left as it is.

    Args:
        recipe: what to teach, and to whom.
        run_dir: the directory of the run, new, empty or of this recipe.
        progress: whether to show a progress bar, if standard error is a terminal.

    Raises:
        InputError: something in the recipe or in what it names is wrong, TRL is missing, or the disk is full.
        TrainingError: too many updates in a row were not finite.
        Interrupted: a signal asked for a stop.
    """
    run_dir = Path(run_dir)
    _require_one_device()
    with disk_full_as_input_error(run_dir), claim_alignment(run_dir, recipe):
        checkpoints = Checkpoints(run_dir / CHECKPOINTS, recipe.training.keep_checkpoints)
        newest = checkpoints.newest_valid()
        checkpoints.begin_after(0 if newest is None else newest.step)
        if newest is not None and newest.step == recipe.training.steps:
            return newest.path
        run = _open(recipe, run_dir, None if newest is None else newest.path)
        with (
            stop_on_signals() as request,
            progress_bar(recipe.name, recipe.training.steps, run.course.progress, wanted=progress) as report,
        ):
            run.go(request, report)
        return run.course.save()


def _require_one_device() -> None:
    """Check that there is TRL, and no second process or accelerator, whose gradients would have to be joined.

    Raises:
        InputError: it is not so.
    """
    if importlib.util.find_spec("trl") is None:
        raise InputError("Alignment needs TRL: pip install 'palimpsest-lm[align]'.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("An alignment runs in one process; start it without torchrun.")
    if torch.cuda.device_count() > 1:
        raise InputError("An alignment runs on one accelerator; make only one visible (CUDA_VISIBLE_DEVICES=0).")


class _Run:
    """A run between two updates; the hooks of its optimizer make an update of what TRL has computed."""

    def __init__(self, recipe: AlignmentRecipe, rows: AlignmentRows, course: Course, run_dir: Path) -> None:
        self.recipe, self.rows, self.course, self.run_dir = recipe, rows, course, run_dir
        self.preferences = PreferenceLog(run_dir / PREFERENCES)
        self.request, self.report = StopRequest(), _silent
        self._losses: list[Tensor] = []
        self._tokens = 0

    def go(self, request: StopRequest, report: Report) -> None:
        """Make all updates that are left.

        Raises:
            InputError: the disk is full.
            TrainingError: too many updates in a row were not finite.
            Interrupted: a signal asked for a stop.
        """
        from palimpsest.training.alignment.trainers import Upcoming, build_trainer

        self.request, self.report = request, report
        training, (model, optimizer) = self.recipe.training, self.course.learner
        size = training.batch_size
        upcoming = Upcoming(self.rows, self.course.progress.step * size, training.steps * size)
        optimizer.register_step_pre_hook(self._before_step)
        with torch.random.fork_rng(devices=[]):  # the trainer seeds what everybody shares
            trainer = build_trainer(
                self.recipe, model, self._reference, optimizer, self.course.tokenizer, upcoming, self.run_dir
            )
            trainer.listener = self
            self.course.wait()
            trainer.train()

    def _reference(self) -> PalimpsestForCausalLM:
        """Return the model that the run started from."""
        return pretrained_model(resolve_checkpoint(self.recipe.init))

    # What the trainer tells

    def micro_batch(self, loss: Tensor, tokens: int) -> None:
        """Take note of a micro-batch: its part of the loss of the update, and its tokens without padding."""
        self._losses.append(loss)
        self._tokens += tokens

    def updated(self, means: dict[str, float]) -> None:
        """Write down what TRL has measured of pairs, save where that is due, and stop where that is asked for.

        Of chats it measures nothing that ``metrics.jsonl`` lacks.
        """
        course = self.course
        if "rewards/margins" in means and course.is_logged and not course.progress.bad_in_a_row:
            chosen, rejected, accuracy, margin = (
                means[f"rewards/{name}"] for name in ("chosen", "rejected", "accuracies", "margins")
            )
            record = PreferenceRecord(
                step=course.progress.step, chosen=chosen, rejected=rejected, accuracy=accuracy, margin=margin
            )
            self.preferences.append(record)
        course.save_if_due()
        if self.request.signum is not None:
            course.stop(self.request.signum)

    # What the optimizer tells

    def _before_step(self, optimizer: object, args: Any, kwargs: Any) -> None:
        """Set the rates and clip the gradient; leave none where anything is not finite, so that nothing is changed."""
        course = self.course
        training, (model, adam), step = course.training, course.learner, course.progress.step
        rates = set_learning_rates(adam, step, training)
        loss = float(torch.stack(self._losses).sum())
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        taken = math.isfinite(loss) and math.isfinite(norm)
        course.count(self._tokens, taken=taken)
        self._losses, self._tokens = [], 0
        if taken:
            if course.is_logged:
                course.note(loss, rates, float(norm), layer_metrics(model, self._first_row(step)))
            nn.utils.clip_grads_with_norm_(model.parameters(), training.clip_norm, norm)
        else:
            for parameter in model.parameters():
                parameter.grad = None
            course.skip(loss, float(norm))
        self.report(course.progress, loss)

    def _first_row(self, step: int) -> Batch:
        """Return the first row of an update, the chosen answer of a pair, as one document."""
        ids = torch.tensor([_sequence(self.rows.row(step * self.recipe.training.batch_size))])
        labels, weights = torch.full_like(ids, -100), torch.ones(1)  # only gates and memories are looked at
        return Batch(ids, labels, torch.zeros_like(ids), weights).to(self.course.learner.model.device)


def _silent(progress: Progress, loss: float) -> None:
    """Show nothing."""


def _sequence(row: Tokens) -> list[int]:
    return row["input_ids"] if "input_ids" in row else row["prompt_ids"] + row["chosen_ids"]


def _open(recipe: AlignmentRecipe, run_dir: Path, resume: Path | None) -> _Run:
    """Bring a run to where it was, or to its beginning.

    Raises:
        InputError: something that the recipe names is wrong or has changed since the run began.
    """
    init = resolve_checkpoint(recipe.init)
    model, tokenizer = pretrained_model(resume or init), load_tokenizer(init)
    spec = model.config.attention_spec
    if spec.has_own_loss:
        raise InputError(
            f"The model of {init} has layers with a loss of their own, which TRL's losses would leave out; align a "
            "model of other layers, or train it further with 'palimpsest train'."
        )
    if model.config.vocab_size < (needed := vocabulary_size(tokenizer)):
        raise InputError(f"The model of {init} has {model.config.vocab_size} tokens, but its tokenizer {needed}.")
    rows = alignment_rows(recipe, tokenizer, segment_length=spec.segment_length)
    nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")  # transformers' own loses its signature
    learner = Learner(model.train(), build_optimizer(model, recipe.training))
    begin = Progress() if resume is None else read_checkpoint(resume, learner)
    record_origin(recipe, model, rows, run_dir)
    MetricsLog(run_dir / METRICS).rewind(begin.step)
    PreferenceLog(run_dir / PREFERENCES).rewind(begin.step)
    return _Run(recipe, rows, Course(recipe.training, learner, tokenizer, begin, run_dir), run_dir)
