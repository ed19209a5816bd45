"""The nouns of this wing: a ``Task`` makes a ``Sample`` and gives a ``Score`` to what a model answered."""

import re
from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One item in true tokens: prompt, answer, and where the evidence (the needle) lies.

    Positions count tokens from 0 at the start of the row; segments are ``[0, S), [S, 2S), ...`` with
    ``S = segment_length``. Spans are half-open. ``depth`` is the requested place of the needle, as a fraction
    of the haystack (0: furthest from the question, 1: next to it); the place it got is ``needle_start``.

    Attributes:
        id: 16 hexadecimal digits derived from the coordinates of the item and all its tokens.
        input_ids: [length] prompt, then answer; read-only.
        candidates: answers to rank by log-probability, the right one first.
        candidate_ids: [candidates, answer tokens] the same as tokens; read-only.
    """

    id: str
    task: str
    version: int
    split: Split
    seed: int
    index: int
    depth: float
    segment_length: int
    input_ids: NDArray[np.int32]
    prompt_length: int
    needle_start: int
    needle_end: int
    question_start: int
    candidates: tuple[str, ...]
    candidate_ids: NDArray[np.int32]

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
    def distance(self) -> int:
        """Number of tokens between the end of the needle and the first token of the answer."""
        return self.prompt_length - self.needle_end

    @property
    def compressions(self) -> int:
        """Number of segment boundaries between the needle and the token that must produce the answer.

        That token is the last of the prompt: its output is the first token of the answer.
        """
        return (self.prompt_length - 1) // self.segment_length - self.needle_start // self.segment_length

    @property
    def segments(self) -> int:
        """Number of segments of prompt and answer, the last one perhaps partial."""
        return -(-self.length // self.segment_length)

    @property
    def locally_reachable(self) -> bool:
        """Whether attention inside one segment is enough to read the needle: no compression lies between."""
        return self.compressions == 0

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
    """

    text: str
    candidate_logprobs: Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Score:
    """The outcome of one item; ``rank`` is that of the right answer among ``candidates``, 1 is best."""

    output: str
    exact: bool
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
    def floor(self) -> Reference:
        """What guessing without the context reaches."""
        ...

    @property
    def ceiling(self) -> Reference:
        """What perfect recall reaches."""
        ...

    def sample(self, *, split: Split, seed: int, index: int, length: int, depth: float) -> Sample:
        """Make one item of exactly ``length`` tokens with its needle near ``depth`` (0..1)."""
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
