"""How long the documents of a prepared corpus are, in tokens."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from palimpsest.data.shards import PreparedCorpus, TokenSplit
from palimpsest.records import Record

STATISTICS = "statistics.json"
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
LONG = (1024, 8192, 32768)


class LengthStatistics(Record):
    """Lengths of documents in tokens, the end-of-text token that closes them not counted.

    Attributes:
        documents: how many there are.
        tokens: in all of them together.
        mean: tokens per document.
        median: half of the documents are no longer.
        shortest: tokens.
        longest: tokens.
        quantiles: the length that so large a share of the documents does not exceed, between neighbours by a line.
        longer: the share of the documents that have more than so many tokens.
    """

    documents: int
    tokens: int
    mean: float
    median: float
    shortest: int
    longest: int
    quantiles: dict[float, float]
    longer: dict[int, float]


class CorpusStatistics(Record):
    """The documents to train on, those held out, and all; None where there is none."""

    train: LengthStatistics | None
    heldout: LengthStatistics | None
    all: LengthStatistics


def corpus_statistics(corpus: PreparedCorpus, longer: Sequence[int] = LONG) -> CorpusStatistics:
    """Count the documents of a prepared corpus by length.

    Args:
        corpus: the corpus; only its document boundaries are read.
        longer: lengths for which the share of longer documents is wanted.

    Source: the statistics that arXiv 2512.23862 gives of FineWeb: number, median, share above 8,192.
    """
    train, heldout = _lengths(corpus.train), _lengths(corpus.heldout)
    return CorpusStatistics(
        train=length_statistics(train, longer) if len(train) else None,
        heldout=length_statistics(heldout, longer) if len(heldout) else None,
        all=length_statistics(np.concatenate([train, heldout]), longer),
    )


def length_statistics(lengths: NDArray[np.int64], longer: Sequence[int] = LONG) -> LengthStatistics:
    """Describe the lengths of one or more documents, ``[documents]`` in tokens."""
    quantiles = np.quantile(lengths, QUANTILES)
    return LengthStatistics(
        documents=len(lengths),
        tokens=int(lengths.sum()),
        mean=float(lengths.mean()),
        median=float(np.median(lengths)),
        shortest=int(lengths.min()),
        longest=int(lengths.max()),
        quantiles={share: float(length) for share, length in zip(QUANTILES, quantiles, strict=True)},
        longer={limit: float((lengths > limit).mean()) for limit in longer},
    )


def _lengths(split: TokenSplit) -> NDArray[np.int64]:
    return np.diff(split.offsets) - 1
