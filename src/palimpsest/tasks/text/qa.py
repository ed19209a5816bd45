"""``qa``: a question about one paragraph among many (RULER's question answering over SQuAD, Hsieh et al. 2024).

Departures: the order of the paragraphs is drawn per item; the answer occurs in one sentence of the whole context, which
lies in one segment; what whole paragraphs leave free is filled with sentences of ``prose``.
"""

from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.task import Output, Reference, Sample, Score, Span, Split, rank_of_first
from palimpsest.tasks.templates import Tokenizer
from palimpsest.tasks.text.base import Haystack, Question, TextSpec, TextTask
from palimpsest.tasks.text.haystack import Ground, NoRoom, Unit, lay, place
from palimpsest.tasks.text.squad import Asked, read_articles, split_of
from palimpsest.tasks.words import score_passage

INTRODUCTION = (
    "Answer the question based on the given documents. Only give me the answer and do not output any other words. The "
    "following are given documents."
)
DOCUMENT = " Document: {text}"
QUESTION = (
    " Answer the question based on the given documents. Only give me the answer and do not output any other words. "
    "Question: {question} Answer:"
)
_TRIES = 32
_OTHERS = 64


class QaSpec(TextSpec):
    """The knobs of ``qa``.

    Attributes:
        file: articles with questions in SQuAD's schema: its JSON, or JSON lines or parquet with the hub's columns.
        candidates: number of answers to rank, the right one included.
    """

    kind: Literal["qa"] = "qa"
    file: Annotated[str, Field(min_length=1)]
    prose: Annotated[str, Field(min_length=1)] = "grammar"
    candidates: Annotated[int, Field(ge=2, le=64)] = 16


class Laid(NamedTuple):
    """The paragraphs around the one that answers, as numbers, and where that one begins."""

    before: list[int]
    after: list[int]
    ground: Ground
    start: int


class Qa(TextTask[QaSpec]):
    """Paragraphs of the same article first, then of others, in an order drawn per item, and a question about one."""

    name = "qa"

    def __init__(self, spec: QaSpec, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = 0) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self._paragraphs, questions = read_articles(Path(spec.file))
        self._introduction = self.speller.opening(INTRODUCTION)
        self._texts = [paragraph.text.lower() for paragraph in self._paragraphs]
        self._ids: dict[int, list[int]] = {}
        self._by_split: dict[Split, list[Asked]] = {"training": [], "evaluation": []}
        self._numbers: dict[Split, list[int]] = {"training": [], "evaluation": []}
        around = f"{INTRODUCTION}{DOCUMENT}{self.prose.text}".lower()
        for asked in questions:
            if not any(answer.lower() in around for answer in asked.answers):
                self._by_split[split_of(self._paragraphs[asked.paragraph].title)].append(asked)
        for number, paragraph in enumerate(self._paragraphs):
            self._numbers[split_of(paragraph.title)].append(number)

    @property
    def floor(self) -> Reference:
        """What an answer that does not come from the context reaches, nothing, and a random ranking."""
        return Reference(exact=0.0, rank_first=1 / self.spec.candidates)

    def write(self, label: str, split: Split, length: int, depth: float | None, together: bool) -> Haystack:
        """Return documents, the one that answers at ``depth`` among them, and filler."""
        if not self._by_split[split]:
            raise InputError(
                f"qa: {self.spec.file} has no question of the {split} split, to which about "
                f"{'one article in five belongs' if split == 'evaluation' else 'four articles in five belong'}; take a "
                "file with more articles"
            )
        draws = Draws(f"{label}|question")
        for _ in range(_TRIES):
            asked = draws.choice(self._by_split[split])
            laid = self._laid(label, split, asked, length, depth)
            if laid is not None:
                return self._haystack(label, split, asked, laid)
        raise NoRoom

    def score(self, sample: Sample, output: Output) -> Score:
        """Score one answer against all wordings that are accepted."""
        return score_passage(sample, output, rank_of_first, accepted=str(sample.facts["accepted"]).split("\n"))

    def _laid(self, label: str, split: Split, asked: Asked, length: int, depth: float | None) -> Laid | None:
        """Return as many documents as fit around the one that answers, or None, if not even that one fits."""
        begin = len(self._introduction)
        end = length - self.asked_length(QUESTION.format(question=asked.text), asked.answers[0])
        unit = self._unit(asked)
        free = end - begin - len(unit.ids)
        if free < 0 or unit.inner.end - unit.inner.start > self.segment_length:
            return None
        order = Draws(f"{label}|order")
        around = self._around(order, split, asked, free)
        where = order.fractions(1)[0] if depth is None else depth
        for count in range(len(around), max(-1, len(around) - 4), -1):
            chosen = [around[at] for at in order.permutation(count).tolist()]
            before = chosen[: round(where * count)]
            after = chosen[len(before) :]
            start = begin + sum(len(self._spelled(number)) for number in before)
            ground = self.ground(start, end - sum(len(self._spelled(number)) for number in after))
            try:
                (at,) = place(ground, [unit], lambda: np.array([where]), self.name)
            except NoRoom:
                continue
            return Laid(before, after, ground, at)
        return None

    def _around(self, draws: Draws, split: Split, asked: Asked, free: int) -> list[int]:
        """Return documents that do not hold the answer and fit, those of the same article first."""
        title = self._paragraphs[asked.paragraph].title
        pool = [self._numbers[split][at] for at in draws.permutation(len(self._numbers[split])).tolist()]
        pool.sort(key=lambda number: self._paragraphs[number].title != title)
        wordings = [answer.lower() for answer in asked.answers]
        chosen = []
        for number in pool:
            if free <= self.prose.settled:
                break
            if number == asked.paragraph or any(wording in self._texts[number] for wording in wordings):
                continue
            size = len(self._spelled(number))
            if size <= free:
                chosen.append(number)
                free -= size
        return chosen

    def _haystack(self, label: str, split: Split, asked: Asked, laid: Laid) -> Haystack:
        unit = self._unit(asked)
        middle = lay(laid.ground, [unit], [laid.start], Draws(f"{label}|filler").integer(0, self.prose.count - 1))
        before, after = (chain.from_iterable(map(self._spelled, numbers)) for numbers in (laid.before, laid.after))
        ids = np.array([*self._introduction, *before, *middle.tolist(), *after], dtype=np.int32)
        present = {asked.paragraph, *laid.before, *laid.after}
        pool = self._by_split[split]
        begin = Draws(f"{label}|candidates").integer(0, len(pool) - 1)
        told = [other.answers[0] for other in pool if other.paragraph in present]
        wordings = {answer.lower() for answer in asked.answers}
        others = list(dict.fromkeys(answer for answer in told if answer.lower() not in wordings))[:_OTHERS]
        spare = (pool[(begin + at) % len(pool)].answers[0] for at in range(len(pool)))
        rivals = dict.fromkeys(answer for answer in chain(others, spare) if answer.lower() not in wordings)
        documents = len(present)
        question = Question(
            text=QUESTION.format(question=asked.text),
            candidates=(asked.answers[0], *list(rivals)[: self.spec.candidates - 1]),
            answers=asked.answers[:1],
            needles=(Span(laid.start + unit.inner.start, laid.start + unit.inner.end),),
            others=tuple(others),
            facts={"needles": 1, "distractors": documents - 1, "hops": 1, "accepted": "\n".join(asked.answers)},
        )
        return Haystack(ids, [question])

    def _unit(self, asked: Asked) -> Unit:
        """Return the document that answers; the sentence with the answer must lie in one segment."""
        sentences = self._paragraphs[asked.paragraph].sentences
        before = len(self.speller.spell(DOCUMENT.format(text=" ".join(sentences[: asked.sentence])).rstrip()))
        inner = len(self.speller.spell(f" {sentences[asked.sentence]}"))
        return Unit(self._spelled(asked.paragraph), Span(before, before + inner))

    def _spelled(self, number: int) -> list[int]:
        if number not in self._ids:
            text = DOCUMENT.format(text=self._paragraphs[number].text)
            self.speller.learn([text])
            self._ids[number] = self.speller.spell(text)
        return self._ids[number]
