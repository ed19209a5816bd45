"""Laws that every symbolic task keeps, whatever its knobs, and toys that prove what the items measure."""

import re
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest

from palimpsest.errors import InputError
from palimpsest.tasks import Sample, Span
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.keys import is_evaluation_key
from palimpsest.tasks.parsing import Excerpt
from palimpsest.tasks.symbolic.base import Haystack
from palimpsest.tasks.symbolic.catalogue import SYMBOLIC_TASKS
from palimpsest.tasks.symbolic.multikey import Multikey, MultikeySpec
from palimpsest.tasks.symbolic.pairs import in_split
from palimpsest.tasks.symbolic.vocabulary import KEYS, VALUES, names, spelled
from palimpsest.tasks.task import Split
from palimpsest.tasks.toys import PARSERS, Validity, validity
from symbolic_case import CASES, SEGMENT, WORDS, Case, build

each_case = pytest.mark.parametrize("case", CASES, ids=str)
IDS = {word: number for number, word in enumerate(names())}


def each_case_of(kinds: Collection[str]) -> pytest.MarkDecorator:
    """Run a law on the cases of some kinds of task."""
    return pytest.mark.parametrize("case", [case for case in CASES if case.kind in kinds], ids=str)


def items(case: Case, count: int, *, split: Split = "evaluation", depth: float | None = None) -> list[Sample]:
    task = build(case)
    return [task.sample(split=split, seed=3, index=index, length=case.length, depth=depth) for index in range(count)]


def test_every_task_has_a_case_and_a_parser():
    assert {case.kind for case in CASES} == set(SYMBOLIC_TASKS) == set(PARSERS) & set(SYMBOLIC_TASKS)


# What an item is


def law_item(sample: Sample, task: Any, length: int, segment: int) -> None:
    assert sample.length == length
    assert sample.input_ids.dtype == np.int32
    assert not sample.input_ids.flags.writeable
    assert sample.question_start + task.question_length == sample.prompt_length == length - task.answer_length
    assert sample.new_tokens == task.answer_length
    for needle in sample.needles:
        assert 0 <= needle.start < needle.end <= sample.question_start
        assert needle.start // segment == (needle.end - 1) // segment
    assert list(sample.needles) == sorted(sample.needles)
    assert all(before.end <= after.start for before, after in zip(sample.needles, sample.needles[1:], strict=False))
    assert sample.candidate_ids.shape == (len(sample.candidates), task.answer_length)
    assert len(sample.candidates) == getattr(task.spec, "candidates", len(sample.candidates))
    assert len(set(sample.candidates)) == len(sample.candidates)
    assert sample.candidate_ids[0].tolist() == sample.answer_ids.tolist()
    assert sample.answer == spelled(sample.answer_ids) == " ".join(sample.answers)
    assert not set(sample.answers) & set(sample.others)
    assert 0 <= sample.depth <= 1
    assert 1 / len(sample.candidates) == pytest.approx(task.floor.rank_first)
    assert sample.facts.keys() >= {"needles", "distractors", "hops"}


@each_case
@settings(max_examples=settings.default.max_examples // 3)  # of each of many cases
@given(
    length=st.integers(24, 700),
    segment=st.sampled_from([16, 27, 32, 100]),
    depth=st.none() | st.floats(0, 1),
    index=st.integers(0, 10**6),
    split=st.sampled_from(["training", "evaluation"]),
)
def test_items_have_their_exact_form_or_are_refused(case, length, segment, depth, index, split):
    task: Any = build(case, segment_length=segment)
    try:
        sample = task.sample(split=split, seed=1, index=index, length=length, depth=depth)
    except InputError:
        assert length < 640
        return
    law_item(sample, task, length, segment)


@each_case
def test_an_item_is_a_pure_function_of_its_coordinates(case):
    task = build(case)
    here = {"split": "evaluation", "seed": 3, "index": 5, "length": case.length, "depth": 0.5}
    sample = task.sample(**here)
    again = build(case).sample(**here)
    assert (sample.id, sample.candidates, sample.facts) == (again.id, again.candidates, again.facts)
    assert np.array_equal(sample.input_ids, again.input_ids)
    for other in ({"split": "training"}, {"seed": 4}, {"index": 5 + task.questions}, {"depth": 0.25}):
        moved = task.sample(**(here | other))
        assert moved.id != sample.id
        assert not np.array_equal(moved.input_ids, sample.input_ids)


@each_case
def test_the_questions_of_one_haystack_share_it_and_ask_different_things(case):
    task = build(case)
    samples = items(case, 2 * task.questions)
    for number in range(2):
        mine = samples[number * task.questions : (number + 1) * task.questions]
        assert len({sample.cluster for sample in mine}) == 1
        assert len({sample.input_ids[: sample.question_start].tobytes() for sample in mine}) == 1
        assert len({sample.input_ids[sample.question_start :].tobytes() for sample in mine}) == task.questions
        assert len({sample.id for sample in mine}) == task.questions
    assert samples[0].cluster != samples[-1].cluster


# In a babi story and in a table of facts many people may be in one room, and induction hides its value among its own
# kind: there the answer must occur elsewhere. A number may share tokens with other numbers, and is hidden as a whole.
WHOLE = {"sym_passkey", "sym_copy"}
SHOWN = {"sym_babi", "sym_summary", "sym_induction"}


@each_case_of(set(SYMBOLIC_TASKS) - SHOWN)
def test_answers_occur_only_in_needles(case):
    for sample in items(case, 20):
        context = sample.input_ids[: sample.question_start].copy()
        for needle in sample.needles:
            context[needle.start : needle.end] = -1
        if case.kind in WHOLE:
            assert f" {sample.answer} " not in f" {spelled(np.where(context < 0, 0, context))} "
        else:
            assert not np.isin(sample.answer_ids, context).any()


@each_case_of({"sym_summary"})
def test_facts_of_summaries_are_in_needles(case):
    for sample in items(case, 20):
        told = [spelled(sample.input_ids[needle.start : needle.end]) for needle in sample.needles]
        assert sorted(fact.replace("WENT ", "") for fact in told) == sorted(sample.answers)


# The two splits


def pair_of(sample: Sample) -> tuple[str, str]:
    """Return what a model could learn by heart: the last key of the question, and the answer to it."""
    question = spelled(sample.input_ids[sample.question_start : sample.prompt_length])
    return re.findall(r"k\d+", question)[-1], sample.answer


PAIRED = ("sym_multikey", "sym_overwrite", "sym_mqar", "sym_forgetting_mqar", "sym_induction")


@each_case_of(PAIRED)
@pytest.mark.parametrize("split", ["training", "evaluation"])
def test_the_splits_share_no_pair_of_key_and_value(case, split):
    for sample in items(case, 40, split=split):
        key, value = pair_of(sample)
        code = np.array([(IDS[key] - KEYS.start) * VALUES.size + IDS[value] - VALUES.start])
        assert is_evaluation_key(code)[0] == (split == "evaluation")


CONTENTS: dict[str, Callable[[Sample, str], np.ndarray]] = {
    "sym_passkey": lambda sample, _: sample.answer_ids,
    "sym_copy": lambda sample, _: sample.answer_ids,
    "sym_selective_copy": lambda sample, _: sample.answer_ids,
    "sym_parity": lambda _, text: np.array([int(word) for word in re.findall(r"k(\d+)", text)]),
    "sym_s3": lambda _, text: np.array([int(word) for word in re.findall(r"k(\d+)", text)]),
    "sym_s5": lambda _, text: np.array([int(word) for word in re.findall(r"k(\d+)", text)]),
    "sym_cwe": lambda sample, text: bag_of(sample, text),
    "sym_fwe": lambda sample, text: bag_of(sample, text),
    "sym_babi": lambda _, text: np.array(
        [IDS[word] for event in re.findall(r"(n\d+) (WENT|TOOK|DROPPED) ([ro]\d+)", text) for word in event]
    ),
    "sym_summary": lambda sample, _: sample.answer_ids,
}


def bag_of(sample: Sample, text: str) -> np.ndarray:
    told = {IDS[word] for word in re.findall(r"k\d+", text)}
    top = sorted(sample.answer_ids.tolist())
    return np.array([*top, *sorted(told - set(top))])


@each_case_of(CONTENTS)
@pytest.mark.parametrize("split", ["training", "evaluation"])
def test_the_splits_share_no_content_where_the_whole_haystack_is_the_answer(case, split):
    for sample in items(case, 20, split=split):
        content = CONTENTS[case.kind](sample, spelled(sample.input_ids[: sample.question_start]))
        assert in_split(content, split)


# Depth


@each_case_of({"sym_passkey", "sym_multikey", "sym_induction", "sym_overwrite"})
def test_the_needle_of_the_first_question_is_near_its_depth(case):
    task = build(case)
    # writes that need segments before or after them, or places in their own, cannot be at the very ends
    for depth in (0.3, 0.5, 0.7):
        sample = task.sample(split="evaluation", seed=0, index=0, length=case.length, depth=depth)
        assert abs(sample.needle_start - depth * sample.question_start) <= SEGMENT
        assert sample.depth == depth


def test_without_a_depth_needles_are_uniform_over_the_haystack():
    task = Multikey(MultikeySpec(needles=1), WORDS, segment_length=64)
    starts = [
        task.sample(split="training", seed=8, index=index, length=324, depth=None).needle_start
        for index in range(5_000)
    ]
    assert kstest((np.array(starts) + 0.5) / 316, "uniform").pvalue > 0.01


# Rows to train on


@each_case
def test_training_rows_ask_every_question_and_label_the_answers_alone(case):
    task: Any = build(case)
    for index in range(4):
        row = task.training_sample(7, index)
        length = int((row.document_ids == 0).sum())
        assert case.length // 2 <= length <= case.length == row.input_ids.size
        assert (row.document_ids[:length] == 0).all()
        assert (row.document_ids[length:] == -1).all()
        labelled = np.flatnonzero(row.labels != -100)
        assert np.array_equal(row.labels[labelled], row.input_ids[labelled])
        assert labelled.size == task.questions * task.answer_length
        for answer in labelled.reshape(task.questions, task.answer_length):
            assert np.array_equal(np.diff(answer), np.ones(answer.size - 1))
            asked = answer[0] - task.question_length
            seen = Excerpt(spelled(row.input_ids[:asked]), spelled(row.input_ids[asked : answer[0]]), whole=True)
            assert PARSERS[case.kind].answer(seen) == spelled(row.input_ids[answer])


# Validity: the toys


LEVEL = 1e-6
"""Of one comparison; there are some hundreds of them."""


def verdicts(rows: list[Validity]) -> dict[str, bool]:
    """Say of every responder whether it does what it should."""
    at = {row.responder: row for row in rows}
    perfect, removed = at["perfect_recall"], at["needle_removed"]

    def on_the_floor(row: Validity, alternative: str) -> bool:
        exact = binomtest(row.exact, row.n, row.floor.exact, alternative=alternative).pvalue
        first = binomtest(row.first, row.n, row.floor.rank_first, alternative=alternative).pvalue
        return min(exact, first) > LEVEL

    return {
        "perfect_recall": perfect.exact == perfect.first == perfect.n,
        "last_segment": on_the_floor(at["last_segment"], "two-sided"),
        "random_guess": on_the_floor(at["random_guess"], "two-sided"),
        "needle_removed": on_the_floor(removed, "greater"),
    }


@each_case
def test_toys_do_what_they_should(case):
    rows = validity([build(case)], 60, length=case.length)
    assert {row.n for row in rows} == {60}
    assert all(verdicts(rows).values()), rows
    assert {row.ceiling.exact for row in rows} == {1.0}


@pytest.mark.slow
@each_case
def test_toys_do_what_they_should_on_a_thousand_items(case):
    rows = validity([build(case)], 1_000, length=case.length, seed=1)
    assert all(verdicts(rows).values()), rows


class Leaky(Multikey):
    """Tells the answer to the first question once more, right before it is asked."""

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        haystack = super().write(draws, split, length, depth)
        needle = haystack.questions[0].needles[0]
        haystack.ids[-3:] = haystack.ids[needle.start : needle.end]
        return haystack


class Misplaced(Multikey):
    """Says that the needle is somewhere else."""

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        haystack = super().write(draws, split, length, depth)
        questions = [question._replace(needles=(Span(0, 1),)) for question in haystack.questions]
        return haystack._replace(questions=questions)


class Wrong(Multikey):
    """Takes the first of the wrong candidates for the answer."""

    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        haystack = super().write(draws, split, length, depth)
        questions = [question._replace(candidates=question.candidates[::-1]) for question in haystack.questions]
        return haystack._replace(questions=questions)


@pytest.mark.parametrize(
    ("bug", "caught"),
    [
        (Multikey, set()),
        (Leaky, {"last_segment", "needle_removed"}),
        (Misplaced, {"needle_removed"}),
        (Wrong, {"perfect_recall", "random_guess", "last_segment"}),
    ],
)
def test_toys_see_planted_bugs(bug, caught):
    rows = validity([bug(MultikeySpec(needles=8), WORDS, segment_length=SEGMENT)], 200, length=320)
    assert {name for name, right in verdicts(rows).items() if not right} == caught


def test_items_that_are_never_out_of_reach_are_refused():
    with pytest.raises(InputError, match="have all their needles before the last segment"):
        validity([build(Case("sym_multikey", {}))], 1, length=32)
