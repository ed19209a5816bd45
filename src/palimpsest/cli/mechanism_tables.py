"""The short tables that ``palimpsest probe memory`` prints: for each memory its capacity, rewrites and precision."""

import math
from collections.abc import Iterator, Sequence

from rich.table import Table

from palimpsest.records import MechanismRecord
from palimpsest.report.mechanism_readouts import bfloat16_harm, half_load, overwrite_margin
from palimpsest.report.mechanism_tables import in_cell, leading, of_test, usual_size
from palimpsest.statistics import Estimate

NOTHING = "–"


def mechanism_tables(records: Sequence[MechanismRecord]) -> Iterator[Table]:
    """Yield the tables that these records fill: none of a test that was not run."""
    memories = leading(records)
    if capacity := in_cell(of_test(records, "capacity", "accuracy"), {"keys": "N(0,1)", "codes": 1024}):
        size = usual_size(capacity)
        table = _table(f"Pairs at which half are recalled: n50 [95 %]; keys N(0,1) of size {size}, 1,024 values")
        for heading in ("raw", "theory", "centred", "theory"):
            table.add_column(heading, justify="right")
        for memory, features in memories:
            cells = []
            for decoding in ("raw", "centred"):
                half = half_load(capacity, memory, features=features, size=size, decoding=decoding)
                cells += [_load(half.measured), NOTHING if half.theory is None else _rounded(half.theory)]
            table.add_row(memory, features, *cells)
        yield table
    if written_over := of_test(records, "overwriting"):
        table = _table("Keys written twice, token by token: P(new) - P(old) [95 %]; centred, 256 values")
        table.add_column("difference", justify="right")
        for memory, features in dict.fromkeys((record.memory, record.features) for record in written_over):
            table.add_row(memory, features, _points(overwrite_margin(written_over, memory, features=features)))
        yield table
    if precision := of_test(records, "precision"):
        last = max(record.updates or 0 for record in precision)
        table = _table(f"Recall lost to a state in bfloat16 after {last} segments [90 %]")
        table.add_column("loss", justify="right")
        for memory, features in dict.fromkeys((record.memory, record.features) for record in precision):
            table.add_row(memory, features, _points(bfloat16_harm(precision, memory, features=features, updates=last)))
        yield table


def _table(title: str) -> Table:
    return Table("memory", "features", title=title, title_justify="left")


def _load(found: Estimate) -> str:
    return f"{_rounded(found.mean)} [{_rounded(found.low)}, {_rounded(found.high)}]"


def _rounded(value: float) -> str:
    return f"{value:,.3g}" if math.isfinite(value) else "not reached"


def _points(found: Estimate) -> str:
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
