"""Where a run is between two updates, whoever computes them: what it counts, writes, saves, and how it stops."""

import logging
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from palimpsest.errors import InputError
from palimpsest.records import LayerMetrics, StepRecord
from palimpsest.training.checkpoint import Checkpoints
from palimpsest.training.console import Interrupted
from palimpsest.training.metrics import MetricsLog
from palimpsest.training.run import CHECKPOINTS, METRICS
from palimpsest.training.spec import TrainingSpec
from palimpsest.training.state import Learner, Progress, write_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class TrainingError(InputError):
    """Training cannot go on: losses or gradients stay not finite."""


class Course:
    """A run between two updates.

    Attributes:
        training: how it is trained.
        learner: the model and its optimizer.
        tokenizer: what goes into checkpoints beside them.
        progress: how far it is; ``last_good`` how far it was after the last update that changed the weights.
        log: ``metrics.jsonl``.
    """

    def __init__(
        self,
        training: TrainingSpec,
        learner: Learner,
        tokenizer: "PreTrainedTokenizerBase",
        begin: Progress,
        run_dir: Path,
    ) -> None:
        self.training, self.learner, self.tokenizer = training, learner, tokenizer
        self.progress = self.last_good = begin
        self.log = MetricsLog(run_dir / METRICS)
        self._saved_step = begin.step
        self._checkpoints = Checkpoints(run_dir / CHECKPOINTS, training.keep_checkpoints)
        self._clock = time.perf_counter()

    def wait(self) -> None:
        """Begin to measure time here: what came before is no part of an update."""
        self._clock = time.perf_counter()

    def count(self, tokens: int, *, taken: bool) -> None:
        """Move on by one update, of so many tokens."""
        now, before = time.perf_counter(), self.progress
        self.progress = Progress(
            step=before.step + 1,
            tokens=before.tokens + tokens,
            skipped=before.skipped + (not taken),
            bad_in_a_row=0 if taken else before.bad_in_a_row + 1,
            seconds=before.seconds + now - self._clock,
        )
        self._clock = now
        if taken:
            self.last_good = self.progress

    @property
    def is_logged(self) -> bool:
        """Whether the update that was counted last belongs into the log."""
        return self.progress.step % self.training.log_every == 0 or self.progress.step in (1, self.training.steps)

    def note(
        self,
        loss: float,
        rates: tuple[float, float],
        norm: float,
        layers: tuple[LayerMetrics, ...],
        row_length: int | None = None,
    ) -> None:
        """Write a line of the log on the update that was counted last.

        Raises:
            InputError: the disk is full.
        """
        record = StepRecord(
            step=self.progress.step,
            tokens=self.progress.tokens,
            loss=loss,
            learning_rate=rates[0],
            gate_learning_rate=rates[1],
            grad_norm=norm,
            skipped=self.progress.skipped,
            seconds=self.progress.seconds,
            layers=layers,
            row_length=row_length,
        )
        self.log.append(record)

    def save(self) -> Path:
        """Save a checkpoint of the present step, unless there is one.

        Raises:
            InputError: the disk is full.
        """
        step = self.progress.step
        if step == self._saved_step:
            return self._checkpoints.path(step)
        self.log.sync()
        path = self._checkpoints.save(
            step, lambda directory: write_checkpoint(directory, self.learner, self.tokenizer, self.progress)
        )
        self._saved_step = step
        return path

    def save_if_due(self) -> None:
        """Save a checkpoint where the recipe asks for one.

        Raises:
            InputError: the disk is full.
        """
        if self.progress.step % self.training.checkpoint_every == 0:
            self.save()

    def stop(self, signum: int) -> NoReturn:
        """Save and leave, because a signal asked for it."""
        path = self.save()
        name = signal.Signals(signum).name
        sentence = f"Stopped by {name} after step {self.progress.step}, saved in {path}; the same command continues."
        logger.warning(sentence)
        raise Interrupted(signum, sentence)

    def skip(self, loss: float, norm: float) -> None:
        """Say that the update that was counted last was skipped, and stop if it was one too many.

        Raises:
            TrainingError: too many updates in a row were not finite.
        """
        last, bad, size = self.progress.step, self.progress.bad_in_a_row, self.training.batch_size
        rows = f"rows {(last - bad) * size} to {last * size - 1} of the data"
        logger.warning("Step %d was skipped: its loss is %g and the norm of its gradient %g.", last, loss, norm)
        if bad < self.training.max_bad_steps:
            return
        self.progress = self.last_good
        if self.progress.step > self._saved_step:
            self.save()
        raise TrainingError(
            f"Training stopped: the {bad} updates up to step {last} ({rows}) all had a loss or gradient that is not "
            f"finite; the weights are unchanged since step {self.last_good.step}; a lower learning_rate or clip_norm "
            "in a new run may help."
        )
