"""Needle prompts as the public fine-tuning sets have them (``published``), and as they were meant (``intended``).

The published form is that of nanotron's Infini-attention experiment, whose sets arXiv 2512.23862 fine-tunes on and is
tested with. What its generators did differently from each other, or from what they say, is a switch here. The intended
form is the passkey task: true tokens, needles whole and inside one segment, keys of one width, training and evaluation
keys disjoint.
"""

import re
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple, Protocol, Self

from pydantic import Field, model_validator

from palimpsest.errors import InputError
from palimpsest.schema import Closed
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.filler import CLASSIC_SENTENCES
from palimpsest.tasks.passkey import Passkey, PasskeySpec
from palimpsest.tasks.task import Split
from palimpsest.tasks.templates import INTRODUCTION, Tokenizer

CYCLE = "".join(CLASSIC_SENTENCES)
"""One round of the filler, 90 characters, a space before every sentence."""

TOLD = "The pass key is {key}. Remember it. {key} is the pass key. "
ASKED = "What is the pass key? The pass key is "
LARGEST_KEY = 10_000
TWENTIETHS = tuple(float(percent) for percent in range(0, 101, 5))
ATTEMPTS = 16

Percent = Annotated[float, Field(ge=0.0, le=100.0)]
Count = Annotated[int, Field(ge=1)]


class Wording(NamedTuple):
    """The soft prompt, what stands before the needle, and what stands before the question."""

    introduction: str
    before_needle: str
    before_question: str


WORDINGS = {
    "important_info": Wording(INTRODUCTION, "", " \n\n"),
    "pass_key": Wording(
        "There is a pass key hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you about "
        "what is the pass key later on.",
        ". ",
        ". \n\n",
    ),
}


class NeedlePrompt(NamedTuple):
    """One prompt, which ends with its answer, and as which length and depth it counts in its set."""

    text: str
    key: str
    context_length: int
    depth_percent: float


class TextTokenizer(Tokenizer, Protocol):
    """A tokenizer that also gives back the text of tokens."""

    def decode(self, token_ids: list[int]) -> str | list[str]:
        """Return the text of token ids."""
        ...


class NeedleGrid(Closed):
    """A set of generated prompts, which visits all its lengths and depths in turn.

    Attributes:
        number: prompts in the set.
        lengths: context lengths.
        depths: where the needle is told, in percent of the filler: 0 is furthest from the question.
        seed: of the keys; another one makes another set.
    """

    number: Count = 1000
    lengths: tuple[Count, ...] = Field(min_length=1)
    depths: tuple[Percent, ...] = Field(default=TWENTIETHS, min_length=1)
    seed: Annotated[int, Field(ge=0)] = 0

    def cell(self, index: int) -> tuple[int, float]:
        """Return the length and the depth of prompt ``index``."""
        number = len(self.lengths)
        return self.lengths[index % number], self.depths[index // number % len(self.depths)]


class PublishedNeedles(NeedleGrid):
    """Needle prompts as nanotron's generators wrote them.

    Attributes:
        units: what ``lengths`` count. ``characters``: of the filler alone, as in the sets of April 2024; instruction,
            needle and question come on top. ``tokens``: of the whole text, as in later ones.
        needle: how its place is found. ``split``: counted in tokens, but then moved to a full stop of the text at that
            number of characters, so that it cuts a sentence or a word anywhere (later sets). ``stop``: right before a
            full stop, which then follows the needle (April 2024). ``whole``: between sentences.
        key_digits: width of every key; None: any number from 1 to 10,000, of one digit to five.
        wording: the instruction of April 2024 (``important_info``) or a later one (``pass_key``), with the full stops
            around needle and filler that belong to it.
    """

    kind: Literal["published"] = "published"
    units: Literal["characters", "tokens"] = "characters"
    needle: Literal["split", "stop", "whole"] = "split"
    key_digits: Annotated[int, Field(ge=1, le=12)] | None = None
    wording: Literal["important_info", "pass_key"] = "pass_key"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.units == "tokens" and self.needle == "whole":
            raise ValueError("a whole needle in a text of exactly so many tokens is kind: intended")
        if self.units == "characters" and min(self.lengths) < len(CYCLE):
            raise ValueError(
                f"{min(self.lengths)} characters of filler (lengths) are not one round of its sentences, {len(CYCLE)}"
            )
        return self


class IntendedNeedles(NeedleGrid):
    """Needle prompts as they were meant: the passkey task, in texts of exactly ``lengths`` tokens, answer included.

    Attributes:
        key_digits: width of every key; the first digit is never 0.
        needle: ``repeat`` tells the key twice, ``short`` once; it lies between sentences and inside one segment.
        filler_start: ``any`` begins each stretch of filler with a sentence drawn per prompt, ``first`` with the first.
    """

    kind: Literal["intended"] = "intended"
    key_digits: Annotated[int, Field(ge=3, le=12)] = 5
    needle: Literal["repeat", "short"] = "repeat"
    filler_start: Literal["any", "first"] = "any"


class NeedlePrompts(Protocol):
    """A set of prompts, each a pure function of its number."""

    def prompt(self, index: int) -> NeedlePrompt:
        """Return prompt ``index`` >= 0."""
        ...


def needle_prompts(
    spec: PublishedNeedles | IntendedNeedles, tokenizer: TextTokenizer, *, split: Split, segment_length: int
) -> NeedlePrompts:
    """Return the prompts of a set.

    Args:
        spec: the set.
        tokenizer: decides lengths and places in tokens.
        split: which keys may be told. The splits of the intended form share none; the published form knows no split,
            and the sets of two seeds share keys by chance, as those on the hub do.
        segment_length: tokens per segment, for the intended form.

    Raises:
        InputError: the tokenizer does not fit the intended form, or its needle no segment.
    """
    if isinstance(spec, PublishedNeedles):
        return _Published(spec, tokenizer)
    return _Intended(spec, tokenizer, split, segment_length)


class _Intended:
    """The passkey task as a set of texts."""

    def __init__(self, spec: IntendedNeedles, tokenizer: TextTokenizer, split: Split, segment_length: int) -> None:
        knobs = spec.model_dump(include={"key_digits", "needle", "filler_start"})
        knobs |= {"min_length": min(spec.lengths), "max_length": max(spec.lengths)}
        self._task = Passkey(PasskeySpec(**knobs), tokenizer, segment_length=segment_length)
        self._spec, self._tokenizer = spec, tokenizer
        self._split: Split = split

    def prompt(self, index: int) -> NeedlePrompt:
        """Return prompt ``index``.

        Raises:
            InputError: whole sentences do not add up to this length.
        """
        length, depth = self._spec.cell(index)
        sample = self._task.sample(
            split=self._split, seed=self._spec.seed, index=index, length=length, depth=depth / 100
        )
        return NeedlePrompt(_text(self._tokenizer, sample.input_ids.tolist()), sample.answer, length, depth)


class _Published:
    """The published prompts."""

    def __init__(self, spec: PublishedNeedles, tokenizer: TextTokenizer) -> None:
        self._spec, self._tokenizer = spec, tokenizer
        self._wording = WORDINGS[spec.wording]
        self._filler = lru_cache(maxsize=64)(self._cut_filler)

    def prompt(self, index: int) -> NeedlePrompt:
        """Return prompt ``index``.

        Raises:
            InputError: no text of so many tokens can be made.
        """
        length, depth = self._spec.cell(index)
        key = self._key(index)
        make = self._of_characters if self._spec.units == "characters" else self._of_tokens
        return NeedlePrompt(make(length, depth, key), key, length, depth)

    def _key(self, index: int) -> str:
        draws, width = Draws(f"needles|published|{self._spec.seed}|{index}"), self._spec.key_digits
        if width is None:
            return str(draws.integer(1, LARGEST_KEY))
        return str(draws.integer(10 ** (width - 1), 10**width - 1))

    def _of_characters(self, length: int, depth: float, key: str) -> str:
        """Return the text around the first ``length`` characters of the filler."""
        filler = (CYCLE * (length // len(CYCLE) + 1))[:length]
        needle = self._needle(key)
        if self._spec.needle == "whole":
            return self._joined(_between_sentences(filler, needle.rstrip(), depth), key)
        if self._spec.needle == "stop":
            if depth == 100:
                return self._joined(filler[: length - len(needle)] + needle, key)
            place = _stop_before(filler, int(length * depth / 100))
            return self._joined(filler[:place] + needle + filler[place:], key)
        return self._joined(self._split_at_tokens(filler, self._filler(filler), needle, depth), key)

    def _of_tokens(self, length: int, depth: float, key: str) -> str:
        """Return the text of exactly ``length`` tokens: filler is added and taken away until it has them.

        The public code fills up with full stops after the instruction instead.
        """
        needle, kept = self._needle(key), length - len(self._encode(self._joined(self._needle(key), key)))
        ids = self._filler(CYCLE * (length // len(CYCLE.split()) + 1))
        for _ in range(ATTEMPTS):
            if kept < 1:
                break
            filler = _text(self._tokenizer, ids[:kept])
            if self._spec.needle == "stop":
                place = len(filler) if depth == 100 else _stop_before(filler, int(len(filler) * depth / 100))
                text = self._joined(filler[:place] + needle + filler[place:], key)
            else:
                text = self._joined(self._split_at_tokens(filler, ids[:kept], needle, depth, replace=False), key)
            missing = length - len(self._encode(text))
            if not missing:
                return text
            kept += missing
        raise InputError(
            f"no published needle prompt of exactly {length} tokens can be made at depth {depth:g} with this "
            "tokenizer; take a longer one, or units: characters"
        )

    def _split_at_tokens(self, filler: str, ids: list[int], needle: str, depth: float, *, replace: bool = True) -> str:
        """Insert the needle at a place counted in tokens that was moved to a full stop counted in characters.

        At depth 100 it takes the place of the last tokens, or, without ``replace``, follows them.
        """
        if depth == 100:
            place = len(ids) - len(self._encode(needle)) if replace else len(ids)
            return _text(self._tokenizer, ids[: max(place, 0)]) + needle
        place = _stop_before(filler, int(len(ids) * depth / 100))
        begin = len(_text(self._tokenizer, ids[:place]))
        return filler[:begin] + needle + filler[begin:]

    def _needle(self, key: str) -> str:
        before = " " if self._spec.needle == "whole" else self._wording.before_needle
        return before + TOLD.format(key=key)

    def _joined(self, context: str, key: str) -> str:
        introduction, _, before_question = self._wording
        if self._spec.needle == "whole":  # the context ends with a full stop of its own
            before_question = " \n\n"
        return f"{introduction} {context}{before_question}{ASKED}{key}."

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _cut_filler(self, filler: str) -> list[int]:
        return self._encode(filler)


def _stop_before(text: str, place: int) -> int:
    """Return the last full stop at or before a place, or 0 where there is none."""
    return max(text.rfind(".", 0, place + 1), 0)


def _between_sentences(filler: str, needle: str, depth: float) -> str:
    """Insert the needle after the sentence nearest to its depth; what is left of a sentence at the end is left out."""
    ends = [0, *(found.end() for found in re.finditer(r"\.", filler))]
    place = min(ends, key=lambda end: abs(end - ends[-1] * depth / 100))
    return (filler[:place] + needle + filler[place : ends[-1]]).lstrip()


def _text(tokenizer: TextTokenizer, ids: list[int]) -> str:
    text = tokenizer.decode(ids)
    assert isinstance(text, str)  # of one list of tokens
    return text
