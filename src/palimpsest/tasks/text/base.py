"""What all tasks in text share: exact lengths, samples, training rows and candidates.

A task says what a haystack holds (``write``); everything else is here. Tokens come from a ``Speller``, so that an item
is the tokenisation of its text; filler comes from ``Prose``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Annotated, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.knobs import Length, TaskKnobs
from palimpsest.tasks.task import (
    IGNORED_LABEL,
    PADDING_DOCUMENT,
    Output,
    Reference,
    Row,
    Sample,
    Score,
    Span,
    Split,
    rank_of_first,
)
from palimpsest.tasks.templates import Tokenizer
from palimpsest.tasks.text.haystack import Ground, NoRoom
from palimpsest.tasks.text.pieces import Speller, rows
from palimpsest.tasks.text.prose import read_prose
from palimpsest.tasks.words import score_items

_NEAR = 64
_LONGEST_SEARCHED = 1 << 18


class TextSpec(TaskKnobs):
    """The knobs that all tasks in text have.

    Attributes:
        prose: the filler: ``noise`` (the five classic sentences), ``grammar`` (made-up sentences), ``sotu`` (real
            speeches) or the path of a text file.
        sentences: how many sentences of the filler to use at most; a longer context meets them again.
        min_length, max_length: range of the training rows' lengths; rows are padded to ``max_length``.
    """

    prose: Annotated[str, Field(min_length=1)] = "noise"
    sentences: Annotated[int, Field(ge=16, le=65_536)] = 2_048
    min_length: Length = 512
    max_length: Length = 1_024


class Question(NamedTuple):
    """Something to be asked about a haystack.

    Attributes:
        text: the question, begun with a space, up to the answer.
        candidates: answers to rank, the right one first.
        answers: what a right output names.
        needles: what must be remembered to answer.
        others: values that the haystack gives for something else.
        facts: coordinates of the item.
    """

    text: str
    candidates: tuple[str, ...]
    answers: tuple[str, ...]
    needles: tuple[Span, ...]
    others: tuple[str, ...]
    facts: Mapping[str, float | str]


class Haystack(NamedTuple):
    """Tokens, the introduction among them, and the questions that can be asked about them."""

    ids: NDArray[np.int32]
    questions: Sequence[Question]


S = TypeVar("S", bound=TextSpec)


class TextTask(ABC, Generic[S]):
    """A task in text for one tokenizer and one segment length.

    Attributes:
        spec: the knobs.
        segment_length: tokens per segment; a needle lies wholly inside one.
        questions: items per haystack; all of them have questions and answers of equal length in tokens.
        numeric: whether answers are numbers; then the space before the answer belongs to the question, where it is a
            token of its own.

    Raises:
        InputError: the tokenizer's tokens reach across spaces, or the filler cannot be read.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    questions: int = 1
    numeric: bool = False
    unpaired: ClassVar[frozenset[str]] = frozenset()
    """Knobs that leave the random draws as they are, so that items with other values of them are paired."""

    def __init__(self, spec: S, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = 0) -> None:
        self.spec = spec
        self.segment_length = segment_length
        self.pad_id = pad_id
        self.speller = Speller(tokenizer)
        self.prose = read_prose(spec.prose, spec.sentences, self.speller, self.confuses)
        rows_only = {"min_length", "max_length"}
        self._knobs = f"{self.name}@{self.version}|{spec.model_dump_json(exclude=rows_only)}"
        self._stem = f"{self.name}@{self.version}|{spec.model_dump_json(exclude=rows_only | self.unpaired)}"

    @abstractmethod
    def write(self, label: str, split: Split, length: int, depth: float | None, together: bool) -> Haystack:
        """Return a haystack and its questions.

        Args:
            label: names the random draws.
            split: which keys and values may occur.
            length: tokens of the haystack with the first question and its answer, or, if ``together``, with all.
            depth: where the needle of the first question should be, 0..1; None: anywhere.
            together: whether all questions follow the haystack, in a row, or one of them.

        Raises:
            NoRoom: no item has this length.
        """

    @property
    @abstractmethod
    def floor(self) -> Reference:
        """What guessing without the context reaches."""

    @property
    def ceiling(self) -> Reference:
        """What perfect recall reaches."""
        return Reference(exact=1.0, rank_first=1.0)

    def confuses(self, sentence: str) -> bool:
        """Tell whether a sentence of the filler could be taken for a needle."""
        return False

    def sample(self, *, split: Split, seed: int, index: int, length: int, depth: float | None) -> Sample:
        """Make one item, a pure function of its arguments.

        Args:
            split: which keys and values may occur; the two splits share none.
            seed, index: coordinates of the item; ``questions`` items share a haystack.
            length: exact number of tokens of prompt and answer.
            depth: where the needle of the first question should be, from 0 (start of the haystack) to 1 (its end);
                it is put between the nearest sentences that keep it in one segment. None: anywhere.

        Raises:
            InputError: ``depth`` is outside 0..1, no item has this length, or there are not enough keys.
        """
        if depth is not None and not 0.0 <= depth <= 1.0:
            raise InputError(f"the depth of {self.name} is a fraction of the haystack from 0 to 1, not {depth}")
        number, asked = divmod(index, self.questions)
        where = "" if depth is None else float(depth).hex()
        place = f"{self.segment_length}|{split}|{seed}|{number}|{where}"

        def written(tokens: int) -> Haystack | None:
            try:
                return self.write(f"{self._stem}|{place}|{tokens}", split, tokens, depth, together=False)
            except NoRoom:
                return None

        haystack = written(length)
        if haystack is None:
            raise InputError(self._no_item(written, length))
        question = haystack.questions[asked]
        question_ids, candidate_ids = self.spelled(question)
        answer = candidate_ids[0][candidate_ids[0] >= 0]
        input_ids = np.concatenate([haystack.ids, question_ids, answer])
        for array in (input_ids, candidate_ids):
            array.setflags(write=False)
        context = haystack.ids.size
        coordinates = f"{self._knobs}|{place}|{length}|"
        content = f"{coordinates}{asked}|{question.candidates}|".encode() + input_ids.astype("<i4").tobytes()
        return Sample(
            id=blake2b(content, digest_size=8).hexdigest(),
            task=self.name,
            version=self.version,
            split=split,
            seed=seed,
            index=index,
            cluster=blake2b(coordinates.encode(), digest_size=8).hexdigest(),
            depth=float(depth) if depth is not None and asked == 0 else question.needles[0].start / context,
            segment_length=self.segment_length,
            input_ids=input_ids,
            prompt_length=context + question_ids.size,
            question_start=context,
            needles=question.needles,
            candidates=question.candidates,
            candidate_ids=candidate_ids,
            answers=question.answers,
            others=question.others,
            facts=question.facts,
            new_tokens=answer.size,
        )

    def training_sample(self, seed: int, index: int) -> Row:
        """Make training row ``index``: a haystack and all its questions in a row; only answers carry labels.

        Lengths are uniform in the spec's range; one that no item has is replaced by the next shorter one that has.

        Raises:
            InputError: no row of the range can be made.
        """
        label = f"{self._stem}|{self.segment_length}|rows|{seed}|{index}"
        length = Draws(label).integer(self.spec.min_length, self.spec.max_length)
        haystack = self._longest(label, length)
        row = Row(
            np.full(self.spec.max_length, self.pad_id, dtype=np.int64),
            np.full(self.spec.max_length, IGNORED_LABEL, dtype=np.int64),
            np.full(self.spec.max_length, PADDING_DOCUMENT, dtype=np.int64),
        )
        at = haystack.ids.size
        row.input_ids[:at] = haystack.ids
        for question in haystack.questions:
            question_ids, candidate_ids = self.spelled(question)
            answer = candidate_ids[0][candidate_ids[0] >= 0]
            said = np.concatenate([question_ids, answer])
            row.input_ids[at : at + said.size] = said
            row.labels[at + question_ids.size : at + said.size] = answer
            at += said.size
        row.document_ids[:at] = 0
        return row

    def score(self, sample: Sample, output: Output) -> Score:
        """Score one answer: do its first items name what was asked for, and how does the answer rank?"""
        return score_items(sample, output, rank_of_first)

    def spelled(self, question: Question) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the tokens of a question and, padded with -1, [candidates, answer tokens] of its candidates."""
        space = self.speller.space if self.numeric else ()
        self.speller.learn(f" {candidate}" for candidate in question.candidates)
        candidates = [self.speller.spell(f" {candidate}")[len(space) :] for candidate in question.candidates]
        return np.array([*self.speller.spell(question.text), *space], dtype=np.int32), rows(candidates)

    def asked_length(self, question: str, answer: str) -> int:
        """Return the tokens of a question and its answer."""
        return len(self.speller.spell(question)) + len(self.speller.spell(f" {answer}"))

    def ground(self, start: int, end: int) -> Ground:
        """Return the tokens ``start .. end`` of an item as a place for needles.

        Raises:
            NoRoom: there are none.
        """
        if end < start:
            raise NoRoom
        return Ground(self.prose, start, end, self.segment_length)

    def _longest(self, label: str, length: int) -> Haystack:
        for tried in range(length, max(self.spec.min_length, length - 4 * _NEAR) - 1, -1):
            try:
                return self.write(label, "training", tried, None, together=True)
            except NoRoom:
                continue
        for tried in range(length + 1, self.spec.max_length + 1):
            try:
                return self.write(label, "training", tried, None, together=True)
            except NoRoom:
                continue
        raise InputError(
            f"{self.name}: no training row of {self.spec.min_length} to {self.spec.max_length} tokens can hold what "
            "the task must tell and ask; take a larger max_length or fewer needles"
        )

    def _no_item(self, written: Callable[[int], Haystack | None], length: int) -> str:
        """Return the sentence that says which length near an impossible one an item can have."""

        def fits(tried: int) -> bool:
            return written(tried) is not None

        near = next((at for gap in range(1, _NEAR) for at in (length - gap, length + gap) if at > 0 and fits(at)), None)
        if near is None:
            low, near = length, max(2 * length, 2 * _NEAR)
            while near <= _LONGEST_SEARCHED and not fits(near):
                low, near = near, 2 * near
            while near <= _LONGEST_SEARCHED and near - low > 1:
                middle = (low + near) // 2
                low, near = (low, middle) if fits(middle) else (middle, near)
        advice = f"a length that can is {near}" if near <= _LONGEST_SEARCHED else "ask for fewer needles"
        return (
            f"no {self.name} item of exactly {length} tokens can be made of whole sentences with its needles inside "
            f"segments of {self.segment_length}; {advice}"
        )
