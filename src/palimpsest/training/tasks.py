"""Rows of tasks, several kinds of them mixed with filler that is modelled like text; and the symbolic tokenizer."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from palimpsest.data import IGNORED
from palimpsest.tasks import Trainable, build_task
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.keys import is_evaluation_key
from palimpsest.tasks.symbolic.filler import Chain
from palimpsest.tasks.symbolic.vocabulary import EOS, KEYS, PAD, VALUES, names
from palimpsest.training.recipe import TasksData
from palimpsest.training.rows import Row, padding_token

SHOWN = 4
"""Rows of every kind, of a fixed seed, that stand for all of them in a fingerprint."""

REPEATED = np.concatenate([KEYS.ids, VALUES.ids])
"""The words of repeated strings."""

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


def symbolic_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the tokenizer of the symbolic tasks: 512 words, one token each, separated by blanks."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = names()
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[PAD]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=words[EOS],
        pad_token=words[PAD],
        clean_up_tokenization_spaces=False,
    )


class DocumentRows:
    """Rows of one symbolic document each, every token of it labelled: what the symbolic models know as language."""

    def __init__(self, row_length: int) -> None:
        self.row_length = row_length

    def row(self, seed: int, index: int) -> Row:
        """Return row ``index``."""
        draws = Draws(f"document|training|{seed}|{index}")
        ids = Chain(draws).speak(draws, self.row_length).astype(np.int64)
        return Row(ids, ids.copy(), np.zeros_like(ids), weight=1.0)


class RepeatRows:
    """Rows of one random string said again and again, labelled from the second time on.

    They teach what all retrieval is made of, to find what followed last time (induction heads, Olsson et al. 2022,
    arXiv 2209.11895), at every token instead of at the few that answer a question. The string is a quarter to a half of
    the row, drawn per row, so that no fixed distance leads to the answer. No pair of key and value that an evaluation
    asks for stands in it.
    """

    def __init__(self, row_length: int) -> None:
        self.row_length = row_length

    def row(self, seed: int, index: int) -> Row:
        """Return row ``index``."""
        draws = Draws(f"repeat|{seed}|{index}|{self.row_length}")
        period = draws.integer(self.row_length // 4, self.row_length // 2)
        string = _without_evaluation_pairs(REPEATED[draws.integers(REPEATED.size, period)])
        ids = np.resize(string, self.row_length).astype(np.int64)
        labels = ids.copy()
        labels[:period] = IGNORED
        return Row(ids, labels, np.zeros_like(ids), weight=1.0)


def _without_evaluation_pairs(string: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return a string, said in a circle, with a key in the place of every value that makes such a pair with its key."""
    clean = string.copy()
    while (wrong := evaluation_pairs(clean)).any():
        clean[wrong] -= VALUES.start - KEYS.start
    return clean


def evaluation_pairs(string: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Tell which words of a string, said in a circle, are values right after a key that they are evaluated with."""
    key, value = np.roll(string, 1) - KEYS.start, string - VALUES.start
    pair = (key >= 0) & (key < KEYS.size) & (value >= 0) & (value < VALUES.size)
    code = np.where(pair, key * VALUES.size + value, 0)
    return pair & is_evaluation_key(code)


class TaskRows:
    """Rows of several tasks and of documents, the kind of each drawn by its weight."""

    def __init__(
        self, data: TasksData, seed: int, tokenizer: "PreTrainedTokenizerBase", *, segment_length: int
    ) -> None:
        pad = padding_token(tokenizer)
        self.tasks: Sequence[Trainable] = [
            build_task(each.task, tokenizer, segment_length=segment_length, pad_id=pad) for each in data.tasks
        ]
        self.row_length = data.row_length
        self.documents, self.repeats = DocumentRows(data.row_length), RepeatRows(data.row_length)
        self.seed, self.data, self.pad = seed, data, pad
        self._upper = np.cumsum(data.shares)[:-1]
        kinds = [f"{task.name}@{task.version}" for task in self.tasks]
        shown = [self.repeats.row, self.documents.row, *(task.training_sample for task in self.tasks)]
        tokens = b"".join(row(0, index).input_ids.astype("<i8").tobytes() for row in shown for index in range(SHOWN))
        self.fingerprint = hashlib.sha256("|".join(kinds).encode() + tokens).hexdigest()

    def row(self, index: int) -> Row:
        """Return row ``index``."""
        drawn = float(Draws(f"kinds|{self.seed}|{index}").fractions(1)[0])
        kind = int(np.searchsorted(self._upper, drawn, side="right"))
        if kind < 2:
            return (self.documents, self.repeats)[kind].row(self.seed, index)
        task_row = self.tasks[kind - 2].training_sample(self.seed, index)
        return Row(*task_row, weight=self.data.answer_weight).padded(self.row_length, self.pad)
