"""Text as tokens, word by word, so that items are assembled with hardly a call of the tokenizer.

Every tokenizer that begins a new token at every space writes a word the same way wherever it stands. So a text is
spelled from a cache of its words, and whatever is joined from such pieces is the tokenisation of the joined text. All
texts of these tasks are words with one space between them; what the benchmarks put on lines of its own follows a space.
"""

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.tasks.templates import Tokenizer

_ANCHOR = "Here."
_SEPARATOR = " #"
_BATCH = 16
_CACHED_WORDS = 1 << 16
_DIGIT = re.compile(r"([0-9])")
_PROBE = (
    ' Read this: 40718 is a number, 9021 and 365 are two more; "3f2b-77aa": "c0de"; the amber-otter (say) is VAR QXWZK'
    " = 51309. 7. kilo's end? Yes! a0ffe-1bcdaf-22a3ebfc-9f0cab; b7 d-8e."
)


class Speller:
    """Tokens of texts for one tokenizer.

    Attributes:
        space: the tokens of the space before a number, where every digit is a token of its own; otherwise none. Words
            with digits then need no call of the tokenizer: what stands between the digits is cached.

    Raises:
        InputError: the tokenizer's tokens reach across spaces.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._words: dict[str, tuple[int, ...]] = {}
        self._anchor = self.opening(_ANCHOR)
        self._separator = self._after(_SEPARATOR)
        self._digits: dict[str, int] = {}
        self._runs: dict[str, list[int]] = {}
        self.space = self._find_digits()
        if self.opening(_ANCHOR + _PROBE) != [*self._anchor, *self.spell(_PROBE)]:
            raise InputError(
                "the tokenizer's tokens reach across the spaces between words; the tasks in text need one that starts "
                "a new token at every space, as byte-level BPE and SentencePiece do"
            )

    def opening(self, text: str) -> list[int]:
        """Return the tokens of a text that begins an item."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def spell(self, text: str) -> list[int]:
        """Return the tokens of a text that follows another one: of words with one space before each."""
        ids: list[int] = []
        words = self._words
        for word in text.split(" ")[1:]:
            ids += words.get(word) or self._spelled(word)
        return ids

    def learn(self, texts: Iterable[str]) -> None:
        """Spell the new words of texts together, which costs less than one by one."""
        words = {word for text in texts for word in text.split(" ")[1:]}
        new = [word for word in words if word not in self._words and not (self._digits and _DIGIT.search(word))]
        self._make_room(len(new))
        for start in range(0, len(new), _BATCH):
            self._learn(new[start : start + _BATCH])

    def _learn(self, words: list[str]) -> None:
        ids = self._after("".join(f" {word}{_SEPARATOR}" for word in words))
        pieces = _divided(ids, self._separator)
        if len(pieces) != len(words) or not all(pieces):
            pieces = [self._after(f" {word}") for word in words]
        self._words.update((word, tuple(piece)) for word, piece in zip(words, pieces, strict=True))

    def _spelled(self, word: str) -> tuple[int, ...] | list[int]:
        if self._digits and _DIGIT.search(word):
            return self._with_digits(word)
        self._make_room(1)
        self._words[word] = tuple(self._after(f" {word}"))
        return self._words[word]

    def _with_digits(self, word: str) -> list[int]:
        """Spell a word as its digits and what stands between them."""
        before, *rest = _DIGIT.split(word)
        ids = [*(self._words.get(before) or self._spelled(before))] if before else [*self.space]
        digits, runs = self._digits, self._runs
        for digit, run in zip(rest[::2], rest[1::2], strict=True):
            ids.append(digits[digit])
            if run:
                ids += runs.get(run) or self._run(run)
        return ids

    def _run(self, run: str) -> list[int]:
        """Spell what stands after a digit, up to the next one."""
        if len(self._runs) >= _CACHED_WORDS:
            self._runs.clear()
        self._runs[run] = self._after(f" 0{run}")[len(self.space) + 1 :]
        return self._runs[run]

    def _make_room(self, count: int) -> None:
        if len(self._words) + count > _CACHED_WORDS:
            self._words.clear()

    def _after(self, text: str) -> list[int]:
        """Tokenise a text as it stands after a sentence; at the start of a text many tokenizers differ."""
        ids = self._tokenizer.encode(_ANCHOR + text, add_special_tokens=False)
        if ids[: len(self._anchor)] != self._anchor:
            raise InputError(
                f"the tokenizer joins {text[:20]!r} to the sentence before it in one token; the tasks in text need one "
                "that starts a new token at every space, as byte-level BPE and SentencePiece do"
            )
        return ids[len(self._anchor) :]

    def _find_digits(self) -> tuple[int, ...]:
        """Set the token of each digit, if each is always one token of its own, and return those of the space before."""
        ones = [self._after(f" {digit}") for digit in range(10)]
        space, digits = tuple(ones[0][:-1]), tuple(ids[-1] if ids else -1 for ids in ones)
        # By hundreds, so that no text is longer than the maximum that a tokenizer may warn about.
        for hundred in range(10):
            numbers = [f"{100 * hundred + rest:03d}" for rest in range(100)]
            expected = [token for text in numbers for token in (*space, *(digits[int(digit)] for digit in text))]
            if len(set(digits)) < 10 or self._after("".join(f" {text}" for text in numbers)) != expected:
                return ()
        self._digits, self.space = dict(zip("0123456789", digits, strict=True)), space
        if self.spell(_PROBE) != self._after(_PROBE):  # digits join letters or punctuation after all
            self._digits = {}
            return ()
        return space


def _divided(ids: list[int], separator: list[int]) -> list[list[int]]:
    """Return what stands before each separator; the last piece must end with one."""
    pieces: list[list[int]] = []
    start, place, width = 0, 0, len(separator)
    while place <= len(ids) - width:
        if ids[place : place + width] == separator:
            pieces.append(ids[start:place])
            start = place = place + width
        else:
            place += 1
    return pieces if start == len(ids) else []


def rows(spelled: list[list[int]]) -> NDArray[np.int32]:
    """Return texts of different lengths as an array [texts, longest], padded with -1 on the right."""
    out = np.full((len(spelled), max(map(len, spelled))), -1, dtype=np.int32)
    for row, ids in zip(out, spelled, strict=True):
        row[: len(ids)] = ids
    return out
