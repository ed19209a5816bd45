"""Batches: which rows an update is made of, as pure functions of (seed, step)."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palimpsest.data import IGNORED, TextSamples, load_tokenizer, open_corpus, prepare_corpus
from palimpsest.data.tokenizer import vocabulary_size
from palimpsest.errors import InputError
from palimpsest.tasks import Passkey
from palimpsest.training.recipe import MixtureData, PasskeyData, Recipe, TextData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PADDING_DOCUMENT = -1
FINGERPRINT_ROWS = 16


class Row(NamedTuple):
    """One row ``[T]``: tokens, labels (not shifted, -100: none), document ids (-1: padding), weight in the loss."""

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    document_ids: NDArray[np.int64]
    weight: float


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


class Rows(Protocol):
    """An endless, seeded sequence of rows.

    Attributes:
        fingerprint: identity of what the rows are made from, whatever the seed.
        row_length: tokens in a row.
    """

    fingerprint: str
    row_length: int

    def row(self, index: int) -> Row:
        """Return row ``index`` >= 0, a pure function of it."""
        ...


class TextRows:
    """Rows of running text."""

    def __init__(self, data: TextData, seed: int, directory: Path) -> None:
        if data.corpus is None or data.tokenizer is None:
            assert data.directory is not None  # the schema sees to it
            self.corpus = open_corpus(data.directory)
        else:
            self.corpus = prepare_corpus(data.corpus, data.tokenizer, data.directory or directory)
        self.samples = TextSamples(self.corpus.train, data.sequence_length, seed)
        self.fingerprint = self.corpus.fingerprint
        self.row_length = data.sequence_length

    def row(self, index: int) -> Row:
        """Return row ``index``."""
        return Row(*self.samples.sample(index), weight=1.0)


class PasskeyRows:
    """Rows of one passkey prompt each, padded on the right."""

    def __init__(
        self, data: PasskeyData, seed: int, tokenizer: "PreTrainedTokenizerBase", segment_length: int, weight: float
    ) -> None:
        self.task = Passkey(data, tokenizer, segment_length=segment_length, pad_id=padding_token(tokenizer))
        self.seed = seed
        self.weight = weight
        self.row_length = data.max_length

        # the task and the tokenizer, shown by rows of a fixed seed
        shown = (self.task.training_sample(0, index).input_ids for index in range(FINGERPRINT_ROWS))
        tokens = b"".join(ids.astype("<i8").tobytes() for ids in shown)
        self.fingerprint = hashlib.sha256(f"{self.task.name}@{self.task.version}|".encode() + tokens).hexdigest()

    def row(self, index: int) -> Row:
        """Return row ``index``."""
        return Row(*self.task.training_sample(self.seed, index), weight=self.weight)


class MixedRows:
    """Of every n rows, floor(n * fraction) are of the second kind; each kind comes in its own order, without gaps."""

    def __init__(self, first: Rows, second: Rows, fraction: float, pad_id: int) -> None:
        self.first, self.second, self.fraction, self.pad_id = first, second, fraction, pad_id
        self.fingerprint = hashlib.sha256(f"{first.fingerprint}|{second.fingerprint}".encode()).hexdigest()
        self.row_length = max(first.row_length, second.row_length)  # the shorter kind is padded

    def row(self, index: int) -> Row:
        """Return row ``index``."""
        before, after = math.floor(index * self.fraction), math.floor((index + 1) * self.fraction)
        row = self.second.row(before) if after > before else self.first.row(index - before)
        missing = (0, self.row_length - len(row.input_ids))
        return Row(
            np.pad(row.input_ids, missing, constant_values=self.pad_id),
            np.pad(row.labels, missing, constant_values=IGNORED),
            np.pad(row.document_ids, missing, constant_values=PADDING_DOCUMENT),
            row.weight,
        )


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
    """

    rows: Rows
    tokenizer: "PreTrainedTokenizerBase"
    batch_size: int
    accumulation: int

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

    def batch(self, step: int, micro: int = 0, *, rank: int = 0, world: int = 1) -> Batch:
        """Return one micro-batch of an update.

        Raises:
            InputError: the batch cannot be divided evenly.
        """
        rows = [self.rows.row(index) for index in self.indices(step, micro, rank=rank, world=world)]
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
    text = data.text if isinstance(data, MixtureData) else data if isinstance(data, TextData) else None
    passkey = data.passkey if isinstance(data, MixtureData) else data if isinstance(data, PasskeyData) else None
    text_rows = None if text is None else TextRows(text, recipe.seed, directory)
    tokenizer = _tokenizer(text_rows, passkey, init)
    if init is not None:
        _require_same_vocabulary(tokenizer, load_tokenizer(init), f"the data and the checkpoint {init}")
    rows: Rows | None = text_rows
    if passkey is not None:
        weight = data.answer_weight if isinstance(data, MixtureData) else 1.0
        rows = PasskeyRows(passkey, recipe.seed, tokenizer, segment_length, weight)
        if text_rows is not None and isinstance(data, MixtureData):
            rows = MixedRows(text_rows, rows, data.passkey_fraction, padding_token(tokenizer))
    assert rows is not None  # one of the three kinds
    return BatchSource(rows, tokenizer, training.batch_size, training.accumulation)


def padding_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token to pad with: the tokenizer's own, else its end of text, which is masked in any case."""
    token = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    assert isinstance(token, int)  # load_tokenizer sees to an end-of-text token
    return token


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
