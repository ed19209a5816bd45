import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from palimpsest.data import (
    END_OF_TEXT,
    PADDING,
    Document,
    TokenizerSpec,
    load_tokenizer,
    require_single_digits,
    train_tokenizer,
)
from palimpsest.data.tokenizer import document_encoder, sample_texts, vocabulary_size
from palimpsest.errors import InputError

TEXTS = [f"The pass key is {n * 7919}. Remember it; {n} is the pass key. Café — {n}\n" for n in range(300)]
UNICODE = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 280).save_pretrained(directory)
    return load_tokenizer(directory)


def word_tokenizer(words: list[str], **special: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate([*words, *special.values(), "?"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@given(
    text=st.one_of(
        UNICODE, st.lists(st.sampled_from([END_OF_TEXT, PADDING, " ", " .", " n't", "\n", "1", "a"])).map("".join)
    )
)
def test_any_text_comes_back_unchanged(tokenizer, text):
    ids = document_encoder(tokenizer)([text])[0]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & set(ids)


def test_the_trained_tokenizer_has_the_size_asked_for_and_its_special_tokens_first(tokenizer):
    assert len(tokenizer) == vocabulary_size(tokenizer) == 280
    assert len(train_tokenizer(TEXTS, 10_000)) < 400  # there is no more to merge
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (END_OF_TEXT, 0)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (PADDING, 1)
    assert tokenizer(END_OF_TEXT).input_ids == [0]


def test_training_is_deterministic():
    one, other = (train_tokenizer(iter(TEXTS), 280).backend_tokenizer.to_str() for _ in range(2))
    assert one == other


def test_digits_are_single_tokens(tokenizer):
    require_single_digits(tokenizer)
    tokens = tokenizer.tokenize("The pass key is 90541.")
    assert [token for token in tokens if token.isdigit()] == list("90541")


def test_merged_digits_are_refused_with_an_example():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    with pytest.raises(InputError, match=r"encodes \d{3} as \['.*'\], not as one token for each digit"):
        require_single_digits(PreTrainedTokenizerFast(tokenizer_object=backend))


def test_missing_digits_are_refused():
    with pytest.raises(InputError, match=r"encodes 000 as .*, not as one token for each digit"):
        require_single_digits(word_tokenizer(["the", "pass", "key"]))


def test_one_merged_number_among_all_is_found():
    words = ["The", "pass", "key", "is", "Remember", "it", ".", ":", "?", "274", *"0123456789"]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="?"))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in ("274|[0-9]", "\\s", "[.:]")]
    backend.pre_tokenizer = pre_tokenizers.Sequence(splits)
    with pytest.raises(InputError, match=r"encodes 274 as \['274'\]"):
        require_single_digits(PreTrainedTokenizerFast(tokenizer_object=backend))


def test_documents_are_encoded_without_additions_truncation_or_forged_boundaries(tokenizer):
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)]
    )
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    altered = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT)
    texts = ["one long sentence about a key", f"a{END_OF_TEXT}b", ""]
    assert document_encoder(altered)(texts) == document_encoder(tokenizer)(texts)
    assert all(0 not in ids for ids in document_encoder(altered)(texts))
    assert altered.backend_tokenizer.truncation is not None  # the caller's own tokenizer is left as it was


def test_a_tokenizer_written_in_python_encodes_documents_too():
    python = ByT5Tokenizer()
    encoded = document_encoder(python)(["hi 7", "a</s>b"])
    assert encoded[0] == [byte + 3 for byte in b"hi 7"]
    assert encoded[1] == [byte + 3 for byte in b"a</s>b"]
    require_single_digits(python)


def test_an_end_of_text_token_is_recognised_by_its_name_and_required(tmp_path):
    word_tokenizer(["a", END_OF_TEXT]).save_pretrained(tmp_path / "named")
    assert load_tokenizer(tmp_path / "named").eos_token == END_OF_TEXT
    word_tokenizer(["a"], eos_token="</s>").save_pretrained(tmp_path / "set")
    assert load_tokenizer(tmp_path / "set").eos_token == "</s>"
    word_tokenizer(["a"]).save_pretrained(tmp_path / "none")
    with pytest.raises(InputError, match="none' has no end-of-text token: set eos_token"):
        load_tokenizer(tmp_path / "none")


@pytest.mark.parametrize("content", ["{cut off", "{}", json.dumps({"version": "1.0"})])
def test_a_directory_without_a_usable_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="holds no tokenizer that transformers can load"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_is_nowhere_is_refused_quickly(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(InputError, match="hub is out of reach for the model 'nobody/nothing'"):
        load_tokenizer("nobody/nothing")
    with pytest.raises(InputError, match="does not exist"):
        load_tokenizer("/no/such/directory")
    assert time.monotonic() - began < 20


@given(
    st.lists(st.tuples(UNICODE, UNICODE.filter(bool)), min_size=1, max_size=20),
    st.integers(1, 200),
    st.integers(0, 5),
    st.randoms(),
)
def test_the_training_sample_is_bounded_and_seeded_by_document(pairs, characters, seed, random):
    found = [Document(*pair) for pair in pairs]
    everything = TokenizerSpec(vocab_size=300, sample_characters=characters)
    assert "".join(sample_texts(found, everything)) == "".join(d.text for d in found)[:characters]

    half = TokenizerSpec(vocab_size=300, sample_fraction=0.5, sample_seed=seed)
    shuffled = random.sample(found, len(found))
    try:
        chosen = sorted(sample_texts(found, half))
    except InputError:
        with pytest.raises(InputError, match="no document to train the tokenizer on"):
            list(sample_texts(shuffled, half))
    else:
        assert chosen == sorted(sample_texts(shuffled, half))


def test_the_sample_depends_on_its_seed_and_has_the_size_asked_for():
    found = [Document(str(n), "x") for n in range(4000)]
    sizes = []
    for seed in (0, 1):
        spec = TokenizerSpec(vocab_size=300, sample_fraction=0.25, sample_seed=seed)
        sizes.append(len(list(sample_texts(found, spec))))
        assert abs(sizes[-1] - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5
    assert sizes[0] != sizes[1]


def test_a_tokenizer_is_either_given_or_trained():
    with pytest.raises(ValidationError, match="either path"):
        TokenizerSpec()
    with pytest.raises(ValidationError, match="either path"):
        TokenizerSpec(path="gpt2", vocab_size=1024)
    with pytest.raises(ValidationError, match="258"):
        TokenizerSpec(vocab_size=257)
    with pytest.raises(ValidationError, match="extra_forbidden"):
        TokenizerSpec.model_validate({"vocabsize": 1024})
