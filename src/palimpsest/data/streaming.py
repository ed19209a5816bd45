"""A text of any length as tokens, in memory that does not grow with it.

The text is read and decoded in pieces and tokenised up to a place that no token can reach across, so that the tokens
are those of the whole text. Tokenizers split a text into words before they merge the letters of each word, so such a
place is where a word is sure to end whatever stands before and after:

- before white space that follows something else, if words end there by the tokenizer's own rule (GPT-2's, or any that
  splits at white space);
- before a space that follows something that is no white space, if line breaks may stick to what stands before them (the
  rules of Llama 3 and Qwen 2), or if a word at the beginning of a text is given a space that it does not have.

What a tokenizer does is read from its own description. One that says nothing of the kind (it splits in an unknown way
or not at all, erases characters, or is written in Python) is given the whole text at once. In any case no more than
``LONGEST`` characters are held; more without a place to cut are refused.
"""

import codecs
import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from palimpsest.data.tokenizer import document_encoder
from palimpsest.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

PIECE_BYTES = 16 * 1024
LONGEST = 2**20
"""Characters that are held at most until there is a place to cut."""
STANDARD_INPUT = Path("-")
BYTE_ORDER_MARK = "\ufeff"

BEFORE_WHITE_SPACE = re.compile(r"(?<=\S)(?=[ \t\r\n])")
BEFORE_A_SPACE = re.compile(r"(?<=\S)(?= )")
UNSAFE_TOKEN = re.compile(r"\S[ \t\r\n]")

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
PATTERNS = (LLAMA_3, QWEN_2)
"""Rules of which no alternative matches a space after anything but white space, or looks back."""
WHITE_SPACE_SPLITTERS = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
CHARACTER_SPLITTERS = ("Digits", "Punctuation")
"""Pre-tokenizers that look at one character at a time, and so do the same on both sides of a cut."""
LOCAL_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase")
"""Normalizers that erase nothing, and for which what stands before white space ends there: no accent reaches back."""


class TextReader:
    """A UTF-8 text, decoded piece by piece; to be iterated over once.

    A byte-order mark at the beginning is left out; line ends stay as they are.

    Attributes:
        bytes: how many bytes have been read so far.
    """

    def __init__(self, stream: BinaryIO, name: str, piece_bytes: int = PIECE_BYTES) -> None:
        self.bytes = 0
        self._stream = stream
        self._name = name
        self._piece_bytes = piece_bytes
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes read so far."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[str]:
        """Yield the text in pieces that are not empty.

        Raises:
            InputError: a byte is not UTF-8, or zero, or the file cannot be read; bytes are counted from 0 in all of it.
        """
        undecoded, begin = b"", 0
        while True:
            block = self._read()
            data = undecoded + block
            text, used = self._decode(data, begin, final=not block)
            if begin == 0:
                text = text.removeprefix(BYTE_ORDER_MARK)
            if text:
                yield text
            if not block:
                return
            undecoded, begin = data[used:], begin + used

    def _read(self) -> bytes:
        try:
            block = self._stream.read(self._piece_bytes)
        except OSError as error:
            raise InputError(f"{self._name}: cannot be read ({error.strerror}).") from error
        self.bytes += len(block)
        self._digest.update(block)
        return block

    def _decode(self, data: bytes, begin: int, *, final: bool) -> tuple[str, int]:
        """Return the text of all whole characters of ``data``, and how many bytes they are."""
        zero = data.find(b"\0")
        if zero >= 0:
            raise InputError(f"{self._name} is not text: there is a NUL byte at offset {begin + zero}.")
        try:
            return codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self._name} is not UTF-8 text: there is a byte 0x{data[error.start]:02x} at offset "
                f"{begin + error.start}."
            ) from error


@contextlib.contextmanager
def open_text(path: Path, piece_bytes: int = PIECE_BYTES) -> Iterator[TextReader]:
    """Open a text file, or standard input for ``-``.

    Raises:
        InputError: it cannot be opened.
    """
    if path == STANDARD_INPUT:
        yield TextReader(sys.stdin.buffer, "The standard input", piece_bytes)
        return
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
        yield TextReader(stream, str(path), piece_bytes)


def stream_tokens(
    tokenizer: "PreTrainedTokenizerBase", pieces: Iterable[str], *, longest: int = LONGEST
) -> Iterator[list[int]]:
    """Tokenise a text that comes in pieces: the lists, joined, are what ``document_encoder`` gives for all of it.

    Args:
        tokenizer: the tokenizer.
        pieces: the text, cut anywhere.
        longest: characters that may be held.

    Raises:
        InputError: so many characters came without a place to cut.
    """
    encode, cut = document_encoder(tokenizer), cut_pattern(tokenizer)
    held = ""
    for piece in pieces:
        searched = len(held)
        held += piece
        place = _last_cut(cut, held, searched) if cut is not None else 0
        if place:
            yield from filter(None, encode([held[:place]]))
            held = held[place:]
        if len(held) > longest:
            raise _no_cut(tokenizer, cut, longest)
    if held:
        yield from filter(None, encode([held]))


def _last_cut(cut: re.Pattern[str], text: str, begin: int) -> int:
    """Return the last place at or after ``begin`` where a text can be cut; 0 if there is none."""
    place = 0
    for match in cut.finditer(text, begin):
        place = match.start()
    return place


def _no_cut(tokenizer: "PreTrainedTokenizerBase", cut: re.Pattern[str] | None, longest: int) -> InputError:
    name = tokenizer.name_or_path
    if cut is None:
        return InputError(
            f"The text has more than {longest:,} characters, which the tokenizer '{name}' would have to be given at "
            "once, because it does not say that it splits texts at white space; give a shorter text."
        )
    return InputError(
        f"The text has more than {longest:,} characters without a space between words, and no tokenizer can be given a "
        "part of a word; break it up."
    )


def cut_pattern(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str] | None:
    """Return what matches, with no width, where a text can be cut and give the same tokens; None if nothing does."""
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    backend = tokenizer.backend_tokenizer
    if any(member["type"] not in LOCAL_NORMALIZERS for member in _members(backend.normalizer, "normalizers")):
        return None
    return None if _has_unsafe_token(backend) else _cut_of_splitters(_members(backend.pre_tokenizer, "pretokenizers"))


def _cut_of_splitters(splitters: list[dict[str, Any]]) -> re.Pattern[str] | None:
    """Return where the first of these that splits at white space does so; those behind it see one word at a time."""
    for place, splitter in enumerate(splitters):
        kind = splitter["type"]
        if kind in CHARACTER_SPLITTERS:
            continue
        if any(behind["type"] == "Metaspace" for behind in splitters[place + 1 :]):
            return None  # it looks at where in the text a word stands
        if kind in WHITE_SPACE_SPLITTERS:
            return BEFORE_WHITE_SPACE
        if kind == "ByteLevel" and splitter["use_regex"]:
            return BEFORE_A_SPACE if splitter["add_prefix_space"] else BEFORE_WHITE_SPACE
        if kind == "Split" and splitter["pattern"].get("Regex") in PATTERNS:
            return BEFORE_A_SPACE
        return None
    return None


def _has_unsafe_token(backend: "Tokenizer") -> bool:
    """Tell whether a token that is looked for before words are can reach across a cut."""
    added = backend.get_added_tokens_decoder().values()
    return any(not token.special and (token.rstrip or UNSAFE_TOKEN.search(token.content)) for token in added)


def _members(part: object, key: str) -> list[dict[str, Any]]:
    """Return the description of a normalizer or pre-tokenizer, member by member if it is a sequence."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())  # pyright: ignore[reportArgumentType] (JSON, as in tokenizer.json)
    members = state[key] if state["type"] == "Sequence" else [state]
    return [flat for member in members for flat in _flat(member, key)]


def _flat(member: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [flat for inner in member[key] for flat in _flat(inner, key)] if member["type"] == "Sequence" else [member]
