"""Documents to tokens, batch by batch and in order, in this process or in several."""

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import chain
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from palimpsest.data.corpus import Document, Position
from palimpsest.data.tokenizer import encoder_of
from palimpsest.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AHEAD = 2
"""Batches that wait for each worker, so that none has to wait for the writer."""


class Batch(NamedTuple):
    """Documents in the order of the corpus, and where the reading of them began."""

    documents: list[Document]
    start: Position


class Encoded(NamedTuple):
    """The tokens of the documents of a batch in a row, without end-of-text, and how many each of them has."""

    tokens: NDArray[np.unsignedinteger]
    lengths: NDArray[np.int64]

    def documents(self) -> Iterator[NDArray[np.unsignedinteger]]:
        """Yield the tokens of every document."""
        stops = np.cumsum(self.lengths).tolist()
        for start, stop in zip([0, *stops], stops, strict=False):
            yield self.tokens[start:stop]


class TokenEncoder:
    """Encodes texts, here or in another process, to which it can be sent.

    Args:
        part: the :func:`palimpsest.data.tokenizer.encoding_part` of the tokenizer.
        dtype: of the tokens.
    """

    def __init__(self, part: "str | PreTrainedTokenizerBase", dtype: np.dtype) -> None:
        self._part, self._dtype = part, dtype
        self._encode = encoder_of(part)

    @property
    def itemsize(self) -> int:
        """Bytes of one token on the disk."""
        return self._dtype.itemsize

    def __reduce__(self) -> tuple[object, ...]:
        return TokenEncoder, (self._part, self._dtype)

    def __call__(self, texts: list[str]) -> Encoded:
        """Encode texts."""
        found = self._encode(texts)
        lengths = np.fromiter(map(len, found), dtype=np.int64, count=len(found))
        return Encoded(np.fromiter(chain.from_iterable(found), self._dtype, count=int(lengths.sum())), lengths)


def encode_in_order(
    batches: Iterable[Batch], encoder: TokenEncoder, workers: int
) -> Generator[tuple[Batch, Encoded], None, None]:
    """Yield every batch with its tokens, in the order of the batches, whatever the number of workers.

    Args:
        batches: what to encode; a few are read ahead.
        encoder: what encodes a batch.
        workers: 1: this process, with the threads of the library ``tokenizers``, while the caller goes on reading
            and writing; more: so many processes with one thread each.

    Raises:
        InputError: a process died.
    """
    executor = _executor(encoder, workers)
    pending: deque[tuple[Batch, Future[Encoded]]] = deque()
    work = encoder if workers == 1 else _encode_here
    try:
        for batch in batches:
            pending.append((batch, executor.submit(work, [document.text for document in batch.documents])))
            if len(pending) > workers * AHEAD:
                batch, future = pending.popleft()
                yield batch, future.result()
        while pending:
            batch, future = pending.popleft()
            yield batch, future.result()
    except BrokenExecutor as error:
        raise InputError(
            f"One of the {workers} tokenising processes died, perhaps for want of memory; run the same command again "
            "with fewer workers."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _executor(encoder: TokenEncoder, workers: int) -> Executor:
    if workers == 1:
        return ThreadPoolExecutor(1)
    # fork would copy the threads' locks; the parent's modules are not needed
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start, initargs=(encoder,))


_here: TokenEncoder | None = None
"""The encoder of a worker process."""


def _start(encoder: TokenEncoder) -> None:
    """Prepare a worker process: one thread, deaf to Ctrl-C, and gone when its parent is."""
    global _here
    _here = encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = parent_process()
    assert parent is not None  # this is a worker process
    parent.join()
    os._exit(1)


def _encode_here(texts: list[str]) -> Encoded:
    assert _here is not None  # _start has run
    return _here(texts)
