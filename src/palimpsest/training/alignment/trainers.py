"""TRL's trainers on rows of ours: its losses and its loop, our rows in our order, and nothing written by itself."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import torch
from datasets import Dataset as Table
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from palimpsest.models import PalimpsestForCausalLM
from palimpsest.training.alignment.recipe import AlignmentRecipe, DpoSpec
from palimpsest.training.alignment.rows import AlignmentRows, Tokens


class Listener(Protocol):
    """What a trainer tells of itself."""

    def micro_batch(self, loss: Tensor, tokens: int) -> None:
        """Take note of a micro-batch: its part of the loss of the update, and its tokens without padding."""
        ...

    def updated(self, means: dict[str, float]) -> None:
        """Take note of an update that is over, and of what TRL has measured of it: means by name."""
        ...


@contextlib.contextmanager
def _without_renamings() -> Iterator[None]:
    """Do not show what transformers says to TRL about a name that it has changed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*gradient_checkpointing.* is deprecated", FutureWarning)
        yield


class Upcoming(Dataset[Tokens]):
    """The rows of all updates that are still to come, in order."""

    def __init__(self, rows: AlignmentRows, begin: int, end: int) -> None:
        self.rows, self.begin, self.end = rows, begin, end

    def __len__(self) -> int:
        """Return how many there are."""
        return self.end - self.begin

    def __getitem__(self, index: int) -> Tokens:
        """Return one of them."""
        return self.rows.row(self.begin + index)


class Observed(Trainer):
    """A trainer that reads its rows in order, says what it does, and tells nobody else."""

    upcoming: Upcoming
    listener: Listener

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of the updates to come."""
        batches = DataLoader(
            self.upcoming, batch_size=self.args.per_device_train_batch_size, collate_fn=self.data_collator
        )
        return self.accelerator.prepare(batches)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Compute the gradient of a micro-batch and return its part of the loss."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.listener.micro_batch(loss, int(inputs["attention_mask"].sum()))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass on what has been measured of an update; what is said at the end of all of them has no loss."""
        super().log(logs, start_time)
        if "loss" in logs:
            self.listener.updated(logs)

    def _send_telemetry(self) -> None:
        """Send nothing to anybody."""


class ObservedSft(Observed, SFTTrainer):
    """TRL's supervised fine-tuning."""


class ObservedDpo(Observed, DPOTrainer):
    """TRL's direct preference optimisation."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the mean loss of a micro-batch of pairs."""
        with _without_renamings():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: DPOConfig, dataset_name: str) -> Any:
        """Return rows as they are: they are tokens already, which TRL sees by itself in supervised fine-tuning only."""
        return dataset


def build_trainer(
    recipe: AlignmentRecipe,
    model: PalimpsestForCausalLM,
    reference: Callable[[], PalimpsestForCausalLM],
    optimizer: AdamW,
    tokenizer: PreTrainedTokenizerBase,
    upcoming: Upcoming,
    run_dir: Path,
) -> Observed:
    """Return a trainer over the rows to come.

    Args:
        recipe: what to do.
        model: what learns, on its device.
        reference: makes the model that preferences are measured against.
        optimizer: over the model's parameters; whoever steps it sets its rates.
        tokenizer: of the rows.
        upcoming: the rows.
        run_dir: the directory of the run.
    """
    given: dict[str, Any] = {
        "model": model,
        "train_dataset": Table.from_list([upcoming[0]]),  # looked at, not learned from: see get_train_dataloader
        "processing_class": tokenizer,
        # rates are set before every step; without a schedule of ours the trainer would make one of its own
        "optimizers": (optimizer, LambdaLR(optimizer, lambda step: 1.0)),
    }
    settings = _settings(recipe, len(upcoming) // recipe.training.batch_size, run_dir)
    trainer: Observed
    if isinstance(recipe.method, DpoSpec):
        config = DPOConfig(**settings, beta=recipe.method.beta)
        trainer = ObservedDpo(**given, ref_model=reference(), args=config)
    else:
        trainer = ObservedSft(**given, args=SFTConfig(**settings))
    trainer.remove_callback(PrinterCallback)
    trainer.upcoming = upcoming
    return trainer


def _settings(recipe: AlignmentRecipe, steps: int, run_dir: Path) -> dict[str, Any]:
    """Return the arguments that both trainers share."""
    training = recipe.training
    # transformers renamed the option; where both exist the earlier name is deprecated
    newer = "activation_checkpointing" in {field.name for field in fields(TrainingArguments)}
    recompute = "activation_checkpointing" if newer else "gradient_checkpointing"
    return {
        "output_dir": str(run_dir),
        "max_steps": steps,
        "per_device_train_batch_size": training.batch_size // training.accumulation,
        "gradient_accumulation_steps": training.accumulation,
        "max_grad_norm": 0.0,  # whoever steps the optimizer clips, after a look at the gradients
        "max_length": None,  # rows have their length already
        "bf16": training.precision == "bfloat16",
        recompute: training.gradient_checkpointing,
        f"{recompute}_kwargs": {"use_reentrant": False},
        "logging_strategy": "steps",
        "logging_steps": 1,  # whoever listens knows which updates are logged, also of a run that was continued
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "seed": recipe.seed % 2**32,
    }
