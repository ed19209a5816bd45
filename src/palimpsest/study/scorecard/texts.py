"""The documents that models read and the words that they know: symbolic ones, or those of the corpus of the study."""

from collections.abc import Iterator, Mapping
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING

from palimpsest.data import open_corpus
from palimpsest.data.corpus import unit_hash
from palimpsest.errors import InputError
from palimpsest.study.preregistration import TEST_SEEDS
from palimpsest.study.scorecard.spec import DocumentsSpec, UsageSpec
from palimpsest.tasks.documents import TokenDocument, symbolic_documents
from palimpsest.training.tasks import symbolic_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CORPUS = "corpus"
"""The kind of the stage that prepares a corpus, and the folder in its directory that holds it."""


def corpus_of(inputs: Mapping[str, Path]) -> Path | None:
    """Return where the corpus lies that a stage is given, None if it is given none."""
    return inputs[CORPUS] / CORPUS if CORPUS in inputs else None


def tokenizer_of(inputs: Mapping[str, Path]) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of the corpus that a stage is given, else the symbolic one."""
    corpus = corpus_of(inputs)
    return symbolic_tokenizer() if corpus is None else open_corpus(corpus).tokenizer()


def documents_of(inputs: Mapping[str, Path], part: DocumentsSpec | UsageSpec) -> list[TokenDocument]:
    """Return documents of equal length: symbolic ones, or the beginnings of held-out documents of the corpus.

    The seed decides which documents of the corpus; those of test seeds are never those of design seeds.

    Raises:
        InputError: the corpus has too few that are long enough.
    """
    corpus = corpus_of(inputs)
    if corpus is None:
        return symbolic_documents(part.count, part.tokens, part.seed)
    test = part.seed >= TEST_SEEDS
    mine: Iterator[TokenDocument] = (
        (name, ids[: part.tokens])
        for name, ids in open_corpus(corpus).heldout_documents(part.tokens)
        if (unit_hash(name, "test") < 0.5) == test
    )
    found: list[TokenDocument] = nsmallest(
        part.count, mine, key=lambda document: unit_hash(document[0], f"documents {part.seed}")
    )
    if len(found) < part.count:
        half = "test" if test else "design"
        raise InputError(
            f"{part.count} held-out documents of {part.tokens} tokens are asked for, and the {half} half of the corpus "
            f"has {len(found)}; ask for fewer or shorter ones, or hold out a larger fraction."
        )
    return found
