"""Tables of the mechanism tests, and the choice of records that figures and tables show."""

from collections.abc import Iterable, Mapping, Sequence

from palimpsest.records import EstimateRecord, MechanismRecord
from palimpsest.report.mechanism_figures import name_of
from palimpsest.report.mechanism_readouts import bfloat16_harm, half_load, memories_in, overwrite_margin
from palimpsest.report.numerals import listed
from palimpsest.report.tables import Column, Table, Value

Records = Sequence[MechanismRecord]
CELL = ("keys", "size", "codes", "segment_length", "load", "decoding", "similarity", "rewrites", "filler", "strength")
"""Fields of a cell, in the order in which tables show those that differ."""


def half_loads_table(found: Records) -> Table:
    """Return n50 of every curve of the memories that went through all tests."""
    places = [
        (memory, features, size, keys, codes, decoding)
        for memory, features in leading(found)
        for size in sorted({record.size for record in found})
        for keys, codes in (("N(0,1)", 1024), ("N(-3,4)", 1024), ("N(0,1)", 256))
        for decoding in ("raw", "centred")
    ]
    rows: list[list[Value]] = []
    for memory, features, size, keys, codes, decoding in places:
        cell = {"size": size, "keys": keys, "codes": codes, "decoding": decoding}
        if lines_in(found, cell, [(memory, features)]):
            half = half_load(found, memory, features=features, size=size, keys=keys, codes=codes, decoding=decoding)
            rows.append([f"{memory}, {features}", keys, size, codes, decoding, half.measured, half.theory])
    columns = (
        Column("memory", head=True), Column("keys"), Column("d"), Column("values"), Column("decoding"),
        Column("n50"), Column("n50 by theory"),
    )  # fmt: skip
    return Table("half-loads", "The load at which half of all pairs are recalled (n50)", columns, rows)


def sweep_table(found: Records) -> Table:
    """Return n50 of every feature map in every memory that takes it."""
    size = usual_size(found)
    curves = in_cell(found, {"size": size, "keys": "N(0,1)", "codes": 1024})
    memories = list(dict.fromkeys(record.memory for record in curves))
    rows: list[list[Value]] = []
    for features in sorted({record.features for record in curves}):
        row: list[Value] = [features]
        for memory in memories:
            mine = [record for record in curves if (record.memory, record.features) == (memory, features)]
            row.append(half_load(mine, memory, size=size).measured if mine else None)
        rows.append(row)
    columns = (Column("features", head=True), *(Column(memory) for memory in memories))
    return Table("features-n50", f"n50 of every feature map, keys N(0,1) of size {size}, raw", columns, rows)


def margins_table(found: Records) -> Table:
    """Return P(new) - P(old) of every memory that was written over."""
    rows: list[list[Value]] = []
    for memory, features in memories_in(found, "overwriting"):
        for keys in dict.fromkeys(record.keys for record in found if record.test == "overwriting"):
            for length in (1, 32):
                margin = overwrite_margin(found, memory, features=features, keys=keys, segment_length=length)
                rows.append([f"{memory}, {features}", keys, length, margin])
    columns = (Column("memory", head=True), Column("keys"), Column("segment"), Column("P(new) - P(old)"))
    return Table("overwrite-margins", "By how much the new value wins", columns, rows)


def harm_table(found: Records) -> Table:
    """Return what recall loses to a state in bfloat16, after the last segment that was looked at."""
    last = max(record.updates or 0 for record in found)
    rows: list[list[Value]] = [
        [
            f"{memory}, {features}",
            decoding,
            last,
            bfloat16_harm(found, memory, features=features, updates=last, decoding=decoding),
        ]
        for memory, features in memories_in(found, "precision")
        for decoding in ("raw", "centred")
    ]
    columns = (Column("memory", head=True), Column("decoding"), Column("segments"), Column("float32 - bfloat16"))
    return Table("bfloat16-harm", "Recall lost to bfloat16 (90 % intervals)", columns, rows)


def cells_table(name: str, caption: str, records: Records) -> Table:
    """Return all records as a table, with the fields of a cell that differ among them."""
    fields = [each for each in (*CELL, "age", "updates", "state") if len({getattr(r, each) for r in records}) > 1]
    measures = len({record.measure for record in records}) > 1
    columns = [Column("memory", head=True), *(Column(each.replace("_", " ")) for each in fields)]
    columns += [Column("measure")] * measures + [Column("measured"), Column("theory")]
    rows: list[list[Value]] = [
        [name_of(record), *(getattr(record, each) for each in fields), *([record.measure] if measures else []),
         estimate_of(record), record.theory]
        for record in records
    ]  # fmt: skip
    fixed = [f"{each.replace('_', ' ')} {getattr(records[0], each)}" for each in CELL
             if each not in fields and getattr(records[0], each) is not None]  # fmt: skip
    return Table(f"{name}-cells", f"{caption} ({listed(fixed)})" if fixed else caption, columns, rows)


def estimate_of(record: MechanismRecord) -> EstimateRecord:
    """Return the mean of a record with its interval."""
    return EstimateRecord(mean=record.mean, low=record.low, high=record.high, n=record.n, method=record.method)


def of_test(records: Records, test: str, measure: str | None = None) -> list[MechanismRecord]:
    """Return the records of a test, or those of one measure."""
    return [record for record in records if record.test == test and measure in (None, record.measure)]


def in_cell(records: Iterable[MechanismRecord], cell: Mapping[str, object]) -> list[MechanismRecord]:
    """Return the records whose fields have these values."""
    return [record for record in records if all(getattr(record, name) == value for name, value in cell.items())]


def lines_in(
    records: Records, cell: Mapping[str, object], memories: Sequence[tuple[str, str]]
) -> dict[str, list[MechanismRecord]]:
    """Return the records of a cell by the name of their memory, for these memories."""
    lines: dict[str, list[MechanismRecord]] = {}
    for record in in_cell(records, cell):
        if (record.memory, record.features) in memories:
            lines.setdefault(name_of(record), []).append(record)
    return lines


def leading(records: Records) -> list[tuple[str, str]]:
    """Return the memories that went through more than the sweep of feature maps."""
    tests: dict[tuple[str, str], set[object]] = {}
    for record in records:
        if record.memory:
            tests.setdefault((record.memory, record.features), set()).add((record.test, record.keys, record.codes))
    most = max(map(len, tests.values()), default=0)
    return [memory for memory, seen in tests.items() if len(seen) > 1 or most == 1]


def usual_size(records: Records) -> int:
    """Return the size with the most records."""
    sizes = [record.size for record in records]
    return max(sorted(set(sizes)), key=sizes.count)
