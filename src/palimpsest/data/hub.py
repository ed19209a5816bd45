"""The Hugging Face hub: whether it can be reached, and its datasets as streams of documents."""

import re
from collections.abc import Iterator
from typing import Literal

from palimpsest.data.corpus import CorpusSpec, Document, document_from_row
from palimpsest.errors import InputError

PROBE_SECONDS = 10.0
REPOSITORY_NAME = re.compile(r"(?:[\w.-]+/)?[\w.-]+")
INSTEAD_OF_DATASET = "download its Parquet files on a machine that can and give their folder as source"


def resolve_revision(
    repository: str, kind: Literal["dataset", "model"], revision: str | None, instead: str
) -> str | None:
    """Ask the hub once for a repository, where the libraries' own calls retry for up to a minute.

    Args:
        repository: ``owner/name``.
        kind: what sort of repository it is.
        revision: branch, tag or commit; None for the default branch.
        instead: what to do when the hub is out of reach, for the message.

    Returns:
        The commit, or None in the hub's offline mode, where only its local cache is used.

    Raises:
        InputError: the hub cannot be reached, or has no such repository.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        info = HfApi().repo_info(repository, repo_type=kind, revision=revision, timeout=PROBE_SECONDS)
    except HfHubHTTPError as error:
        raise InputError(
            f"'{repository}' is no file or folder here, and the Hugging Face hub hands out no such {kind} "
            f"({_first_line(error)}); correct the name, or {instead}."
        ) from error
    except Exception as error:  # the transport's own: another HTTP library in every major version of the hub's
        raise _unreachable(repository, kind, error, instead) from error
    return info.sha


def hub_documents(spec: CorpusSpec) -> Iterator[Document]:
    """Stream the documents of a hub dataset, without downloading it first.

    Raises:
        InputError: the hub is out of reach or breaks off; no such dataset, configuration or split; no text
            column.
    """
    from datasets import load_dataset

    commit = resolve_revision(spec.source, "dataset", spec.revision, INSTEAD_OF_DATASET)
    try:
        rows = load_dataset(
            spec.source, spec.config, split=spec.split, revision=commit or spec.revision, streaming=True
        )
    except ConnectionError as error:
        raise _unreachable(spec.source, "dataset", error, INSTEAD_OF_DATASET) from error
    except (ValueError, FileNotFoundError) as error:
        raise InputError(
            f"The dataset '{spec.source}' cannot be opened with config {spec.config!r} and "
            f"split {spec.split!r}: {_first_line(error)}"
        ) from error
    number = 0
    stream = iter(rows)
    while True:
        try:
            row = next(stream, None)
        except Exception as error:  # whatever comes up here comes from reading remote files
            raise InputError(
                f"Reading the dataset '{spec.source}' broke off after {number} rows ({_first_line(error)}); "
                f"run the same command again, or {INSTEAD_OF_DATASET}."
            ) from error
        if row is None:
            return
        number += 1
        yield document_from_row(row, spec, f"{spec.source}, row {number}", f"{spec.split}#{number}")


def _unreachable(repository: str, kind: str, error: Exception, instead: str) -> InputError:
    return InputError(
        f"The Hugging Face hub is out of reach for the {kind} '{repository}' ({_first_line(error)}), and no "
        f"file or folder here has that name; {instead}."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
