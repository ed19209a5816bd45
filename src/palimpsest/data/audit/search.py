"""The audit itself: every evaluated text against every training document, in one pass over the training text."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

from palimpsest.data.audit.canaries import draw_canaries
from palimpsest.data.audit.findings import (
    COVERAGE_NGRAM,
    LONGEST_ALLOWED,
    Evaluated,
    Results,
    audit_records,
    canary_records,
    repeated_passages,
)
from palimpsest.data.audit.matches import MatchFinder, Span
from palimpsest.data.audit.ngrams import Lexicon, words
from palimpsest.data.audit.sources import TrainingCorpus, TrainingText
from palimpsest.data.corpus import Document
from palimpsest.errors import InputError
from palimpsest.records import AuditRecord, AuditSetting, CanaryRecord

NGRAM = 13
CANARIES = 20
SHORTEST_TOKENS = 8

_FOUND, _PLANTED = 0, 1  # groups of training documents

Progress = Callable[[int], None]


@dataclass(frozen=True)
class AuditOptions:
    """How to audit.

    Attributes:
        ngram: words of the n-grams whose presence makes a text dirty.
        canaries: passages to plant.
        seed: of the choice of passages and places.
        boilerplate: passages that are cut from the evaluated texts before anything is compared.
    """

    ngram: int = NGRAM
    canaries: int = CANARIES
    seed: int = 0
    boilerplate: tuple[str, ...] = ()


class Audit(NamedTuple):
    """What was audited, what was found for every evaluated text, and which canaries were found."""

    setting: AuditSetting
    records: list[AuditRecord]
    canaries: list[CanaryRecord]


class CleanSplit(NamedTuple):
    """Identifiers of the evaluated texts without and with a finding."""

    clean: list[str]
    dirty: list[str]


def audit(
    training: TrainingCorpus,
    evaluated: Sequence[tuple[str, Document]],
    options: AuditOptions | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Compare evaluated texts with all training documents.

    Memory grows with the evaluated texts and the longest training document, time with the training text.

    Args:
        training: the training documents.
        evaluated: (source, document) of every evaluated text.
        options: see there.
        progress: called with the bytes of training text read so far, from time to time.

    Raises:
        InputError: nothing is evaluated, no text is as long as an n-gram, or the training text cannot be read.

    Source: Brown et al. (2020), appendix C (13-grams); Chowdhery et al. (2022), section 8 (70 % of 8-grams); Lee et
    al. (2022, exact matches of 50 tokens).
    """
    options = options or AuditOptions()
    began = time.perf_counter()
    texts = _without_boilerplate(evaluated, options.boilerplate)
    search = _Search(training, texts, options)
    search.read(progress)
    results = search.results()
    setting = AuditSetting(
        training=training.name,
        evaluated=tuple(dict.fromkeys(text.source for text in texts)),
        training_documents=search.documents,
        training_bytes=search.bytes,
        ngram=options.ngram,
        unit=search.unit,
        longest_allowed=LONGEST_ALLOWED,
        seed=options.seed,
        seconds=round(time.perf_counter() - began, 3),
        repeated=repeated_passages(texts, results.words, options.ngram),
    )
    records = audit_records(training, texts, results, search.same_ids, options.ngram)
    return Audit(setting, records, canary_records(texts, search.canaries, search.host_ids, results, options.ngram))


def split(records: Sequence[AuditRecord]) -> CleanSplit:
    """Divide the evaluated texts into clean and dirty ones, so that any metric can be contrasted on both."""
    clean = [record.document_id for record in records if not record.reasons]
    return CleanSplit(clean, [record.document_id for record in records if record.reasons])


class _Search:
    """One pass over the training text."""

    def __init__(self, training: TrainingCorpus, texts: Sequence[Evaluated], options: AuditOptions) -> None:
        self._training = training
        self._word_units, self._token_units = Lexicon("words", words), training.units()
        self.unit = self._token_units.name
        written = [text.document.text for text in texts]
        symbols = self._word_units.evaluated(written)
        longest = max(map(len, symbols))
        if longest < options.ngram:
            raise InputError(
                f"No evaluated text has the {options.ngram} words of an n-gram (the longest has {longest}); give a "
                "smaller --ngram, or longer texts."
            )
        tokens = self._token_units.evaluated(written)
        hosts = training.count()
        if hosts == 0:
            raise InputError(f"{training.name} has no training document: all are held out; lower heldout_fraction.")
        self.canaries = draw_canaries(
            written, self._token_units, hosts, options.canaries, ngram=options.ngram, seed=options.seed
        )
        word_spans = [Span(canary.document, *canary.words) for canary in self.canaries]
        token_spans = [Span(canary.document, *canary.tokens) for canary in self.canaries]
        shortest = min(options.ngram, COVERAGE_NGRAM)
        self._words = MatchFinder(symbols, shortest=shortest, spans=word_spans)
        self._tokens = MatchFinder(tokens, shortest=SHORTEST_TOKENS, spans=token_spans)
        self._planted: dict[int, list[int]] = defaultdict(list)
        for index, canary in enumerate(self.canaries):
            self._planted[canary.host].append(index)
        self.host_ids = [""] * len(self.canaries)
        self._evaluated_ids = {_bare(text.document.id) for text in texts}
        self.same_ids: set[int] = set()
        self._texts = texts
        self.documents = self.bytes = 0

    def read(self, progress: Progress | None) -> None:
        """Read the training text to its end."""
        same = set()
        for number, found in enumerate(self._training.stream()):
            self._add(number, found, group=0)
            for index in self._planted.get(number, ()):
                self.host_ids[index] = found.id
                planted = TrainingText(found.id, self.canaries[index].planted(found.text), None)
                self._add(index, planted, group=1 + index)
            self.documents += 1
            self.bytes += len(found.text) if found.text.isascii() else len(found.text.encode())
            same |= {_bare(found.id)} & self._evaluated_ids
            if progress is not None:
                progress(self.bytes)
        named = enumerate(self._texts)
        self.same_ids = {number for number, text in named if _bare(text.document.id) in same - {""}}

    def _add(self, number: int, found: TrainingText, *, group: int) -> None:
        self._words.add(number, self._word_units.training(found.text), group=group)
        tokens = self._token_units.training(found.text) if found.tokens is None else found.tokens
        self._tokens.add(number, tokens, group=group)

    def results(self) -> Results:
        """Return all matches."""
        (found_words, planted_words), (found_tokens, planted_tokens) = self._words.finish(), self._tokens.finish()
        return Results(found_words, found_tokens, planted_words, planted_tokens)


def _bare(name: str) -> str:
    """Return an identifier without folder, ending and case; "" if it is only the number of a row."""
    if re.search(r"#\d+$", name):
        return ""
    path = PurePath(name)
    return (path.stem if path.suffix.lower() == ".txt" else path.name).casefold()


def _without_boilerplate(evaluated: Sequence[tuple[str, Document]], passages: Sequence[str]) -> list[Evaluated]:
    """Cut the passages out of the texts, whatever their case and blanks."""
    if not evaluated:
        raise InputError("There is nothing to evaluate: give at least one text with --against.")
    patterns = [r"\s+".join(map(re.escape, passage.split())) for passage in passages if passage.split()]
    boilerplate = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None
    found = []
    for source, document in evaluated:
        text, cuts = boilerplate.subn("\n", document.text) if boilerplate else (document.text, 0)
        found.append(Evaluated(source, Document(document.id, text), cuts))
    return found
