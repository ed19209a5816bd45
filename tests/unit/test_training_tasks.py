"""Rows of tasks: what each kind is made of, how kinds are mixed, and the symbolic tokenizer."""

from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from palimpsest.data import IGNORED
from palimpsest.tasks.symbolic.pairs import allowed_values
from palimpsest.tasks.symbolic.vocabulary import KEYS, SIZE, VALUES, names
from palimpsest.training.recipe import TasksData
from palimpsest.training.rows import PADDING_DOCUMENT
from palimpsest.training.tasks import REPEATED, DocumentRows, RepeatRows, TaskRows, evaluation_pairs, symbolic_tokenizer

TASK = {"task": {"kind": "sym_multikey", "needles": 4, "questions": 2, "min_length": 40, "max_length": 48}}


@pytest.fixture(scope="module")
def tokenizer():
    return symbolic_tokenizer()


def rows(tokenizer, **changed) -> TaskRows:
    data = TasksData.model_validate({"kind": "tasks", "row_length": 64, "tasks": [TASK], "repeats": 0.25, **changed})
    return TaskRows(data, 0, tokenizer, segment_length=16)


def kind_of(row) -> str:
    if (row.labels == row.input_ids).all():
        return "document"
    return "repeat" if (row.document_ids == 0).all() else "task"


def test_the_symbolic_tokenizer_gives_every_word_its_number_and_back(tokenizer):
    words = names()
    assert tokenizer(" ".join(words), add_special_tokens=False)["input_ids"] == list(range(SIZE))
    assert tokenizer.decode(list(range(16, SIZE))) == " ".join(words[16:])
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "<eos>")


def test_a_repeat_says_one_string_again_and_again_and_labels_it_from_the_second_time_on():
    for index in range(50):
        row = RepeatRows(64).row(0, index)
        period = int((row.labels == IGNORED).sum())
        assert 16 <= period <= 32
        assert np.array_equal(row.input_ids[period:], row.input_ids[:-period])
        assert np.array_equal(row.labels[period:], row.input_ids[period:])
        assert np.isin(row.input_ids, REPEATED).all()


def test_no_pair_of_the_evaluation_stands_in_a_repeat():
    assert not any(evaluation_pairs(RepeatRows(64).row(0, index).input_ids)[1:].any() for index in range(300))


def test_such_pairs_are_told_by_the_rule_of_the_tasks():
    for key in range(0, KEYS.size, 16):
        values = np.arange(VALUES.size)
        told = [evaluation_pairs(np.array([KEYS.start + key, VALUES.start + value]))[1] for value in values]
        assert np.flatnonzero(told).tolist() == list(allowed_values("evaluation")[key])


def test_the_period_of_a_repeat_is_drawn_anew_for_every_row():
    periods = {int((RepeatRows(64).row(0, index).labels == IGNORED).sum()) for index in range(200)}
    assert periods == set(range(16, 33))


def test_documents_differ_by_seed_and_index_and_are_labelled_everywhere():
    first = DocumentRows(64).row(0, 0)
    assert np.array_equal(first.input_ids, DocumentRows(64).row(0, 0).input_ids)
    assert not np.array_equal(first.input_ids, DocumentRows(64).row(0, 1).input_ids)
    assert not np.array_equal(first.input_ids, DocumentRows(64).row(1, 0).input_ids)
    assert np.array_equal(first.labels, first.input_ids)


def test_kinds_come_in_their_shares(tokenizer):
    mixed = rows(tokenizer, documents=0.5)
    counts = Counter(kind_of(mixed.row(index)) for index in range(2000))
    for kind, share in (("document", 0.5), ("repeat", 0.25), ("task", 0.25)):
        assert abs(counts[kind] / 2000 - share) < 4 * (share * (1 - share) / 2000) ** 0.5


def test_a_task_row_labels_its_answers_and_is_padded(tokenizer):
    mixed = rows(tokenizer, documents=0.0, repeats=0.0, answer_weight=4.0)
    for index in range(20):
        row = mixed.row(index)
        assert row.input_ids.shape == (64,)
        assert row.weight == 4.0
        assert int((row.labels != IGNORED).sum()) == 2
        end = int((row.document_ids == 0).sum())
        assert 40 <= end <= 48
        assert (row.document_ids[end:] == PADDING_DOCUMENT).all()
        assert row.labels[end - 1] == row.input_ids[end - 1]


def test_a_row_is_a_pure_function_of_seed_and_index(tokenizer):
    one, other = rows(tokenizer), rows(tokenizer)
    assert one.fingerprint == other.fingerprint
    for index in (7, 3, 7):
        assert all(np.array_equal(a, b) for a, b in zip(one.row(index), other.row(index), strict=True))


def test_the_fingerprint_tells_other_tasks_apart(tokenizer):
    harder = {"task": TASK["task"] | {"needles": 5}}
    assert rows(tokenizer).fingerprint != rows(tokenizer, tasks=[harder]).fingerprint


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"documents": 0.6, "repeats": 0.4}, "leave no rows for the tasks"),
        ({"row_length": 32}, "makes rows of up to 48 tokens"),
        ({"tasks": []}, "at least 1 item"),
        ({"tasks": [{"task": {"kind": "sym_chess"}}]}, "sym_chess"),
    ],
)
def test_shares_and_lengths_that_cannot_be_are_refused(changed, words):
    with pytest.raises(ValidationError, match=words):
        TasksData.model_validate({"kind": "tasks", "row_length": 64, "tasks": [TASK], **changed})
