"""Tokenise a corpus once into memory-mapped shards."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from palimpsest.data.corpus import CorpusSpec, is_heldout
from palimpsest.data.documents import SOTU, documents, source_kind, source_signature
from palimpsest.data.encoding import TokenEncoder
from palimpsest.data.hub import INSTEAD_OF_DATASET, resolve_revision
from palimpsest.data.journal import Origin, clear, encoding_versions, has_journal, read_journal, require_same
from palimpsest.data.lengths import STATISTICS, corpus_statistics
from palimpsest.data.shards import (
    MANIFEST,
    TOKENIZER,
    FileEntry,
    Manifest,
    PreparedCorpus,
    SplitEntry,
    open_corpus,
    sha256_of,
)
from palimpsest.data.tokenising import Estimate, Progress, Tokenisation
from palimpsest.data.tokenizer import (
    TokenizerSpec,
    encoding_part,
    end_of_text_number,
    load_tokenizer,
    sample_texts,
    tokenizer_signature,
    train_tokenizer,
    vocabulary_size,
)
from palimpsest.data.writer import NOTHING, SCRATCH, SplitWriter
from palimpsest.errors import InputError
from palimpsest.records import write_json
from palimpsest.records.files import sync

SHARD_TOKENS = 2**28
RECORDED_PACKAGES = ("palimpsest-lm", "tokenizers", "transformers")


def prepare_corpus(
    corpus: CorpusSpec,
    tokenizer: TokenizerSpec,
    out: str | Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    workers: int = 1,
    announce: Callable[[Estimate], None] | None = None,
    progress: Progress | None = None,
) -> PreparedCorpus:
    """Tokenise a corpus into ``out``, unless that has been done.

    The directory appears only when it is complete; of several processes that ask for the same one, one makes
    it and the others wait. An interruption of any kind costs a few seconds of work: the same call goes on from there,
    and what comes out is the same to the last byte. Memory grows with the longest document only (some hundred bytes a
    character while it is encoded), but for eight bytes a document.

    Args:
        corpus: where the documents come from.
        tokenizer: which tokenizer to use or to train.
        out: the directory to make.
        shard_tokens: tokens in one shard file.
        workers: 1: this process encodes, with the threads of the library ``tokenizers``; more: so many processes do.
            What comes out does not depend on it.
        announce: told what it will come to, and the room on the disk, before anything is written.
        progress: called with the number of documents and of tokens so far, from time to time.

    Raises:
        InputError: ``out`` holds something else, the corpus cannot be read, a split would be empty, the disk
            is full or too small, or an interrupted preparation was of another corpus or tokenizer.
    """
    out = Path(out).absolute()
    if workers < 1:
        raise InputError(f"workers is {workers}, but at least 1 process must tokenise.")
    if not _is_free(out):
        return _reuse(out, corpus, tokenizer)
    partial = out.with_name(f".{out.name}.partial")
    with _exclusive(partial):
        if not _is_free(out):
            with contextlib.suppress(OSError):
                partial.rmdir()
            return _reuse(out, corpus, tokenizer)
        complete = (partial / MANIFEST).exists()  # only putting it in place was interrupted
        try:
            if not complete:
                run = functools.partial(Tokenisation.run, workers=workers, announce=announce, progress=progress)
                _build(corpus, tokenizer, partial, shard_tokens, run)
            shutil.rmtree(partial / SCRATCH, ignore_errors=True)
            os.replace(partial, out)
        except BaseException as error:
            kept = has_journal(partial) or (partial / MANIFEST).exists()
            if not kept:
                shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                so_far = ", which goes on from where it is" if kept else ""
                raise InputError(
                    f"The disk is full: {out} was not written; free some space and run it again{so_far}."
                ) from error
            raise
    sync(out.parent)
    return _reuse(out, corpus, tokenizer) if complete else open_corpus(out)


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
    corpus: CorpusSpec,
    spec: TokenizerSpec,
    directory: Path,
    shard_tokens: int,
    run: Callable[[Tokenisation, TokenEncoder], None],
) -> None:
    """Write a whole prepared corpus, its manifest last, into a directory that is empty or was interrupted in this."""
    journal = read_journal(directory) if has_journal(directory) else None
    if journal is not None:
        _require_same_origin(directory, journal.origin, corpus, spec, shard_tokens)
    clear(directory, journal)
    origin = journal.origin if journal else _begin(corpus, spec, directory, shard_tokens)
    tokenizer = load_tokenizer(directory / TOKENIZER)
    vocab_size = vocabulary_size(tokenizer)
    dtype = "<u2" if vocab_size <= 2**16 else "<u4"
    end_of_text = end_of_text_number(tokenizer)
    layout = np.dtype(dtype), end_of_text, shard_tokens
    pinned = corpus if origin.revision is None else corpus.model_copy(update={"revision": origin.revision})
    with (
        SplitWriter(directory, "train", *layout, journal.train if journal else NOTHING) as train,
        SplitWriter(directory, "heldout", *layout, journal.heldout if journal else NOTHING) as heldout,
    ):
        run(
            Tokenisation(directory, pinned, origin, journal, train, heldout),
            TokenEncoder(encoding_part(tokenizer), layout[0]),
        )
        train_entry, heldout_entry = train.finish(), heldout.finish()
    _require_documents(corpus, train_entry, heldout_entry)
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    content = "\n".join([dtype, str(end_of_text), train.content, heldout.content, vocabulary])
    manifest = Manifest(
        corpus=corpus,
        tokenizer=spec,
        source=origin.source,
        tokenizer_source=origin.tokenizer_source,
        dtype=dtype,
        vocab_size=vocab_size,
        end_of_text=end_of_text,
        train=train_entry,
        heldout=heldout_entry,
        files=train.files | heldout.files | origin.tokenizer_files,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        versions={name: importlib.metadata.version(name) for name in RECORDED_PACKAGES},
    )
    write_json(directory / STATISTICS, corpus_statistics(PreparedCorpus(directory, manifest)))
    files = manifest.files | {STATISTICS: _entry(directory / STATISTICS)}
    write_json(directory / MANIFEST, manifest.model_copy(update={"files": files}))
    sync(directory)


def _begin(corpus: CorpusSpec, spec: TokenizerSpec, directory: Path, shard_tokens: int) -> Origin:
    """Fix what is read, and save the tokenizer."""
    pinned, source = _pin(corpus)
    tokenizer_source = None if spec.path is None else tokenizer_signature(spec.path)
    _save_tokenizer(spec, pinned, directory)
    return Origin(
        corpus=corpus,
        tokenizer=spec,
        revision=pinned.revision,
        source=source,
        tokenizer_source=tokenizer_source,
        tokenizer_files=_tokenizer_files(directory),
        shard_tokens=shard_tokens,
        versions=encoding_versions(),
    )


def _require_same_origin(
    directory: Path, made: Origin, corpus: CorpusSpec, spec: TokenizerSpec, shard_tokens: int
) -> None:
    """Check that what was interrupted was the same as what is asked for now, from the same files."""
    require_same(directory, made.corpus, corpus, "corpus.")
    require_same(directory, made.tokenizer, spec, "tokenizer.")
    kind = source_kind(corpus)
    found = {
        "source": made.source if kind == "hub" else source_signature(corpus),
        "tokenizer_source": None if spec.path is None else tokenizer_signature(spec.path),
        "tokenizer_files": _tokenizer_files(directory),
        "shard_tokens": shard_tokens,
        "versions": encoding_versions(),
    }
    require_same(directory, made, made.model_copy(update=found), "")


def _pin(corpus: CorpusSpec) -> tuple[CorpusSpec, str | None]:
    """Fix a hub dataset to its present commit, so that every pass reads the same; identify the source."""
    if source_kind(corpus) != "hub":
        return corpus, source_signature(corpus)
    commit = resolve_revision(corpus.source, "dataset", corpus.revision, INSTEAD_OF_DATASET)
    if commit is None:
        return corpus, None
    return corpus.model_copy(update={"revision": commit}), f"hub {commit}"


def _save_tokenizer(spec: TokenizerSpec, corpus: CorpusSpec, directory: Path) -> None:
    """Save the tokenizer that is given, or train one."""
    if spec.path is not None:
        tokenizer = load_tokenizer(spec.path)
    else:
        assert spec.vocab_size is not None  # the spec has one of the two
        training = (found for found in documents(corpus) if not is_heldout(found.id, corpus.heldout_fraction))
        tokenizer = train_tokenizer(sample_texts(training, spec), spec.vocab_size)
    tokenizer.save_pretrained(directory / TOKENIZER)


def _tokenizer_files(directory: Path) -> dict[str, FileEntry]:
    """List the files transformers has saved, and bring them to the disk, which it leaves to chance."""
    files = {}
    for path in sorted((directory / TOKENIZER).rglob("*")):
        sync(path)
        if path.is_file():
            files[path.relative_to(directory).as_posix()] = _entry(path)
    sync(directory / TOKENIZER)
    return files


def _entry(path: Path) -> FileEntry:
    return FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))


def _require_documents(corpus: CorpusSpec, train: SplitEntry, heldout: SplitEntry) -> None:
    if train.documents == 0 or (heldout.documents == 0 and corpus.heldout_fraction > 0):
        part, change = ("training", "lower") if train.documents == 0 else ("held-out", "raise")
        raise InputError(
            f"Of {train.documents + heldout.documents} documents of the corpus '{corpus.source}' none falls "
            f"into the {part} part: give more, or {change} heldout_fraction ({corpus.heldout_fraction})."
        )


@contextlib.contextmanager
def _exclusive(partial: Path) -> Iterator[None]:
    """Hold the directory ``partial`` against other processes; a killed holder lets go of it."""
    while True:
        try:
            partial.mkdir(parents=True, exist_ok=True)
            handle = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another process has just removed it
        except FileExistsError as error:
            if os.path.lexists(partial) and not partial.is_dir():
                raise InputError(f"{partial} is no directory; remove it.") from error
            continue  # the same, while it was being made
        except OSError as error:
            raise InputError(f"{partial.parent} cannot be written to: {error.strerror}.") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_same(partial, handle):
                continue  # its former holder has renamed or removed it
            yield
            return
        finally:
            os.close(handle)


def _is_same(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
