"""From matches to records: what is dirty and why, which training documents are to blame, and the shared passages."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from palimpsest.data.audit.canaries import Canary
from palimpsest.data.audit.matches import Matches
from palimpsest.data.audit.ngrams import windows_covered, word_spans, words
from palimpsest.data.audit.sources import TrainingCorpus
from palimpsest.data.corpus import Document
from palimpsest.records import AuditRecord, CanaryRecord, RepeatedPassage, SharedPassage

COVERAGE_NGRAM, COVERAGE_LIMIT = 8, 0.7
LONGEST_ALLOWED = 49
SHOWN_PASSAGES, SHOWN_OFFENDERS, SHOWN_REPEATED = 3, 10, 10
CONTEXT_WORDS, EXCERPT_WORDS = 8, 120
REPEATED_DOCUMENTS = 3

Reason: TypeAlias = Literal["ngram", "coverage", "longest_match", "same_id"]


class Evaluated(NamedTuple):
    """An evaluated text as it is compared: where it is from, and how many passages were cut from it."""

    source: str
    document: Document
    cuts: int


class Results(NamedTuple):
    """Matches in words and in tokens: of every evaluated text with the training text, of every planted passage."""

    words: list[Matches]
    tokens: list[Matches]
    planted_words: list[Matches]
    planted_tokens: list[Matches]


class _Run(NamedTuple):
    """A longest run of words: where it begins in the evaluated text, its length, and where it stands in training."""

    start: int
    length: int
    document: int
    position: int


def audit_records(
    training: TrainingCorpus, texts: Sequence[Evaluated], results: Results, same_ids: Set[int], ngram: int
) -> list[AuditRecord]:
    """Return one record for every evaluated text, in their order; reads the documents to blame a second time."""
    runs = [_longest_runs(found, ngram) for found in results.words]
    offenders = [_offenders(*found, ngram) for found in zip(results.words, results.tokens, strict=True)]
    wanted = {run.document for found in runs for run in found} | {number for found in offenders for number in found}
    picked = training.pick(wanted)
    return [
        _record(texts[i], results, i, i in same_ids, ngram).model_copy(
            update={
                "offending": tuple(picked[number].id for number in offenders[i]),
                "passages": tuple(_passage(run, texts[i].document, picked) for run in runs[i]),
            }
        )
        for i in range(len(texts))
    ]


def canary_records(
    texts: Sequence[Evaluated], canaries: Sequence[Canary], hosts: Sequence[str], results: Results, ngram: int
) -> list[CanaryRecord]:
    """Tell for every canary whether its passage is a finding because of the document it was planted in."""
    records = []
    for index, canary in enumerate(canaries):
        longest, longest_tokens = (
            _longest_inside(found[index]) for found in (results.planted_words, results.planted_tokens)
        )
        records.append(
            CanaryRecord(
                document_id=texts[canary.document].document.id,
                host=hosts[index],
                perturbation=canary.perturbation,
                words=canary.words[1] - canary.words[0],
                longest_words=longest,
                longest_tokens=longest_tokens,
                found=longest >= ngram or longest_tokens > LONGEST_ALLOWED,
            )
        )
    return records


def repeated_passages(texts: Sequence[Evaluated], found: Sequence[Matches], ngram: int) -> tuple[RepeatedPassage, ...]:
    """Return n-grams that several evaluated texts share with the training text, most texts first.

    These are formulas ("the state of the Union, and recommend to their consideration such ...") rather than copies:
    candidates for the list of boilerplate. N-grams that overlap one already listed are left out.
    """
    holders: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for number, (text, matches) in enumerate(zip(texts, found, strict=True)):
        strings = words(text.document.text)
        for start in np.flatnonzero(matches.length >= ngram).tolist():
            holders[tuple(strings[start : start + ngram])].add(number)
    common = sorted(((len(held), gram) for gram, held in holders.items()), key=lambda found: (-found[0], found[1]))
    listed: list[RepeatedPassage] = []
    seen: set[tuple[str, ...]] = set()
    for count, gram in common:
        if count < REPEATED_DOCUMENTS or len(listed) == SHOWN_REPEATED:
            break
        parts = {gram[i : i + ngram // 2] for i in range(ngram - ngram // 2 + 1)}
        if not parts & seen:
            listed.append(RepeatedPassage(text=" ".join(gram), documents=count))
        seen |= parts
    return tuple(listed)


def _record(text: Evaluated, results: Results, number: int, same_id: bool, ngram: int) -> AuditRecord:
    in_words, in_tokens = results.words[number].length, results.tokens[number].length
    hits = in_words >= ngram
    eightgrams = max(len(in_words) - COVERAGE_NGRAM + 1, 0)
    seen = int(np.count_nonzero(in_words >= COVERAGE_NGRAM)) / eightgrams if eightgrams else 0.0
    longest = int(in_tokens.max(initial=0))
    reasons: dict[Reason, bool] = {
        "ngram": bool(hits.any()),
        "coverage": seen >= COVERAGE_LIMIT,
        "longest_match": longest > LONGEST_ALLOWED,
        "same_id": same_id,
    }
    return AuditRecord(
        document_id=text.document.id,
        source=text.source,
        words=len(in_words),
        tokens=len(in_tokens),
        ngrams=max(len(in_words) - ngram + 1, 0),
        hits=int(np.count_nonzero(hits)),
        covered=float(windows_covered(hits, ngram).mean()) if len(hits) else 0.0,
        eightgrams_seen=seen,
        longest_words=int(in_words.max(initial=0)),
        longest_tokens=longest,
        same_id=same_id,
        boilerplate_cuts=text.cuts,
        reasons=tuple(reason for reason, holds in reasons.items() if holds),
        offending=(),
        passages=(),
    )


def _offenders(in_words: Matches, in_tokens: Matches, ngram: int) -> list[int]:
    """Return the training documents of the n-grams that were found, most first, and of the longest match in tokens."""
    counts = Counter(in_words.document[in_words.length >= ngram].tolist())
    if in_tokens.length.max(initial=0) > LONGEST_ALLOWED:
        counts[int(in_tokens.document[in_tokens.length.argmax()])] += 1
    return [number for number, _ in counts.most_common(SHOWN_OFFENDERS)]


def _longest_runs(found: Matches, ngram: int) -> list[_Run]:
    """Return the longest runs of at least ``ngram`` words that do not overlap, longest first."""
    starts = np.flatnonzero(found.length >= ngram)
    taken: list[_Run] = []
    for start in starts[np.argsort(-found.length[starts], kind="stable")].tolist():
        length = int(found.length[start])
        if all(start + length <= run.start or run.start + run.length <= start for run in taken):
            taken.append(_Run(start, length, int(found.document[start]), int(found.position[start])))
        if len(taken) == SHOWN_PASSAGES:
            break
    return taken


def _passage(run: _Run, evaluated: Document, picked: Mapping[int, Document]) -> SharedPassage:
    training = picked[run.document]
    return SharedPassage(
        training_document=training.id,
        start=run.start,
        words=run.length,
        evaluated_text=_excerpt(evaluated.text, run.start, run.length),
        training_text=_excerpt(training.text, run.position, run.length),
    )


def _excerpt(text: str, start: int, count: int) -> str:
    """Cut words [start, start + count) out of a text as they are written, with some words around them."""
    spans = list(word_spans(text))
    first, last = max(start - CONTEXT_WORDS, 0), min(start + count + CONTEXT_WORDS, len(spans))
    cut = min(last, first + EXCERPT_WORDS)
    shown = " ".join(text[spans[first][0] : spans[cut - 1][1]].split())
    return ("" if first == 0 else "… ") + shown + ("" if cut == len(spans) else " …")


def _longest_inside(found: Matches) -> int:
    """Return the longest match that does not reach beyond the end of its span."""
    left = np.arange(len(found.length), 0, -1)
    return int(np.minimum(found.length, left).max(initial=0))
