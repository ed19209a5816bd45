"""The 512 words of the symbolic tasks: one token each, so that a small model is tested on memory and not on spelling.

The tokenizer that goes with them splits at blanks and looks words up; ``data.symbolic_tokenizer`` makes it.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.tasks.templates import Tokenizer


class Words(NamedTuple):
    """A range of token ids with one meaning, and the stem of their names."""

    stem: str
    start: int
    size: int

    @property
    def ids(self) -> NDArray[np.int32]:
        """[size] the token ids."""
        return np.arange(self.start, self.start + self.size, dtype=np.int32)


SPECIALS = (
    *("<pad>", "<bos>", "SEP", "QUERY", "IS", "<eos>", "NUM", "VAR"),
    *("COPY", "WENT", "TOOK", "DROPPED", "WHERE", "COUNT", "STATE", "FIRST"),
)
PAD, BOS, SEP, QUERY, IS, EOS, NUM, VAR, COPY, WENT, TOOK, DROPPED, WHERE, COUNT, STATE, FIRST = range(16)

FILLER = Words("f", 16, 128)
KEYS = Words("k", 144, 128)
VALUES = Words("v", 272, 128)
NAMES = Words("n", 400, 64)
ROOMS = Words("r", 464, 16)
OBJECTS = Words("o", 480, 32)

SIZE = 512


@cache
def names() -> tuple[str, ...]:
    """Return the 512 words in the order of their ids."""
    ranges = (FILLER, KEYS, VALUES, NAMES, ROOMS, OBJECTS)
    return (*SPECIALS, *(f"{words.stem}{number}" for words in ranges for number in range(words.size)))


def spelled(ids: NDArray[np.integer]) -> str:
    """Return tokens as words with blanks between, as the tokenizer decodes them; -1 is nothing."""
    words = names()
    return " ".join(words[token] for token in ids.tolist() if token >= 0)


def require_symbolic(tokenizer: Tokenizer) -> None:
    """Check that a tokenizer is the one of these words.

    Raises:
        InputError: it gives other ids.
    """
    words = names()
    found = tokenizer.encode(" ".join(words), add_special_tokens=False)
    if found != list(range(SIZE)):
        raise InputError(
            "a symbolic task needs the symbolic tokenizer of 512 words (k0, v17, QUERY, ...), and this model has "
            "another; ask it with the text form of the task"
        )
