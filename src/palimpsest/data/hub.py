"""The Hugging Face hub: whether it can be reached, and its datasets as streams of documents."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from palimpsest.data.corpus import CorpusSpec, Document, Position, document_from_row, missing_column
from palimpsest.data.extent import UNKNOWN_EXTENT, Extent, parquet_extent, total_extent
from palimpsest.errors import InputError

if TYPE_CHECKING:
    from datasets import IterableDataset

PROBE_SECONDS = 10.0
FOOTERS = 4
"""How many Parquet files of a hub dataset are asked what they hold."""
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


class HubReader:
    """The documents of a hub dataset as a stream, without downloading it first, from any place on.

    With the ``state`` of a position the library goes on at the right file; without it, all rows before it are read
    once more.
    """

    def __init__(self, spec: CorpusSpec, start: Position) -> None:
        self._spec = spec
        self._start = start
        self._row = start.row
        self._rows: IterableDataset | None = None

    @property
    def position(self) -> Position:
        """Where reading goes on after the last document."""
        if self._rows is None or self._row == self._start.row:
            return self._start
        counted = self._start.row > 0 and self._start.state is None  # the state of a skipping stream fits no other
        return Position(row=self._row, state=None if counted else self._rows.state_dict())

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents.

        Raises:
            InputError: the hub is out of reach or breaks off; no such dataset, configuration or split; no text column.
        """
        spec, start = self._spec, self._start
        rows = _open_dataset(spec)
        if start.state is not None:
            rows.load_state_dict(start.state)
        elif start.row:
            rows = rows.skip(start.row)
        self._rows = rows
        stream = iter(rows)
        while True:
            try:
                row = next(stream, None)
            except Exception as error:  # whatever comes up here comes from reading remote files
                raise InputError(
                    f"Reading the dataset '{spec.source}' broke off after {self._row} rows ({_first_line(error)}); "
                    f"run the same command again, or {INSTEAD_OF_DATASET}."
                ) from error
            if row is None:
                return
            self._row += 1
            yield document_from_row(row, spec, f"{spec.source}, row {self._row}", f"{spec.split}#{self._row}")


def _open_dataset(spec: CorpusSpec) -> "IterableDataset":
    from datasets import load_dataset

    commit = resolve_revision(spec.source, "dataset", spec.revision, INSTEAD_OF_DATASET)
    try:
        rows = load_dataset(
            spec.source, spec.config, split=spec.split, revision=commit or spec.revision, streaming=True
        )
    except ConnectionError as error:
        raise _unreachable(spec.source, "dataset", error, INSTEAD_OF_DATASET) from error
    except (ValueError, FileNotFoundError, RuntimeError) as error:  # a dataset that is a program: RuntimeError
        raise InputError(
            f"The dataset '{spec.source}' cannot be opened with config {spec.config!r} and "
            f"split {spec.split!r}: {_first_line(error)}"
        ) from error
    if rows.column_names is not None and spec.text_column not in rows.column_names:
        raise missing_column(spec.text_column, rows.column_names, f"The dataset '{spec.source}'")
    return rows


def hub_extent(spec: CorpusSpec) -> Extent:
    """Tell how much text a hub dataset holds, from its card or else from the ends of some of its Parquet files.

    Nothing that goes wrong here is an error: the extent is then unknown.
    """
    from datasets import load_dataset_builder
    from fsspec.core import url_to_fs
    from pyarrow.parquet import ParquetFile

    try:
        builder = load_dataset_builder(spec.source, spec.config, revision=spec.revision)
        known = (builder.info.splits or {}).get(spec.split)
        if known is not None and known.num_examples:
            return Extent(known.num_examples, known.num_bytes)
        files = [url_to_fs(url) for url in (builder.config.data_files or {}).get(spec.split, ())]
        if not files or not all(path.endswith(".parquet") for _, path in files):
            return UNKNOWN_EXTENT
        sizes = [system.size(path) for system, path in files]
        looked_at = range(0, len(files), -(-len(files) // FOOTERS))
        found = []
        for number in looked_at:
            system, path = files[number]
            with system.open(path, "rb") as content, ParquetFile(content) as table:
                found.append(parquet_extent(table, spec.text_column))
        share = sum(sizes) / sum(sizes[number] for number in looked_at)
        return total_extent(found).scaled(share)
    except Exception:  # an estimate is no reason to fail; reading the rows says what is wrong
        return UNKNOWN_EXTENT


def _unreachable(repository: str, kind: str, error: Exception, instead: str) -> InputError:
    return InputError(
        f"The Hugging Face hub is out of reach for the {kind} '{repository}' ({_first_line(error)}), and no "
        f"file or folder here has that name; {instead}."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
