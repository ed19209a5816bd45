"""Tokenise a corpus once into memory-mapped shards."""

import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from palimpsest.data.corpus import CorpusSpec, Document, is_heldout
from palimpsest.data.documents import SOTU, documents, source_kind, source_signature
from palimpsest.data.hub import INSTEAD_OF_DATASET, resolve_revision
from palimpsest.data.shards import (
    MANIFEST,
    TOKENIZER,
    FileEntry,
    Manifest,
    PreparedCorpus,
    open_corpus,
    sha256_of,
)
from palimpsest.data.tokenizer import (
    TokenizerSpec,
    document_encoder,
    end_of_text_number,
    load_tokenizer,
    sample_texts,
    tokenizer_signature,
    train_tokenizer,
    vocabulary_size,
)
from palimpsest.data.writer import SplitWriter
from palimpsest.errors import InputError
from palimpsest.records import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARD_TOKENS = 2**28
BATCH_CHARACTERS = 1_000_000
RECORDED_PACKAGES = ("palimpsest-lm", "tokenizers", "transformers")

Progress = Callable[[int, int], None]


def prepare_corpus(
    corpus: CorpusSpec,
    tokenizer: TokenizerSpec,
    out: str | Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    progress: Progress | None = None,
) -> PreparedCorpus:
    """Tokenise a corpus into ``out``, unless that has been done.

    The directory appears only when it is complete; of several processes that ask for the same one, one makes
    it and the others wait. Memory grows with the longest document only (some hundred bytes a
    character while it is encoded), but for eight bytes a document.

    Args:
        corpus: where the documents come from.
        tokenizer: which tokenizer to use or to train.
        out: the directory to make.
        shard_tokens: tokens in one shard file.
        progress: called with the number of documents and of tokens so far, from time to time.

    Raises:
        InputError: ``out`` holds something else, the corpus cannot be read, a split would be empty, the disk
            is full.
    """
    out = Path(out).absolute()
    if not _is_free(out):
        return _reuse(out, corpus, tokenizer)
    partial = out.with_name(f".{out.name}.partial")
    with _exclusive(partial):
        if not _is_free(out):
            partial.rmdir()
            return _reuse(out, corpus, tokenizer)
        try:
            _build(corpus, tokenizer, partial, shard_tokens, progress)
            os.replace(partial, out)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(
                    f"The disk is full: {out} was not written; free some space and run it again."
                ) from error
            raise
    _sync(out.parent)
    return open_corpus(out)


def _is_free(out: Path) -> bool:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a new directory for the prepared corpus.")
    if not out.exists() or not any(out.iterdir()):
        return True
    if not (out / MANIFEST).exists():
        raise InputError(f"{out} holds other files and no prepared corpus; give a new or empty directory.")
    return False


def _reuse(out: Path, corpus: CorpusSpec, tokenizer: TokenizerSpec) -> PreparedCorpus:
    existing = open_corpus(out)
    made, other = existing.manifest, "choose another directory, or delete this one to prepare it again."
    for part, there, asked in (("corpus", made.corpus, corpus), ("tokenizer", made.tokenizer, tokenizer)):
        for field in type(asked).model_fields:
            old, new = getattr(there, field), getattr(asked, field)
            if old != new:
                raise InputError(f"{out} holds a corpus made with {part}.{field} {old!r}, not {new!r}; {other}")
    if (corpus.source == SOTU or Path(corpus.source).exists()) and source_signature(corpus) != made.source:
        raise InputError(f"{out} was made when the source '{corpus.source}' had another content; {other}")
    present = None if tokenizer.path is None else tokenizer_signature(tokenizer.path)
    if present is not None and present != made.tokenizer_source:
        raise InputError(f"{out} was made when the tokenizer '{tokenizer.path}' had another content; {other}")
    return existing


def _build(
    corpus: CorpusSpec, spec: TokenizerSpec, directory: Path, shard_tokens: int, progress: Progress | None
) -> None:
    """Write a whole prepared corpus into an empty directory, its manifest last."""
    pinned, source = _pin(corpus)
    tokenizer_source = None if spec.path is None else tokenizer_signature(spec.path)
    tokenizer = _make_tokenizer(spec, pinned)
    tokenizer.save_pretrained(directory / TOKENIZER)
    vocab_size = vocabulary_size(tokenizer)
    dtype = "<u2" if vocab_size <= 2**16 else "<u4"
    end_of_text = end_of_text_number(tokenizer)
    layout = np.dtype(dtype), end_of_text, shard_tokens
    with (
        SplitWriter(directory, "train", *layout) as train,
        SplitWriter(directory, "heldout", *layout) as heldout,
    ):
        _write_documents(pinned, document_encoder(tokenizer), train, heldout, progress)
        train_entry, heldout_entry = train.finish(), heldout.finish()
    files = train.files | heldout.files | _tokenizer_files(directory)
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    content = "\n".join([dtype, str(end_of_text), train.content, heldout.content, vocabulary])
    manifest = Manifest(
        corpus=corpus,
        tokenizer=spec,
        source=source,
        tokenizer_source=tokenizer_source,
        dtype=dtype,
        vocab_size=vocab_size,
        end_of_text=end_of_text,
        train=train_entry,
        heldout=heldout_entry,
        files=files,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        versions={name: importlib.metadata.version(name) for name in RECORDED_PACKAGES},
    )
    write_json(directory / MANIFEST, manifest)
    _sync(directory)


def _pin(corpus: CorpusSpec) -> tuple[CorpusSpec, str | None]:
    """Fix a hub dataset to its present commit, so that every pass reads the same; identify the source."""
    if source_kind(corpus) != "hub":
        return corpus, source_signature(corpus)
    commit = resolve_revision(corpus.source, "dataset", corpus.revision, INSTEAD_OF_DATASET)
    if commit is None:
        return corpus, None
    return corpus.model_copy(update={"revision": commit}), f"hub {commit}"


def _make_tokenizer(spec: TokenizerSpec, corpus: CorpusSpec) -> "PreTrainedTokenizerBase":
    if spec.path is not None:
        return load_tokenizer(spec.path)
    assert spec.vocab_size is not None  # the spec has one of the two
    training = (found for found in documents(corpus) if not is_heldout(found.id, corpus.heldout_fraction))
    return train_tokenizer(sample_texts(training, spec), spec.vocab_size)


def _tokenizer_files(directory: Path) -> dict[str, FileEntry]:
    """List the files transformers has saved, and bring them to the disk, which it leaves to chance."""
    files = {}
    for path in sorted((directory / TOKENIZER).rglob("*")):
        _sync(path)
        if path.is_file():
            name = path.relative_to(directory).as_posix()
            files[name] = FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))
    _sync(directory / TOKENIZER)
    return files


def _write_documents(
    corpus: CorpusSpec,
    encode: Callable[[Sequence[str]], list[list[int]]],
    train: SplitWriter,
    heldout: SplitWriter,
    progress: Progress | None,
) -> None:
    for batch in _batches(documents(corpus)):
        for document, ids in zip(batch, encode([document.text for document in batch]), strict=True):
            writer = heldout if is_heldout(document.id, corpus.heldout_fraction) else train
            writer.add(document, ids)
        if progress is not None:
            progress(train.documents + heldout.documents, train.tokens + heldout.tokens)
    if train.documents == 0 or (heldout.documents == 0 and corpus.heldout_fraction > 0):
        part, change = ("training", "lower") if train.documents == 0 else ("held-out", "raise")
        raise InputError(
            f"Of {train.documents + heldout.documents} documents of the corpus '{corpus.source}' none falls "
            f"into the {part} part: give more, or {change} heldout_fraction ({corpus.heldout_fraction})."
        )


def _batches(found: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents so that the encoder has enough to share among its threads, and no more."""
    batch, characters = [], 0
    for document in found:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


@contextmanager
def _exclusive(partial: Path) -> Iterator[None]:
    """Hold the directory ``partial``, made empty, against other processes; a killed holder lets go of it."""
    while True:
        try:
            partial.mkdir(parents=True, exist_ok=True)
            handle = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another process has just removed it
        except OSError as error:
            raise InputError(f"{partial.parent} cannot be written to: {error.strerror}.") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_same(partial, handle):
                continue  # its former holder has renamed or removed it
            for leftover in partial.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield
            return
        finally:
            os.close(handle)


def _is_same(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
