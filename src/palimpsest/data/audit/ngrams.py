"""Texts as sequences of symbols: normalised words, the pieces of a text as it is written, or a tokenizer's tokens."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from palimpsest.data.tokenizer import document_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKS = re.compile(r"[^\w\s]|_")
_PIECES = re.compile(r"\w+|[^\w\s]")
_BLANKED = re.compile(r"\S+")
_UNKNOWN = 0


def words(text: str) -> list[str]:
    """Split a text into its words, lower case and without punctuation.

    On ASCII text this is what GPT-3's filter and lm-evaluation-harness' ``Janitor`` compare; of other text the marks
    and symbols that are neither letters nor digits are left out too.

    Source: Brown et al. (2020), appendix C.
    """
    return _MARKS.sub("", text.lower()).split()


def word_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield where in the text each of its :func:`words` stands, [start, stop) in characters."""
    return (found.span() for found in _BLANKED.finditer(text) if _MARKS.sub("", found.group().lower()))


def pieces(text: str) -> list[str]:
    """Split a text into runs of letters and digits, and marks, as they are written."""
    return _PIECES.findall(text)


def windows_covered(starts: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Tell which positions lie in a window of ``size`` that begins at a marked one, [positions]."""
    change = np.zeros(len(starts) + size, dtype=np.int64)
    marked = np.flatnonzero(starts)
    change[marked] += 1
    change[marked + size] -= 1
    return np.cumsum(change)[: len(starts)] > 0


class Units(Protocol):
    """Turns texts into symbols that are equal where the texts are; ``evaluated`` comes before ``training``."""

    @property
    def name(self) -> str:
        """What a symbol is, in a few words."""
        ...

    def evaluated(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the symbols of all evaluated texts."""
        ...

    def training(self, text: str) -> NDArray[np.int64]:
        """Return the symbols of one training text."""
        ...


class Lexicon:
    """Symbols are numbers of the different strings in the evaluated texts; all other strings are one symbol, 0."""

    def __init__(self, name: str, split: Callable[[str], list[str]]) -> None:
        self.name = name
        self._split = split
        self._numbers: dict[str, int] = {}

    def evaluated(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Number every string of the texts, and return them as these numbers."""
        found = []
        for text in texts:
            strings = self._split(text)
            for string in strings:
                self._numbers.setdefault(string, len(self._numbers) + 1)
            found.append(self._encoded(strings))
        return found

    def training(self, text: str) -> NDArray[np.int64]:
        """Return the numbers of the strings of a text."""
        return self._encoded(self._split(text))

    def _encoded(self, strings: list[str]) -> NDArray[np.int64]:
        return np.fromiter(map(self._numbers.get, strings, repeat(_UNKNOWN)), np.int64, len(strings))


class Tokens:
    """Symbols are the tokens of a tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.name = "tokens of the corpus' tokenizer"
        self._encode = document_encoder(tokenizer)

    def evaluated(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the tokens of the texts."""
        return [np.array(ids, dtype=np.int64) for ids in self._encode(texts)]

    def training(self, text: str) -> NDArray[np.int64]:
        """Return the tokens of a text."""
        return self.evaluated([text])[0]
