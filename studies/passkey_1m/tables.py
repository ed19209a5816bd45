"""What was found, as records and tables: every number of the tables comes from the records beside them."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

from palimpsest.errors import InputError
from palimpsest.records import (
    ItemRecord,
    Measurement,
    Record,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
    write_jsonl,
)
from palimpsest.report.tables import markdown_of
from palimpsest.statistics import Estimate, clustered_wilson, estimate, estimate_across_seeds
from palimpsest.study.claims import judge
from palimpsest.study.spec import ClaimSpec
from palimpsest.training.provenance import measurement
from palimpsest.training.run import METRICS, run_end

PLACES = {0.0: "start", 0.5: "middle", 1.0: "end"}


class Training(Record):
    """One finished training run: the commit it was made at, and its last logged loss, in nats per labelled token."""

    run: str
    commit: str
    steps: int
    tokens: int
    seconds: float
    loss: float


class Published(Measurement):
    """Where the results come from; the commit is that of the publication, every training has its own."""

    study: str
    opened: dict[str, dict[str, str]]
    trainings: tuple[Training, ...]


def publish(name: str, claims: Sequence[ClaimSpec], out: Path, results: Path, threads: int) -> Path:
    """Write the records of a study's folder, compressed, where they come from, and the tables; return the latter.

    Raises:
        InputError: nothing has been answered yet.
    """
    answered = sorted((out / "answers" / "items").glob("*.jsonl"))
    if not answered:
        raise InputError(f"{out} holds no answers yet; run the study first.")
    records = sorted(
        (record for path in answered for record in read_jsonl(path, ItemRecord)),
        key=lambda record: (record.arm, record.seed, record.length, record.depth, record.item_id),
    )
    for path in results.glob("items/*.jsonl.gz"):
        path.unlink()
    for (arm, seed), group in groupby(records, key=lambda record: (record.arm, record.seed)):
        write_jsonl(results / "items" / f"{arm}-s{seed}.jsonl.gz", group)
    opened = out / "answers" / "opened.json"
    write_json(
        results / "provenance.json",
        Published(
            **dict(measurement(threads=threads)),
            study=name,
            opened=read_json(opened) if opened.exists() else {},
            trainings=tuple(_trainings(out)),
        ),
    )
    write_atomic(results / "tables.md", render(load(results), claims))
    return results / "tables.md"


def load(results: Path) -> list[ItemRecord]:
    """Return the published records."""
    return [record for path in sorted(results.glob("items/*.jsonl.gz")) for record in read_jsonl(path, ItemRecord)]


def render(records: Sequence[ItemRecord], claims: Sequence[ClaimSpec] = ()) -> str:
    """Return the verdicts on claims whose arms have been asked, and two tables: of whole keys and of digits."""
    verdicts = [(each.verdict, each.statement, each.sentence) for each in judge(claims, records, [])]
    parts = [
        *(["## Claims", markdown_of(("verdict", "claim", "found"), verdicts)] if verdicts else []),
        "Found at the start, in the middle and at the end of the haystack, in percent [95 % interval]. With several "
        "training seeds the interval is over seeds (Student's t), never narrower than Wilson's over items; with one it "
        "is Wilson's, and says nothing about other seeds.",
        "## Whole keys",
        _table(records, whole_keys),
        "## Digits",
        "The share of the key's digits that stand at their place in what the model says, the nearest to the "
        "token-level accuracy of the original; guessing gives 10 %. The digits of an item are one cluster.",
        _table(records, digits),
    ]
    return "\n\n".join(parts) + "\n"


def whole_keys(records: Sequence[ItemRecord]) -> Estimate:
    """Estimate the share of items whose key was said as a whole."""
    exact = [float(record.exact) for record in records]
    seeds = [record.seed for record in records]
    return estimate_across_seeds(exact, seeds) if len(set(seeds)) > 1 else estimate(exact)


def digits(records: Sequence[ItemRecord]) -> Estimate:
    """Estimate the share of right digits; see ``right_digits``."""
    found = [(right, record) for record in records for right in right_digits(record)]
    outcomes = [float(right) for right, _ in found]
    items = clustered_wilson(outcomes, [(record.seed, record.item_id) for _, record in found])
    seeds = [record.seed for _, record in found]
    if len(set(seeds)) == 1:
        return items
    between = estimate_across_seeds(outcomes, seeds, within="wilson")
    low, high = min(between.low, items.low), max(between.high, items.high)
    return Estimate(between.mean, low, high, between.n, f"{between.method}, and clustered by item", 0.95, between.n)


def right_digits(record: ItemRecord) -> list[bool]:
    """Return for every digit of the key whether it stands at its place in what was said."""
    said = record.output.ljust(len(record.answer))
    return [one == other for one, other in zip(record.answer, said, strict=False)]


def _table(records: Sequence[ItemRecord], measure: Callable[[Sequence[ItemRecord]], Estimate]) -> str:
    head = ("arm", "tokens", "segments", "seeds", "items", *PLACES.values(), "compressions")
    rows = []
    ordered = sorted(records, key=lambda record: (record.arm, record.length))
    for (arm, length), group in groupby(ordered, key=lambda record: (record.arm, record.length)):
        items = list(group)
        at = {place: [item for item in items if item.depth == place] for place in PLACES}
        cells = [_percent(measure(each)) if each else "–" for each in at.values()]
        compressions = ", ".join(_range(item.compressions for item in each) for each in at.values() if each)
        seeds = len({item.seed for item in items})
        rows.append((arm, f"{length:,}", f"{items[0].segments:,}", str(seeds), str(len(items)), *cells, compressions))
    return markdown_of(head, rows)


def _percent(found: Estimate) -> str:
    return f"{100 * found.mean:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def _range(values: Iterable[int]) -> str:
    low, *_, high = sorted([*(found := list(values)), *found])
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _trainings(out: Path) -> list[Training]:
    """Return what every training run, pretraining or fine-tuning, logged last."""
    found = []
    for path in sorted(out.glob(f"*/*/{METRICS}")):
        origin, last = run_end(path.parent)
        found.append(
            Training(
                run=str(path.parent.relative_to(out)),
                commit=origin.commit,
                steps=last.step,
                tokens=last.tokens,
                seconds=last.seconds,
                loss=last.loss,
            )
        )
    return found
