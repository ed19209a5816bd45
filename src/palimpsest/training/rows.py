"""Rows of training data: text, passkeys, and mixtures of both, each a pure function of (seed, index)."""

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from palimpsest.data import IGNORED, TextSamples, open_corpus, prepare_corpus
from palimpsest.tasks import Passkey
from palimpsest.training.recipe import PasskeyData, TextData

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

    def padded(self, row_length: int, pad_id: int) -> "Row":
        """Return the row padded on the right, where nothing has a label."""
        missing = (0, row_length - len(self.input_ids))
        return Row(
            np.pad(self.input_ids, missing, constant_values=pad_id),
            np.pad(self.labels, missing, constant_values=IGNORED),
            np.pad(self.document_ids, missing, constant_values=PADDING_DOCUMENT),
            self.weight,
        )

    def cut(self, length: int) -> list["Row"]:
        """Return the row in parts of ``length`` tokens, each a row of its own.

        A part's first token has no label, since the part does not hold what it would be predicted from, and the
        documents of a part are numbered from 0.
        """
        parts = []
        for start in range(0, len(self.input_ids), length):
            tokens, labels, documents = (column[start : start + length].copy() for column in self[:3])
            labels[0] = IGNORED
            real = documents >= 0
            documents[real] -= documents[real].min(initial=np.iinfo(np.int64).max)
            parts.append(Row(tokens, labels, documents, self.weight))
        return parts


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
        return row.padded(self.row_length, self.pad_id)


def padding_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token to pad with: the tokenizer's own, else its end of text, which is masked in any case."""
    token = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    assert isinstance(token, int)  # load_tokenizer sees to an end-of-text token
    return token
