"""Tables of answers to items for a terminal: how many are right, what the wrong ones say, what a memory is worth."""

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table

from palimpsest.cli.tables import NOTHING
from palimpsest.cli.task_names import share
from palimpsest.records import ErrorClass, ItemRecord
from palimpsest.statistics import Estimate, align, contrast, mcnemar
from palimpsest.statistics.clustered import clustered_wilson
from palimpsest.tasks import Task

ERRORS: dict[ErrorClass, str] = {
    "other_value": "binding errors",
    "absent_value": "values not told",
    "other_number": "other numbers",
    "no_number": "no number",
    "not_finite": "not finite",
}
"""What the classes of errors are called; a binding error is a value that the context gives for something else."""


def answers_table(records: Sequence[ItemRecord], task: Task, title: str, depths: Sequence[float] = ()) -> Table:
    """Return accuracy by length and depth with Wilson intervals (95 %), what was ranked first, and classes of errors.

    Items of one haystack are not independent, and their intervals are wider. Items that exact attention reaches stand
    apart from those that it does not.
    """
    found = {record.error_class for record in records}
    errors = {name: heading for name, heading in ERRORS.items() if name in found}
    table = Table("tokens", "exact attention", title=_title(title, records), title_justify="left")
    table.caption, table.caption_justify = " ".join(_remarks(records, task)), "left"
    everywhere = "all depths" if depths else "anywhere"
    columns = ("compressions", "n", everywhere, *(f"depth {depth:g}" for depth in depths), "ranked first")
    for heading in (*columns, *errors.values()):
        table.add_column(heading, justify="right")
    for length, items in sorted(_by_length(records).items()):
        for reached in (False, True):
            group = [item for item in items if within_reach(item) is reached]
            if not group:
                continue
            table.add_row(
                f"{length:,}",
                "reaches" if reached else "does not reach",
                _range([item.compressions for item in group]),
                str(len(group)),
                _rate(group, [item.exact for item in group]),
                *(_exact([item for item in group if item.depth == depth]) for depth in depths),
                _rate(group, [item.rank == 1 for item in group]),
                *(f"{100 * sum(i.error_class == name for i in group) / len(group):.0f}" for name in errors),
            )
    return table


def probe_table(records: Sequence[ItemRecord], interventions: Sequence[str], title: str = "") -> Table:
    """Return what each intervention takes away, paired by item, over the items that only the memory can reach."""
    shared = _shared(records)
    methods = "paired t over haystacks" if shared else "Newcombe"
    test = "" if shared else "; exact McNemar test"
    table = Table(
        "tokens",
        "intervention",
        title=f"{escape(title)}{': ' if title else ''}Items beyond the reach of exact attention; "
        f"difference [95 % interval, {methods}]{test}",
        title_justify="left",
    )
    failed = _not_finite(records)
    if failed:
        table.caption, table.caption_justify = failed, "left"
    for heading in ("n", "intact", "intervened", "difference", *(() if shared else ("p",))):
        table.add_column(heading, justify="right")
    groups = [(f"{length:,}", items) for length, items in sorted(_by_length(records).items())]
    if len(groups) > 1:
        groups.append(("all", list(records)))
    for length, items in groups:
        for name in interventions:
            table.add_row(length, escape(name), *_effect(items, name, shared))
    return table


def within_reach(item: ItemRecord) -> bool:
    """Whether the exact attention of the model that answered reaches a needle."""
    return item.arm in item.reachable_by


def percent(found: Estimate) -> str:
    """Return a share with its interval, in percent."""
    return f"{100 * found.mean:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def _effect(items: Iterable[ItemRecord], intervention: str, shared: bool) -> tuple[str, ...]:
    remote = [item for item in items if not within_reach(item)]
    outcomes = [
        {item.item_id: float(item.exact) for item in remote if item.intervention == condition}
        for condition in ("none", intervention)
    ]
    names, intact, intervened = align(*outcomes)
    if not intact:
        return ("0", *[NOTHING] * (3 if shared else 4))
    haystack = {item.item_id: item.cluster or item.item_id for item in remote}
    if shared:
        difference = contrast(intact, intervened, method="paired_t", clusters=[haystack[name] for name in names])
    else:
        difference = contrast(intact, intervened)
    interval = (
        f" [{100 * difference.low:+.0f}, {100 * difference.high:+.0f}]" if difference.bounded else ", no interval"
    )
    return (
        str(len(intact)),
        f"{100 * sum(intact) / len(intact):.0f} %",
        f"{100 * sum(intervened) / len(intervened):.0f} %",
        f"{100 * difference.mean:+.0f}{interval}",
        *(() if shared else (f"{mcnemar(intact, intervened):.2g}",)),
    )


def _title(title: str, records: Sequence[ItemRecord]) -> str:
    how = "95 % Wilson interval over haystacks" if _shared(records) else "95 % Wilson interval"
    return f"{escape(title)}: exact answers, % [{how}]"


def _remarks(records: Sequence[ItemRecord], task: Task) -> list[str]:
    """Return what stands below a table: floor, ceiling, and answers that are none."""
    floor, ceiling = task.floor, task.ceiling
    remarks = [
        f"Floor, guessing: {share(floor.exact)} exact, {share(floor.rank_first)} ranked first; "
        f"ceiling, perfect recall: {share(ceiling.exact)}."
    ]
    return [*remarks, *filter(None, [_not_finite(records)])]


def _not_finite(records: Sequence[ItemRecord]) -> str:
    failed = sum(record.error_class == "not_finite" for record in records)
    if not failed:
        return ""
    return f"{failed} of {len(records)} answers had logits that are not finite (NaN or infinite) and count as failures."


def _exact(items: Sequence[ItemRecord]) -> str:
    return _rate(items, [item.exact for item in items]) if items else NOTHING


def _rate(items: Sequence[ItemRecord], outcomes: Sequence[bool]) -> str:
    """Return a share with its interval; items of one haystack are one cluster."""
    clusters = [item.cluster or item.item_id for item in items]
    return percent(clustered_wilson([float(outcome) for outcome in outcomes], clusters))


def _shared(records: Iterable[ItemRecord]) -> bool:
    """Whether some haystack is asked about more than once."""
    asked: dict[str, str] = {}
    return any(asked.setdefault(item.cluster, item.item_id) != item.item_id for item in records if item.cluster)


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"


def _by_length(records: Iterable[ItemRecord]) -> dict[int, list[ItemRecord]]:
    groups: dict[int, list[ItemRecord]] = {}
    for record in records:
        groups.setdefault(record.length, []).append(record)
    return groups
