"""How much text a source holds, as far as it can be told without reading it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

SAMPLE_BYTES = 2**18


class Extent(NamedTuple):
    """The documents of a source and the bytes of their text as UTF-8, estimated; None: unknown."""

    documents: int | None
    text_bytes: int | None

    def scaled(self, factor: float) -> "Extent":
        """Return the extent of so many times as much."""
        return Extent(*(None if value is None else round(value * factor) for value in self))

    def limited(self, documents: int | None) -> "Extent":
        """Return the extent of the first documents only."""
        if documents is None or self.documents is None or self.documents <= documents:
            return self
        return Extent(documents, self.scaled(documents / self.documents).text_bytes)


UNKNOWN_EXTENT = Extent(None, None)


def total_extent(extents: Iterable[Extent]) -> Extent:
    """Add extents; what is unknown of one is unknown of all."""
    columns = list(zip(*extents, strict=True))
    return Extent(*(None if None in column else sum(column) for column in columns)) if columns else Extent(0, 0)


def parquet_extent(table: "ParquetFile", text_column: str) -> Extent:
    """Read the extent of a Parquet file from its footer; exact, but for text that is stored once for several rows."""
    metadata = table.metadata
    paths = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    if text_column not in paths:
        return UNKNOWN_EXTENT
    column = paths.index(text_column)
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return Extent(metadata.num_rows, sum(group.column(column).total_uncompressed_size for group in groups))


def lines_extent(path: Path, text_column: str) -> Extent:
    """Estimate the extent of a file of JSON lines from its beginning."""
    size, read, documents, text = path.stat().st_size, 0, 0, 0
    with open(path, "rb") as lines:
        for line in lines:
            read += len(line)
            try:
                row = json.loads(line)
            except ValueError:
                continue  # said where the rows are read
            value = row.get(text_column) if isinstance(row, dict) else None
            if isinstance(value, str):
                documents += 1
                text += len(value.encode("utf-8", "surrogatepass"))
            if read >= SAMPLE_BYTES:
                break
    return Extent(documents, text).scaled(size / read) if read else Extent(0, 0)
