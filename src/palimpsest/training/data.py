"""Batches: which rows an update is made of, as pure functions of (seed, step)."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from palimpsest.data import load_tokenizer
from palimpsest.data.tokenizer import vocabulary_size
from palimpsest.errors import InputError
from palimpsest.training.needles import NeedleRows, require_positions
from palimpsest.training.recipe import (
    LengthStage,
    MixtureData,
    NeedlesData,
    PasskeyData,
    Recipe,
    SummariesData,
    TasksData,
    TextData,
)
from palimpsest.training.rows import PADDING_DOCUMENT, MixedRows, PasskeyRows, Rows, TextRows, padding_token
from palimpsest.training.summaries import SummaryRows
from palimpsest.training.tasks import TaskRows, symbolic_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Batch(NamedTuple):
    """Rows of one micro-batch, ``[B, T]`` int64 each; ``weights`` ``[B]`` is the weight of a row's labelled tokens."""

    input_ids: Tensor
    labels: Tensor
    document_ids: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    @property
    def tokens(self) -> int:
        """Number of input tokens, padding not counted."""
        return int((self.document_ids >= 0).sum())

    def model_documents(self) -> Tensor | None:
        """Return the document ids that a causal model needs to be told.

        None where every row is a single document with padding, if any, on its right: what comes after a token
        cannot reach it, and padding has no label.
        """
        ids = self.document_ids
        single = (ids == ids[:, :1]) | (ids == PADDING_DOCUMENT)
        contiguous = (ids[:, 1:] == PADDING_DOCUMENT) | (ids[:, :-1] != PADDING_DOCUMENT)
        return None if bool(single.all()) and bool(contiguous.all()) else ids


@dataclass(frozen=True)
class BatchSource:
    """The batches of a run.

    Update ``step`` (from 0) is made of the rows ``step * batch_size`` up to ``(step + 1) * batch_size``, in this order:
    first those of rank 0, and of each rank first those of micro-batch 0. So neither an interruption, nor the number of
    processes, nor that of micro-batches changes which rows an update is made of.

    Attributes:
        rows: where rows come from.
        tokenizer: the tokenizer they were made with.
        batch_size: rows per update, all ranks and micro-batches together.
        accumulation: micro-batches per update.
        curriculum: stages of updates for which rows are cut into shorter ones.
    """

    rows: Rows
    tokenizer: "PreTrainedTokenizerBase"
    batch_size: int
    accumulation: int
    curriculum: tuple[LengthStage, ...] = ()

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs."""
        return vocabulary_size(self.tokenizer)

    def indices(self, step: int, micro: int = 0, *, rank: int = 0, world: int = 1) -> range:
        """Return the numbers of the rows of one micro-batch.

        Raises:
            InputError: the batch cannot be divided evenly.
        """
        parts = self.accumulation * world
        if self.batch_size % parts:
            raise InputError(
                f"batch_size {self.batch_size} cannot be divided over {world} processes with {self.accumulation} "
                "micro-batches each; make it a multiple of their product."
            )
        size = self.batch_size // parts
        start = step * self.batch_size + (rank * self.accumulation + micro) * size
        return range(start, start + size)

    def length_at(self, step: int) -> int | None:
        """Return the tokens of the parts that rows are cut into for an update; None: they are not cut."""
        end = 0
        for stage in self.curriculum:
            end += stage.steps
            if step < end:
                return stage.sequence_length
        return None

    def batch(self, step: int, micro: int = 0, *, rank: int = 0, world: int = 1) -> Batch:
        """Return one micro-batch of an update.

        Raises:
            InputError: the batch cannot be divided evenly.
        """
        rows = [self.rows.row(index) for index in self.indices(step, micro, rank=rank, world=world)]
        length = self.length_at(step)
        if length is not None:
            rows = [part for row in rows for part in row.cut(length)]
        input_ids, labels, document_ids, weights = zip(*rows, strict=True)
        return Batch(
            *(torch.from_numpy(np.stack(column)) for column in (input_ids, labels, document_ids)),
            weights=torch.tensor(weights, dtype=torch.float32),
        )


def batch_source(recipe: Recipe, directory: Path, *, init: Path | None, segment_length: int) -> BatchSource:
    """Open the data of a recipe, preparing it first where the recipe says so.

    Args:
        recipe: the recipe.
        directory: where to prepare a corpus for which the recipe names no directory.
        init: the checkpoint the run starts from, if any.
        segment_length: tokens per segment of the model; a passkey lies wholly inside one.

    Raises:
        InputError: no such data, or data that do not fit the tokenizer or each other.
    """
    data, training = recipe.data, recipe.training
    rows: Rows
    if isinstance(data, TasksData):
        tokenizer = _tasks_tokenizer(data, init)
        rows = TaskRows(data, recipe.seed, tokenizer, segment_length=segment_length)
    elif isinstance(data, SummariesData):
        tokenizer = load_tokenizer(_directory(data.tokenizer, init))
        rows = SummaryRows(data, recipe.seed, tokenizer, directory)
    elif isinstance(data, NeedlesData):
        if init is not None:
            require_positions(data, init)
        tokenizer = load_tokenizer(_directory(data.tokenizer, init))
        rows = NeedleRows(data, recipe.seed, tokenizer, directory=directory, segment_length=segment_length)
    else:
        rows, tokenizer = _text_rows(data, recipe.seed, directory, init, segment_length)
    if init is not None:
        _require_same_vocabulary(tokenizer, load_tokenizer(init), f"the data and the checkpoint {init}")
    curriculum = data.curriculum if isinstance(data, TextData) else ()
    return BatchSource(rows, tokenizer, training.batch_size, training.accumulation, curriculum)


def _text_rows(
    data: TextData | PasskeyData | MixtureData, seed: int, directory: Path, init: Path | None, segment_length: int
) -> tuple[Rows, "PreTrainedTokenizerBase"]:
    """Return rows of text, of passkeys or of both, and their tokenizer."""
    text = data.text if isinstance(data, MixtureData) else data if isinstance(data, TextData) else None
    passkey = data.passkey if isinstance(data, MixtureData) else data if isinstance(data, PasskeyData) else None
    text_rows = None if text is None else TextRows(text, seed, directory)
    tokenizer = _tokenizer(text_rows, passkey, init)
    rows: Rows | None = text_rows
    if passkey is not None:
        weight = data.answer_weight if isinstance(data, MixtureData) else 1.0
        rows = PasskeyRows(passkey, seed, tokenizer, segment_length, weight)
        if text_rows is not None and isinstance(data, MixtureData):
            rows = MixedRows(text_rows, rows, data.passkey_fraction, padding_token(tokenizer))
    assert rows is not None  # one of the three kinds
    return rows, tokenizer


def _directory(given: Path | None, init: Path | None) -> Path:
    """Return the directory of the tokenizer that data name, or that of the checkpoint the run starts from."""
    directory = given or init
    assert directory is not None  # the schema sees to it
    return directory


def _tasks_tokenizer(data: TasksData, init: Path | None) -> "PreTrainedTokenizerBase":
    """Return the tokenizer that tasks name, that of the checkpoint the run starts from, or the symbolic one."""
    directory = data.tokenizer or init
    return symbolic_tokenizer() if directory is None else load_tokenizer(directory)


def _tokenizer(text: TextRows | None, passkey: PasskeyData | None, init: Path | None) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of the data; passkeys take that of the text or of ``init`` unless they name one."""
    if text is not None:
        tokenizer = text.corpus.tokenizer()
        if passkey is not None and passkey.tokenizer is not None:
            _require_same_vocabulary(tokenizer, load_tokenizer(passkey.tokenizer), "the text and the passkeys")
        return tokenizer
    directory = init if passkey is None or passkey.tokenizer is None else passkey.tokenizer
    assert directory is not None  # the schema sees to it
    return load_tokenizer(directory)


def _require_same_vocabulary(one: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase", between: str) -> None:
    if one.get_vocab() != other.get_vocab():
        raise InputError(
            f"The tokenizers of {between} have different vocabularies ({len(one.get_vocab())} and "
            f"{len(other.get_vocab())} tokens); prepare both with the same tokenizer."
        )
