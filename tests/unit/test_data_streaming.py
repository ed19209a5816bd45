"""A text that is tokenised in pieces has the tokens of the whole, however it is cut, and little of it is ever held."""

import hashlib
import io
import sys
import tracemalloc
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from palimpsest.data import train_tokenizer
from palimpsest.data.streaming import (
    BEFORE_A_SPACE,
    BEFORE_WHITE_SPACE,
    LLAMA_3,
    LOCAL_NORMALIZERS,
    QWEN_2,
    TextReader,
    cut_pattern,
    open_text,
    stream_tokens,
)
from palimpsest.data.tokenizer import document_encoder
from palimpsest.errors import InputError

CORPUS = ["The grass is green.\r\nThe sky isn't; it's blue!\n\n  Café — naïve  \t猫 🙂 0123456789.\n" * 3] * 5
P, N = pre_tokenizers, normalizers


def trained(pre_tokenizer, normalizer=None, added: tuple[AddedToken, ...] = ()) -> PreTrainedTokenizerFast:
    """Return a BPE with many merges, so that tokens reach as far as their words let them."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    if normalizer is not None:
        backend.normalizer = normalizer
    alphabet = P.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="e")


def split_then_bytes(pattern: str):
    return P.Sequence([P.Split(Regex(pattern), "isolated"), P.ByteLevel(add_prefix_space=False, use_regex=False)])


SAFE = {
    "ours": (lambda: train_tokenizer(CORPUS, 400), BEFORE_WHITE_SPACE),
    "gpt2": (lambda: trained(P.ByteLevel(add_prefix_space=False)), BEFORE_WHITE_SPACE),
    "prefix space": (lambda: trained(P.ByteLevel(add_prefix_space=True)), BEFORE_A_SPACE),
    "llama 3": (lambda: trained(split_then_bytes(LLAMA_3)), BEFORE_A_SPACE),
    "qwen 2": (lambda: trained(split_then_bytes(QWEN_2), N.NFC()), BEFORE_A_SPACE),
    "words": (lambda: trained(P.Sequence([P.Punctuation("contiguous"), P.WhitespaceSplit()])), BEFORE_WHITE_SPACE),
    "normalised": (
        lambda: trained(P.ByteLevel(add_prefix_space=False), N.Sequence([N.NFKC(), N.Lowercase()])),
        BEFORE_WHITE_SPACE,
    ),
    "runs of spaces": (
        lambda: trained(P.ByteLevel(add_prefix_space=False), added=tuple(AddedToken(" " * n) for n in (2, 3, 4))),
        BEFORE_WHITE_SPACE,
    ),
}
UNSAFE = {
    "not split": lambda: trained(P.ByteLevel(add_prefix_space=False, use_regex=False)),
    "another rule": lambda: trained(split_then_bytes(r"\w+\s|.")),
    "metaspace": lambda: trained(P.Metaspace()),
    "spaces are marked": lambda: trained(
        P.ByteLevel(add_prefix_space=False), N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
    ),
    "accents are erased": lambda: trained(P.ByteLevel(add_prefix_space=False), N.StripAccents()),
    "a token that eats spaces": lambda: trained(
        P.ByteLevel(add_prefix_space=False), added=(AddedToken("grass", rstrip=True),)
    ),
    "a token of two words": lambda: trained(P.ByteLevel(add_prefix_space=False), added=(AddedToken("sky is"),)),
    "in python": ByT5Tokenizer,
}

WHITE_SPACE = [" ", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u1680", "\x1c"]
WORDS = ["The", "grass", "sky is", "isn't", "'s", "12", "²5", "猫", "🙂", "é", "e\u0301", "\u0301", "Σ", "ﬁ", "\ufeff"]
PARTS = [*WHITE_SPACE, *WORDS, ".", "!\n", "▁", "<|endoftext|>"]
TEXTS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
    st.lists(st.sampled_from(PARTS), max_size=30).map("".join),
)


@pytest.fixture(scope="module")
def tokenizers() -> dict:
    made = {name: make for name, (make, _) in SAFE.items()} | UNSAFE
    return {name: make() for name, make in made.items()}


def read(content: bytes, size: int) -> Iterator[str]:
    return iter(TextReader(io.BytesIO(content), "book.txt", size))


@pytest.mark.parametrize("name", [*SAFE, *UNSAFE])
@given(text=TEXTS, size=st.integers(1, 9))
@example(text="", size=3)
@example(text="grass" * 50, size=7)
@example(text="!\n\n!", size=1)
@example(text="a \u0301 \n\nb", size=2)
def test_the_tokens_are_those_of_the_whole_text(tokenizers, name, text, size):
    tokenizer = tokenizers[name]
    pieces = list(stream_tokens(tokenizer, read(text.encode(), size)))
    assert all(pieces)
    assert [number for piece in pieces for number in piece] == document_encoder(tokenizer)(
        [text.removeprefix("\ufeff")]
    )[0]


@pytest.mark.parametrize("name", SAFE)
def test_a_text_with_words_is_cut_between_them(tokenizers, name):
    assert cut_pattern(tokenizers[name]) is SAFE[name][1]
    pieces = list(stream_tokens(tokenizers[name], read("".join(CORPUS).encode(), 16)))
    assert max(map(len, pieces)) < 64


@pytest.mark.parametrize("name", UNSAFE)
def test_a_tokenizer_that_could_reach_across_is_given_the_whole(tokenizers, name):
    assert cut_pattern(tokenizers[name]) is None
    assert len(list(stream_tokens(tokenizers[name], ["The grass is green. ", "The sky is blue."]))) == 1


def test_no_character_ends_in_white_space_that_it_is_not():
    """What the normalizers that count as local rest on: what stands before a cut stays something else."""
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if not character.isspace() and unicodedata.category(character) != "Cs":
            assert not character.lower()[-1].isspace()
            assert not any(unicodedata.normalize(form, character)[-1].isspace() for form in LOCAL_NORMALIZERS[:4])


def test_what_cannot_be_held_is_refused(tokenizers):
    text = ["x" * 60] * 2
    assert sum(map(len, stream_tokens(tokenizers["ours"], text, longest=120))) == 120
    with pytest.raises(InputError, match="more than 100 characters without a space between words"):
        list(stream_tokens(tokenizers["ours"], text, longest=100))
    with pytest.raises(InputError, match=r"more than 100 characters, which the tokenizer '.*' would have to be given"):
        list(stream_tokens(tokenizers["metaspace"], ["x y " * 30], longest=100))


def test_what_is_held_does_not_grow_with_the_text(tokenizers):
    line = "The grass is green; the sky is blue 17 times.\n"

    def peak(lines: int) -> int:
        pieces = (line for _ in range(lines))
        tracemalloc.start()
        try:
            for _ in stream_tokens(tokenizers["ours"], pieces):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(4000) < peak(40) + 4000  # a list of all tokens would be 500,000 bytes


# Bytes


@given(text=TEXTS, size=st.integers(1, 5))
def test_pieces_are_whole_characters_and_join_to_the_text(text, size):
    reader = TextReader(io.BytesIO(b"\xef\xbb\xbf" + text.encode()), "book.txt", size)
    pieces = list(reader)
    assert all(pieces)
    assert "".join(pieces) == text
    assert reader.bytes == 3 + len(text.encode())
    assert reader.sha256 == hashlib.sha256(b"\xef\xbb\xbf" + text.encode()).hexdigest()


@given(
    before=TEXTS, after=TEXTS, size=st.integers(1, 5), bad=st.sampled_from([b"\xff", b"\xc3 ", b"\xed\xa0\x80", b"\0"])
)
def test_a_byte_that_is_no_text_is_named_by_its_place_in_the_file(before, after, size, bad):
    place = len(before.encode())
    kind = "is not text: there is a NUL byte" if bad == b"\0" else f"is not UTF-8 text: there is a byte 0x{bad[0]:02x}"
    with pytest.raises(InputError, match=f"^book.txt {kind} at offset {place}\\.$"):
        list(read(before.encode() + bad + after.encode(), size))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_file_that_ends_within_a_character(size):
    with pytest.raises(InputError, match="a byte 0xf0 at offset 4"):
        list(read("naï🙂".encode()[:-1], size))


def test_what_cannot_be_opened(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=f"^{path}: cannot be read"), open_text(path):
            pass
