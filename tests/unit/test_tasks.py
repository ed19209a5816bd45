"""Keys, filler, rows and scores: what the tasks are made of, without a tokenizer."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from palimpsest.errors import InputError
from palimpsest.tasks.filler import Filler, compositions
from palimpsest.tasks.keys import digits_of, draw_keys, is_evaluation_key, mix, random_bits
from palimpsest.tasks.task import Sample, Span, classify_number, padded_row, rank_of_first

ALL_KEYS = np.arange(10_000, 100_000)


def test_the_wing_needs_neither_torch_nor_transformers():
    code = "import sys, palimpsest.tasks; print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_mix_is_the_published_splitmix64():
    # First outputs of the reference implementation for seed 1234567 (Vigna, splitmix64.c).
    gamma, seed = np.uint64(0x9E3779B97F4A7C15), np.array([1234567], dtype=np.uint64)
    outputs = mix(seed + gamma * np.arange(1, 4, dtype=np.uint64))
    assert outputs.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_random_bits_are_a_stream_that_can_be_entered_anywhere():
    whole = random_bits("label", 50)
    assert np.array_equal(np.concatenate([random_bits("label", 20), random_bits("label", 30, start=20)]), whole)
    assert not np.intersect1d(whole, random_bits("other label", 50)).size


def test_every_five_digit_key_is_in_exactly_one_split_and_a_fifth_in_evaluation():
    evaluation = set(draw_keys("e", "evaluation", width=5, count=int(is_evaluation_key(ALL_KEYS).sum())).tolist())
    training = set(draw_keys("t", "training", width=5, count=int((~is_evaluation_key(ALL_KEYS)).sum())).tolist())
    assert evaluation.isdisjoint(training)
    assert evaluation | training == set(ALL_KEYS.tolist())
    assert abs(len(evaluation) / ALL_KEYS.size - 1 / 5) < 4 * (0.16 / ALL_KEYS.size) ** 0.5


@pytest.mark.parametrize("place", range(5))
def test_splits_are_balanced_over_the_digits_of_every_place(place):
    evaluation = is_evaluation_key(ALL_KEYS)
    digit = digits_of(ALL_KEYS, 5)[:, place]
    shares = [evaluation[digit == value].mean() for value in np.unique(digit)]
    assert np.abs(np.array(shares) - 0.2).max() < 0.02


@given(
    st.sampled_from(["training", "evaluation"]),
    st.integers(3, 12),
    st.integers(1, 64),
    st.text(max_size=8),
)
def test_drawn_keys_have_the_width_and_the_split_and_never_repeat(split, width, count, label):
    keys = draw_keys(label, split, width=width, count=count)
    assert len(set(keys.tolist())) == keys.size == count
    assert {len(str(key)) for key in keys.tolist()} == {width}
    assert (is_evaluation_key(keys) == (split == "evaluation")).all()
    assert ["".join(map(str, row)) for row in digits_of(keys, width).tolist()] == [str(k) for k in keys.tolist()]


def test_drawn_keys_are_uniform():
    keys = np.array([draw_keys(f"u|{i}", "evaluation", width=5, count=1)[0] for i in range(5_000)])
    assert stats.kstest((keys - 10_000) / 90_000, "uniform").pvalue > 0.01


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split is one of"):
        draw_keys("label", "test", width=5, count=1)  # pyright: ignore[reportArgumentType]


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=5).map(tuple)


def filler_of(lengths: tuple[int, ...]) -> Filler:
    """Sentences whose tokens name them: sentence s is (10 s, 10 s + 0.. , ...) with distinct ids."""
    return Filler(tuple(tuple(100 * said + place for place in range(n)) for said, n in enumerate(lengths)))


def sums_up_to(lengths: tuple[int, ...], limit: int) -> set[int]:
    sums = {0}
    for total in range(1, limit + 1):
        if any(total - length in sums for length in lengths):
            sums.add(total)
    return sums


@given(LENGTHS)
def test_reachable_counts_are_exactly_the_sums_of_sentences(lengths):
    limit = 300
    reachable = filler_of(lengths).reachable(np.arange(limit + 1))
    assert set(np.flatnonzero(reachable).tolist()) == sums_up_to(lengths, limit)


@given(LENGTHS, st.integers(0, 300))
def test_a_block_has_the_exact_count_and_whole_sentences_in_cyclic_order(lengths, count):
    filler = filler_of(lengths)
    out = np.full(count, -1, dtype=np.int32)
    if count not in sums_up_to(lengths, count):
        with pytest.raises(ValueError, match=f"add up to {count} tokens"):
            filler.write(out)
        return
    filler.write(out)
    rest, said = out.tolist(), []
    while rest:
        sentence = rest[0] // 100
        assert tuple(rest[: lengths[sentence]]) == filler.sentences[sentence]
        said.append(sentence)
        rest = rest[lengths[sentence] :]
    # The body is the cycle as it is; only what the shortest remainder of this residue needs departs from it.
    tail = compositions(lengths)[count % filler.period]
    body = said[: len(said) - len(tail)]
    assert body == list(range(len(lengths))) * (len(body) // len(lengths))
    assert tuple(said[len(body) :]) == tail


def test_remainders_prefer_the_classic_order():
    # 8, 17, 26 and 31 are beginnings of the cycle, so nothing is left out although they have other sums.
    walks = compositions((8, 9, 9, 5, 8))
    assert (walks[0], walks[8], walks[17], walks[26], walks[31]) == (
        (),
        (0,),
        (0, 1),
        (0, 1, 2),
        (0, 1, 2, 3),
    )
    assert walks[5] == (3,)
    assert set(walks) == set(range(39))


def small_sample() -> Sample:
    return Sample(
        id="0",
        task="t",
        version=1,
        split="training",
        seed=0,
        index=0,
        depth=0.0,
        segment_length=4,
        input_ids=np.array([6, 7, 8, 9, 1, 2], dtype=np.int32),
        prompt_length=4,
        cluster="0",
        question_start=3,
        needles=(Span(0, 1),),
        candidates=("12", "21"),
        candidate_ids=np.array([[1, 2], [2, 1]], dtype=np.int32),
        answers=("12",),
        others=(),
        facts={},
        new_tokens=2,
    )


def test_a_row_labels_the_answer_alone_and_marks_its_padding():
    row = padded_row(small_sample(), 8, pad_id=5)
    assert row.input_ids.tolist() == [6, 7, 8, 9, 1, 2, 5, 5]
    assert row.labels.tolist() == [-100, -100, -100, -100, 1, 2, -100, -100]
    assert row.document_ids.tolist() == [0, 0, 0, 0, 0, 0, -1, -1]
    assert {array.dtype for array in row} == {np.dtype(np.int64)}


def test_a_row_shorter_than_its_sample_is_refused():
    with pytest.raises(InputError, match="6 tokens does not fit in a row of 5"):
        padded_row(small_sample(), 5, pad_id=5)


def test_a_needle_in_the_segment_of_the_reading_token_is_locally_reachable():
    sample = small_sample()
    # The answer lies in the second segment, but its first token is read out at the end of the first.
    assert (sample.segments, sample.compressions, sample.locally_reachable) == (2, 0, True)
    assert (sample.distance, sample.question_in_last_segment) == (3, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90541", "correct"),
        (" 90541.", "correct"),
        ("the key is 90541 and not 12345", "correct"),
        ("12345 and not 90541", "other_number"),
        ("905412", "other_number"),
        ("9054", "other_number"),
        ("090541", "other_number"),
        ("9 0541", "other_number"),
        ("", "no_number"),
        ("The grass is green.", "no_number"),
        ("٩٠٥٤١", "no_number"),
    ],
)
def test_numbers_are_compared_whole(text, expected):
    assert classify_number(text, "90541") == expected


@pytest.mark.parametrize(
    ("logprobs", "rank"),
    [
        ([-1.0, -2.0, -3.0], 1),
        ([-2.0, -1.0, -3.0], 2),
        ([-3.0, -1.0, -2.0], 3),
        ([-1.0, -1.0, -1.0], 3),
        ([float("nan"), -1.0, -2.0], 3),
        ([-1.0, float("nan"), -2.0], 2),
        ([-np.inf, -1.0, -np.inf], 3),
    ],
)
def test_ties_and_nan_count_against_the_right_answer(logprobs, rank):
    assert rank_of_first(np.array(logprobs)) == rank
