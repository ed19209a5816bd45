"""The long part of preparing a corpus: read, encode, write, and now and then note how far it has come."""

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from palimpsest.data.corpus import CorpusSpec, Document, Position, is_heldout
from palimpsest.data.documents import DocumentReader, source_extent
from palimpsest.data.encoding import Batch, Encoded, TokenEncoder, encode_in_order
from palimpsest.data.journal import Journal, Origin, Reading, documents_digest, write_journal
from palimpsest.data.writer import SCRATCH, SplitWriter
from palimpsest.errors import InputError
from palimpsest.records.files import sync

BATCH_CHARACTERS = 1_000_000
CHECKPOINT_TOKENS = 2**24
"""Tokens after which the journal is written: what an interruption can cost."""

BOUNDARY_BYTES = 16
"""Of one document: 8 in its split's boundaries, 8 in the scratch file of the lengths."""

Progress = Callable[[int, int], None]


class Estimate(NamedTuple):
    """What a preparation will come to, what is done already, and the room there is; None: the source does not tell.

    ``bytes`` and ``free`` are those of the disk.
    """

    documents: int | None
    tokens: int | None
    bytes: int | None
    free: int
    done_documents: int
    done_tokens: int


class _Sample(NamedTuple):
    """Documents that have been encoded, from which the others are estimated."""

    documents: int
    tokens: int
    text_bytes: int
    id_bytes: int


@dataclass(frozen=True)
class Tokenisation:
    """The writing of all documents of a corpus, begun or gone on with.

    Attributes:
        directory: where they are written.
        corpus: the corpus, a hub dataset at a fixed commit.
        origin: what is made from what.
        journal: how far an interrupted preparation has come, which the writers go on with; None: begin.
        train: writer of the documents to train on.
        heldout: writer of the others.
    """

    directory: Path
    corpus: CorpusSpec
    origin: Origin
    journal: Journal | None
    train: SplitWriter
    heldout: SplitWriter

    @property
    def documents(self) -> int:
        """Documents that have been written."""
        return self.train.documents + self.heldout.documents

    @property
    def tokens(self) -> int:
        """Tokens that have been written."""
        return self.train.tokens + self.heldout.tokens

    def run(
        self,
        encoder: TokenEncoder,
        *,
        workers: int = 1,
        announce: Callable[[Estimate], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write all documents.

        Args:
            encoder: makes tokens of texts.
            workers: as in :func:`palimpsest.data.encoding.encode_in_order`.
            announce: told the estimate before anything is written.
            progress: called with the number of documents and of tokens so far, after every batch.

        Raises:
            InputError: the disk is too small; the source cannot be read, or is no longer what it was.
        """
        reader, stream = self._reader()
        if self.journal is not None:
            self._announce(self._written_sample(), encoder, announce)
        due = self.tokens + CHECKPOINT_TOKENS
        with contextlib.closing(encode_in_order(_batches(reader, stream), encoder, workers)) as encoded:
            for batch, tokens in encoded:
                if self.documents == 0:
                    self._announce(_batch_sample(batch, tokens), encoder, announce)
                self._write(batch, tokens)
                if self.tokens >= due:
                    self._checkpoint(batch)
                    due = self.tokens + CHECKPOINT_TOKENS
                if progress is not None:
                    progress(self.documents, self.tokens)

    def _reader(self) -> tuple[DocumentReader, Iterator[Document]]:
        """Begin to read, or go on behind the last batch that was written, if the source gives that batch once more."""
        if self.journal is None:
            reader = DocumentReader(self.corpus)
            return reader, iter(reader)
        last = self.journal.reading
        if last.start.state is not None:
            with contextlib.suppress(InputError):  # a state that was lost, or that is of another version of datasets
                return self._reread(last, last.start)
        return self._reread(last, last.start._replace(state=None))

    def _reread(self, last: Reading, start: Position) -> tuple[DocumentReader, Iterator[Document]]:
        """Read the last batch once more.

        Raises:
            InputError: these are not the documents that were written.
        """
        assert self.journal is not None  # it names the last batch
        reader = DocumentReader(self.corpus, start, self.journal.documents - last.documents)
        stream = iter(reader)
        if documents_digest(list(itertools.islice(stream, last.documents))) != last.sha256:
            raise InputError(
                f"The source '{self.corpus.source}' no longer gives the documents that it gave before the "
                f"interruption; delete {self.directory} to begin again."
            )
        return reader, stream

    def _write(self, batch: Batch, encoded: Encoded) -> None:
        for document, ids in zip(batch.documents, encoded.documents(), strict=True):
            writer = self.heldout if is_heldout(document.id, self.corpus.heldout_fraction) else self.train
            writer.add(document, ids)

    def _checkpoint(self, batch: Batch) -> None:
        """Note that everything up to a batch has been written, once it is on the disk."""
        journal = Journal(
            origin=self.origin,
            reading=Reading(
                start=batch.start, documents=len(batch.documents), sha256=documents_digest(batch.documents)
            ),
            train=self.train.sync(),
            heldout=self.heldout.sync(),
        )
        sync(self.directory / SCRATCH)
        sync(self.directory)
        write_journal(self.directory, journal)

    def _written_sample(self) -> _Sample:
        assert self.journal is not None  # something has been written
        states = self.journal.train, self.journal.heldout
        return _Sample(
            self.documents,
            self.tokens,
            sum(state.text_bytes for state in states),
            sum(state.ids.bytes for state in states),
        )

    def _announce(self, sample: _Sample, encoder: TokenEncoder, announce: Callable[[Estimate], None] | None) -> None:
        extent = source_extent(self.corpus)
        tokens = documents = size = None
        if extent.text_bytes is not None and sample.text_bytes:
            share = extent.text_bytes / sample.text_bytes
            known = extent.documents if self.corpus.pieces is None else None
            documents = round(sample.documents * share) if known is None else known
            tokens = round((sample.tokens - sample.documents) * share) + documents
            size = round(tokens * encoder.itemsize + documents * (sample.id_bytes / sample.documents + BOUNDARY_BYTES))
        free = shutil.disk_usage(self.directory).free
        if size is not None and size - self._written_bytes(encoder) > free:
            raise InputError(
                f"The corpus '{self.corpus.source}' would take about {size / 1e9:.1f} GB as tokens, but the disk of "
                f"{self.directory.parent} has {free / 1e9:.1f} GB free; make room, or write to another disk."
            )
        if announce is not None:
            announce(Estimate(documents, tokens, size, free, self.documents, self.tokens))

    def _written_bytes(self, encoder: TokenEncoder) -> int:
        if self.journal is None:
            return 0
        return self.tokens * encoder.itemsize + self._written_sample().id_bytes + self.documents * BOUNDARY_BYTES // 2


def _batch_sample(batch: Batch, encoded: Encoded) -> _Sample:
    return _Sample(
        len(batch.documents),
        len(encoded.tokens) + len(batch.documents),
        sum(len(document.text.encode()) for document in batch.documents),
        sum(len(json.dumps(document.id)) + 1 for document in batch.documents),
    )


def _batches(reader: DocumentReader, stream: Iterator[Document]) -> Iterator[Batch]:
    """Group documents so that the encoder has enough to share among its threads, and no more."""
    documents, start, characters = [], reader.position, 0
    for document in stream:
        documents.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield Batch(documents, start)
            documents, start, characters = [], reader.position, 0
    if documents:
        yield Batch(documents, start)
