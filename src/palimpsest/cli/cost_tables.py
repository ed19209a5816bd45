"""Tables of what a run and a memory cost, for a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from palimpsest.cli.info import Cost
    from palimpsest.models.compression import Compression

UTILISATIONS = (0.2, 0.4)
"""Shares of the peak: small models with unfused layers reach about the first, well-kept code about the second."""
YES, NO = "yes", "no"


def accelerators_table(cost: "Cost") -> Table:
    """Return one row per accelerator: whether the run fits on one of them, and how long it takes."""
    from palimpsest.models.budget import ACCELERATORS, hours

    title = "The run on one accelerator, if it computes at so much of its peak; nothing here is measured"
    table = Table("accelerator", title=title, title_justify="left")
    shares = (f"hours at {share:.0%}" for share in UTILISATIONS)
    for heading in ("memory, GB", "peak, TFLOP/s", "fits", *shares):
        table.add_column(heading, justify="right")
    for each in ACCELERATORS:
        table.add_row(
            each.name,
            f"{each.memory / 1e9:.0f}",
            f"{each.peak / 1e12:,.4g}",
            YES if cost.memory.total < each.memory else NO,
            *(f"{hours(cost.operations, each, share):,.1f}" for share in UTILISATIONS),
        )
    return table


def compression_table(found: "Compression", lengths: Sequence[int]) -> Table:
    """Return what the memories are smaller than: bytes, ratio to the memories alone, and to everything that is kept."""
    kept = " and ".join(f"{size:,}" for size in found.kept)
    title = (
        f"The memories, {found.state:,} bytes a sequence ({kept} with all else that is kept), and other ways to keep it"
    )
    caption = "bytes (ratio to the memories alone; to everything that is kept). See docs/compression.md."
    table = Table("instead", title=title, title_justify="left", caption=caption, caption_justify="left")
    for length in lengths:
        table.add_column(f"of N = {length:,} tokens", justify="right")
    for name, sizes in found.others:
        cells = (
            f"{size:,} ({size / found.state:,.1f}; {size / all_:,.2f})"
            for size, all_ in zip(sizes, found.kept, strict=True)
        )
        table.add_row(name, *cells)
    return table
