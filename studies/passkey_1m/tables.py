"""What was found, as records and tables: every number of the tables comes from the records beside them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby, pairwise
from pathlib import Path
from statistics import fmean

from palimpsest.errors import InputError
from palimpsest.records import (
    ItemRecord,
    Origin,
    Record,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
    write_jsonl,
)
from palimpsest.report.tables import markdown_of
from palimpsest.statistics import Estimate, clustered_wilson, estimate
from palimpsest.statistics.seeds import wider
from palimpsest.study.claims import judge
from palimpsest.study.spec import ClaimSpec
from palimpsest.training.provenance import origin as describe
from palimpsest.training.run import METRICS, run_log

PLACES = {0.0: "start", 0.5: "middle", 1.0: "end"}
LOGGED = 8
"""A loss at the end of a training is the mean of so many of its last logged updates."""


class Training(Record):
    """One training run: where it was made, and the mean of its last ``LOGGED`` logged losses, in nats per label."""

    run: str
    commit: str
    hardware: str
    steps: int
    tokens: int
    seconds: float
    loss: float


class Published(Origin):
    """Where the results come from: the publication; every training has a commit of its own."""

    study: str
    date: str
    opened: dict[str, dict[str, str]]
    trainings: tuple[Training, ...]


def publish(name: str, claims: Sequence[ClaimSpec], out: Path, results: Path) -> Path:
    """Write the records of a study's folder, compressed, where they come from, and the tables; return the latter.

    Raises:
        InputError: nothing has been answered yet, or an item twice under different settings; nothing is written then.
    """
    answered = sorted((out / "answers" / "items").glob("*.jsonl"))
    if not answered:
        raise InputError(f"{out} holds no answers yet; run the study first.")
    records = sorted(
        (record for path in answered for record in read_jsonl(path, ItemRecord)),
        key=_coordinates,
    )
    for before, after in pairwise(records):
        if _coordinates(before) == _coordinates(after):
            raise InputError(
                f"{out} holds two answers of {after.arm}, seed {after.seed}, to item {after.item_id} of "
                f"{after.length:,} tokens, under other settings; remove the older file of answers/items."
            )
    opened = out / "answers" / "opened.json"
    origin = Published(
        **dict(describe()),
        study=name,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        opened=read_json(opened) if opened.exists() else {},
        trainings=tuple(_trainings(out)),
    )
    text = render(records, claims)
    for path in results.glob("items/*.jsonl.gz"):
        path.unlink()
    for (arm, seed), group in groupby(records, key=lambda record: (record.arm, record.seed)):
        write_jsonl(results / "items" / f"{arm}-s{seed}.jsonl.gz", group)
    write_json(results / "provenance.json", origin)
    write_atomic(results / "tables.md", text)
    return results / "tables.md"


def _coordinates(record: ItemRecord) -> tuple:
    return record.arm, record.seed, record.length, record.depth, record.item_id


def load(results: Path) -> list[ItemRecord]:
    """Return the published records."""
    return [record for path in sorted(results.glob("items/*.jsonl.gz")) for record in read_jsonl(path, ItemRecord)]


def render(records: Sequence[ItemRecord], claims: Sequence[ClaimSpec] = ()) -> str:
    """Return the verdicts on claims whose arms have been asked, and two tables: of whole keys and of digits."""
    judged = [claim for claim in claims if _has_all(claim, records)]
    verdicts = [(each.verdict, each.statement, each.rule, each.sentence) for each in judge(judged, records, [])]
    parts = [
        *(["## Claims", markdown_of(("verdict", "claim", "rule", "found"), verdicts)] if verdicts else []),
        "Found at the start, in the middle and at the end of the haystack, in percent [95 % interval]. With several "
        "training seeds the interval is over seeds (Student's t), never narrower than Wilson's over items, which are "
        "the same for all seeds, and that alone where all seeds agree; with one seed it is Wilson's, and says nothing "
        "about other seeds. Where there are no compressions the key is in the segment of the question: if it is not "
        "found there, it was not forgotten.",
        "## Whole keys in an earlier segment than the question",
        "All such items, wherever in the haystack their key is; intervals below.",
        summary(records),
        "## Whole keys",
        _table(records, whole_keys),
        "## Digits",
        "The share of the key's digits that stand at their place in what the model says, the nearest to the "
        "token-level accuracy of the original; guessing gives 10 %. The digits of an item are one cluster.",
        _table(records, digits),
    ]
    return "\n\n".join(parts) + "\n"


def summary(records: Sequence[ItemRecord]) -> str:
    """Return the share of whole keys in an earlier segment than the question, of every arm at every length."""
    far = [record for record in records if not record.locally_reachable]
    segments = sorted({record.segments for record in far})
    rows = []
    for arm in sorted({record.arm for record in far}):
        shares = [
            [float(record.exact) for record in far if (record.arm, record.segments) == (arm, count)]
            for count in segments
        ]
        rows.append((arm, *(f"{100 * fmean(share):.0f} %" if share else "–" for share in shares)))
    return markdown_of(("arm", *(f"{count:,} segments" for count in segments)), rows)


def whole_keys(records: Sequence[ItemRecord]) -> Estimate:
    """Estimate the share of items whose key was said as a whole."""
    return _share([(float(record.exact), record) for record in records])


def digits(records: Sequence[ItemRecord]) -> Estimate:
    """Estimate the share of right digits; see ``right_digits``."""
    return _share([(float(right), record) for record in records for right in right_digits(record)])


def _share(outcomes: Sequence[tuple[float, ItemRecord]]) -> Estimate:
    """Estimate a share: over seeds, no narrower than over items; an item is one text, whatever seed was asked it."""
    values, seeds = [value for value, _ in outcomes], [record.seed for _, record in outcomes]
    items = clustered_wilson(values, [record.item_id for _, record in outcomes])
    if len(set(seeds)) == 1:
        return items
    found = wider(estimate(values, method="t", clusters=seeds), items)
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))


def _has_all(claim: ClaimSpec, records: Sequence[ItemRecord]) -> bool:
    """Return whether both sides of a claim have been asked the same items by the same seeds."""
    asked = [
        {(record.seed, record.item_id) for record in records if record.arm == arm and record.length in claim.lengths}
        for arm in (claim.arm, claim.against or claim.arm)
    ]
    return bool(asked[0]) and asked[0] == asked[1]


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
    """Return what every training run, pretraining or fine-tuning, has come to."""
    found = []
    for path in sorted(out.glob(f"*/*/{METRICS}")):
        log = run_log(path.parent)
        found.append(
            Training(
                run=str(path.parent.relative_to(out)),
                commit=log.provenance.commit,
                hardware=log.provenance.hardware,
                steps=log.last.step,
                tokens=log.last.tokens,
                seconds=log.last.seconds,
                loss=fmean(step.loss for step in log.steps[-LOGGED:]),
            )
        )
    return found
