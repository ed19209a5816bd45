"""Scores of answers that are words: exact, contained, how many of several, and what was said instead."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from palimpsest.records import ErrorClass
from palimpsest.tasks.task import Output, Sample, Score

_NUMBERS = re.compile(r"[0-9]+")
_ITEMS = re.compile(r"\w[\w-]*")
_ARTICLES = frozenset({"a", "an", "the"})


def score_words(sample: Sample, output: Output, rank: Callable[[NDArray[np.floating]], int]) -> Score:
    """Score an output word by word.

    With one answer, ``exact`` asks that the output begins with it; with several, that its first words, as many as the
    answers have together, are the answers in any order.

    Raises:
        ValueError: the number of log-probabilities is not the number of candidates.
    """
    logprobs = np.asarray(output.candidate_logprobs, dtype=np.float64)
    if logprobs.shape != (len(sample.candidates),):
        raise ValueError(f"{len(sample.candidates)} candidates need as many log-probabilities: {logprobs.shape}")
    said = output.text.split()
    wanted = [answer.split() for answer in sample.answers]
    found = [_occurs(words, said) for words in wanted]
    first = said[: sum(map(len, wanted))]
    exact = first == wanted[0] if len(wanted) == 1 else all(_occurs(words, first) for words in wanted)
    finite = bool(np.isfinite(logprobs).all())
    return Score(
        output=output.text,
        exact=exact and finite,
        contains=all(found),
        recall=sum(found) / len(found),
        error_class=_error_class(sample, first, exact, finite),
        rank=rank(logprobs),
        candidates=logprobs.size,
        answer_logprob=float(logprobs[0]),
    )


def _occurs(words: list[str], text: list[str]) -> bool:
    return any(text[at : at + len(words)] == words for at in range(len(text) - len(words) + 1))


def _error_class(sample: Sample, said: list[str], exact: bool, finite: bool) -> ErrorClass:
    if not finite:
        return "not_finite"
    if exact:
        return "correct"
    right = {word for answer in sample.answers for word in answer.split()}
    wrong = [word for word in said if word not in right]
    others = {word for other in sample.others for word in other.split()}
    return "other_value" if wrong and wrong[0] in others else "absent_value"


def score_items(sample: Sample, output: Output, rank: Callable[[NDArray[np.floating]], int]) -> Score:
    """Score an output by the items that it names: numbers, if every answer is one, otherwise words, hyphens included.

    With one answer, ``exact`` asks that the first items are those of the answer; with several, that the first items, as
    many as were asked for, are the answers in any order. ``contains`` and ``recall`` are RULER's ``string_match_all``
    (Hsieh et al. 2024): an answer counts when it occurs in the output, whatever its case.

    Raises:
        ValueError: the number of log-probabilities is not the number of candidates.
    """
    numeric = all(_NUMBERS.fullmatch(answer) for answer in sample.answers)
    said = _items(output.text, numeric)
    wanted = [_items(answer, numeric) for answer in sample.answers]
    first = said[: sum(map(len, wanted))]
    exact = first == wanted[0] if len(wanted) == 1 else all(_occurs(words, first) for words in wanted)
    right = {item for words in wanted for item in words}
    wrong = next((item for item in first if item not in right), None)
    others = {item for other in sample.others for item in _items(other, numeric)}
    missed: ErrorClass = "no_number" if numeric and not said else "absent_value"
    found = [answer.lower() in output.text.lower() for answer in sample.answers]
    return _scored(sample, output, rank, exact, found, "other_value" if wrong in others else missed)


def score_labels(
    sample: Sample,
    output: Output,
    rank: Callable[[NDArray[np.floating]], int],
    *,
    labels: Collection[str],
    asked_with: Collection[str] = (),
) -> Score:
    """Score an output by the labels in its first sentence, as BABILong does (Kuratov et al. 2024).

    ``exact`` asks for exactly one label of the set, the right one; labels ``asked_with``, which the question itself
    names, do not count.

    Raises:
        ValueError: the number of log-probabilities is not the number of candidates.
    """
    items = set(_items(re.split(r"[.\n]", output.text, maxsplit=1)[0], numeric=False))
    said = (items & set(labels)) - set(asked_with)
    missed: ErrorClass = "other_value" if said & set(sample.others) - {sample.answer} else "absent_value"
    return _scored(sample, output, rank, said == {sample.answer}, [sample.answer in items], missed)


def score_passage(
    sample: Sample, output: Output, rank: Callable[[NDArray[np.floating]], int], *, accepted: Sequence[str]
) -> Score:
    """Score a free answer against the ``accepted`` wordings, any of which will do, as SQuAD and RULER do.

    Case, punctuation and articles do not count (Rajpurkar et al. 2016). ``exact`` asks that the output begins with an
    accepted wording, ``contains`` that one occurs in it, ``recall`` is the best share of a wording's words that do.

    Raises:
        ValueError: the number of log-probabilities is not the number of candidates.
    """
    said = _plain(output.text)
    wanted = [words for words in map(_plain, accepted) if words]
    exact = any(said[: len(words)] == words for words in wanted)
    contains = any(_occurs(words, said) for words in wanted)
    others = [words for words in map(_plain, sample.others) if words]
    missed: ErrorClass = "other_value" if any(_occurs(words, said) for words in others) else "absent_value"
    score = _scored(sample, output, rank, exact, [contains], missed)
    recall = max((sum(word in said for word in words) / len(words) for words in wanted), default=0.0)
    return replace(score, recall=recall)


def _scored(
    sample: Sample,
    output: Output,
    rank: Callable[[NDArray[np.floating]], int],
    exact: bool,
    found: Sequence[bool],
    missed: ErrorClass,
) -> Score:
    logprobs = np.asarray(output.candidate_logprobs, dtype=np.float64)
    if logprobs.shape != (len(sample.candidates),):
        raise ValueError(f"{len(sample.candidates)} candidates need as many log-probabilities: {logprobs.shape}")
    finite = bool(np.isfinite(logprobs).all())
    return Score(
        output=output.text,
        exact=exact and finite,
        contains=all(found),
        recall=sum(found) / len(found),
        error_class="not_finite" if not finite else "correct" if exact else missed,
        rank=rank(logprobs),
        candidates=logprobs.size,
        answer_logprob=float(logprobs[0]),
    )


def _items(text: str, numeric: bool) -> list[str]:
    if numeric:
        return _NUMBERS.findall(text)
    return [item for item in _ITEMS.findall(text.lower()) if item != "and"]


def _plain(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if word not in _ARTICLES]
