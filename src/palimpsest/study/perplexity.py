"""Perplexity of whole long documents, each read once from end to end, in memory that does not grow with it.

What a model loses on a text is a number of nats, whatever the text is cut into. Divided by tokens it compares models of
one tokenizer; by the words or bytes of the raw text also those of different ones. PG-19 (Rae et al. 2020, arXiv
1911.05507) is reported per word: the nats of all tokens divided by the words of the text.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from palimpsest.data import CorpusSpec, Document
from palimpsest.data.streaming import LONGEST, stream_tokens
from palimpsest.errors import InputError, nearest
from palimpsest.models import PalimpsestCache
from palimpsest.probes import Intervention, parse_intervention
from palimpsest.records import PositionLossRecord, Record
from palimpsest.statistics import Estimate
from palimpsest.study.evaluate import Subject
from palimpsest.study.text_probes.scoring import chunk_tokens, score

INTACT = "none"
PIECE_CHARACTERS = 16 * 1024
BUCKETS = 64
"""Buckets of positions 1, 2-3, 4-7, ...: more than any text has."""

LONG_TEXTS: dict[str, CorpusSpec] = {
    "pg19": CorpusSpec(source="emozilla/pg19", split="test", id_column="short_book_title"),
    "arxiv": CorpusSpec(
        source="ccdv/arxiv-summarization", config="document", split="test", text_column="article", id_column="id"
    ),
}
"""Long documents on the hub by short names: PG-19 as Parquet (100 test books; 6,966,499 words by its authors' count),
and whole papers from arXiv (6,440 in the test part). The Arxiv-math of arXiv 2404.07143 was never published."""

Unit = Literal["token", "word", "byte"]
UNITS: tuple[Unit, ...] = get_args(Unit)

_WORD = re.compile(r"\S+")


class DocumentLossRecord(Record):
    """Loss of one whole document, in nats (``document_loss.jsonl``).

    ``nll`` is summed over ``tokens`` predictions: all tokens but the first, which is predicted from nothing. Of these
    ``not_finite`` are not finite (and so is the sum, if there are any). ``words`` is how many there are in the raw text
    between white space, ``bytes`` its length as UTF-8; both are of all of the text that was read.
    """

    arm: str
    seed: int
    checkpoint: str
    intervention: str
    document_id: str
    tokens: int
    words: int
    bytes: int
    nll: float
    not_finite: int

    def size(self, unit: Unit) -> int:
        """Return how many units the document has."""
        return {"token": self.tokens, "word": self.words, "byte": self.bytes}[unit]


class DocumentLosses(NamedTuple):
    """The loss of one document under each condition, in all and by position."""

    documents: list[DocumentLossRecord]
    positions: list[PositionLossRecord]


def first_words(text: str, words: int) -> str:
    """Return the beginning of a text that has so many words, or all of it if it has no more."""
    for number, word in enumerate(_WORD.finditer(text), 1):
        if number == words:
            return text[: word.end()]
    return text


def whole_document_loss(subject: Subject, document: Document, interventions: Iterable[str] = ()) -> DocumentLosses:
    """Read one document of any length and return what it costs to predict, intact and under interventions.

    Tokens come from the text piece by piece, and what is held of them is a chunk and the state. Interventions act as in
    ``palimpsest.study.text_probes.place_losses``: one that must be in force from the first token on (``reset``) is, any
    other on a copy of the intact cache, for one segment.

    Args:
        subject: the model under test.
        document: its identifier and its text.
        interventions: expressions of ``docs/probes.md``; "none" is made in any case.

    Raises:
        InputError: fewer than two tokens, or an intervention that needs other rows or a needle.
    """
    wanted = {name: _alone(name) for name in interventions if name != INTACT}
    sums = {name: _Sums() for name in (INTACT, *wanted)}
    longest = max(LONGEST, len(document.text))  # the text is held in any case, also where it cannot be cut
    pieces = (document.text[i : i + PIECE_CHARACTERS] for i in range(0, len(document.text), PIECE_CHARACTERS))
    _read(subject, stream_tokens(subject.tokenizer, pieces, longest=longest), wanted, sums)
    if sums[INTACT].tokens == 0:
        raise InputError(
            f"The document '{document.id}' has fewer than two tokens, so nothing to predict; leave it out."
        )
    found = DocumentLosses([], [])
    for name, total in sums.items():
        found.documents.append(
            DocumentLossRecord(
                arm=subject.arm,
                seed=subject.seed,
                checkpoint=subject.checkpoint,
                intervention=name,
                document_id=document.id,
                tokens=total.tokens,
                words=sum(1 for _ in _WORD.finditer(document.text)),
                bytes=len(document.text.encode()),
                nll=float(total.nll.sum()),
                not_finite=total.not_finite,
            )
        )
        found.positions.extend(_by_position(subject, name, document.id, total))
    return found


def _alone(name: str) -> Intervention:
    """Return an intervention that can be made on one document that nothing is asked about."""
    found = parse_intervention(name)
    if found.needs_rows > 1 or found.needs_needle or found.needs_reads:
        raise InputError(
            f"The intervention '{name}' needs other texts or a needle, but a whole document is read by itself; "
            "take reset, zero or gate_closed."
        )
    return found


class _Sums:
    """Nats and tokens by bucket of positions, added up as a document is read."""

    def __init__(self) -> None:
        self.nll = np.zeros(BUCKETS)
        self.counts = np.zeros(BUCKETS, dtype=np.int64)
        self.not_finite = 0

    @property
    def tokens(self) -> int:
        """Tokens predicted so far."""
        return int(self.counts.sum())

    def add(self, nll: NDArray[np.float64]) -> None:
        """Add the losses ``[T]`` of the tokens that come next."""
        positions = np.arange(1, nll.size + 1) + self.tokens
        buckets = np.frexp(positions)[1] - 1  # the exponent of the highest power of two in it
        self.nll += np.bincount(buckets, weights=nll, minlength=BUCKETS)
        self.counts += np.bincount(buckets, minlength=BUCKETS)
        self.not_finite += int((~np.isfinite(nll)).sum())


def _read(
    subject: Subject, tokens: Iterable[Sequence[int]], wanted: Mapping[str, Intervention], sums: Mapping[str, _Sums]
) -> None:
    """Read a stream of tokens once and add up what every one but the first costs, under each condition."""
    model = subject.model
    own = {name: PalimpsestCache(model.config) for name in sums if name == INTACT or wanted[name].throughout}
    shared = len(own) < len(sums)  # those that share the past of the intact model go segment by segment
    step = model.config.attention_spec.segment_length if shared else chunk_tokens(model, 1)
    for window in _windows(tokens, step):
        for name, intervention in wanted.items():
            with intervention(model):
                cache = own[name] if name in own else own[INTACT].clone()
                sums[name].add(score(model, window, cache).nll[0])
        sums[INTACT].add(score(model, window, own[INTACT]).nll[0])  # last: it moves the past on


def _windows(pieces: Iterable[Sequence[int]], step: int) -> Iterator[Tensor]:
    """Yield ``[1, step + 1]`` tokens at a time, the last fewer; each begins where the one before ended."""
    held: list[int] = []
    for piece in pieces:
        held.extend(piece)
        while len(held) > step:
            yield torch.tensor([held[: step + 1]], dtype=torch.long)
            del held[:step]
    if len(held) > 1:
        yield torch.tensor([held], dtype=torch.long)


def _by_position(subject: Subject, intervention: str, document: str, total: _Sums) -> Iterator[PositionLossRecord]:
    """Yield one record per bucket, whole ones and the last, which the document may not fill."""
    for bucket in np.flatnonzero(total.counts).tolist():
        yield PositionLossRecord(
            arm=subject.arm,
            seed=subject.seed,
            checkpoint=subject.checkpoint,
            intervention=intervention,
            document_id=document,
            position_start=2**bucket,
            position_end=2 ** (bucket + 1),
            nll=float(total.nll[bucket]),
            tokens=int(total.counts[bucket]),
        )


def loss_per(
    records: Sequence[DocumentLossRecord],
    unit: Unit = "token",
    *,
    intervention: str = INTACT,
    against: str | None = None,
    level: float = 0.95,
) -> Estimate:
    """Return the nats per token, word or byte of all documents together, with a document-clustered interval.

    The mean is that of the whole set (all nats divided by all units, so that a longer document weighs more), and the
    interval the t interval that ``palimpsest.statistics.estimate`` gives for all tokens with documents as clusters,
    from the sums of the documents alone. Records of several seeds of one arm share a cluster by document.

    Args:
        records: of one arm.
        unit: what the nats are divided by.
        intervention: the condition.
        against: another condition, whose nats are subtracted document by document; None: the loss itself.
        level: confidence level of the interval.

    Raises:
        InputError: no records of that condition, several arms, a document under one of two conditions only, or a loss
            that is not finite.
    """
    if unit not in UNITS:
        raise InputError(f"There is no unit '{unit}'.{nearest(unit, UNITS)}")
    arms = sorted({record.arm for record in records})
    if len(arms) != 1:
        raise InputError(f"The records are of {len(arms)} arms ({', '.join(arms) or 'none'}); give those of one.")
    nats, sizes = _totals(records, intervention, unit)
    if against is not None:
        base, _ = _totals(records, against, unit)
        if base.keys() != nats.keys():
            name = sorted(base.keys() ^ nats.keys())[0]
            raise InputError(f"The document '{name}' was read under one of {intervention} and {against} only.")
        nats = {name: value - base[name] for name, value in nats.items()}
    bad = next((name for name, value in nats.items() if not math.isfinite(value)), None)
    if bad is not None:
        raise InputError(f"The loss of the document '{bad}' is not finite; leave it out, and say so.")
    return _clustered(np.array([nats[name] for name in sizes]), np.array([*sizes.values()], dtype=float), unit, level)


def perplexity(
    records: Sequence[DocumentLossRecord], unit: Unit = "token", *, intervention: str = INTACT, level: float = 0.95
) -> Estimate:
    """Return the perplexity per token, word or byte: e to the ``loss_per`` it, mean and interval alike.

    Raises:
        InputError: as ``loss_per``.
    """
    nats = loss_per(records, unit, intervention=intervention, level=level)
    with np.errstate(over="ignore"):
        mean, low, high = (float(np.exp(value)) for value in (nats.mean, nats.low, nats.high))
    return Estimate(mean, low, high, nats.n, f"e to the {nats.method}", level)


def _totals(
    records: Sequence[DocumentLossRecord], intervention: str, unit: Unit
) -> tuple[dict[str, float], dict[str, int]]:
    """Return nats and units by document, summed over seeds.

    Raises:
        InputError: there is nothing to divide by.
    """
    nats: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for record in records:
        if record.intervention == intervention:
            nats[record.document_id] = nats.get(record.document_id, 0.0) + record.nll
            sizes[record.document_id] = sizes.get(record.document_id, 0) + record.size(unit)
    if not sum(sizes.values()):
        raise InputError(f"There are no records of the condition '{intervention}' with at least one {unit}.")
    return nats, sizes


def _clustered(totals: NDArray[np.float64], sizes: NDArray[np.float64], unit: Unit, level: float) -> Estimate:
    """Return the t interval of sum(totals) / sum(sizes), both ``[C]``, cluster-robust over the C documents."""
    count, units = len(totals), float(sizes.sum())
    mean = float(totals.sum()) / units
    name = f"t over {count} documents of {units:,.0f} {unit}s"
    if count < 2:
        return Estimate(mean, -math.inf, math.inf, count, f"{name}: not defined, needs two documents or more", level)
    error = math.sqrt(count / (count - 1) * float(((totals - sizes * mean) ** 2).sum())) / units
    if error == 0:
        return Estimate(mean, -math.inf, math.inf, count, f"{name}: not defined, the documents are all alike", level)
    low, high = stats.t.interval(level, count - 1, loc=mean, scale=error)
    return Estimate(mean, float(low), float(high), count, name, level)
