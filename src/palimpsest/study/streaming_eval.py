"""Answer items of any length in memory that does not grow with them, and go on after an interruption.

The same numbers as ``evaluate_items``: only what is held at a time differs, the tokens of one chunk and the state of
the model. That state is a file now and then, so that a reading of an hour can be done in calls of ten minutes.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from palimpsest.errors import InputError
from palimpsest.models import PalimpsestCache
from palimpsest.models.snapshot import Snapshot, Source
from palimpsest.models.streaming import prefill_windows
from palimpsest.probes import Intervention, Rows, parse_intervention
from palimpsest.records import ItemRecord
from palimpsest.study.evaluate import Subject, answer, item_record, needle_segments
from palimpsest.study.naming import digest
from palimpsest.tasks import Task
from palimpsest.tasks.streamed import WINDOW, StreamedSample

STREAMED_FROM = 1 << 15
"""Tokens of an item from which on it is worth while not to hold them."""

PASS_TOKENS = 1 << 13
"""Tokens that all rows together read in one pass: on a CPU more of them are slower, and far fewer are too."""

SAVE_SECONDS = 30.0
"""Seconds of reading that an interruption costs at most."""

Progressed = Callable[[int], None]
"""Is told how many columns have just been read, or had been read before."""


@torch.inference_mode()
def evaluate_streamed(
    subject: Subject,
    task: Task,
    samples: Sequence[StreamedSample],
    interventions: Iterable[str] = (),
    *,
    states: Path | None = None,
    pass_tokens: int = PASS_TOKENS,
    listen: Progressed | None = None,
) -> list[ItemRecord]:
    """Answer items of equal length, one to a haystack, intact ("none") and under each intervention.

    Args:
        subject: the model under test.
        task: what scores the answers.
        samples: the items; what is held does not depend on their length, but on how many there are.
        interventions: as for ``evaluate_items``. Those that must be in force throughout cost a reading each.
        states: a directory, for these items and this model alone, where the state is kept during a reading and found by
            the next call. It may be removed when the records are safe.
        pass_tokens: tokens of all items together per pass, rounded to whole segments of each.
        listen: told how reading goes on.

    Raises:
        InputError: an intervention that needs the mean reads of other whole texts, or a state in the directory that is
            of other items or of another model.
    """
    names = ("none", *interventions)
    chosen = [parse_intervention(name) for name in names]
    for intervention in chosen:
        if intervention.needs_reads:
            raise InputError(
                f"The intervention '{intervention.name}' needs what the model reads of other texts of that length, and "
                f"items of {samples[0].outline.length} tokens are streamed; ask it of shorter ones."
            )
    outlines = [sample.outline for sample in samples]
    rows, end = Rows(needle_segments(outlines)), outlines[0].prompt_length
    last = (end - 1) // outlines[0].segment_length * outlines[0].segment_length
    reading = _Reading(subject, samples, pass_tokens // len(samples), states, listen)
    rest = reading.window(last, end)
    past = reading.read(last)
    records = []
    for name, intervention in zip(names, chosen, strict=True):
        before = reading.read(last, intervention, rows) if intervention.throughout else past.clone()
        with intervention.apply(subject.model, rows):
            outputs = answer(subject, outlines, rest, before)
        records += [
            item_record(subject, task, outline, output, name) for outline, output in zip(outlines, outputs, strict=True)
        ]
    return records


class _Reading:
    """How a batch of items is read: in chunks, with its state kept in files."""

    def __init__(
        self,
        subject: Subject,
        samples: Sequence[StreamedSample],
        chunk_tokens: int,
        states: Path | None,
        listen: Progressed | None,
    ) -> None:
        self.model = subject.model
        self.samples = samples
        self.chunk_tokens = chunk_tokens
        self.states = states
        self.listen = listen or (lambda columns: None)

    def window(self, start: int, end: int) -> Tensor:
        """Return columns start .. end - 1 of all items, ``[B, columns]``."""
        return torch.from_numpy(np.stack([sample.tokens(start, end) for sample in self.samples])).long()

    def read(self, end: int, intervention: Intervention | None = None, rows: Rows | None = None) -> PalimpsestCache:
        """Return the state after the columns before ``end``, all of them read under an intervention if there is one."""
        kept = self._file(intervention)
        texts = _Digests(len(self.samples))
        cache = PalimpsestCache(self.model.config)
        if kept is not None and kept.exists():
            cache = self._resume(kept, texts, end)
        began = time.monotonic()

        def window(start: int, stop: int) -> Tensor:
            columns = self.window(start, stop)
            texts.add(columns)
            return columns

        def progressed(columns: int) -> None:
            nonlocal began
            self.listen(columns)
            if kept is not None and (cache.columns == end or time.monotonic() - began >= SAVE_SECONDS):
                self.model.snapshot(cache, sources=texts.sources()).save(kept)
                began = time.monotonic()

        if cache.columns < end:
            with nullcontext() if intervention is None else intervention.apply(self.model, rows):
                prefill_windows(self.model, window, end, cache, chunk_tokens=self.chunk_tokens, listen=progressed)
        return cache

    def _file(self, intervention: Intervention | None) -> Path | None:
        if self.states is None:
            return None
        name = "none" if intervention is None else digest(intervention.name)[:12]
        return self.states / f"{name}.safetensors"

    def _resume(self, kept: Path, texts: "_Digests", end: int) -> PalimpsestCache:
        """Return the state of a file, once it is sure that it is of the beginning of these items.

        Raises:
            InputError: it is not, or it is of another model, or damaged.
        """
        snapshot = Snapshot.load(kept)
        columns = min(snapshot.header.columns, end)
        for start in range(0, columns, WINDOW):
            texts.add(self.window(start, min(start + WINDOW, columns)))
        if snapshot.header.columns > end or snapshot.header.sources != texts.sources():
            raise InputError(f"{kept} is the state after other texts than the items that are asked; remove it.")
        self.listen(columns)
        return self.model.restore(snapshot)


class _Digests:
    """What has been read of every row: how many bytes of little-endian int32, and their SHA-256."""

    def __init__(self, rows: int) -> None:
        self._bytes = 0
        self._digests = [sha256() for _ in range(rows)]

    def add(self, columns: Tensor) -> None:
        """Count ``[B, columns]`` more."""
        self._bytes += 4 * columns.shape[1]
        for each, row in zip(self._digests, columns.numpy().astype("<i4"), strict=True):
            each.update(row.tobytes())

    def sources(self) -> tuple[Source, ...]:
        """Return one source per row."""
        return tuple(Source(bytes=self._bytes, sha256=each.hexdigest()) for each in self._digests)
