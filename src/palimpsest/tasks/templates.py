"""The passkey text cut into token pieces once, so that items are assembled without calling the tokenizer."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.tasks.filler import CLASSIC_SENTENCES, Filler

INTRODUCTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
NEEDLES = {
    "repeat": " The pass key is {key}. Remember it. {key} is the pass key.",
    "short": " The pass key is {key}.",
}
QUESTION = " What is the pass key? The pass key is {key}"


class Tokenizer(Protocol):
    """What is asked of a tokenizer; every Hugging Face tokenizer qualifies."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        ...


@dataclass(frozen=True, eq=False)
class Template:
    """Token ids [n] of a text with a key in it, whose digits stand at ``slots`` [occurrences, width]."""

    ids: NDArray[np.int32]
    slots: NDArray[np.intp]

    def write(self, out: NDArray[np.int32], digits: NDArray[np.int32]) -> None:
        """Write the text with the key of these digit tokens [width] into ``out`` [n]."""
        out[:] = self.ids
        out[self.slots] = digits


@dataclass(frozen=True, eq=False)
class Pieces:
    """The parts of a passkey item as token ids, in the order in which an item joins them.

    Attributes:
        introduction: [n] ids of the instruction.
        filler: the sentences of the haystack.
        needle: the sentences that tell the key.
        question: the question and, as its last ``width`` tokens, the answer. The space before the answer, a
            token of its own, belongs to the question.
        digits: [10] the token of each digit.
    """

    introduction: NDArray[np.int32]
    filler: Filler
    needle: Template
    question: Template
    digits: NDArray[np.int32]

    @property
    def fixed_length(self) -> int:
        """Tokens of everything but the filler, the answer included."""
        return self.introduction.size + self.needle.ids.size + self.question.ids.size

    def join(
        self, digits: NDArray[np.int32], *, before: int, after: int, begin: tuple[int, int] = (0, 0)
    ) -> NDArray[np.int32]:
        """Assemble an item with ``before`` and ``after`` tokens of filler around the needle, answer included.

        ``digits`` [width] are the tokens of the key; ``begin`` says with which sentence of the cycle the filler before
        and after the needle begins.
        """
        row = np.empty(self.fixed_length + before + after, dtype=np.int32)
        bounds = np.cumsum([self.introduction.size, before, self.needle.ids.size, after])
        introduction, haystack, needle, more_haystack, question = np.split(row, bounds)
        introduction[:] = self.introduction
        self.filler.rotated(begin[0]).write(haystack)
        self.needle.write(needle, digits)
        self.filler.rotated(begin[1]).write(more_haystack)
        self.question.write(question, digits)
        return row


def cut_pieces(tokenizer: Tokenizer, needle: str, width: int) -> Pieces:
    """Tokenise all parts of a passkey item for keys of ``width`` digits.

    Raises:
        InputError: a digit after a space is not one token of its own, or tokens cross the ends of sentences.
    """
    introduction = _encode(tokenizer, INTRODUCTION)
    digits = _digit_tokens(tokenizer)
    key = "".join(str(place % 10) for place in range(1, width + 1))
    pieces = Pieces(
        introduction=np.array(introduction, dtype=np.int32),
        filler=Filler(tuple(tuple(_continuation(tokenizer, text)) for text in CLASSIC_SENTENCES)),
        needle=_template(tokenizer, NEEDLES[needle], key, digits),
        question=_template(tokenizer, QUESTION, key, digits),
        digits=digits,
    )
    # Repeated digits, which the probe key has not: a slot missed or found in the wrong place shows here.
    key = ("9900" * width)[:width]
    text = "".join((INTRODUCTION, *CLASSIC_SENTENCES, NEEDLES[needle], *CLASSIC_SENTENCES, QUESTION))
    cycle = pieces.filler.period
    joined = pieces.join(digits[[int(digit) for digit in key]], before=cycle, after=cycle)
    if joined.tolist() != _encode(tokenizer, text.format(key=key)):
        raise InputError(
            "the tokenizer's tokens reach across the ends of sentences or around the digits of a key; the "
            "passkey task needs one that starts a new token at every space, as byte-level BPE does"
        )
    return pieces


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def _continuation(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokenise ``text`` as it stands after a sentence; at the start of a text many tokenizers differ."""
    before = _encode(tokenizer, INTRODUCTION)
    joined = _encode(tokenizer, INTRODUCTION + text)
    if joined[: len(before)] != before:
        raise InputError(
            f"the tokenizer joins {text[:20]!r} to the sentence before it in one token; the passkey task "
            "needs one that starts a new token at every space, as byte-level BPE does"
        )
    return joined[len(before) :]


def _digit_tokens(tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Return [10] the token of each digit, checked on all numbers of three digits after a space."""
    ones = [_continuation(tokenizer, f" {digit}") for digit in range(10)]
    space, digits = ones[0][:-1], [ids[-1] if ids else -1 for ids in ones]
    single = len(set(digits)) == 10
    # By hundreds, so that no text is longer than the maximum that a tokenizer may warn about.
    for hundred in range(10):
        numbers = [f"{100 * hundred + rest:03d}" for rest in range(100)]
        expected = [token for text in numbers for token in (*space, *(digits[int(digit)] for digit in text))]
        single &= _continuation(tokenizer, "".join(f" {text}" for text in numbers)) == expected
    if not single:
        raise InputError(
            "the tokenizer does not write every digit as one token of its own, apart from the space before "
            "it; the passkey task needs one that does, such as byte-level BPE behind "
            "Digits(individual_digits=True)"
        )
    return np.array(digits, dtype=np.int32)


def _template(tokenizer: Tokenizer, text: str, key: str, digits: NDArray[np.int32]) -> Template:
    ids = np.array(_continuation(tokenizer, text.format(key=key)), dtype=np.int32)
    wanted = digits[[int(digit) for digit in key]]
    starts = np.flatnonzero((sliding_window_view(ids, len(key)) == wanted).all(axis=1))
    return Template(ids, starts[:, None] + np.arange(len(key)))
