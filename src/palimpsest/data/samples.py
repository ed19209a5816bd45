"""Training samples: fixed windows of the token stream, sample i a pure function of (seed, i)."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from palimpsest.data.shards import TokenSplit
from palimpsest.errors import InputError

IGNORED = -100


class Sample(NamedTuple):
    """One row of a training batch; every field is int64 of shape [T].

    ``labels`` are the inputs themselves (the model shifts by one), with -100 where the row does not hold what
    the token would have to be predicted from: at its first position, and at the first token of every
    document. ``document_ids`` number the documents of the row from 0; the end-of-text token belongs to the
    document it closes.
    """

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    document_ids: NDArray[np.int64]


class TextSamples:
    """Endless samples of ``sequence_length`` tokens from one split.

    The split is taken as a ring and cut into ``len(samples)`` windows that do not overlap; sample i is a
    window of epoch ``i // len(samples)``. Every epoch has its own order of windows and its own place of the
    first cut, both functions of (seed, epoch) alone. So any sample can be made at any time by any process:
    neither the number of processes, nor the size of batches, nor an interruption changes the sequence of
    samples::

        tokens       a b c . d e . f g h    ("." closes a document)
        input_ids      b c . d e
        labels         * c . * e            (*: -100)
        document_ids   0 0 0 1 1

    Raises:
        InputError: the split is shorter than one sample.
    """

    def __init__(self, split: TokenSplit, sequence_length: int, seed: int) -> None:
        if sequence_length < 2:
            raise InputError(
                f"A sample of {sequence_length} tokens has nothing to predict: sequence_length must be 2 or more."
            )
        if len(split) < sequence_length:
            raise InputError(
                f"The {split.name} part of {split.directory} has {len(split)} tokens, fewer than one sample "
                f"of {sequence_length}: give more text or a shorter sequence_length."
            )
        self.split = split
        self.sequence_length = sequence_length
        self.seed = seed
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

    def __len__(self) -> int:
        """Samples in one epoch."""
        return len(self.split) // self.sequence_length

    def sample(self, index: int) -> Sample:
        """Return sample ``index``, for any index >= 0."""
        if index < 0:
            raise IndexError(f"samples are numbered from 0, not {index}")
        epoch, position = divmod(index, len(self))
        shift, order = self._epoch(epoch)
        start = (shift + int(order[position]) * self.sequence_length) % len(self.split)
        tokens, starts = self._window(start)
        labels = tokens.copy()
        labels[0] = IGNORED
        labels[starts] = IGNORED
        document_ids = np.zeros_like(tokens)
        document_ids[starts[starts > 0]] = 1
        return Sample(tokens, labels, np.cumsum(document_ids))

    def _plan_epoch(self, epoch: int) -> tuple[int, NDArray[np.int64]]:
        # Raw output of a bit generator is the same in every version of numpy; Generator.permutation is not.
        random = np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))
        shift = int(random.random_raw()) % len(self.split)
        return shift, np.argsort(random.random_raw(len(self)), kind="stable")

    def _window(self, start: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the tokens of the window and the positions in it at which a document begins."""
        size = len(self.split)
        stop = start + self.sequence_length
        if stop <= size:
            return self.split.read(start, stop), self.split.document_starts(start, stop) - start
        tokens = np.concatenate([self.split.read(start, size), self.split.read(0, stop - size)])
        before = self.split.document_starts(start, size) - start
        return tokens, np.concatenate([before, self.split.document_starts(0, stop - size) + size - start])
