"""Scores of answers that are words: exact, contained, how many of several, and what was said instead."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from palimpsest.records import ErrorClass
from palimpsest.tasks.task import Output, Sample, Score


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
