"""Items that are streamed are those of ``Passkey``, their answers those of ``evaluate_items``, and nothing grows."""

import os
import subprocess
import sys
import tracemalloc
from dataclasses import fields
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cli_case import refused, run
from palimpsest.cli import evaluation
from palimpsest.data import load_tokenizer
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestCache, PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.models.snapshot import Snapshot
from palimpsest.models.streaming import prefill, prefill_windows
from palimpsest.records import ItemRecord, read_jsonl
from palimpsest.study import streaming_eval
from palimpsest.study.evaluate import Subject, evaluate_items
from palimpsest.study.streaming_eval import evaluate_streamed
from palimpsest.tasks import PasskeySpec
from palimpsest.tasks.filler import Filler
from palimpsest.tasks.streamed import UNMADE, FillerRun, StreamedPasskey
from text_case import tokenizer

SEGMENT = 64
KINDS = {
    "ridge": {"pattern": ["memory"], "memory": {"kind": "ridge"}},
    "token_delta": {"pattern": ["memory"], "memory": {"kind": "token_delta"}},
    "hybrid": {"pattern": ["memory", "sliding_window"], "memory": {"kind": "delta"}},
    "segment_local": {"pattern": ["segment_local"]},
}


@lru_cache(maxsize=64)
def passkey(needle: str = "repeat", segment_length: int = SEGMENT, filler_start: str = "any") -> StreamedPasskey:
    spec = PasskeySpec.model_validate({"needle": needle, "filler_start": filler_start, "max_length": 1 << 20})
    return StreamedPasskey(spec, tokenizer(), segment_length=segment_length)


def model_of(kind: str, seed: int = 0) -> PalimpsestForCausalLM:
    config = PalimpsestConfig(
        vocab_size=len(tokenizer()),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
        attention={**KINDS[kind], "segment_length": SEGMENT},
    )
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        return PalimpsestForCausalLM(config).double().eval()


def subject_of(kind: str, seed: int = 0) -> Subject:
    return Subject(model_of(kind, seed), tokenizer(), kind, seed, "weights", {kind: lambda at: at // SEGMENT * SEGMENT})


def items(length: int, count: int = 3, seed: int = 0):
    """The same items as they are and streamed, with needles from the first to the last place."""
    task = passkey()
    where = [
        {"split": "evaluation", "seed": seed, "index": index, "length": length, "depth": index / (count - 1)}
        for index in range(count)
    ]
    return task, [task.sample(**each) for each in where], [task.stream(**each) for each in where]


# The items


def sentence_of(make, where: dict) -> str | None:
    """Why an item cannot be made; None if it can."""
    try:
        make(**where)
    except InputError as error:
        return str(error)
    return None


@settings(max_examples=60, deadline=None)
@given(
    task=st.builds(
        passkey, st.sampled_from(["repeat", "short"]), st.sampled_from([48, 64, 100]), st.sampled_from(["any", "first"])
    ),
    split=st.sampled_from(["training", "evaluation"]),
    index=st.integers(0, 1000),
    length=st.integers(90, 5000),
    depth=st.none() | st.floats(0, 1),
    cuts=st.lists(st.floats(0, 1), max_size=4),
)
def test_a_streamed_item_is_the_item(task, split, index, length, depth, cuts):
    where = {"split": split, "seed": 7, "index": index, "length": length, "depth": depth}
    if (refusal := sentence_of(task.sample, where)) is not None:
        assert sentence_of(task.stream, where) == refusal
        return
    sample, streamed = task.sample(**where), task.stream(**where)
    for field in fields(sample):
        mine, theirs = getattr(streamed.outline, field.name), getattr(sample, field.name)
        if field.name == "input_ids":
            assert mine.shape == theirs.shape
            assert (mine == UNMADE).all()
        elif field.name == "candidate_ids":
            assert (mine == theirs).all()
        else:
            assert mine == theirs, field.name
    edges = [0, *sorted(int(cut * length) for cut in cuts), length]
    pieces = [streamed.tokens(start, end) for start, end in pairwise(edges)]
    assert (np.concatenate(pieces) == sample.input_ids).all()


def test_the_place_of_the_needle_is_the_nearest_however_few_there_are():
    task = passkey(segment_length=passkey().needle_length)  # a needle fills a segment: a place is rare
    for length in range(1600, 1640):
        for depth in (0.0, 0.31, 0.5, 0.77, 1.0):
            where = {"split": "evaluation", "seed": 0, "index": 0, "length": length, "depth": depth}
            try:
                expected = task.sample(**where).needles
            except InputError:
                continue
            assert task.stream(**where).outline.needles == expected


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), size=st.integers(0, 90), data=st.data())
def test_a_run_of_filler_is_what_filler_writes(lengths, size, data):
    marks = iter(range(100))
    filler = Filler(tuple(tuple(next(marks) for _ in range(length)) for length in lengths))
    out = np.empty(size, dtype=np.int32)
    try:
        filler.write(out)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)):
            FillerRun(filler, size)
        return
    start = data.draw(st.integers(0, size))
    end = data.draw(st.integers(start, size))
    assert FillerRun(filler, size).tokens(start, end).tolist() == out[start:end].tolist()


def test_an_item_of_a_million_tokens_takes_no_room():
    def peak(length: int) -> int:
        tracemalloc.start()
        try:
            streamed = passkey().stream(split="evaluation", seed=0, index=0, length=length, depth=0.5)
            assert streamed.tokens(length - 100, length).size == 100
            assert streamed.outline.length == length
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1 << 18)  # what is kept for later items
    assert peak(1 << 20) < 1.1 * peak(1 << 18)
    assert peak(1 << 20) < 4 << 20  # its tokens alone


# Reading


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(length=st.integers(1, 400), before=st.integers(0, 200), chunk=st.integers(1, 200))
def test_reading_windows_is_reading_at_once(kind, length, before, chunk):
    model = model_of(kind)
    tokens = torch.randint(64, (2, before + length), generator=torch.Generator().manual_seed(0))
    caches = [PalimpsestCache(model.config) for _ in range(2)]
    for cache in caches if before else ():
        prefill(model, tokens[:, :before], cache)
    told, expected_told = [], []
    got = prefill_windows(
        model,
        lambda start, end: tokens[:, start:end],
        before + length,
        caches[0],
        chunk_tokens=chunk,
        listen=told.append,
    )
    expected = prefill(model, tokens[:, before:], caches[1], chunk_tokens=chunk, listen=expected_told.append)
    assert torch.equal(got, expected)  # the same passes, so the same bits
    assert np.cumsum(told).tolist() == expected_told
    with pytest.raises(InputError, match="prompt is empty"):
        prefill_windows(model, lambda start, end: tokens[:, start:end], before + length, caches[0])


# Answers


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_log_probabilities_are_those_of_the_ordinary_path(kind):
    subject = subject_of(kind)
    task, samples, streamed = items(4096)
    conditions = ("swap", "zero", "reset", "drop[needle]") if kind == "ridge" else ()
    expected = evaluate_items(subject, task, samples, conditions)
    for columns in (4096, 512) if kind == "ridge" else (512,):
        got = evaluate_streamed(subject, task, streamed, conditions, pass_tokens=len(samples) * columns)
        assert len(got) == len(expected) == len(samples) * (1 + len(conditions))
        for mine, theirs in zip(got, expected, strict=True):
            assert mine.answer_logprob == pytest.approx(theirs.answer_logprob, abs=1e-9)
            assert mine.model_copy(update={"answer_logprob": theirs.answer_logprob}) == theirs
    assert {record.compressions for record in expected} == {62, 31, 0}  # the introduction fills the first segment
    assert {record.segments for record in expected} == {64}


@pytest.mark.parametrize("conditions", [(), ("reset",)])
def test_a_reading_that_was_cut_off_goes_on_where_it_was(tmp_path, monkeypatch, conditions):
    monkeypatch.setattr(streaming_eval, "SAVE_SECONDS", 0.0)
    subject = subject_of("ridge")
    task, _, streamed = items(4096)
    expected = evaluate_streamed(subject, task, streamed, conditions, pass_tokens=3 * 512)
    told: list[int] = []
    for call in range(30):
        events = []

        def stop(columns: int, events: list[int] = events) -> None:
            """Stop when each reading may have been found again and two passes were made, before the last is kept."""
            told.append(columns)
            events.append(columns)
            if len(events) == 3 + len(conditions):
                raise KeyboardInterrupt

        try:
            got = evaluate_streamed(
                subject, task, streamed, conditions, states=tmp_path, pass_tokens=3 * 512, listen=stop
            )
        except KeyboardInterrupt:
            continue
        assert got == expected  # to the last bit
        assert call > 4
        assert max(told) >= 3584  # so much was found by a call that other calls had read
        break
    else:
        pytest.fail("it never came to an end")


def test_a_state_of_other_items_or_of_another_model_is_refused(tmp_path):
    task, _, streamed = items(2048)
    evaluate_streamed(subject_of("ridge"), task, streamed, states=tmp_path)
    kept = tmp_path / "none.safetensors"
    assert kept.exists()
    with pytest.raises(InputError, match=r"none.safetensors is the state after other texts than the items"):
        evaluate_streamed(subject_of("ridge"), task, items(2048, seed=1)[2], states=tmp_path)
    with pytest.raises(InputError, match=r"none.safetensors is the state after other texts"):
        evaluate_streamed(subject_of("ridge"), task, items(1024)[2], states=tmp_path)
    with pytest.raises(InputError, match=r"none.safetensors is of another model"):
        evaluate_streamed(subject_of("ridge", seed=1), task, streamed, states=tmp_path)
    read = []
    evaluate_streamed(subject_of("ridge"), task, streamed, states=tmp_path, listen=read.append)
    assert read == [1984]  # nothing is read again


def test_the_mean_read_of_whole_texts_cannot_be_had_here():
    task, _, streamed = items(2048)
    with pytest.raises(InputError, match=r"'mean' needs .* items of 2048 tokens are streamed; ask it of shorter ones"):
        evaluate_streamed(subject_of("ridge"), task, streamed, ["mean"])


# The command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "ridge"
    model_of("ridge").float().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


FEW = ("--tasks", "passkey", "--items", 2, "--depths", "0,1")


def records(out: Path) -> list[ItemRecord]:
    (path,) = (out / "items").glob("*.jsonl")
    return list(read_jsonl(path, ItemRecord))


def test_the_command_streams_long_items_and_records_the_same(checkpoint, tmp_path, monkeypatch):
    plain, streamed = tmp_path / "plain", tmp_path / "streamed"
    assert run("eval", checkpoint, *FEW, "--lengths", 2048, "--out", plain).exit_code == 0
    monkeypatch.setattr(evaluation, "STREAMED_FROM", 2048)
    monkeypatch.setattr(evaluation, "evaluate_items", None)
    result = run("eval", checkpoint, *FEW, "--lengths", 2048, "--out", streamed)
    assert result.exit_code == 0, result.output
    assert records(streamed) == records(plain)
    assert not list((streamed / "states").iterdir())


def test_the_command_goes_on_in_the_middle_of_a_batch(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "STREAMED_FROM", 2048)
    monkeypatch.setattr(streaming_eval, "SAVE_SECONDS", 0.0)
    answer, read = streaming_eval.answer, []

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(streaming_eval, "answer", stop)
    result = run("eval", checkpoint, *FEW, "--lengths", 2048, "--out", tmp_path)
    assert result.exit_code == 130
    (kept,) = (tmp_path / "states").glob("passkey-*-00000/none.safetensors")
    assert Snapshot.load(kept).header.columns == 1984  # where the segment with the answer begins
    monkeypatch.setattr(streaming_eval, "answer", answer)
    monkeypatch.setattr(streaming_eval, "prefill_windows", lambda *_, **__: read.append(True))
    result = run("eval", checkpoint, *FEW, "--lengths", 2048, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert not read  # all had been read before the answer was cut off
    assert len(records(tmp_path)) == 4


def test_a_long_length_that_no_item_can_have_names_one_that_can(checkpoint, tmp_path, monkeypatch):
    where = {"split": "evaluation", "seed": 0, "index": 0, "depth": None}
    gap = next(length for length in range(100, 400) if sentence_of(passkey().sample, {**where, "length": length}))
    monkeypatch.setattr(evaluation, "STREAMED_FROM", 1)
    sentence = refused("eval", checkpoint, *FEW, "--lengths", gap, "--out", tmp_path)
    assert sentence == sentence_of(passkey().sample, {**where, "length": gap})


LAUNCHER = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""
"""Runs a command and prints its peak. A process of its own, because a child's peak begins with that of its parent."""


@pytest.mark.slow
def test_peak_memory_of_the_command_does_not_grow_with_the_length(checkpoint, tmp_path):
    assert len(load_tokenizer(checkpoint)) == len(tokenizer())

    def peak(length: int) -> int:
        """Return the most memory that the command had at once, in KiB (on Linux)."""
        options = [
            "--tasks",
            "passkey",
            "--items",
            1,
            "--depths",
            0,
            "--lengths",
            length,
            "--out",
            tmp_path / str(length),
        ]
        command = [sys.executable, "-m", "palimpsest", "eval", checkpoint, *options]
        done = subprocess.run(
            [sys.executable, "-S", "-c", LAUNCHER, *map(str, command)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    short, long = peak(65_536), peak(1_048_576)
    print(f"{short:,} and {long:,} KiB: {long / short:.3f}")
    assert long <= 1.02 * short
    (record,) = records(tmp_path / "1048576")
    assert record.length == 1_048_576
    assert record.segments == 1_048_576 // SEGMENT
    assert record.compressions == record.segments - 1 - record.needle_start // SEGMENT > 16_000
