"""How answers in words are scored: whole numbers, sets of words, labels, and wordings that are accepted."""

from dataclasses import replace

import pytest

from palimpsest.tasks import Output, Sample
from palimpsest.tasks.task import rank_of_first
from palimpsest.tasks.text.babilong import ROOMS
from palimpsest.tasks.words import score_items, score_labels, score_passage
from text_case import Case, items


def sample_with(answers: tuple[str, ...], others: tuple[str, ...] = ()) -> Sample:
    (sample,) = items(Case("niah", {"needles": 2}, 400), 1)
    candidates = (", ".join(answers), "nothing")
    return replace(sample, answers=answers, others=others, candidates=candidates)


@pytest.mark.parametrize(
    ("text", "exact", "recall", "error"),
    [
        (" 1234567", True, 1.0, "correct"),
        (": 1234567.", True, 1.0, "correct"),
        (" 7654321", False, 0.0, "other_value"),
        (" 7654321 or 1234567", False, 1.0, "other_value"),
        (" 1111111", False, 0.0, "absent_value"),
        (" 12345678", False, 1.0, "absent_value"),
        (" none", False, 0.0, "no_number"),
    ],
)
def test_one_number_is_compared_whole(text, exact, recall, error):
    score = score_items(sample_with(("1234567",), ("7654321",)), Output(text, [0.0, -1.0]), rank_of_first)
    assert (score.exact, score.recall, score.error_class) == (exact, recall, error)
    assert score.contains == (recall == 1.0)


@pytest.mark.parametrize(
    ("text", "exact", "recall", "error"),
    [
        ("red-fox, blue-owl and tiny-elk", True, 1.0, "correct"),
        ("Blue-Owl, tiny-elk, red-fox, old-cat", True, 1.0, "correct"),
        ("red-fox, red-fox, blue-owl, tiny-elk", False, 1.0, "absent_value"),
        ("red-fox, old-cat, blue-owl, tiny-elk", False, 1.0, "other_value"),
        ("red-fox, blue-owl", False, 2 / 3, "absent_value"),
        ("red fox", False, 0.0, "absent_value"),
    ],
)
def test_several_words_may_come_in_any_order(text, exact, recall, error):
    sample = sample_with(("red-fox", "blue-owl", "tiny-elk"), ("old-cat",))
    score = score_items(sample, Output(text, [0.0, -1.0]), rank_of_first)
    assert (score.exact, score.recall, score.error_class) == (exact, pytest.approx(recall), error)


@pytest.mark.parametrize(
    ("text", "exact", "error"),
    [
        (" garden", True, "correct"),
        (" The Garden. Not the kitchen.", True, "correct"),
        (" garden or kitchen", False, "other_value"),
        (" kitchen", False, "other_value"),
        (" office", False, "absent_value"),
        (" before the bathroom it was in the garden", True, "correct"),
        (" gardens", False, "absent_value"),
        ("", False, "absent_value"),
    ],
)
def test_exactly_one_label_counts(text, exact, error):
    sample = sample_with(("garden",), ("kitchen",))
    score = score_labels(sample, Output(text, [0.0, -1.0]), rank_of_first, labels=ROOMS, asked_with={"bathroom"})
    assert (score.exact, score.error_class) == (exact, error)


@pytest.mark.parametrize(
    ("text", "exact", "contains", "recall"),
    [
        (" the Denver Broncos!", True, True, 1.0),
        (" Broncos", True, True, 1.0),
        (" It was the Denver Broncos", False, True, 1.0),
        (" Denver", False, False, 0.5),
        (" Panthers", False, False, 0.0),
    ],
)
def test_any_accepted_wording_will_do(text, exact, contains, recall):
    sample = sample_with(("Broncos",), ("Panthers",))
    score = score_passage(sample, Output(text, [0.0, -1.0]), rank_of_first, accepted=["Broncos", "Denver Broncos"])
    assert (score.exact, score.contains, score.recall) == (exact, contains, pytest.approx(recall))


def test_what_is_not_finite_is_never_right():
    sample = sample_with(("1234567",))
    score = score_items(sample, Output("1234567", [float("nan"), 0.0]), rank_of_first)
    assert (score.exact, score.error_class, score.rank) == (False, "not_finite", 2)
    with pytest.raises(ValueError, match="2 candidates need as many"):
        score_items(sample, Output("1234567", [0.0]), rank_of_first)
