"""Write the token stream of one split: shards, boundaries, identifiers, all hashed on their way to disk."""

import hashlib
import json
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from palimpsest.data.corpus import Document
from palimpsest.data.shards import FileEntry, SplitEntry, SplitName, ids_file, offsets_file


class HashedFile:
    """A new file that, once finished, is on the disk and knows its size and SHA-256."""

    def __init__(self, path: Path) -> None:
        self._out = open(path, "xb")  # noqa: SIM115 (closed by close)
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._out.write(data)
        self._digest.update(data)
        self._size += len(data)

    def finish(self) -> FileEntry:
        """Bring everything to the disk and return what was written."""
        self._out.flush()
        os.fsync(self._out.fileno())
        self.close()
        return FileEntry(bytes=self._size, sha256=self._digest.hexdigest())

    def close(self) -> None:
        """Let go of the file, finished or not."""
        self._out.close()


class SplitWriter:
    """Writes the documents of one split, in order, each closed by the end-of-text token.

    As a context manager it lets go of its files when the writing breaks off. After ``finish``, ``files``
    lists what was written, and ``content`` is a digest of tokens, boundaries and identifiers that does not
    depend on the size of the shards.
    """

    def __init__(self, directory: Path, name: SplitName, dtype: np.dtype, end_of_text: int, shard_tokens: int) -> None:
        self.files: dict[str, FileEntry] = {}
        self.content = ""
        self._directory = directory
        self._name: SplitName = name
        self._dtype, self._end_of_text, self._shard_tokens = dtype, end_of_text, shard_tokens
        self._ids = HashedFile(directory / ids_file(name))
        self._offsets = array("q", [0])
        self._text_bytes = 0
        self._stream = hashlib.sha256()
        self._shards: list[str] = []
        self._shard: HashedFile | None = None
        self._room = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._ids.close()
        if self._shard is not None:
            self._shard.close()

    @property
    def documents(self) -> int:
        """Documents so far."""
        return len(self._offsets) - 1

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        return self._offsets[-1]

    def add(self, document: Document, ids: Sequence[int]) -> None:
        """Append one document, given its token numbers without end-of-text."""
        tokens = np.fromiter(ids, dtype=self._dtype, count=len(ids))
        tokens = np.append(tokens, np.array(self._end_of_text, dtype=self._dtype))
        self._offsets.append(self._offsets[-1] + len(tokens))
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

    def finish(self) -> SplitEntry:
        """Finish all files and return what the split holds."""
        self._finish_shard()
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

    def _next_shard(self) -> None:
        self._finish_shard()
        name = f"{self._name}-{len(self._shards):05d}.bin"
        self._shard = HashedFile(self._directory / name)
        self._shards.append(name)
        self._room = self._shard_tokens

    def _finish_shard(self) -> None:
        if self._shard is not None:
            self.files[self._shards[-1]] = self._shard.finish()
            self._shard = None
