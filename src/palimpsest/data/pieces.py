"""Long documents cut into short ones, as unrelated to their neighbours as the pages of a web corpus."""

import math
import re
from collections.abc import Iterable, Iterator
from statistics import NormalDist

from palimpsest.data.corpus import PIECE, Document, PieceSpec, unit_hash

_WORD = re.compile(r"\s*\S+")


def pieces(documents: Iterable[Document], spec: PieceSpec) -> Iterator[Document]:
    """Yield the pieces of all documents in an order drawn by their identifiers, so that neighbours are strangers.

    Pieces of one document, in the order of their numbers, are its text; ``PieceSpec`` says how long they are. Every
    piece is held in memory until the last document has been read.
    """
    cut = [piece for document in documents for piece in _cut(document, spec)]
    yield from sorted(cut, key=lambda piece: (unit_hash(piece.id, salt=f"order {spec.seed}"), piece.id))


def _cut(document: Document, spec: PieceSpec) -> Iterator[Document]:
    """Cut one document; what stands between two words goes with the second, what ends the document with the last."""
    words = _WORD.findall(document.text)
    rest = document.text[sum(map(len, words)) :]
    number, start = 0, 0
    while start < len(words):
        name = PIECE.format(id=document.id, number=number)
        end = start + _length(name, spec)
        text = "".join(words[start:end])
        yield Document(name, text if end < len(words) else text + rest)
        number, start = number + 1, end


def _length(name: str, spec: PieceSpec) -> int:
    """Return the words of a piece, one at least."""
    if spec.spread == 0:
        return spec.median_words
    drawn = unit_hash(name, salt=f"length {spec.seed}")
    # the middle of one of the 2**56 steps that a hash can take: 0 and 1 have no quantile
    quantile = NormalDist(math.log(spec.median_words), spec.spread).inv_cdf(drawn + 2.0**-57 if drawn < 0.5 else drawn)
    return max(1, round(math.exp(quantile)))
