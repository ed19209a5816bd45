"""Keys with values told in a haystack, some of them asked for: what most retrieval tasks in text are."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import comb
from typing import Annotated, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.task import Reference, Span, Split
from palimpsest.tasks.templates import Tokenizer
from palimpsest.tasks.text.base import Haystack, Question, TextSpec, TextTask
from palimpsest.tasks.text.haystack import Unit, keep_whole, lay, ordered_cuts, pack, place
from palimpsest.tasks.text.lexicon import Drawer, Numbers

_SURPLUS = 16


class PairsSpec(TextSpec):
    """The knobs that tasks about keys and values have.

    Attributes:
        questions: how many questions are asked about one haystack, each about another key; their keys are drawn so
            that all of them have equally many tokens.
        candidates: number of answers to rank, the right one included; the others are values of the haystack first.
    """

    questions: Annotated[int, Field(ge=1, le=256)] = 1
    candidates: Annotated[int, Field(ge=2, le=64)] = 16


@dataclass(frozen=True)
class Form:
    """The wording of a task about pairs.

    Attributes:
        introduction: what an item begins with.
        needle: a sentence that tells ``{value}`` of ``{key}``; it begins with a space.
        question: what is asked about ``{keys}``, up to the answer; it begins with a space. ``{shown}`` is where pairs
            are shown.
        keys, values: what these are drawn from.
        opening: what stands between filler and needles, where needles follow each other.
        closing: a last needle, never asked for, where needles follow each other; or nothing.
        shown: how many pairs the question repeats, to show what is asked for.
    """

    introduction: str
    needle: str
    question: str
    keys: Drawer
    values: Drawer
    opening: str = ""
    closing: str = ""
    shown: int = 0


class Plan(NamedTuple):
    """How many of what an item has.

    Attributes:
        keys: number of keys; None: as many as fit, with no filler between them.
        values: values of each key.
        queries: keys asked for together in one question.
        told: which values of a key answer a question about it: all, or the one told last or first.
    """

    keys: int | None
    values: int = 1
    queries: int = 1
    told: Literal["all", "newest", "first"] = "all"


class Pair(NamedTuple):
    """A key and its values."""

    key: str
    values: tuple[str, ...]


S = TypeVar("S", bound=PairsSpec)


class PairsTask(TextTask[S]):
    """A task about keys and values.

    Attributes:
        form: the wording.
        plan: how many of what.
    """

    def __init__(self, spec: S, tokenizer: Tokenizer, *, segment_length: int, pad_id: int = 0) -> None:
        super().__init__(spec, tokenizer, segment_length=segment_length, pad_id=pad_id)
        self.questions = spec.questions
        self.form, self.plan = self.worded()
        self.numeric = isinstance(self.form.values, Numbers)
        self._introduction = self.speller.opening(self.form.introduction)
        self._opening = self.speller.spell(self.form.opening)
        if self.plan.keys is None:
            probes = self._draw("probe", "training", max(_SURPLUS, self.questions))
            self._typical = sum(len(self._told(self.form.needle, probe)) for probe in probes) // len(probes)

    @abstractmethod
    def worded(self) -> tuple[Form, Plan]:
        """Return the wording and the numbers that the knobs give."""

    @property
    def floor(self) -> Reference:
        """What values at random of those told (any at all, where there are no others), and a random ranking, reach."""
        plan = self.plan
        asked = plan.queries * (plan.values if plan.told == "all" else 1)
        told = 0 if plan.keys is None else plan.keys * plan.values
        exact = 1 / comb(told, asked) if told > asked else 1 / self.form.values.available("evaluation")
        return Reference(exact=exact, rank_first=1 / self.spec.candidates)

    def write(self, label: str, split: Split, length: int, depth: float | None, together: bool) -> Haystack:
        """Return a haystack of pairs between sentences, or, where as many as fit are told, of pairs alone."""
        if self.plan.keys is None:
            return self._packed(label, split, length, depth, together)
        pairs = self._draw(label, split, self.plan.keys)
        asked = self.plan.queries * self.questions
        # of one length in tokens, so the questions of any group of keys are those of the first
        sizes = self._question_size(pairs[: self.plan.queries], ())
        ground = self.ground(len(self._introduction), length - sizes * (self.questions if together else 1))
        told = [(pair, value) for pair in pairs for value in pair.values]
        units = self._units([pair.key for pair, _ in told], [value for _, value in told])
        draws = Draws(f"{label}|cuts")
        starts = place(ground, units, lambda: self._cuts(draws, depth), self.name)
        ids = lay(ground, units, starts, Draws(f"{label}|filler").integer(0, self.prose.count - 1))
        spans = [Span(start, start + len(unit.ids)) for start, unit in zip(starts, units, strict=True)]
        values = self.plan.values
        by_pair = [spans[at : at + values] for at in range(0, len(spans), values)]
        questions = self._questions(label, split, pairs, by_pair, asked, ())
        return Haystack(np.concatenate([np.array(self._introduction, dtype=np.int32), ids]), questions)

    def _packed(self, label: str, split: Split, length: int, depth: float | None, together: bool) -> Haystack:
        """Return a haystack of pairs that follow each other, after as much filler as the exact length takes."""
        pairs = self._draw(label, split, self._enough(split, length))
        asked, shown = pairs[:1], pairs[self.questions : self.questions + self.form.shown]
        last = [pairs.pop()] if self.form.closing else []
        closing = self._told(self.form.closing, last[0]) if last else []
        end = length - self._question_size(asked, shown) * (self.questions if together else 1)
        ground = self.ground(len(self._introduction) + len(self._opening), end - len(closing))
        units = self._units([pair.key for pair in pairs], [pair.values[0] for pair in pairs])
        count = pack(ground, units, self.questions + self.form.shown)
        if count == len(units):
            raise InputError(
                f"{self.name}: {length} tokens have room for more than the {count} different pairs that there are in "
                f"the {split} split; ask for a shorter context"
            )
        begin = ground.end - sum(len(unit.ids) for unit in units[:count])
        order = self._order(label, count, depth)
        order = keep_whole(ground, begin, units[:count], order, range(self.questions))
        starts = dict(zip(order, begin + np.cumsum([0, *(len(units[each].ids) for each in order)]), strict=False))
        filler = np.empty(begin - ground.start, dtype=np.int32)
        self.prose.write(filler, Draws(f"{label}|filler").integer(0, self.prose.count - 1))
        ids = chain(self._introduction, filler.tolist(), self._opening, *(units[each].ids for each in order), closing)
        spans = [[Span(int(starts[each]), int(starts[each]) + len(units[each].ids))] for each in range(count)]
        questions = self._questions(label, split, [*pairs[:count], *last], spans, self.questions, shown)
        return Haystack(np.fromiter(ids, dtype=np.int32), questions)

    def _draw(self, label: str, split: Split, count: int) -> list[Pair]:
        """Return pairs with different keys and values; the first ones, if several are asked for, of one length."""
        each = self.plan.values
        surplus = 0 if self.questions == 1 else _SURPLUS * self.questions
        there_are = min(self.form.keys.available(split), self.form.values.available(split) // (2 * each))
        keys = self.form.keys.draw(Draws(f"{label}|keys"), split, max(count, min(surplus, there_are)))
        values = self.form.values.draw(Draws(f"{label}|values"), split, len(keys) * each, taken=keys)
        pairs = [Pair(key, tuple(values[at * each : (at + 1) * each])) for at, key in enumerate(keys)]
        if self.questions == 1:
            return pairs
        alike = self._alike(pairs[:surplus])
        chosen = set(alike)
        return [*alike, *islice((pair for pair in pairs if pair not in chosen), count - len(alike))]

    def _alike(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Return as many pairs as are asked about, whose questions have equally many tokens."""
        self.speller.learn(f" {word}" for pair in pairs for word in (pair.key, *pair.values))
        classes: dict[int, list[Pair]] = defaultdict(list)
        for pair in pairs:
            classes[self._question_size([pair], ())].append(pair)
        alike = max(classes.values(), key=len)[: self.questions]
        if len(alike) < self.questions:
            raise InputError(
                f"{self.name}: {self.questions} questions of equal length are needed, and of {len(pairs)} keys "
                f"at most {len(alike)} have one; ask for fewer questions"
            )
        return alike

    def _enough(self, split: Split, length: int) -> int:
        """Return how many pairs to draw so that they surely fill ``length`` tokens, or as many as there are."""
        there_are = min(self.form.keys.available(split), self.form.values.available(split) // 2)
        return min(self.questions + self.form.shown + 8 + 6 * length // (5 * self._typical), there_are)

    def _order(self, label: str, count: int, depth: float | None) -> list[int]:
        """Return the order of the pairs in the text, drawn for this haystack, the first one at ``depth``."""
        order = Draws(f"{label}|order").permutation(count).tolist()
        if depth is not None:
            order.remove(0)
            order.insert(round(depth * (count - 1)), 0)
        return order

    def _cuts(self, draws: Draws, depth: float | None) -> NDArray[np.float64]:
        """Return [needles] how much of the filler should stand before each; the values of a key are told in order."""
        keys, values, _, told = self.plan
        cuts = np.sort(draws.fractions((keys or 0) * values).reshape(-1, values), axis=1)
        if depth is not None and told == "all":
            cuts[0, 0] = depth
            cuts[0].sort()
        elif depth is not None:
            cuts[0] = ordered_cuts(cuts[0], values - 1 if told == "newest" else 0, depth)
        return cuts.reshape(-1)

    def _units(self, keys: Sequence[str], values: Sequence[str]) -> list[Unit]:
        new = " ".join(word for word in self.form.needle.split(" ") if "{" in word)
        told = list(zip(keys, values, strict=True))
        self.speller.learn(" " + new.format(key=key, value=value) for key, value in told)
        return [Unit(self.speller.spell(self.form.needle.format(key=key, value=value))) for key, value in told]

    def _told(self, template: str, pair: Pair) -> list[int]:
        return self.speller.spell(template.format(key=pair.key, value=pair.values[0]))

    def _question_size(self, pairs: Sequence[Pair], shown: Sequence[Pair]) -> int:
        answers = [value for pair in pairs for value in pair.values[self._answering]]
        return self.asked_length(self._asked(pairs, shown), ", ".join(answers))

    @property
    def _answering(self) -> slice:
        """Which values of a key, in the order in which they are told, answer a question about it."""
        return {"all": slice(None), "newest": slice(-1, None), "first": slice(0, 1)}[self.plan.told]

    def _asked(self, pairs: Sequence[Pair], shown: Sequence[Pair]) -> str:
        examples = "".join(self.form.needle.format(key=pair.key, value=pair.values[0]) for pair in shown)
        return self.form.question.format(keys=listed([pair.key for pair in pairs]), shown=examples)

    def _questions(
        self,
        label: str,
        split: Split,
        pairs: Sequence[Pair],
        spans: Sequence[Sequence[Span]],
        asked: int,
        shown: Sequence[Pair],
    ) -> list[Question]:
        told = [value for pair in pairs for value in pair.values]
        size = self.plan.queries * len(pairs[0].values[self._answering])
        wanted = max(0, self.spec.candidates * size - len(told) + size)
        spare = self.form.values.draw(Draws(f"{label}|spare"), split, wanted, told) if wanted else []
        questions = []
        for at in range(0, asked, self.plan.queries):
            keys = range(at, at + self.plan.queries)
            answers = [value for key in keys for value in pairs[key].values[self._answering]]
            needles = [span for key in keys for span in spans[key][self._answering]]
            others = [value for value in told if value not in answers]
            draws = Draws(f"{label}|candidates|{at}")
            questions.append(
                Question(
                    text=self._asked([pairs[key] for key in keys], shown),
                    candidates=candidates_among(draws, answers, others, spare, self.spec.candidates),
                    answers=tuple(answers),
                    needles=tuple(sorted(needles)),
                    others=tuple(others),
                    facts=self._facts(len(told), len(needles)),
                )
            )
        return questions

    def _facts(self, told: int, needles: int) -> dict[str, float | str]:
        return {"needles": told, "distractors": told - needles, "hops": 1, "values": self.plan.values}


def listed(words: Sequence[str]) -> str:
    """Return words as a list in a sentence: ``a``, ``a and b``, ``a, b, and c``."""
    if len(words) < 3:
        return " and ".join(words)
    return f"{', '.join(words[:-1])}, and {words[-1]}"


def candidates_among(
    draws: Draws, answers: Sequence[str], others: Sequence[str], spare: Sequence[str], count: int
) -> tuple[str, ...]:
    """Return ``count`` different answers to rank, the right one first, then from other values of the haystack.

    An answer of several values is a list of them, and so are its rivals.
    """
    size = len(answers)
    found = {", ".join(answers): None}
    for pool in (list(others), [*others, *spare]):
        for turn in range(len(pool) if size == 1 else 4 * count * (len(pool) >= size)):
            if len(found) == count:
                break
            rival: list[str] = [pool[at] for at in ([turn] if size == 1 else draws.subset(len(pool), size).tolist())]
            if set(rival) != set(answers):
                found.setdefault(", ".join(rival))
    return tuple(found)
