"""Tokenizers: any Hugging Face tokenizer, or a byte-level BPE trained on the corpus."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from palimpsest.data.corpus import Document, unit_hash
from palimpsest.data.hub import REPOSITORY_NAME, resolve_revision
from palimpsest.errors import InputError
from palimpsest.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"
SMALLEST_VOCABULARY = 258  # 256 bytes and two special tokens
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "*.model", "*_tokens*.json")


class TokenizerSpec(Record):
    """Either an existing tokenizer (``path``), or a byte-level BPE to be trained (``vocab_size``).

    ``path`` is a directory, or the name of a model on the Hugging Face hub. The BPE learns from the training
    documents whose hash with ``sample_seed`` falls below ``sample_fraction``, up to ``sample_characters``.
    """

    path: str | None = Field(default=None, min_length=1)
    vocab_size: int | None = Field(default=None, ge=SMALLEST_VOCABULARY)
    sample_characters: int = Field(default=30_000_000, ge=1)
    sample_fraction: float = Field(default=1.0, gt=0, le=1)
    sample_seed: int = 0

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.path is None) == (self.vocab_size is None):
            raise ValueError("give either path (an existing tokenizer) or vocab_size (one to be trained)")
        return self


def sample_texts(documents: Iterable[Document], spec: TokenizerSpec) -> Iterator[str]:
    """Yield the texts a tokenizer is trained on: a seeded choice of documents, of bounded size in all.

    Raises:
        InputError: no document was chosen.
    """
    remaining = spec.sample_characters
    for document in documents:
        if unit_hash(document.id, salt=f"tokenizer {spec.sample_seed}") < spec.sample_fraction:
            yield document.text[:remaining]
            remaining -= len(document.text)
            if remaining <= 0:
                return
    if remaining == spec.sample_characters:
        raise InputError(
            "There is no document to train the tokenizer on: give more documents, raise the tokenizer's "
            "sample_fraction, or lower the corpus' heldout_fraction."
        )


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE whose digits are single tokens and which gives back any text unchanged.

    Args:
        texts: the text to learn the merges from.
        vocab_size: tokens in all, of which 256 are bytes and two special (end of text: 0, padding: 1). A text
            too small for so many merges gives a smaller vocabulary.

    Source: Sennrich et al. 2016 (BPE); Radford et al. 2019 (bytes as alphabet); digits apart as in LLaMA.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(path: str | Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer from a directory, from the hub's local cache, or from the hub, in this order.

    A tokenizer that has the token ``<|endoftext|>`` but names no end-of-text token is given that one.

    Raises:
        InputError: nothing of that name, no tokenizer in it, the hub out of reach, or no end-of-text token.
    """
    from transformers import AutoTokenizer

    name = str(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # damaged files surface as whatever the parsers stumble on
        if Path(name).exists():
            raise InputError(f"'{name}' holds no tokenizer that transformers can load.") from error
        if not REPOSITORY_NAME.fullmatch(name):
            raise InputError(
                f"The tokenizer '{name}' does not exist: give a directory or a name on the hub."
            ) from error
        resolve_revision(name, "model", None, "give a directory that holds a tokenizer.json")
        tokenizer = _load_from_hub(name)
    if tokenizer.eos_token_id is None and END_OF_TEXT in tokenizer.get_vocab():
        tokenizer.eos_token = END_OF_TEXT
    end_of_text_number(tokenizer)
    return tokenizer


def _load_from_hub(name: str) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"The hub's repository '{name}' gives no tokenizer that transformers can load: {reason}"
        ) from error


def tokenizer_signature(path: str) -> str | None:
    """Return a digest of the tokenizer files of a directory; None for a name on the hub."""
    directory = Path(path)
    if not directory.is_dir():
        return None
    found = {file.name: file for pattern in TOKENIZER_FILES for file in directory.glob(pattern) if file.is_file()}
    listing = [(name, hashlib.sha256(found[name].read_bytes()).hexdigest()) for name in sorted(found)]
    return "tokenizer " + hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def vocabulary_size(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the number of rows an embedding needs: the largest token number plus one."""
    return max(tokenizer.get_vocab().values()) + 1


def end_of_text_number(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token that closes every document.

    Raises:
        InputError: the tokenizer names none.
    """
    number = tokenizer.eos_token_id
    if not isinstance(number, int):
        raise InputError(
            f"The tokenizer '{tokenizer.name_or_path}' has no end-of-text token: set eos_token in its "
            "tokenizer_config.json."
        )
    return number


def document_encoder(tokenizer: "PreTrainedTokenizerBase") -> Callable[[Sequence[str]], list[list[int]]]:
    """Return a function from texts to token numbers, without special tokens, truncation or padding.

    What looks like a special token inside a document is encoded as the characters it is made of, so that no
    text can forge a document boundary.
    """
    return encoder_of(encoding_part(tokenizer))


def encoding_part(tokenizer: "PreTrainedTokenizerBase") -> "str | PreTrainedTokenizerBase":
    """Return what :func:`encoder_of` needs, and another process can be sent.

    That is the description of a tokenizer of the library ``tokenizers``, for which that process does without
    transformers, or else the tokenizer itself.
    """
    from transformers import PreTrainedTokenizerFast

    return tokenizer.backend_tokenizer.to_str() if isinstance(tokenizer, PreTrainedTokenizerFast) else tokenizer


def encoder_of(part: "str | PreTrainedTokenizerBase") -> Callable[[Sequence[str]], list[list[int]]]:
    """Return the document encoder of a tokenizer, of which ``part`` is the :func:`encoding_part`."""
    if not isinstance(part, str):

        def encode_in_python(texts: Sequence[str]) -> list[list[int]]:
            encoded = part(
                list(texts), add_special_tokens=False, split_special_tokens=True, return_attention_mask=False
            )
            return encoded["input_ids"]  # type: ignore[return-value]

        return encode_in_python

    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(part)
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()

    def encode(texts: Sequence[str]) -> list[list[int]]:
        encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    return encode


def require_single_digits(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Check that in all numbers of three digits, within a sentence or at its end, every digit is one token.

    Raises:
        InputError: some number is split otherwise, with an example.
    """
    numbers = [f"{number:03d}" for number in range(1000)]
    encode = document_encoder(tokenizer)
    encoded = encode([f"The pass key is {number}. Remember it: {number}" for number in numbers])
    for number, ids in zip(numbers, encoded, strict=True):
        pieces = [token for token in tokenizer.convert_ids_to_tokens(ids) if re.search("[0-9]", token)]
        if pieces != list(number * 2):
            found = pieces[: len(pieces) // 2]
            raise InputError(
                f"The tokenizer '{tokenizer.name_or_path}' encodes {number} as {found}, not as one token "
                "for each digit; choose another, or have one trained (tokenizer: {vocab_size: 1024})."
            )
