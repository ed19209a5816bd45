"""Canaries: passages copied from evaluated documents into the training stream, to see whether the audit finds them.

A planted document is a copy of a training document with the passage put into it; it follows the original in the
stream, and its matches are counted apart, so that neither the files nor the findings change.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from palimpsest.data.audit.ngrams import Units, word_spans, words

CANARY_WORDS = 50
EDITED_EVERY = 20


def _respaced(text: str) -> str:
    blanks = ("\n", "  ", "\t", " \n ")
    parts = text.split()
    return "".join(part + blanks[i % len(blanks)] for i, part in enumerate(parts)).rstrip()


def _repunctuated(text: str) -> str:
    bare = ["".join(c for c in part if c.isalnum()) for part in text.split()]
    return " ".join(word + ("," if i % 5 == 4 else "") for i, word in enumerate(word for word in bare if word))


def _edited(text: str) -> str:
    parts = text.split()
    for place in range(EDITED_EVERY - 3, len(parts), EDITED_EVERY):
        parts[place] = parts[place - 1]
    return " ".join(parts)


PERTURBATIONS: Mapping[str, Callable[[str], str]] = {
    "verbatim": lambda text: text,
    "case": str.upper,
    "punctuation": _repunctuated,
    "whitespace": _respaced,
    "edited": _edited,
}
"""How a passage is changed before it is planted; ``edited`` replaces one word in twenty."""


@dataclass(frozen=True)
class Canary:
    """One passage of evaluated document ``document``, planted in training document ``host``.

    ``words`` and ``tokens`` are its place in the document, [start, stop).
    """

    document: int
    words: tuple[int, int]
    tokens: tuple[int, int]
    host: int
    place: float
    perturbation: str
    passage: str

    def planted(self, text: str) -> str:
        """Return the host's text with the passage put in at ``place`` (0: its beginning, 1: its end)."""
        blank = text.find(" ", int(self.place * len(text)))
        at = len(text) if blank < 0 else blank
        return f"{text[:at]} {self.passage} {text[at:]}"


def draw_canaries(texts: Sequence[str], units: Units, hosts: int, count: int, *, ngram: int, seed: int) -> list[Canary]:
    """Choose passages of evaluated texts that do not overlap, and seeded places to plant them.

    Args:
        texts: the evaluated texts.
        units: what tokens are.
        hosts: number of training documents.
        count: passages wanted; there are fewer where the texts have no room for so many.
        ngram: a passage is at least twice as long.
        seed: of the choice.
    """
    size = max(CANARY_WORDS, 2 * ngram)
    cells = [(number, cell * size) for number, text in enumerate(texts) for cell in range(len(words(text)) // size)]
    rng = np.random.default_rng([seed, count])
    chosen = rng.permutation(len(cells))[:count]
    canaries = []
    for index, cell in enumerate(chosen):
        document, start = cells[int(cell)]
        text = texts[document]
        spans = list(word_spans(text))[start : start + size]
        first, last = spans[0][0], spans[-1][1]
        perturbation = list(PERTURBATIONS)[index % len(PERTURBATIONS)]
        canaries.append(
            Canary(
                document=document,
                words=(start, start + size),
                tokens=(len(units.training(text[:first])), len(units.training(text[:last]))),
                host=int(rng.integers(hosts)),
                place=float(rng.random()),
                perturbation=perturbation,
                passage=PERTURBATIONS[perturbation](text[first:last]),
            )
        )
    return canaries
