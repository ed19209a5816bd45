"""What all symbolic tasks share: a haystack of exact length, questions about it, samples, training rows and scores.

A task says what a haystack holds (``write``); everything else is here. The words are those of ``vocabulary``, one token
each, so that lengths, spans and distances are exact by construction.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Annotated, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.knobs import Length, TaskKnobs
from palimpsest.tasks.symbolic.vocabulary import PAD, require_symbolic, spelled
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
from palimpsest.tasks.words import score_words


class SymbolicSpec(TaskKnobs):
    """The knobs that all symbolic tasks have.

    Attributes:
        questions: how many questions are asked about one haystack: in training all of them in a row, in evaluation
            each on its own, from the same state of the memory.
        min_length, max_length: range of the training rows' lengths; rows are padded to ``max_length``.
    """

    questions: Annotated[int, Field(ge=1, le=256)] = 1
    min_length: Length = 64
    max_length: Length = 256


class OneQuestionSpec(SymbolicSpec):
    """The knobs of a task that has one thing to ask about a haystack."""

    questions: Annotated[int, Field(ge=1, le=1)] = 1


class Question(NamedTuple):
    """Something to be asked about a haystack.

    Attributes:
        ids: the tokens of the question.
        candidates: [candidates, answer tokens] answers to rank, the right one first.
        needles: what must be remembered to answer, in the order of the text.
        others: [others] or [others, tokens] ids of values that the haystack gives for something else.
        facts: coordinates of this question beside those of its haystack.
    """

    ids: NDArray[np.int32]
    candidates: NDArray[np.int32]
    needles: tuple[Span, ...]
    others: NDArray[np.int32]
    facts: Mapping[str, float | str]


class Haystack(NamedTuple):
    """Tokens and the questions that can be asked about them."""

    ids: NDArray[np.int32]
    questions: Sequence[Question]


S = TypeVar("S", bound=SymbolicSpec)


def labelled_row(parts: Sequence[tuple[NDArray[np.int32], bool]], row_length: int, pad_id: int) -> Row:
    """Join parts into one padded row; those that are said to be answers carry labels."""
    row = Row(
        np.full(row_length, pad_id, dtype=np.int64),
        np.full(row_length, IGNORED_LABEL, dtype=np.int64),
        np.full(row_length, PADDING_DOCUMENT, dtype=np.int64),
    )
    at = 0
    for ids, answer in parts:
        row.input_ids[at : at + ids.size] = ids
        if answer:
            row.labels[at : at + ids.size] = ids
        at += ids.size
    row.document_ids[:at] = 0
    return row


class SymbolicTask(ABC, Generic[S]):
    """A task in the words of the symbolic vocabulary.

    Attributes:
        spec: the knobs.
        segment_length: tokens per segment; a needle lies wholly inside one.
        question_length, answer_length: tokens of every question and answer.

    Raises:
        InputError: the tokenizer has other words, or the knobs contradict each other.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    question_length: int
    answer_length: int

    def __init__(self, spec: S, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = PAD) -> None:
        require_symbolic(tokenizer)
        self.spec = spec
        self.segment_length = segment_length
        self.pad_id = pad_id
        self.questions = spec.questions
        # a knob that is not set is no part of the name, so that a new one leaves the items as they were
        knobs = spec.model_dump_json(exclude={"min_length", "max_length"}, exclude_none=True)
        self._key = f"{self.name}@{self.version}|{knobs}"

    @abstractmethod
    def write(self, draws: Draws, split: Split, length: int, depth: float | None) -> Haystack:
        """Return ``length`` tokens with ``spec.questions`` questions; the needle of the first lies near ``depth``."""

    @property
    @abstractmethod
    def floor(self) -> Reference:
        """What a guesser reaches who knows what the haystack offers, but not which of it is asked for.

        Where the haystack offers one thing only, the guesser knows the vocabulary alone.
        """

    @property
    def ceiling(self) -> Reference:
        """What perfect recall reaches."""
        return Reference(exact=1.0, rank_first=1.0)

    def sample(self, *, split: Split, seed: int, index: int, length: int, depth: float | None) -> Sample:
        """Make one item, a pure function of its arguments.

        Args:
            split: which pairs of key and value may occur; the two splits share none.
            seed, index: coordinates of the item; ``spec.questions`` items share a haystack.
            length: exact number of tokens of haystack, question and answer.
            depth: where the needle of the first question should be, from 0 (start of the haystack) to 1 (its end);
                None: anywhere. Each needle of the other questions lies anywhere.

        Raises:
            InputError: ``depth`` is outside 0..1, or ``length`` too short for what the haystack must hold.
        """
        if depth is not None and not 0.0 <= depth <= 1.0:
            raise InputError(f"the depth of {self.name} is a fraction of the haystack from 0 to 1, not {depth}")
        number, asked = divmod(index, self.questions)
        where = "" if depth is None else float(depth).hex()
        label = f"{self._key}|{self.segment_length}|{split}|{seed}|{number}|{length}|{where}"
        context = self._context(length, 1)
        haystack = self.write(Draws(label), split, context, depth)
        question = haystack.questions[asked]
        answer = question.candidates[0]
        input_ids = np.concatenate([haystack.ids, question.ids, answer[answer >= 0]])
        first = question.needles[0].start
        identity = blake2b(f"{label}|{asked}|".encode() + input_ids.astype("<i4").tobytes(), digest_size=8).hexdigest()
        for array in (input_ids, question.candidates):
            array.setflags(write=False)
        candidates = tuple(spelled(row) for row in question.candidates)
        width = question.others.shape[1] if question.others.ndim == 2 else 1
        return Sample(
            id=identity,
            task=self.name,
            version=self.version,
            split=split,
            seed=seed,
            index=index,
            cluster=blake2b(label.encode(), digest_size=8).hexdigest(),
            depth=float(depth) if depth is not None and asked == 0 else first / context,
            segment_length=self.segment_length,
            input_ids=input_ids,
            prompt_length=context + question.ids.size,
            question_start=context,
            needles=question.needles,
            candidates=candidates,
            candidate_ids=question.candidates,
            answers=self.answers(candidates[0]),
            others=tuple(spelled(each) for each in question.others.reshape(len(question.others), width)),
            facts=question.facts,
            new_tokens=self.answer_length,
        )

    def answers(self, answer: str) -> tuple[str, ...]:
        """Return what a right output names; one entry unless several things are asked for together."""
        return (answer,)

    def training_sample(self, seed: int, index: int) -> Row:
        """Make training row ``index``: a haystack and all its questions in a row; only answers carry labels."""
        draws, length = self._row_draws(seed, index)
        haystack = self.write(draws, "training", self._context(length, self.questions), None)
        parts = [(haystack.ids, False)]
        for question in haystack.questions:
            answer = question.candidates[0]
            parts += [(question.ids, False), (answer[answer >= 0], True)]
        return labelled_row(parts, self.spec.max_length, self.pad_id)

    def score(self, sample: Sample, output: Output) -> Score:
        """Score one answer: are its first words the answer, and how does the answer rank? Ties count against it."""
        return score_words(sample, output, rank_of_first)

    def _row_draws(self, seed: int, index: int) -> tuple[Draws, int]:
        """Return the stream of random numbers of a training row, and its length, the first thing drawn from it."""
        draws = Draws(f"{self._key}|{self.segment_length}|rows|{seed}|{index}")
        return draws, draws.integer(self.spec.min_length, self.spec.max_length)

    def _context(self, length: int, questions: int) -> int:
        """Return the tokens of the haystack."""
        context = length - questions * (self.question_length + self.answer_length)
        if context < 1:
            raise InputError(
                f"{self.name}: {length} tokens leave no room for a haystack beside {questions} questions of "
                f"{self.question_length + self.answer_length} tokens; ask for a longer context"
            )
        return context
