"""Published needles as items: the words of the public sets, and in true tokens where everything is."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle_case import CYCLE_TOKENS, needle_tokenizer
from palimpsest.errors import InputError
from palimpsest.tasks import Output
from palimpsest.tasks.published import SHORTEST_FILLER, PublishedItems, PublishedPasskey

SEGMENT = 64


@pytest.fixture(scope="module")
def tokenizer():
    return needle_tokenizer()


def task_of(tokenizer, **knobs):
    return PublishedPasskey(PublishedItems(**knobs), tokenizer, segment_length=SEGMENT)


def sample_of(task, index=0, length=400, depth=0.5, seed=0):
    return task.sample(split="evaluation", seed=seed, index=index, length=length, depth=depth)


@given(
    index=st.integers(0, 50),
    length=st.integers(SHORTEST_FILLER, 1500),
    depth=st.sampled_from([0.0, 0.25, 0.5, 0.95, 1.0]),
    needle=st.sampled_from(["split", "stop", "whole"]),
    wording=st.sampled_from(["important_info", "pass_key"]),
)
def test_a_prompt_tells_its_key_once_where_the_item_says_and_ends_with_the_question(
    tokenizer, index, length, depth, needle, wording
):
    sample = sample_of(task_of(tokenizer, needle=needle, wording=wording), index, length, depth)
    text = tokenizer.decode(sample.prompt_ids.tolist())
    key = sample.answer
    told = f"The pass key is {key}. Remember it. {key} is the pass key."
    assert text.count(told) == 1
    assert text.endswith("What is the pass key? The pass key is ")
    [(start, end)] = sample.needles
    assert tokenizer.decode(sample.input_ids[start:end].tolist()).strip() == told
    question = tokenizer.decode(sample.input_ids[sample.question_start :].tolist())
    assert question.strip() == f"What is the pass key? The pass key is {key}"
    assert 1 <= int(key) <= 10_000
    assert sample.facts["nominal"] == length


def test_lengths_count_characters_of_the_filler_and_records_have_true_tokens(tokenizer):
    task = task_of(tokenizer, needle="stop")
    short, long = (sample_of(task, length=length) for length in (900, 1800))
    assert long.length - short.length == pytest.approx(10 * CYCLE_TOKENS, abs=3)
    assert (short.facts["nominal"], short.facts["units"]) == (900, "characters")
    counted = sample_of(task_of(tokenizer, units="tokens", needle="stop"), length=400)
    assert counted.length == 400 - 1, "the set counts the full stop behind the key too"


def test_an_item_is_a_pure_function_of_its_place_and_cells_have_keys_of_their_own(tokenizer):
    one, two = task_of(tokenizer), task_of(tokenizer)
    assert sample_of(one, 3).id == sample_of(two, 3).id
    np.testing.assert_array_equal(sample_of(one, 3).input_ids, sample_of(two, 3).input_ids)
    cells = [
        (index, length, depth, seed) for index in (0, 1) for length in (200, 400) for depth in (0, 1) for seed in (0, 1)
    ]
    assert len({sample_of(one, *cell).id for cell in cells}) == len(cells)
    assert len({sample_of(one, *cell).answer for cell in cells}) > len(cells) // 2
    other = one.sample(split="training", seed=0, index=3, length=400, depth=0.5)
    assert other.id != sample_of(one, 3).id


def test_candidates_have_the_width_of_the_key_and_their_own_tokens(tokenizer):
    task = task_of(tokenizer)
    widths = set()
    for index in range(60):
        sample = sample_of(task, index)
        widths.add(len(sample.answer))
        assert len(set(sample.candidates)) == len(sample.candidates) == min(16, 9 * 10 ** (len(sample.answer) - 1))
        assert {len(candidate) for candidate in sample.candidates} == {len(sample.answer)}
        for candidate, ids in zip(sample.candidates, sample.candidate_ids, strict=True):
            assert tokenizer.decode(ids[ids >= 0].tolist()) == candidate
    assert {3, 4} <= widths


@pytest.mark.parametrize(
    ("text", "exact", "contains"),
    [
        ("{key}. What is", True, True),
        ("7 and {key}", False, True),
        ("{key}5", False, True),
        ("The grass is green.", False, False),
    ],
)
def test_contains_is_the_rule_of_the_study_and_exact_that_of_ours(tokenizer, text, exact, contains):
    sample = sample_of(task_of(tokenizer))
    logprobs = np.zeros(len(sample.candidates))
    score = task_of(tokenizer).score(sample, Output(text.format(key=sample.answer), logprobs))
    assert (score.exact, score.contains) == (exact, contains)
    assert score.rank == len(sample.candidates), "ties count against the key"


def test_what_is_not_finite_is_no_answer_and_other_candidates_are_refused(tokenizer):
    task = task_of(tokenizer)
    sample = sample_of(task)
    lost = task.score(sample, Output(sample.answer, np.full(len(sample.candidates), np.nan)))
    assert (lost.exact, lost.error_class) == (False, "not_finite")
    with pytest.raises(ValueError, match="log-probabilities"):
        task.score(sample, Output(sample.answer, [0.0]))


@pytest.mark.parametrize(
    ("change", "message"), [({"length": 40}, "at least 90 characters"), ({"depth": 1.5}, "from 0 to 1, not 1.5")]
)
def test_an_item_that_cannot_be_is_refused(tokenizer, change, message):
    with pytest.raises(InputError, match=re.escape(message)):
        sample_of(task_of(tokenizer), **change)


def test_the_floor_is_what_guessing_reaches(tokenizer):
    assert task_of(tokenizer).floor.exact == 1e-4
    assert task_of(tokenizer, key_digits=5, candidates=8).floor == (1 / 90_000, 1 / 8)
    assert task_of(tokenizer).ceiling == (1.0, 1.0)
