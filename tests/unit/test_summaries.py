"""Scores of summaries against cases worked by hand, and against each other."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from palimpsest.errors import InputError
from palimpsest.study.embeddings import load_encoder
from palimpsest.tasks.stories import Fact, StorySpec, facts_of, write_story
from palimpsest.tasks.summaries import (
    embedding_score,
    lead,
    random_sentences,
    rouge,
    score_facts,
    sentences_of,
    tail,
)

GOLD = (Fact("Ada", "room", "attic"), Fact("clock", "outcome", "broken by Ben"), Fact("clock", "place", "Ada"))


def story(index: int):
    return write_story(StorySpec(), split="evaluation", seed=0, index=index, words=500)


def test_facts_by_hand():
    said = "In the end Ada was in the cellar. The clock was broken by Ben. Clara went to the hall."
    score = score_facts(GOLD, said, facts_of)
    assert score.recall == pytest.approx(1 / 3)
    assert score.precision == pytest.approx(1 / 3)
    assert score.contradictions == 1  # Ada's room; Clara is no part of the table
    assert score.salient_recall == pytest.approx(3 / (1 + 3 + 2))
    assert score.recalled == (False, True, False)


def test_an_empty_summary_has_no_precision():
    assert score_facts(GOLD, "", facts_of) == (0.0, None, 0, 0.0, (False, False, False))


@given(st.integers(0, 2**31))
def test_the_gold_summary_is_the_ceiling_and_another_story_is_not(index):
    made, other = story(index), story(index + 1)
    score = score_facts(made.facts, made.summary, facts_of)
    assert score == (1.0, 1.0, 0, 1.0, (True,) * len(made.facts))
    assert score_facts(made.facts, made.text, facts_of) == score
    assert score_facts(made.facts, other.summary, facts_of).recall < 1


def test_the_end_of_a_story_says_more_of_its_facts_than_its_beginning():
    made = [story(index) for index in range(40)]
    recall = {
        name: np.mean([score_facts(s.facts, cut(s.text, 25), facts_of).recall for s in made])
        for name, cut in (("lead", lead), ("tail", tail))
    }
    assert recall["tail"] > recall["lead"] > 0


@pytest.mark.parametrize("gold", [(), (GOLD[0], Fact("Ada", "room", "hall"))])
def test_a_table_that_decides_nothing_is_refused(gold):
    with pytest.raises(InputError, match="table of gold facts"):
        score_facts(gold, "", facts_of)


TEXT = "One came first. Was two next? Three it was! The 4.5th is last."


def test_extractive_baselines():
    assert sentences_of(TEXT) == ["One came first.", "Was two next?", "Three it was!", "The 4.5th is last."]
    assert lead(TEXT, 2) == "One came first. Was two next?"
    assert tail(TEXT, 1) == "The 4.5th is last."
    assert tail(TEXT, 9) == lead(TEXT, 9) == random_sentences(TEXT, 9, seed=0) == TEXT
    drawn = [random_sentences(TEXT, 2, seed=seed) for seed in range(30)]
    assert len(set(drawn)) == 6  # of all pairs
    assert all(sentences_of(two) == sorted(sentences_of(two), key=TEXT.index) for two in drawn)
    with pytest.raises(InputError, match="at least one sentence"):
        lead(TEXT, 0)


def test_rouge_by_hand():
    pytest.importorskip("rouge_score")
    score = rouge("the cats sat on the mat", "a cat sat on mats")
    one, two, longest = 2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6), 2 * (2 / 4) * (2 / 5) / (2 / 4 + 2 / 5), 8 / 11
    assert score[:3] == pytest.approx((one, two, longest))  # cats and cat, mats and mat are one stem each
    assert score.geometric_mean == pytest.approx(math.exp(np.log([one, two, longest]).mean()))
    assert rouge("some words", "some words") == (1, 1, 1, 1)
    assert rouge("some words", "others") == (0, 0, 0, 0)
    assert rouge("some words", "") == (0, 0, 0, 0)


def test_without_its_package_rouge_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(InputError, match="rouge-score"):
        rouge("a", "b")


def test_embedding_score_is_a_cosine():
    vectors = {"a": [1.0, 0.0], "b": [3.0, 4.0], "none": [0.0, 0.0], "bad": [math.nan, 0.0]}

    def encoder(texts):
        return np.array([vectors[text] for text in texts])

    assert embedding_score("a", "b", encoder) == pytest.approx(0.6)
    assert embedding_score("b", "b", encoder) == pytest.approx(1.0)
    assert embedding_score("a", "none", encoder) == 0.0
    with pytest.raises(InputError, match="finite numbers"):
        embedding_score("a", "bad", encoder)
    with pytest.raises(InputError, match="shape"):
        embedding_score("a", "b", lambda texts: np.zeros(2))


@pytest.fixture
def encoder_directory(tmp_path):
    words = {
        word: number for number, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "?", *(f"w{i}" for i in range(40))])
    }
    backend = Tokenizer(models.WordLevel(words, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]").save_pretrained(tmp_path)
    with torch.random.fork_rng():
        config = BertConfig(
            vocab_size=44,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=12,
        )
        BertModel(config).save_pretrained(tmp_path)
    return tmp_path


def test_the_encoder_pools_all_tokens_of_all_windows(encoder_directory):
    encode = load_encoder(encoder_directory)
    model = BertModel.from_pretrained(encoder_directory).eval()
    long = [*range(4, 14), *range(20, 27)]  # ten tokens fit into a window beside [CLS] and [SEP]
    with torch.inference_mode():
        windows = [torch.tensor([[1, *part, 2]]) for part in (long[:10], long[10:])]
        states = torch.cat([model(input_ids=ids).last_hidden_state[0] for ids in windows]).double()
        short = model(input_ids=torch.tensor([[1, 9, 2]])).last_hidden_state[0].double()
    expected = torch.nn.functional.normalize(torch.stack([states.mean(0), short.mean(0)]), dim=1).numpy()
    texts = [" ".join(f"w{i - 4}" for i in ids) for ids in (long, [9])]
    found = encode(texts)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(encode(texts * 20), np.tile(expected, (20, 1)), atol=1e-6)
    assert embedding_score(texts[0], texts[1], encode) == pytest.approx(float(expected[0] @ expected[1]), abs=1e-6)


def test_a_directory_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no directory"):
        load_encoder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no sentence encoder"):
        load_encoder(tmp_path)
