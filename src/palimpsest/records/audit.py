"""What evaluated texts share with training text."""

from typing import Literal

from palimpsest.records.base import Record


class SharedPassage(Record):
    """A run of words that an evaluated text shares with a training document, as it is written in each of them.

    ``words`` is how many in a row are the same but for case and punctuation; it begins with word ``start`` (from 0).
    """

    training_document: str
    start: int
    words: int
    evaluated_text: str
    training_text: str


class AuditRecord(Record):
    """What one evaluated text shares with the training text (``audit.jsonl``).

    Attributes:
        document_id: of the evaluated text.
        source: where it is from.
        words: in it, normalised.
        tokens: in it, in the unit of the audit.
        ngrams: word n-grams in it, n as in the audit (13).
        hits: those that stand in a training document.
        covered: share of its words inside such an n-gram.
        eightgrams_seen: share of its word 8-grams that stand in a training document.
        longest_words: longest run of words that stands in a training document.
        longest_tokens: longest run of tokens, exactly as written.
        same_id: whether a training document carries the same identifier.
        boilerplate_cuts: passages of the list of boilerplate that were cut from it.
        reasons: why it counts as dirty; empty for a clean one.
        offending: training documents that hold its hits and its longest match, most hits first.
        passages: the longest shared passages.
    """

    document_id: str
    source: str
    words: int
    tokens: int
    ngrams: int
    hits: int
    covered: float
    eightgrams_seen: float
    longest_words: int
    longest_tokens: int
    same_id: bool
    boilerplate_cuts: int
    reasons: tuple[Literal["ngram", "coverage", "longest_match", "same_id"], ...]
    offending: tuple[str, ...]
    passages: tuple[SharedPassage, ...]


class CanaryRecord(Record):
    """A passage of an evaluated text that was planted in the training stream (``canaries.jsonl``), and its discovery.

    ``longest_words`` and ``longest_tokens`` are the longest matches of the passage with the document it was planted in.
    """

    document_id: str
    host: str
    perturbation: str
    words: int
    longest_words: int
    longest_tokens: int
    found: bool


class RepeatedPassage(Record):
    """An n-gram that ``documents`` evaluated texts share with the training text: a formula rather than a copy."""

    text: str
    documents: int


class AuditSetting(Record):
    """What was audited, how, and how fast (``audit.json``)."""

    training: str
    evaluated: tuple[str, ...]
    training_documents: int
    training_bytes: int
    ngram: int
    unit: str
    longest_allowed: int
    seed: int
    seconds: float
    repeated: tuple[RepeatedPassage, ...]
