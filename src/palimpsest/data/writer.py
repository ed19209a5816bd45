"""Write the token stream of one split: shards, boundaries, identifiers, all hashed on their way to disk."""

import hashlib
import itertools
import json
import os
import sys
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from palimpsest.data.corpus import Document
from palimpsest.data.shards import FileEntry, SplitEntry, SplitName, ids_file, offsets_file
from palimpsest.errors import InputError
from palimpsest.records import Record

BLOCK_BYTES = 2**22
SCRATCH = "scratch"
"""The folder of what is needed only until a corpus is whole."""


EMPTY = FileEntry(bytes=0, sha256=hashlib.sha256().hexdigest())


class HashedFile:
    """A file that knows its size and SHA-256.

    Args:
        path: a new file, or with ``keep`` one that is there.
        keep: how many bytes of it stay; they are read again, and given to ``reread``.
        reread: told of every block of them.

    Raises:
        InputError: the file has not so many bytes.
    """

    def __init__(self, path: Path, keep: int = 0, reread: Callable[[bytes], object] | None = None) -> None:
        self._digest = hashlib.sha256()
        self._size = 0
        try:
            self._out = open(path, "rb+" if keep else "xb")  # noqa: SIM115 (closed by close)
        except FileNotFoundError as error:
            raise InputError(f"{path}, which an interrupted preparation has written, is missing.") from error
        try:
            found = os.fstat(self._out.fileno()).st_size
            if found < keep:
                raise InputError(f"{path} has {found} bytes, fewer than the {keep} that were written.")
            while self._size < keep:
                block = self._out.read(min(BLOCK_BYTES, keep - self._size))
                self._digest.update(block)
                self._size += len(block)
                if reread is not None:
                    reread(block)
            self._out.truncate(keep)
            self._out.seek(keep)
        except BaseException:
            self._out.close()
            raise

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._out.write(data)
        self._digest.update(data)
        self._size += len(data)

    def sync(self) -> FileEntry:
        """Bring everything to the disk and return what has been written so far."""
        self._out.flush()
        os.fsync(self._out.fileno())
        return FileEntry(bytes=self._size, sha256=self._digest.hexdigest())

    def finish(self) -> FileEntry:
        """Bring everything to the disk, close the file and return what was written."""
        entry = self.sync()
        self.close()
        return entry

    def close(self) -> None:
        """Let go of the file, finished or not."""
        self._out.close()


class SplitState(Record):
    """How far a split has been written; ``stream`` is the SHA-256 of its tokens."""

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    stream: str = EMPTY.sha256
    ids: FileEntry = EMPTY
    lengths: FileEntry = EMPTY


NOTHING = SplitState()


class SplitWriter:
    """Writes the documents of one split, in order, each closed by the end-of-text token.

    As a context manager it lets go of its files when the writing breaks off. After ``finish``, ``files``
    lists what was written, and ``content`` is a digest of tokens, boundaries and identifiers that does not
    depend on the size of the shards, nor on how often the writing was interrupted.

    Args:
        directory: where the files go; in ``SCRATCH`` of it what is only needed to go on after an interruption.
        name: of the split.
        dtype: of the tokens.
        end_of_text: the closing token.
        shard_tokens: tokens in one shard file.
        state: what of the files there is kept; what is behind it is cut off.

    Raises:
        InputError: the files do not hold what ``state`` says.
    """

    def __init__(
        self,
        directory: Path,
        name: SplitName,
        dtype: np.dtype,
        end_of_text: int,
        shard_tokens: int,
        state: SplitState = NOTHING,
    ) -> None:
        self.files: dict[str, FileEntry] = {}
        self.content = ""
        self._directory = directory
        self._name: SplitName = name
        self._dtype, self._end_of_text, self._shard_tokens = dtype, end_of_text, shard_tokens
        self._text_bytes = state.text_bytes
        self._stream = hashlib.sha256()
        self._shards: list[str] = []
        self._shard: HashedFile | None = None
        self._room = 0
        self._open: list[HashedFile] = []
        lengths = array("q")
        try:
            (directory / SCRATCH).mkdir(exist_ok=True)
            self._ids = self._file(ids_file(name), state.ids.bytes)
            self._lengths = self._file(f"{SCRATCH}/{name}-lengths", state.lengths.bytes, lengths.frombytes)
            self._offsets = array("q", itertools.accumulate(lengths, initial=0))
            for start in range(0, state.tokens, shard_tokens):
                self._next_shard(min(state.tokens - start, shard_tokens))
            if self.sync() != state:
                raise InputError(
                    f"The files of {directory} are not what an interrupted preparation has left there; delete it to "
                    "begin again."
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all files, finished or not."""
        for file in self._open:
            file.close()

    @property
    def documents(self) -> int:
        """Documents so far."""
        return len(self._offsets) - 1

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        return self._offsets[-1]

    @property
    def text_bytes(self) -> int:
        """Bytes of text so far, as UTF-8."""
        return self._text_bytes

    def add(self, document: Document, ids: Sequence[int] | NDArray[np.unsignedinteger]) -> None:
        """Append one document, given its token numbers without end-of-text."""
        tokens = np.empty(len(ids) + 1, dtype=self._dtype)
        tokens[:-1] = ids
        tokens[-1] = self._end_of_text
        self._offsets.append(self._offsets[-1] + len(tokens))
        self._lengths.write(len(tokens).to_bytes(8, sys.byteorder))
        self._ids.write(json.dumps(document.id).encode() + b"\n")
        self._text_bytes += len(document.text.encode())
        self._stream.update(tokens.data)
        while len(tokens):
            if self._room == 0:
                self._next_shard()
            assert self._shard is not None
            piece, tokens = tokens[: self._room], tokens[self._room :]
            self._shard.write(piece.tobytes())
            self._room -= len(piece)

    def sync(self) -> SplitState:
        """Bring everything to the disk and return what can be gone on from."""
        if self._shard is not None:
            self._shard.sync()
        return SplitState(
            documents=self.documents,
            tokens=self.tokens,
            text_bytes=self._text_bytes,
            stream=self._stream.hexdigest(),
            ids=self._ids.sync(),
            lengths=self._lengths.sync(),
        )

    def finish(self) -> SplitEntry:
        """Finish all files and return what the split holds."""
        self._finish_shard()
        self._lengths.finish()
        boundaries = np.frombuffer(self._offsets, dtype=np.int64).astype("<i8")
        offsets = self._directory / offsets_file(self._name)
        np.save(offsets, boundaries)
        with open(offsets, "rb+") as saved:
            os.fsync(saved.fileno())
            digest = hashlib.file_digest(saved, "sha256").hexdigest()
        self.files[offsets.name] = FileEntry(bytes=offsets.stat().st_size, sha256=digest)
        self.files[ids_file(self._name)] = ids = self._ids.finish()
        parts = f"{self._stream.hexdigest()} {digest} {ids.sha256}"
        self.content = hashlib.sha256(parts.encode()).hexdigest()
        return SplitEntry(
            documents=self.documents, tokens=self.tokens, text_bytes=self._text_bytes, shards=self._shards
        )

    def _file(self, name: str, keep: int, reread: Callable[[bytes], object] | None = None) -> HashedFile:
        file = HashedFile(self._directory / name, keep, reread)
        self._open.append(file)
        return file

    def _next_shard(self, keep: int = 0) -> None:
        self._finish_shard()
        name = shard_file(self._name, len(self._shards))
        self._shard = self._file(name, keep * self._dtype.itemsize, self._stream.update)
        self._shards.append(name)
        self._room = self._shard_tokens - keep

    def _finish_shard(self) -> None:
        if self._shard is not None:
            self.files[self._shards[-1]] = self._shard.finish()
            self._shard = None


def shard_file(split: SplitName, number: int) -> str:
    """Return the name of a shard."""
    return f"{split}-{number:05d}.bin"


def kept_files(split: SplitName, state: SplitState, shard_tokens: int) -> set[str]:
    """Return the names of the files that a writer goes on with from a state; it makes all others."""
    if state == NOTHING:
        return set()
    shards = {shard_file(split, number) for number in range(-(-state.tokens // shard_tokens))}
    return {ids_file(split), f"{SCRATCH}/{split}-lengths", *shards}
