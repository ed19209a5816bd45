"""What the commands show: progress of a study in plain lines and bars, and tables of records."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from palimpsest.cli.item_tables import answers_table, probe_table
from palimpsest.cli.progress import LINE_SECONDS, LiveBars, PlainLines
from palimpsest.cli.tables import duration, plan_table, verdict_table
from palimpsest.cli.task_names import ByteTokenizer
from palimpsest.records import EstimateRecord, ItemRecord, VerdictRecord
from palimpsest.statistics import contrast, estimate, mcnemar
from palimpsest.study import Event
from palimpsest.study.estimate import StageEstimate, Work
from palimpsest.study.plan import Stage
from palimpsest.tasks import Passkey, PasskeySpec


def stage_of(name: str, steps: int = 0, inputs: tuple[str, ...] = ()) -> Stage:
    settings = {"training": {"steps": steps}} if steps else {}
    return Stage(name, "pretrain" if steps else "corpus", "a" if steps else None, 0, settings, inputs, name)


def shown(renderable) -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    console.print(renderable)
    return console.file.getvalue()


def item(index: int, *, length=64, depth=0.0, intervention="none", exact=False, compressions=3) -> ItemRecord:
    return ItemRecord(
        task="passkey",
        version=1,
        item_id=f"{length}-{depth}-{index}",
        arm="a",
        seed=0,
        checkpoint="c",
        intervention=intervention,
        length=length,
        depth=depth,
        segment_length=16,
        needle_start=0,
        needle_end=10,
        question_start=50,
        distance=40,
        compressions=compressions,
        segments=4,
        locally_reachable=compressions == 0,
        answer="12345",
        output="12345" if exact else "54321",
        exact=exact,
        error_class="correct" if exact else "other_number",
        rank=1 if exact else 2,
        candidates=16,
        answer_logprob=-1.0,
        reachable_by=("a",) if compressions == 0 else (),
    )


def test_plain_lines_say_when_a_stage_starts_ends_and_how_far_it_is(capsys):
    now = [0.0]
    listen = PlainLines(3, clock=lambda: now[0])
    train = stage_of("ridge-s0-pretrain", 1000)
    listen(Event(stage_of("corpus"), "cached"))
    listen(Event(train, "started"))
    listen(Event(train, "running", steps=0))
    now[0] = 1.0
    listen(Event(train, "running", steps=400))  # an earlier run had come so far
    now[0] = 1.0 + LINE_SECONDS
    listen(Event(train, "running", steps=460))
    now[0] += 1.0
    listen(Event(train, "running", steps=462))  # too soon to speak again
    listen(Event(train, "finished", seconds=61.4))
    assert capsys.readouterr().err.splitlines() == [
        "[1/3] corpus: already done",
        "ridge-s0-pretrain: started",
        "ridge-s0-pretrain: 460/1000 steps, 2 steps/s, 4 min left",
        "[2/3] ridge-s0-pretrain: 61 s",
    ]


def test_live_bars_show_what_runs_and_keep_what_is_done():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    bars = Progress(TextColumn("{task.description} {task.fields[count]}"), console=console, auto_refresh=False)
    listen = LiveBars(bars, 2)
    train = stage_of("ridge-s0-pretrain", 1000)
    with bars:
        listen(Event(stage_of("corpus"), "finished", seconds=3.0))
        listen(Event(train, "started"))
        listen(Event(train, "running", steps=400))
        (task,) = [task for task in bars.tasks if task.description == train.name]
        assert (task.completed, task.total, task.fields["count"]) == (400, 1000, "400/1000")
        assert task.speed is None  # the 400 steps were not made just now
        listen(Event(train, "running", steps=410))
        assert task.completed == 410
        listen(Event(train, "finished", seconds=60.0))
    assert [task.fields["count"] for task in bars.tasks] == ["2/2 stages"]
    assert "corpus: 3 s" in console.file.getvalue()
    assert "ridge-s0-pretrain: 60 s" in console.file.getvalue()


def test_the_table_of_a_plan_marks_what_is_done_and_sums_up():
    corpus, a, b = stage_of("corpus"), stage_of("a", 10, ("corpus",)), stage_of("b", 10, ("corpus",))
    estimates = [
        StageEstimate(corpus, None, 5.0, True),
        StageEstimate(a, Work(1000, 2e6), 60.0, False),
        StageEstimate(b, Work(2000, 3e6), 90.0, False),
    ]
    table, summary = plan_table(estimates, 2, timing=True)
    assert "done" in next(line for line in shown(table).splitlines() if "corpus" in line)
    assert summary == "3 stages, 2 to do; 3,000 tokens, 5e+06 operations in all. About 90 s from now with 2 jobs."
    assert "About 2 min from now with 1 jobs." in plan_table(estimates, 1, timing=True)[1]
    assert "About" not in plan_table(estimates, 2, timing=False)[1]


def test_the_table_of_answers_shows_wilson_intervals_and_n():
    task = Passkey(PasskeySpec(max_length=4096), ByteTokenizer(), segment_length=4096)
    records = [item(i, depth=depth, exact=i < 3) for depth in (0.0, 1.0) for i in range(4)]
    near = [item(i, depth=1.0, exact=True, compressions=0) for i in range(4, 6)]
    text = shown(answers_table(records + near, task, "passkey, version 2", [0.0, 1.0]))
    for share, count in ((0.75, 4), (0.75, 8), (1.0, 2)):
        found = estimate([1.0] * int(share * count) + [0.0] * int((1 - share) * count))
        assert f"{100 * share:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]" in text
    assert "passkey, version 2: exact answers, % [95 % Wilson interval]" in text
    assert "Floor, guessing: 0.001 % exact, 6.25 % ranked first; ceiling, perfect recall: 100 %." in text
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if " 64 " in line]
    assert [row[1:4] for row in rows] == [["does not reach", "3", "8"], ["reaches", "0", "2"]]
    assert [row[5] for row in rows][1] == "–"  # depth 0 has no item that is near
    assert [row[-1] for row in rows] == ["25", "0"]  # other numbers


def test_the_probe_table_is_paired_and_leaves_out_what_needs_no_memory():
    intact = [item(i, exact=True) for i in range(10)]
    swapped = [item(i, exact=i < 2, intervention="swap") for i in range(10)]
    near = [
        item(i, depth=1.0, exact=True, intervention=name, compressions=0) for i in range(5) for name in ("none", "swap")
    ]
    text = shown(probe_table(intact + swapped + near, ["swap"]))
    before, after = [1.0] * 10, [1.0] * 2 + [0.0] * 8
    difference = contrast(before, after)
    for cell in (
        " 10 ",
        "100 %",
        "20 %",
        f"+80 [{100 * difference.low:+.0f}, {100 * difference.high:+.0f}]",
        f"{mcnemar(before, after):.2g}",
    ):
        assert cell in text


def test_a_length_without_remote_items_says_nothing():
    near = [item(i, exact=True, intervention=name, compressions=0) for i in range(3) for name in ("none", "zero")]
    assert "–" in shown(probe_table(near, ["zero"]))


def test_verdicts_are_shown_as_they_are_written():
    number = EstimateRecord(mean=0.9, low=0.8, high=1.0, n=10, method="Wilson")
    verdict = VerdictRecord(
        claim="c",
        statement="Ridge [works].",
        rule="r",
        verdict="PASS",
        estimates={"estimate": number},
        sentence="It finds 90 %.",
        items=[],
    )
    text = shown(verdict_table([verdict]))
    assert "PASS" in text
    assert "Ridge [works]." in text
    assert "It finds 90 %." in text


@pytest.mark.parametrize(("seconds", "text"), [(3.2, "3 s"), (600.0, "10 min"), (10800.0, "3.0 h")])
def test_durations_come_in_the_unit_that_suits_them(seconds, text):
    assert duration(seconds) == text
