"""Needle prompts as one stream of tokens on disk, and what becomes of them in rows of a fixed length."""

import copy
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from palimpsest.data.needles import NeedleText
from palimpsest.data.tokenizer import end_of_text_number
from palimpsest.data.writer import HashedFile
from palimpsest.errors import InputError
from palimpsest.records import Record, write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

FORMAT = 1
MANIFEST, TOKENS, PLACES = "needles.json", "tokens.bin", "places.bin"
BATCH = 64


class NeedleManifest(Record):
    """What a tokenised set is made of (``needles.json``), written last: without it the rest does not count.

    Attributes:
        format: of the files.
        identity: digest of what the set is made from.
        prompts, tokens: how many there are.
        fingerprint: digest of the tokens and places.
    """

    format: Literal[1] = FORMAT
    identity: str
    prompts: int
    tokens: int
    fingerprint: str


@dataclass(frozen=True)
class NeedleTokens:
    """A tokenised set of prompts.

    Attributes:
        tokens: [tokens] int32, all prompts one after the other.
        places: [prompts, 4] int64, for every prompt its first token in the stream, the last token of the key's first
            mention, the first token of the answer, and the token after its last.
        fingerprint: identity of both.
    """

    tokens: NDArray[np.int32]
    places: NDArray[np.int64]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.places)

    @property
    def starts(self) -> NDArray[np.int64]:
        """[prompts] first token of every prompt."""
        return self.places[:, 0]

    @property
    def told(self) -> NDArray[np.int64]:
        """[prompts] last token of the first mention of the key."""
        return self.places[:, 1]

    @property
    def asked(self) -> NDArray[np.int64]:
        """[prompts] first token of the answer."""
        return self.places[:, 2]

    @property
    def ends(self) -> NDArray[np.int64]:
        """[prompts] token after the last of every prompt."""
        return self.places[:, 3]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return int((self.ends - self.starts).max())

    def apart(self, row_length: int) -> NDArray[np.bool_]:
        """Tell for which prompts key and answer are in different rows when the stream is cut every ``row_length``."""
        return self.told // row_length != self.asked // row_length

    def cut_off(self, row_length: int) -> NDArray[np.bool_]:
        """Tell which prompts lose their answer, or part of it, when each is cut after ``row_length`` tokens."""
        return self.ends - self.starts > row_length


def prepare_needles(
    directory: Path,
    identity: str,
    texts: Callable[[], Iterable[NeedleText]],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    end_of_text: bool,
) -> NeedleTokens:
    """Tokenise a set into a directory, or open what an earlier call with the same identity left there.

    Args:
        directory: a directory of its own.
        identity: digest of everything that ``texts`` and the tokenizer depend on.
        texts: the prompts; not called when they are there already.
        tokenizer: one of the fast kind, which knows the characters of its tokens.
        end_of_text: whether every prompt is closed by the end-of-text token.

    Raises:
        InputError: the tokenizer is not of the fast kind, or what ``texts`` raises.
    """
    manifest = _manifest(directory, identity)
    if manifest is None:
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
        manifest = _write(directory, identity, texts(), tokenizer, end_of_text=end_of_text)
    tokens = np.memmap(directory / TOKENS, dtype="<i4", mode="r")
    places = np.fromfile(directory / PLACES, dtype="<i8").reshape(-1, 4)
    return NeedleTokens(tokens, places, manifest.fingerprint)


def encode_needles(
    texts: Iterable[NeedleText], tokenizer: "PreTrainedTokenizerBase", *, end_of_text: bool
) -> Iterator[tuple[NDArray[np.int32], int, int]]:
    """Yield of every text its tokens, the last token of the key's first mention and the first token of the answer.

    Raises:
        InputError: the tokenizer is not of the fast kind.
    """
    backend = _backend(tokenizer)
    closing = [end_of_text_number(tokenizer)] if end_of_text else []
    rest = iter(texts)
    while batch := list(islice(rest, BATCH)):
        encodings = backend.encode_batch([each.text for each in batch], add_special_tokens=False)
        for each, encoding in zip(batch, encodings, strict=True):
            told, asked = encoding.char_to_token(each.told), encoding.char_to_token(each.asked)
            assert told is not None  # both characters are digits, which no tokenizer leaves out
            assert asked is not None
            yield np.array(encoding.ids + closing, dtype="<i4"), told, asked


def tokenizer_digest(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return a digest of how a tokenizer cuts texts.

    Raises:
        InputError: it is not of the fast kind.
    """
    return hashlib.sha256(_backend(tokenizer).to_str().encode()).hexdigest()


def _backend(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """Return a copy of the tokenizer itself, which takes what looks like a special token in a text for text."""
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(
            f"The tokenizer '{tokenizer.name_or_path}' does not know which characters its tokens stand for, so the "
            "answers of needle prompts cannot be found; take one with a tokenizer.json."
        )
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    return backend


def _manifest(directory: Path, identity: str) -> NeedleManifest | None:
    """Return the manifest of what is in a directory, if it is whole and of this identity."""
    try:
        manifest = NeedleManifest.model_validate_json((directory / MANIFEST).read_bytes())
        sizes = (directory / TOKENS).stat().st_size, (directory / PLACES).stat().st_size
    except (OSError, ValidationError):
        return None
    whole = sizes == (4 * manifest.tokens, 32 * manifest.prompts)
    return manifest if whole and manifest.identity == identity else None


def _write(
    directory: Path,
    identity: str,
    texts: Iterable[NeedleText],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    end_of_text: bool,
) -> NeedleManifest:
    tokens, places = HashedFile(directory / TOKENS), HashedFile(directory / PLACES)
    start = prompts = 0
    try:
        for ids, told, asked in encode_needles(texts, tokenizer, end_of_text=end_of_text):
            end = start + ids.size
            tokens.write(ids.tobytes())
            places.write(np.array([start, start + told, start + asked, end], dtype="<i8").tobytes())
            start, prompts = end, prompts + 1
        digests = f"{tokens.finish().sha256} {places.finish().sha256}"
    finally:
        tokens.close()
        places.close()
    fingerprint = hashlib.sha256(digests.encode()).hexdigest()
    manifest = NeedleManifest(identity=identity, prompts=prompts, tokens=start, fingerprint=fingerprint)
    write_json(directory / MANIFEST, manifest)
    return manifest
