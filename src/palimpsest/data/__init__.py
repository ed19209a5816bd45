"""Documents, tokenizers, tokenised corpora and training samples; numpy only, no torch."""

from palimpsest.data.corpus import CorpusSpec, Document, is_heldout
from palimpsest.data.documents import documents
from palimpsest.data.prepare import prepare_corpus
from palimpsest.data.samples import IGNORED, Sample, TextSamples
from palimpsest.data.shards import PreparedCorpus, TokenSplit, open_corpus
from palimpsest.data.tokenizer import (
    END_OF_TEXT,
    PADDING,
    TokenizerSpec,
    load_tokenizer,
    require_single_digits,
    train_tokenizer,
)

__all__ = [
    "END_OF_TEXT",
    "IGNORED",
    "PADDING",
    "CorpusSpec",
    "Document",
    "PreparedCorpus",
    "Sample",
    "TextSamples",
    "TokenSplit",
    "TokenizerSpec",
    "documents",
    "is_heldout",
    "load_tokenizer",
    "open_corpus",
    "prepare_corpus",
    "require_single_digits",
    "train_tokenizer",
]
