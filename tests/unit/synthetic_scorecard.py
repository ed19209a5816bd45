"""A made-up scorecard, for tests of the report alone: no model was trained to make these numbers.

Everything is a pure function of its arguments.
"""

import hashlib
import math
from pathlib import Path
from typing import get_args

import numpy as np

from palimpsest.records import (
    ErrorClass,
    EstimateRecord,
    FigureRecord,
    ItemRecord,
    Provenance,
    RowRecord,
    ScorecardArm,
    ScorecardRecord,
    Series,
    write_json,
    write_jsonl,
)
from palimpsest.report.scorecard_items import chosen, shown_item

SHA = hashlib.sha256(b"a study file").hexdigest()
ARMS = ("full", "segment_local", "linear", "delta", "ridge")
VERDICTS = ("PASS", "FAIL", "INCONCLUSIVE")
KINDS: tuple[ErrorClass, ...] = get_args(ErrorClass)
WIDTHS = {"full": 0.98, "segment_local": 0.05, "linear": 0.4, "delta": 0.3, "ridge": 0.9}


def make_estimate(mean: float, half: float = 0.04, n: int = 500, method: str = "Wilson") -> EstimateRecord:
    return EstimateRecord(mean=mean, low=mean - half, high=mean + half, n=n, method=method)


def make_figure(number: int, names: tuple[str, ...] = ARMS) -> FigureRecord:
    """Lines with bands on a logarithmic axis, points, differences, a single series, by turns."""
    xs = tuple(float(2**power) for power in range(1, 10))
    if number % 4 == 0:
        x, y = (0.0, 1.0), tuple(WIDTHS.values())[:2]
        bars = Series(name="effect of a head", x=x, y=y, low=(0.9, 0.0), high=(1.0, 0.1), points=True)
        return FigureRecord(
            title="Effect of heads", caption="Each point is a head.", x_label="layer", y_label="effect, nats",
            series=(bars,),
        )  # fmt: skip
    if number % 4 == 1:
        series = [(name, tuple(WIDTHS.get(name, 0.6) / (1 + x / 200) for x in xs)) for name in names]
        lines = tuple(
            Series(
                name=name, x=xs, y=y, low=tuple(max(v - 0.05, 0) for v in y), high=tuple(min(v + 0.05, 1) for v in y)
            )
            for name, y in series
        )
        return FigureRecord(
            title="Accuracy by pairs stored", caption="A memory that holds many pairs stays high to the right.",
            x_label="pairs in the context", y_label="whole values recalled", series=lines, log_x=True, share=True,
            marks={"n = d": 32.0, "d50 of linear": 35.0, "trained on": 4.0},
        )  # fmt: skip
    if number % 4 == 2:
        gain = tuple(0.02 * math.log2(x) - 0.05 for x in xs)
        one = Series(name="ridge", x=xs, y=gain, low=tuple(g - 0.02 for g in gain), high=tuple(g + 0.02 for g in gain))
        theory = Series(name="theory", x=xs, y=tuple(0.01 * math.log2(x) for x in xs))
        return FigureRecord(
            title="Gain by position", caption="Above zero the memory helps.", x_label="position, tokens",
            y_label="rise of loss, nats per token", series=(one, theory), log_x=True,
        )  # fmt: skip
    xs = (0.0, 4.0, 16.0, 64.0)
    shares = Series(
        name="linear", x=xs, y=(0.9, 0.7, 0.4, 0.1), low=(0.8, 0.6, 0.3, -math.inf), high=(1.0, 0.8, 0.5, math.inf)
    )
    return FigureRecord(
        title="Accuracy by distractors", caption="", x_label="other numbers in the context", y_label="exact",
        series=(shares, Series(name="ridge", x=xs, y=(1.0, 0.95, math.nan, 0.8))), log_x=True, share=True,
    )  # fmt: skip


def make_row(number: int, letter: str = "", figure: bool = True) -> RowRecord:
    verdict = VERDICTS[number % 3]
    estimates = {"memory_only_accuracy": make_estimate(0.5 + number / 100)}
    if number % 2:
        estimates["difference"] = make_estimate(0.01 * number, 0.1, 5, "t over seeds")
    many = {f"d90_{arm}": make_estimate(40.0 + number, 5, 400, "bootstrap") for arm in ARMS}
    return RowRecord(
        id=f"E{number:02d}{letter}",
        demand="accuracy as a continuous function of position" if number % 2 else "the memory zeroed",
        claim=f"The linear memory keeps what it was told over {number} compressions, at least as well as chance.",
        published="A compressive memory scales to infinitely long context (a paper)." if number % 5 == 1 else None,
        rule="PASS if the 95 % interval is at least 0.9 everywhere; FAIL if it is below 0.5 anywhere.",
        verdict=verdict,
        sentence=f"{verdict}: memory_only_accuracy 0.{50 + number} [0.46, 0.54] (95 % interval, n = 500; Wilson).",
        estimates={} if number == 9 else estimates,
        facts=many if number % 3 == 0 else dict(list(many.items())[: number % 3]),
        figure=make_figure(number) if figure and number % 7 else None,
        sources=("items/passkey", "usage", "documents/text", "audit"),
        note="" if number % 4 else "The longest length was not reached.",
        prereg=SHA if number != 8 else "0" * 64,
        primary=number in (1, 4, 5, 7, 8, 10, 12, 13, 17, 19, 21, 24),
        tested=number != 25,
    )


def make_card(rows: tuple[RowRecord, ...] | None = None) -> ScorecardRecord:
    """A scorecard with rows E01 to E31, but for E21, which was not planned, and E03, which says why it was not."""
    if rows is None:
        rows = (*(make_row(n) for n in range(31, 0, -1) if n not in (3, 21)), make_row(8, "b"))
    origin = Provenance(
        versions={"torch": "2.9.1", "palimpsest": "0.3.0"}, hardware="a small machine", cores=2, git_commit="abc123",
        git_dirty=False, recipe_sha256=SHA, data_fingerprint="fingerprint", seeds={"model": 0}, parameters=115_000,
        flops=1e12, started="2026-01-01T00:00:00Z",
    )  # fmt: skip
    return ScorecardRecord(
        name="scorecard-small",
        question="Does a small language model with a bounded memory use it, and how much does it hold?",
        sha256=SHA,
        seeds=(0, 1, 2, 3, 4),
        arms=tuple(
            ScorecardArm(
                name=arm, kinds=("memory",) if arm in ARMS[2:] else (arm,), memory=arm if arm in ARMS[2:] else None,
                parameters=115_328, learning_rate=3e-3, phases=("repeats", "mixed"),
                reach=None if arm == "full" else 16,
            )
            for arm in ARMS
        ),
        segment_length=16,
        deviations=("ask was changed after the first run (SHA-256 of its settings aaaa then, bbbb now)",),
        opened=("2026-01-02: passkey, seed 10001, 300 items",),
        rows=rows,
        untested={"E03": "One million tokens need a larger model."},
        trained={row.id: 5 for row in rows if row.tested},
        provenance={f"{arm}-s{seed}": origin for arm in ARMS for seed in range(5)},
    )  # fmt: skip


def make_items(count: int = 40, arms: tuple[str, ...] = ARMS, seed: int = 0) -> list[ItemRecord]:
    """Answers to ``count`` items of every arm, intact and with another memory."""
    random = np.random.default_rng(seed)
    items = []
    for arm in arms:
        for index in range(count):
            length = (64, 256, 1024)[index % 3]
            start = int(random.integers(0, length - 24))
            for name in ("swap", "none"):
                right = name == "none" and random.random() < WIDTHS.get(arm, 0.5)
                kind = "correct" if right else KINDS[int(random.integers(1, len(KINDS)))]
                items.append(
                    ItemRecord(
                        task="sym_passkey", version=1, item_id=f"{index:08x}", arm=arm, seed=index % 5, checkpoint="c",
                        intervention=name, length=length, depth=start / length, segment_length=16, needle_start=start,
                        needle_end=start + 4, question_start=length - 3, distance=length - start - 4,
                        compressions=(length - start - 4) // 16, segments=length // 16,
                        locally_reachable=length - start < 16, answer="v12", output="v12" if right else "k7",
                        exact=right, error_class=kind, rank=1 if right else 7, candidates=128, answer_logprob=-0.5,
                        needles=((start, start + 4),), facts={"distractors": 4.0},
                    )
                )  # fmt: skip
    return items


def make_words(item: ItemRecord) -> list[str]:
    words = [f"w{position % 97}" for position in range(item.length)]
    words[item.needle_start : item.needle_end] = ["key", "k3", "is", item.answer]
    words[item.question_start :] = ["ask", "k3", "?"]
    return words


def write_card(directory: Path, card: ScorecardRecord | None = None, items: list[ItemRecord] | None = None) -> Path:
    """Write a records directory and return it."""
    write_json(directory / "scorecard.json", card or make_card())
    answers = make_items() if items is None else items
    write_jsonl(directory / "items" / "passkey.jsonl.gz", answers)
    shown = [
        shown_item([a for a in answers if (a.arm, a.seed, a.item_id) == (i.arm, i.seed, i.item_id)], make_words(i))
        for i in chosen(answers)
    ]
    write_jsonl(directory / "items" / "passkey.samples.jsonl", shown)
    write_jsonl(directory / "items" / "where.jsonl.gz", answers[:3])
    write_jsonl(directory / "documents" / "text" / "losses.jsonl.gz", [])
    write_jsonl(directory / "usage.jsonl.gz", [])
    return directory
