"""The passkey task on a byte-level BPE of 1,024 tokens trained on real text."""

import re
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from palimpsest.errors import InputError
from palimpsest.tasks import Output, Passkey, PasskeySpec, Sample, Task
from palimpsest.tasks.filler import CLASSIC_SENTENCES
from palimpsest.tasks.keys import is_evaluation_key
from palimpsest.tasks.templates import INTRODUCTION, QUESTION
from text_case import Counting, decode, encode, tokenizer


@lru_cache(maxsize=64)
def passkey(needle: str, segment_length: int, key_digits: int = 5) -> Passkey:
    spec = PasskeySpec.model_validate({"needle": needle, "key_digits": key_digits, "max_length": 1_024})
    return Passkey(spec, tokenizer(), segment_length=segment_length)


def tightest(needle: str) -> Passkey:
    """The task with segments that the needle fills to the last token."""
    return passkey(needle, passkey(needle, 4_096).needle_length)


needles = st.sampled_from(["repeat", "short"])
tasks = st.builds(tightest, needles) | st.builds(passkey, needles, st.sampled_from([40, 48, 64, 100, 4_096]))
depths = st.floats(0, 1)


def feasible_starts(task: Passkey, length: int) -> list[int]:
    """Every place of the needle, found by adding up sentences one by one."""
    sentences = [len(encode(INTRODUCTION + text)) - len(encode(INTRODUCTION)) for text in CLASSIC_SENTENCES]
    introduction = len(encode(INTRODUCTION))
    question = len(encode(QUESTION.format(key="12345")))
    haystack = length - introduction - task.needle_length - question
    sums = {0}
    for total in range(1, haystack + 1):
        if any(total - sentence in sums for sentence in sentences):
            sums.add(total)
    starts = []
    for before in sums:
        segments = {
            position // task.segment_length
            for position in range(introduction + before, introduction + before + task.needle_length)
        }
        if haystack - before in sums and len(segments) == 1:
            starts.append(introduction + before)
    return sorted(starts)


def next_gap(task: Passkey) -> int:
    """The first length beyond the minimum that no item can have."""
    lengths = range(task.minimum_length, task.minimum_length + 40)
    return next(length for length in lengths if not feasible_starts(task, length))


@given(tasks, st.integers(100, 700), depths, st.integers(0, 2**40), st.integers(0, 2**40))
def test_an_item_is_exact_in_length_and_its_needle_lies_nearest_to_its_depth(task, length, depth, seed, index):
    starts = feasible_starts(task, length)
    if not starts:
        with pytest.raises(InputError, match=r"at least|nearest length"):
            task.sample(split="training", seed=seed, index=index, length=length, depth=depth)
        return
    sample = task.sample(split="training", seed=seed, index=index, length=length, depth=depth)
    assert sample.length == len(sample.input_ids) == length
    assert sample.needle_start in starts
    haystack = sample.question_start - len(encode(INTRODUCTION)) - task.needle_length
    wanted = len(encode(INTRODUCTION)) + depth * haystack
    nearest = min(abs(start - wanted) for start in starts)
    assert abs(sample.needle_start - wanted) == pytest.approx(nearest)
    assert sample.needle_start // task.segment_length == (sample.needle_end - 1) // task.segment_length


@given(tasks, st.integers(220, 900), depths, st.integers(0, 10**6))
def test_the_pieces_are_the_tokens_of_the_whole_text(task, length, depth, index):
    length = task.nearest_length(length, at_most=2_000)
    sample = task.sample(split="evaluation", seed=1, index=index, length=length, depth=depth)
    key = sample.answer
    assert sample.input_ids.tolist() == encode(decode(sample.input_ids))
    assert sample.prompt_ids.tolist() == encode(decode(sample.prompt_ids))
    needle = {
        "repeat": f" The pass key is {key}. Remember it. {key} is the pass key.",
        "short": f" The pass key is {key}.",
    }[task.spec.needle]
    assert decode(sample.input_ids[sample.needle_start : sample.needle_end]) == needle
    assert decode(sample.input_ids[sample.question_start :]) == f" What is the pass key? The pass key is {key}"
    sentence = "|".join(map(re.escape, CLASSIC_SENTENCES))
    whole = f"{re.escape(INTRODUCTION)}({sentence})*{re.escape(needle)}({sentence})*{re.escape(QUESTION)}"
    assert re.fullmatch(whole.replace(re.escape("{key}"), key), decode(sample.input_ids))


@given(tasks, st.integers(220, 900), depths, st.integers(0, 10**6))
def test_the_answer_is_told_only_in_the_needle_and_spelt_alike_there(task, length, depth, index):
    length = task.nearest_length(length, at_most=2_000)
    sample = task.sample(split="evaluation", seed=2, index=index, length=length, depth=depth)
    assert sample.answer_ids.size == 5
    assert decode(sample.answer_ids) == sample.answer
    windows = np.lib.stride_tricks.sliding_window_view(sample.input_ids, 5)
    found = np.flatnonzero((windows == sample.answer_ids).all(axis=1))
    assert found[-1] == sample.prompt_length
    assert len(found) == (3 if task.spec.needle == "repeat" else 2)
    assert all(sample.needle_start <= start < sample.needle_end - 5 for start in found[:-1])
    digits = np.isin(sample.input_ids, encode("0123456789"))
    assert np.flatnonzero(digits).tolist() == [start + place for start in found for place in range(5)]
    before_answer = sample.input_ids[sample.prompt_length - 2 : sample.prompt_length]
    assert np.array_equal(before_answer, sample.input_ids[found[0] - 2 : found[0]])


@given(tasks, st.integers(220, 900), depths)
def test_recorded_distances_follow_from_the_segments(task, length, depth):
    length = task.nearest_length(length, at_most=2_000)
    sample = task.sample(split="evaluation", seed=3, index=0, length=length, depth=depth)
    starts = range(0, length, task.segment_length)
    segments = [set(range(start, min(start + task.segment_length, length))) for start in starts]
    needle = next(number for number, segment in enumerate(segments) if sample.needle_start in segment)
    reader = next(number for number, segment in enumerate(segments) if sample.prompt_length - 1 in segment)
    assert sample.segments == len(segments)
    assert sample.compressions == reader - needle
    assert sample.locally_reachable == (needle == reader)
    assert sample.distance == len(range(sample.needle_end, sample.prompt_length))
    assert sample.question_in_last_segment == (set(range(sample.question_start, length)) <= segments[-1])


def test_question_and_answer_end_a_segment_when_the_length_is_a_multiple_of_it():
    task = passkey("short", 32)
    samples = [task.sample(split="evaluation", seed=0, index=0, length=32 * n, depth=0.0) for n in range(5, 64)]
    assert all(sample.question_in_last_segment for sample in samples)
    assert [sample.compressions for sample in samples] == [n - 3 for n in range(5, 64)]


def test_items_are_pure_and_every_coordinate_matters():
    task = passkey("short", 64)
    base = {"split": "evaluation", "seed": 0, "index": 0, "length": 512, "depth": 0.5}
    first = task.sample(**base)
    again = Passkey(PasskeySpec(needle="short"), tokenizer(), segment_length=64).sample(**base)
    assert (first.id, first.candidates) == (again.id, again.candidates)
    assert np.array_equal(first.input_ids, again.input_ids)
    changes = [{"split": "training"}, {"seed": 1}, {"index": 1}, {"length": 513}, {"depth": 0.501}]
    others = [task.sample(**{**base, **change}) for change in changes]
    assert len({first.id, *(other.id for other in others)}) == 6
    assert len({first.answer, *(other.answer for other in others)}) == 6
    with pytest.raises(ValueError, match="read-only"):
        first.input_ids[0] = 0


@pytest.mark.parametrize("split", ["training", "evaluation"])
def test_answers_and_candidates_belong_to_the_split(split):
    task = passkey("short", 64)
    samples = [task.sample(split=split, seed=0, index=i, length=256, depth=0.5) for i in range(200)]
    for sample in samples:
        assert len(set(sample.candidates)) == 16
        assert sample.candidates[0] == sample.answer
        assert [decode(row) for row in sample.candidate_ids] == list(sample.candidates)
        assert (is_evaluation_key(np.array(sample.candidates, dtype=np.int64)) == (split == "evaluation")).all()


def test_training_items_are_uniform_in_length_and_depth_and_needles_in_place():
    spec = PasskeySpec(needle="short", min_length=1_024, max_length=4_096)
    task = Passkey(spec, tokenizer(), segment_length=256)
    items = [task.training_item(11, index) for index in range(5_000)]
    lengths = np.array([item.length for item in items])
    introduction = len(encode(INTRODUCTION))
    haystack = np.array([item.question_start for item in items]) - introduction - task.needle_length
    places = (np.array([item.needle_start for item in items]) - introduction) / haystack
    assert lengths.min() >= 1_024
    assert lengths.max() <= 4_096
    assert stats.kstest((lengths - 1_024) / 3_073, "uniform").pvalue > 0.01
    assert stats.kstest([item.depth for item in items], "uniform").pvalue > 0.01
    assert stats.kstest(places, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(lengths, places)[0, 1]) < 0.05


def test_training_rows_are_rectangular_and_labelled_on_the_answer_alone():
    spec = PasskeySpec(min_length=150, max_length=260)
    task = Passkey(spec, tokenizer(), segment_length=48, pad_id=9)
    for index in range(300):
        row, item = task.training_sample(0, index), task.training_item(0, index)
        assert {array.shape for array in row} == {(260,)}
        labelled = np.flatnonzero(row.labels != -100)
        assert labelled.tolist() == list(range(item.length - 5, item.length))
        assert np.array_equal(row.labels[labelled], item.answer_ids)
        assert np.array_equal(row.input_ids[: item.length], item.input_ids)
        assert set(row.input_ids[item.length :].tolist()) <= {9}
        assert row.document_ids.tolist() == [0] * item.length + [-1] * (260 - item.length)
        assert not is_evaluation_key(np.array([int(item.answer)])).any()


def test_training_lengths_out_of_reach_become_the_nearest_in_reach():
    task = tightest("repeat")
    gap = next_gap(task)
    spec = PasskeySpec(min_length=gap, max_length=gap)
    item = Passkey(spec, tokenizer(), segment_length=task.segment_length).training_item(0, 0)
    reachable = range(task.minimum_length, gap)
    assert item.length == max(length for length in reachable if feasible_starts(task, length))


def test_no_item_calls_the_tokenizer():
    counting = Counting()
    task = Passkey(PasskeySpec(), counting, segment_length=64)
    prepared = counting.calls
    task.sample(split="evaluation", seed=0, index=0, length=4_096, depth=0.3)
    task.training_sample(0, 0)
    assert counting.calls == prepared > 0


@settings(max_examples=20)
@given(st.integers(3, 12), st.sampled_from(["repeat", "short"]))
def test_keys_of_any_width_fit_the_text(key_digits, needle):
    task = passkey(needle, 64, key_digits)
    sample = task.sample(split="evaluation", seed=0, index=0, length=400, depth=0.7)
    assert len(sample.answer) == sample.answer_ids.size == key_digits
    assert sample.input_ids.tolist() == encode(decode(sample.input_ids))


def answer_by_reading(sample: Sample, visible: np.ndarray) -> Output:
    """Answer as a perfect reader who sees only these tokens of the prompt."""
    key = re.search(r"[0-9]{5}", decode(visible))
    said = key.group() if key else "00000"
    return Output(said, [0.0 if candidate == said else -10.0 for candidate in sample.candidates])


def test_a_perfect_reader_reaches_the_ceiling_and_a_local_one_only_local_cells():
    task: Task = passkey("short", 32)
    seen = set()
    for index in range(100):
        sample = task.sample(split="evaluation", seed=0, index=index, length=160, depth=index / 99)
        whole = task.score(sample, answer_by_reading(sample, sample.prompt_ids))
        assert (whole.exact, whole.error_class, whole.rank, whole.answer_logprob) == (True, "correct", 1, 0.0)
        start = (sample.prompt_length - 1) // 32 * 32
        local = task.score(sample, answer_by_reading(sample, sample.prompt_ids[start:]))
        assert local.exact == (local.rank == 1) == sample.locally_reachable
        seen.add(sample.locally_reachable)
    assert task.ceiling == (1.0, 1.0)
    # The question and its 22 tokens leave no room for a needle of 13 in a last segment of 32.
    assert seen == {False}
    near = passkey("short", 64).sample(split="evaluation", seed=0, index=0, length=192, depth=1.0)
    assert near.locally_reachable
    assert task.score(near, answer_by_reading(near, near.prompt_ids[128:])).exact


def test_guessing_reaches_the_floor():
    task = passkey("short", 64)
    sample = task.sample(split="evaluation", seed=0, index=0, length=256, depth=0.5)
    level = np.zeros(16)
    hits = sum(task.score(sample, Output(f"{guess:05d}", level)).exact for guess in range(100_000))
    assert hits / 100_000 == task.floor.exact == 1e-5
    rng = np.random.default_rng(0)
    ranks = [task.score(sample, Output("", rng.normal(size=16))).rank for _ in range(8_000)]
    counts = np.bincount(ranks, minlength=17)[1:]
    assert stats.chisquare(counts).pvalue > 0.01
    assert task.floor.rank_first == 1 / 16
    assert task.score(sample, Output("", level)).rank == 16


def test_log_probabilities_must_match_the_candidates():
    task = passkey("short", 64)
    sample = task.sample(split="evaluation", seed=0, index=0, length=256, depth=0.5)
    with pytest.raises(ValueError, match="16 candidates need as many"):
        task.score(sample, Output("12345", [0.0, -1.0]))


def test_too_short_a_context_names_the_least_that_works():
    task = passkey("repeat", 64)
    with pytest.raises(InputError, match=f"context of 20 tokens .* at least {task.minimum_length} tokens"):
        task.sample(split="evaluation", seed=0, index=0, length=20, depth=0.5)
    sample = task.sample(split="evaluation", seed=0, index=0, length=task.minimum_length, depth=0.5)
    assert sample.length == task.minimum_length
    assert not feasible_starts(task, task.minimum_length - 1)


def test_a_length_that_sentences_do_not_reach_names_the_nearest_that_they_do():
    task = tightest("repeat")
    gap = next_gap(task)
    with pytest.raises(InputError, match="nearest length that can is") as caught:
        task.sample(split="evaluation", seed=0, index=0, length=gap, depth=0.5)
    assert feasible_starts(task, int(str(caught.value).split()[-1]))


def test_a_needle_longer_than_a_segment_names_both():
    length = passkey("repeat", 64).needle_length
    with pytest.raises(InputError, match=rf"has {length} tokens .* segment of {length - 1}"):
        passkey("repeat", length - 1)


def test_a_training_range_below_the_fixed_text_is_refused():
    least = passkey("repeat", 64).minimum_length
    with pytest.raises(InputError, match=f"max_length 40 .* at least {least} tokens"):
        Passkey(PasskeySpec(min_length=30, max_length=40), tokenizer(), segment_length=64)


@pytest.mark.parametrize("depth", [-0.01, 1.01, 50.0, float("nan")])
def test_depth_is_a_fraction(depth):
    with pytest.raises(InputError, match="fraction of the haystack from 0 to 1"):
        passkey("short", 64).sample(split="evaluation", seed=0, index=0, length=256, depth=depth)


def test_a_tokenizer_that_joins_digits_is_refused():
    with pytest.raises(InputError, match="every digit as one token of its own"):
        Passkey(PasskeySpec(), tokenizer("joins digits"), segment_length=64)


def test_a_tokenizer_that_crosses_sentences_is_refused():
    class Whole:
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return [hash(text)]

    with pytest.raises(InputError, match="to the sentence before it"):
        Passkey(PasskeySpec(), Whole(), segment_length=64)


def test_a_tokenizer_that_marks_words_like_sentencepiece_works():
    task = Passkey(PasskeySpec(max_length=512), tokenizer("metaspace"), segment_length=64)
    sample = task.sample(split="evaluation", seed=0, index=0, length=512, depth=0.4)
    text = decode(sample.input_ids, "metaspace")
    assert encode(text, "metaspace") == sample.input_ids.tolist()
    assert text.endswith(f"The pass key is {sample.answer}")


def test_the_spec_is_closed_and_ordered():
    with pytest.raises(ValidationError, match="Extra inputs"):
        PasskeySpec.model_validate({"neddle": "short"})
    with pytest.raises(ValidationError, match="min_length 300 exceeds max_length 200"):
        PasskeySpec(min_length=300, max_length=200)


@pytest.mark.parametrize("start", ["first", "any"])
def test_filler_begins_where_the_spec_says(start):
    task = Passkey(PasskeySpec(filler_start=start), tokenizer(), segment_length=64)
    begins: tuple[set[str], set[str]] = (set(), set())
    for index in range(60):
        sample = task.sample(split="evaluation", seed=4, index=index, length=640, depth=0.5)
        after_introduction = decode(sample.input_ids)[len(INTRODUCTION) :]
        after_needle = decode(sample.input_ids[sample.needle_end :])
        for seen, text in zip(begins, (after_introduction, after_needle), strict=True):
            seen.add(next(sentence for sentence in CLASSIC_SENTENCES if text.startswith(sentence)))
    expected = set(CLASSIC_SENTENCES) if start == "any" else {CLASSIC_SENTENCES[0]}
    assert begins == (expected, expected)
