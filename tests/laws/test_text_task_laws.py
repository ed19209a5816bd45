"""Laws that every task in text keeps, whatever its knobs and tokenizer, and toys that prove what the items measure."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest

from palimpsest.errors import InputError
from palimpsest.tasks import TASKS, Sample
from palimpsest.tasks.parsing import Excerpt
from palimpsest.tasks.task import Split
from palimpsest.tasks.text.babilong import ROOMS
from palimpsest.tasks.text.catalogue import TEXT_TASKS
from palimpsest.tasks.toys import PARSERS, Validity, validity
from text_case import CASES, SEGMENT, TOKENIZERS, Case, build, decode, encode, tokenizer

each_case = pytest.mark.parametrize("case", CASES, ids=str)

SHORT = {case.kind: case for case in CASES}
"""One case of each task, to be tried with every tokenizer."""

LABELLED = {"babilong"}
"""Their answers are a few labels, which other facts name too."""


def items(case: Case, count: int, *, split: Split = "evaluation", kind: str = "byte-level") -> list[Sample]:
    task = build(case, kind)
    depths = [None, 0.0, 0.37, 1.0]
    return [
        task.sample(split=split, seed=3, index=index, length=case.length, depth=depths[index % 4])
        for index in range(count)
    ]


def test_every_task_has_a_case_and_a_parser():
    assert {case.kind for case in CASES} == set(TEXT_TASKS) - {"qa"}
    assert set(TEXT_TASKS) - {"qa"} <= set(PARSERS)
    assert set(TEXT_TASKS) < set(TASKS)


# What an item is


@pytest.mark.parametrize(
    ("case", "kind"),
    [(case, kind) for case in CASES for kind in TOKENIZERS if kind == "byte-level" or SHORT.get(case.kind) == case],
    ids=str,
)
def test_an_item_is_exact_and_the_tokens_of_its_text(case, kind):
    for sample in items(case, 4, kind=kind):
        ids = sample.input_ids.tolist()
        assert sample.length == case.length
        assert sample.input_ids.dtype == np.int32
        assert encode(decode(ids, kind), kind) == ids
        assert encode(decode(sample.prompt_ids, kind), kind) == sample.prompt_ids.tolist()
        assert decode(sample.answer_ids, kind).strip() == sample.answer
        for needle in sample.needles:
            assert 0 <= needle.start < needle.end <= sample.question_start < sample.prompt_length
            assert needle.start // SEGMENT == (needle.end - 1) // SEGMENT
        assert list(sample.needles) == sorted(sample.needles)
        assert sample.answer == ", ".join(sample.answers)


@each_case
def test_candidates_are_different_and_the_right_one_is_first(case):
    for sample in items(case, 4):
        assert len(set(sample.candidates)) == len(sample.candidates)
        assert len(sample.candidates) == getattr(build(case).spec, "candidates", len(sample.candidates))
        for text, ids in zip(sample.candidates, sample.candidate_ids, strict=True):
            assert decode(ids[ids >= 0]).strip() == text
        assert sample.candidate_ids[0][sample.candidate_ids[0] >= 0].tolist() == sample.answer_ids.tolist()
        assert not set(sample.answers) & set(sample.others)
        assert sample.new_tokens == sample.answer_ids.size


@each_case
def test_answers_are_told_in_needles_and_nowhere_else(case):
    for sample in items(case, 6):
        inside = " ".join(decode(sample.input_ids[needle.start : needle.end]) for needle in sample.needles)
        kept = np.ones(sample.question_start, dtype=bool)
        for needle in sample.needles:
            kept[needle.start : needle.end] = False
        outside = decode(sample.prompt_ids[: sample.question_start][kept])
        for answer in sample.answers:
            assert re.search(rf"\b{answer}\b", inside) or case.kind in {"cwe", "fwe"}
            if case.kind not in LABELLED:
                assert not re.search(rf"\b{answer}\b", outside)
        for other in sample.others:
            assert re.search(rf"\b{other}\b", decode(sample.prompt_ids[: sample.question_start]))


@pytest.mark.parametrize("case", [case for case in CASES if case.kind in LABELLED], ids=str)
def test_labels_are_told_in_facts_alone(case):
    people = re.compile(r" (Mary|John|Daniel|Sandra) [a-z ]+\.")
    for sample in items(case, 8):
        filler = people.sub("", decode(sample.prompt_ids[: sample.question_start]))
        assert not [room for room in ROOMS if room in filler]


@each_case
def test_regenerating_gives_the_same_item_and_every_coordinate_another(case):
    task = build(case)
    first = task.sample(split="evaluation", seed=1, index=4, length=case.length, depth=0.5)
    task.sample(split="training", seed=9, index=9, length=case.length, depth=None)
    again = type(task)(task.spec, tokenizer(), segment_length=SEGMENT).sample(
        split="evaluation", seed=1, index=4, length=case.length, depth=0.5
    )
    assert (first.id, first.input_ids.tolist()) == (again.id, again.input_ids.tolist())
    changed = [
        task.sample(**{**{"split": "evaluation", "seed": 1, "index": 4, "length": case.length, "depth": 0.5}, **change})
        for change in ({"split": "training"}, {"seed": 2}, {"index": 4 + task.questions}, {"depth": 0.6})
    ]
    assert len({first.id, *(sample.id for sample in changed)}) == 5
    assert all(sample.input_ids.tolist() != first.input_ids.tolist() for sample in changed[:3])


@pytest.mark.parametrize("case", [case for case in CASES if "questions" in case.knobs], ids=str)
def test_questions_of_a_cluster_share_their_haystack(case):
    task = build(case)
    clusters: dict[str, list[Sample]] = {}
    for index in range(2 * task.questions):
        sample = task.sample(split="evaluation", seed=0, index=index, length=case.length, depth=0.3)
        clusters.setdefault(sample.cluster, []).append(sample)
    assert [len(cluster) for cluster in clusters.values()] == [task.questions] * 2
    for cluster in clusters.values():
        starts = {sample.question_start for sample in cluster}
        assert len(starts) == 1
        prefixes = {tuple(sample.input_ids[: sample.question_start].tolist()) for sample in cluster}
        assert len(prefixes) == 1
        assert len({sample.answer for sample in cluster}) == task.questions


@each_case
def test_splits_share_no_answer(case):
    if case.kind in LABELLED:
        pytest.skip("the labels are few and the same for all")
    told = {
        split: {
            value
            for index in range(12)
            for sample in [build(case).sample(split=split, seed=0, index=index, length=case.length, depth=None)]
            for value in (*sample.answers, *sample.others)
        }
        for split in ("training", "evaluation")
    }
    assert told["training"]
    assert told["training"].isdisjoint(told["evaluation"])


@each_case
def test_training_rows_are_labelled_on_the_answers_alone(case):
    knobs = {**case.knobs, "min_length": case.length - 60, "max_length": case.length + 400}
    task = build(Case(case.kind, knobs))
    for index in range(3):
        row = task.training_sample(5, index)
        assert {array.shape for array in row} == {(case.length + 400,)}
        length = int((row.document_ids == 0).sum())
        assert length >= case.length - 60
        labelled = np.flatnonzero(row.labels != -100)
        assert labelled.max() == length - 1
        assert (row.labels[labelled] == row.input_ids[labelled]).all()
        assert (np.diff(labelled) > 1).sum() == task.questions - 1
        assert encode(decode(row.input_ids[:length])) == row.input_ids[:length].tolist()


@given(
    st.sampled_from([case for case in CASES if case.kind not in {"cwe", "fwe"}]), st.floats(0, 1), st.integers(0, 999)
)
def test_the_first_needle_lies_near_its_depth(case, depth, index):
    if case.kind == "niah" and case.knobs.get("values_per_key", 1) * case.knobs.get("queries", 1) > 1:
        return  # one needle of several does
    task = build(case)
    sample = task.sample(split="evaluation", seed=0, index=index * task.questions, length=2_048, depth=depth)
    starts = [needle.start / sample.question_start for needle in sample.needles]
    # a needle is a sentence away from its place, or a segment's end, or an entry of a list, and the introduction counts
    assert min(abs(start - depth) for start in starts) < 0.12
    assert sample.depth == depth


@pytest.mark.parametrize(
    "case", [Case("text_passkey", {}), Case("niah", {"haystack": "needles"}), Case("phone_book", {})], ids=str
)
def test_needles_without_a_depth_lie_anywhere(case):
    task = build(case)
    samples = [task.sample(split="training", seed=0, index=index, length=1_500, depth=None) for index in range(150)]
    begin = min(sample.needle_start for sample in samples)
    places = [(sample.needle_start - begin) / (sample.question_start - begin - 20) for sample in samples]
    assert kstest(places, "uniform").pvalue > 1e-3


# Toys


@pytest.fixture(scope="module")
def answered() -> dict[str, list[Validity]]:
    return {str(case): validity([build(case)], 24, length=case.length, decode=decode) for case in CASES}


@each_case
def test_perfect_recall_answers_everything(case, answered):
    (perfect,) = [row for row in answered[str(case)] if row.responder == "perfect_recall"]
    assert (perfect.exact, perfect.first) == (perfect.n, perfect.n) == (24, 24)
    assert build(case).ceiling == (1.0, 1.0)


@each_case
def test_who_cannot_see_the_needle_is_not_above_the_floor(case, answered):
    for row in answered[str(case)]:
        if row.responder != "perfect_recall":
            assert binomtest(row.exact, row.n, row.floor.exact, "greater").pvalue > 1e-4, row
            assert binomtest(row.first, row.n, row.floor.rank_first, "greater").pvalue > 1e-4, row


@each_case
def test_guessing_sits_on_the_floor(case, answered):
    (row,) = [row for row in answered[str(case)] if row.responder == "random_guess"]
    assert binomtest(row.exact, row.n, row.floor.exact).pvalue > 1e-4, row
    assert binomtest(row.first, row.n, row.floor.rank_first).pvalue > 1e-4, row


@each_case
def test_a_parser_leaves_open_what_the_text_does_not_tell(case):
    (sample,) = items(case, 1)
    question = decode(sample.prompt_ids[sample.question_start :])
    assert PARSERS[case.kind].answer(Excerpt("The grass is green.", question, False)) is None


# Bad input


@pytest.mark.parametrize("case", SHORT.values(), ids=str)
def test_a_length_that_no_item_has_names_one_that_can_be_had(case):
    task = build(case)
    with pytest.raises(InputError, match=r"a length that can is [0-9]+$") as caught:
        task.sample(split="evaluation", seed=0, index=0, length=30, depth=None)
    length = int(str(caught.value).split()[-1])
    assert task.sample(split="evaluation", seed=0, index=0, length=length, depth=None).length == length


@pytest.mark.parametrize("depth", [-0.01, 1.5, float("nan")])
def test_depth_is_a_fraction(depth):
    case = CASES[0]
    with pytest.raises(InputError, match="fraction of the haystack from 0 to 1"):
        build(case).sample(split="evaluation", seed=0, index=0, length=case.length, depth=depth)


@pytest.mark.parametrize("case", [SHORT[kind] for kind in SHORT if kind not in {"cwe", "fwe"}], ids=str)
def test_a_segment_shorter_than_a_needle_is_refused(case):
    with pytest.raises(InputError, match="does not fit in one segment of 4"):
        build(case, segment=4).sample(split="evaluation", seed=0, index=0, length=case.length, depth=None)
