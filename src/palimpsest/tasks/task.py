"""The nouns of this wing: a ``Task`` makes a ``Sample`` and gives a ``Score`` to what a model answered."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.records import ErrorClass

Split = Literal["training", "evaluation"]

IGNORED_LABEL = -100
PADDING_DOCUMENT = -1

_INTEGER = re.compile(r"[0-9]+")


class Span(NamedTuple):
    """Half-open range of token positions."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One item in true tokens: prompt, answer, and where the evidence (the needles) lies.

    Positions count tokens from 0 at the start of the row; segments are ``[0, S), [S, 2S), ...`` with
    ``S = segment_length``. Spans are half-open. ``depth`` is the requested place of the needle, as a fraction
    of the haystack (0: furthest from the question, 1: next to it); the place it got is in ``needles``.

    Attributes:
        id: 16 hexadecimal digits derived from the coordinates of the item and all its tokens.
        cluster: items of one cluster have their first ``question_start`` tokens in common, so that these can be read
            once and asked about many times; their scores are not independent.
        input_ids: [length] prompt, then answer; read-only.
        question_start: where the haystack ends and what is asked begins.
        needles: what must be remembered to answer, in the order of the text; not the distractors.
        candidates: answers to rank by log-probability, the right one first.
        candidate_ids: [candidates, answer tokens] the same as tokens, shorter ones padded with -1 on the right;
            read-only.
        answers: what a right output names, one entry unless several things were asked for together.
        others: values that the haystack gives for something else: to name one is to have found the wrong place.
        facts: the other coordinates of the item: ``needles``, ``distractors``, ``hops`` and whatever a task varies.
        new_tokens: tokens that a model may say.
        generated: tokens that are generated, where a model is let go on: an answer is exact by its first
            ``new_tokens``, and contains by all.
    """

    id: str
    task: str
    version: int
    split: Split
    seed: int
    index: int
    cluster: str
    depth: float
    segment_length: int
    input_ids: NDArray[np.int32]
    prompt_length: int
    question_start: int
    needles: tuple[Span, ...]
    candidates: tuple[str, ...]
    candidate_ids: NDArray[np.int32]
    answers: tuple[str, ...]
    others: tuple[str, ...]
    facts: Mapping[str, float | str]
    new_tokens: int
    generated: int | None = None

    @property
    def length(self) -> int:
        """Number of tokens of prompt and answer together."""
        return self.input_ids.size

    @property
    def prompt_ids(self) -> NDArray[np.int32]:
        """[prompt_length] tokens up to the answer."""
        return self.input_ids[: self.prompt_length]

    @property
    def answer(self) -> str:
        """The right answer, decoded."""
        return self.candidates[0]

    @property
    def answer_ids(self) -> NDArray[np.int32]:
        """[answer tokens] the right answer."""
        return self.input_ids[self.prompt_length :]

    @property
    def needle_start(self) -> int:
        """Where the first needle begins."""
        return min(needle.start for needle in self.needles)

    @property
    def needle_end(self) -> int:
        """Where the last needle ends."""
        return max(needle.end for needle in self.needles)

    @property
    def distance(self) -> int:
        """Number of tokens between the end of the nearest needle and the first token of the answer."""
        return self.prompt_length - self.needle_end

    @property
    def compressions(self) -> int:
        """Number of segment boundaries between the nearest needle and the token that must produce the answer.

        That token is the last of the prompt: its output is the first token of the answer.
        """
        nearest = max(needle.start // self.segment_length for needle in self.needles)
        return (self.prompt_length - 1) // self.segment_length - nearest

    @property
    def segments(self) -> int:
        """Number of segments of prompt and answer, the last one perhaps partial."""
        return -(-self.length // self.segment_length)

    @property
    def locally_reachable(self) -> bool:
        """Whether attention inside one segment reaches a needle: for the nearest, no compression lies between."""
        return self.compressions == 0

    def reachable_from(self, first_visible: int) -> bool:
        """Whether any part of a needle is at or after the first position that exact attention reaches."""
        return self.needle_end > first_visible

    @property
    def question_in_last_segment(self) -> bool:
        """Whether question and answer lie wholly inside the last segment; fixed by ``length`` alone."""
        return self.question_start // self.segment_length == self.segments - 1

    def labels(self) -> NDArray[np.int64]:
        """Return [length] labels, not shifted: the answer's tokens at their own positions, -100 elsewhere."""
        labels = np.full(self.length, IGNORED_LABEL, dtype=np.int64)
        labels[self.prompt_length :] = self.answer_ids
        return labels


class Row(NamedTuple):
    """One row of a rectangular training batch, each [row length]; ``document_ids`` are -1 on padding."""

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    document_ids: NDArray[np.int64]


def padded_row(sample: Sample, row_length: int, pad_id: int) -> Row:
    """Pad a sample on the right to ``row_length`` tokens.

    Raises:
        InputError: the sample is longer than the row.
    """
    if sample.length > row_length:
        raise InputError(f"a sample of {sample.length} tokens does not fit in a row of {row_length} tokens")
    row = Row(
        np.full(row_length, pad_id, dtype=np.int64),
        np.full(row_length, IGNORED_LABEL, dtype=np.int64),
        np.full(row_length, PADDING_DOCUMENT, dtype=np.int64),
    )
    row.input_ids[: sample.length] = sample.input_ids
    row.labels[: sample.length] = sample.labels()
    row.document_ids[: sample.length] = 0
    return row


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """What a model made of a sample.

    Attributes:
        text: the greedily generated continuation of the prompt, decoded.
        candidate_logprobs: [candidates] teacher-forced log-probability in nats of each of
            ``Sample.candidates`` after the prompt, summed over its tokens, in their order.
        whole: the continuation with what came after ``text``, where the model was let go on.
    """

    text: str
    candidate_logprobs: Sequence[float] | NDArray[np.floating]
    whole: str | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """The outcome of one item.

    Attributes:
        output: what the model said.
        exact: whether it is the whole answer and begins with it, or, where several things were asked for, whether it
            names all of them and nothing else.
        contains: whether the answer occurs anywhere in it (the looser rule of the public benchmarks).
        recall: share of ``Sample.answers`` that occur in it.
        error_class: what it is instead.
        rank: of the right answer among ``candidates``, 1 is best.
        answer_logprob: of the right answer after the prompt, in nats.
    """

    output: str
    exact: bool
    contains: bool
    recall: float
    error_class: ErrorClass
    rank: int
    candidates: int
    answer_logprob: float


class Reference(NamedTuple):
    """What a reference answerer reaches: the share of exact matches and of items ranked first."""

    exact: float
    rank_first: float


class Task(Protocol):
    """Makes items as a pure function of its arguments and scores answers to them."""

    @property
    def name(self) -> str:
        """Name of the task in records."""
        ...

    @property
    def version(self) -> int:
        """Changes whenever the same arguments give another sample or score."""
        ...

    @property
    def segment_length(self) -> int:
        """Tokens per segment; no needle crosses a boundary."""
        ...

    @property
    def questions(self) -> int:
        """Items per haystack: ``index // questions`` names the haystack, ``index % questions`` the question."""
        ...

    @property
    def floor(self) -> Reference:
        """What guessing without the context reaches."""
        ...

    @property
    def ceiling(self) -> Reference:
        """What perfect recall reaches."""
        ...

    def sample(self, *, split: Split, seed: int, index: int, length: int, depth: float | None) -> Sample:
        """Make one item of exactly ``length`` tokens with its needle near ``depth`` (0..1; None: drawn uniformly)."""
        ...

    def score(self, sample: Sample, output: Output) -> Score:
        """Score what a model made of the item."""
        ...


def classify_number(text: str, answer: str) -> ErrorClass:
    """Compare the first integer in ``text`` with the whole ``answer``, digit by digit."""
    found = _INTEGER.search(text)
    if found is None:
        return "no_number"
    return "correct" if found.group() == answer else "other_number"


def rank_of_first(logprobs: NDArray[np.floating]) -> int:
    """Return the rank (1 is best) of the first entry; ties and not-a-number count against it."""
    return 1 + int(np.count_nonzero(~(logprobs[1:] < logprobs[0])))


def score_number(sample: Sample, output: Output) -> Score:
    """Score an answer that is a number: is the first integer of the text the whole answer, and how does it rank?

    Ties in log-probability count against the answer.

    Raises:
        ValueError: the number of log-probabilities is not the number of candidates.
    """
    logprobs = np.asarray(output.candidate_logprobs, dtype=np.float64)
    if logprobs.shape != (len(sample.candidates),):
        raise ValueError(f"{len(sample.candidates)} candidates need as many log-probabilities: {logprobs.shape}")
    error_class = classify_number(output.text, sample.answer)
    contains = sample.answer in output.text
    if not np.isfinite(logprobs).all():
        error_class = "not_finite"
    return Score(
        output=output.text,
        exact=error_class == "correct",
        contains=contains,
        recall=float(contains),
        error_class=error_class,
        rank=rank_of_first(logprobs),
        candidates=logprobs.size,
        answer_logprob=float(logprobs[0]),
    )
