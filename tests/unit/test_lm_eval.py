"""lm-evaluation-harness on our models: the harness's own Hugging Face path, and the definition, item by item."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama_case import SIZES

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from palimpsest.data.tokenizer import train_tokenizer
from palimpsest.errors import InputError
from palimpsest.models import convert_llama
from palimpsest.study.lm_eval import model as module
from palimpsest.study.lm_eval.model import UNLIMITED, PalimpsestLM, checkpoint_of, state_is_bounded
from palimpsest.study.lm_eval.scoring import score_after, score_rows

SEGMENT = 16
MEMORY = {"memory": {"kind": "linear"}, "gate": {"init": 0.3}, "segment_length": SEGMENT}
FULL = {"pattern": "full", "segment_length": SEGMENT}
SENTENCE = "the cat sat on a mat while one bird sang of rivers stones and old winters under green hills"
WORDS = SENTENCE.split()


def text(seed: int, words: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words).tolist())


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([text(0, 2000)], 400)


def llama(vocabulary: int) -> LlamaForCausalLM:
    sizes = SIZES | {"vocab_size": vocabulary, "max_position_embeddings": 512}
    sizes |= {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.dim() == 1 else 0.2, generator=generator)
    return model


@pytest.fixture(scope="module")
def original(tokenizer):
    return llama(len(tokenizer))


def ours(original, tokenizer, block, **settings) -> PalimpsestLM:
    return PalimpsestLM(convert_llama(original, block), tokenizer, **settings)


def scored(*pairs) -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, 0, ("task", number, 1)) for number, pair in enumerate(pairs)]


def whole(*texts) -> list[Instance]:
    return [Instance("loglikelihood_rolling", {}, (each,), 0, ("task", number, 1)) for number, each in enumerate(texts)]


def continued(*contexts, tokens=8, **settings) -> list[Instance]:
    settings = {"until": [], "do_sample": False, "max_gen_toks": tokens} | settings
    return [
        Instance("generate_until", {}, (context, dict(settings)), 0, ("task", number, 1))
        for number, context in enumerate(contexts)
    ]


PAIRS = [
    (text(seed, 3 + 5 * (seed % 7)), " " + text(100 + choice, 1 + choice)) for seed in range(7) for choice in range(4)
]
PAIRS += [("", text(7, 4)), ("ends in a space ", "mat and stones")]


def close(found, expected, at=1e-4) -> None:
    assert len(found) == len(expected)
    for (logprob, greedy), (wanted, wanted_greedy) in zip(found, expected, strict=True):
        assert logprob == pytest.approx(wanted, abs=at)
        assert greedy == wanted_greedy


def test_full_attention_gives_what_the_harness_gives_for_the_llama(original, tokenizer):
    """Log-likelihoods, greediness, rolling log-likelihoods and texts, one by one."""
    theirs = HFLM(pretrained=original, tokenizer=tokenizer, batch_size=3, backend="causal")
    mine = ours(original, tokenizer, FULL, batch_size=5, chunk_tokens=32)
    close(mine.loglikelihood(scored(*PAIRS), True), theirs.loglikelihood(scored(*PAIRS), True))
    documents = [text(seed, 10 + 15 * seed) for seed in range(4)]
    assert mine.loglikelihood_rolling(whole(*documents)) == pytest.approx(
        theirs.loglikelihood_rolling(whole(*documents)), abs=1e-3
    )
    contexts = [text(seed, 2 + 9 * seed) for seed in range(5)]
    assert mine.generate_until(continued(*contexts), True) == theirs.generate_until(continued(*contexts), True)


def test_a_segment_that_holds_the_item_makes_a_memory_model_the_llama(original, tokenizer):
    theirs = HFLM(pretrained=original, tokenizer=tokenizer, batch_size=1, backend="causal")
    mine = ours(original, tokenizer, {"pattern": "segment_local", "segment_length": 256}, batch_size=4)
    close(mine.loglikelihood(scored(*PAIRS), True), theirs.loglikelihood(scored(*PAIRS), True))


@pytest.mark.parametrize("block", [MEMORY, FULL], ids=["memory", "full"])
def test_batches_give_what_single_items_give(original, tokenizer, block):
    """Also the left padding of generation, which moves nothing into another segment."""
    one, four = (ours(original, tokenizer, block, batch_size=size, chunk_tokens=SEGMENT) for size in (1, 4))
    close(four.loglikelihood(scored(*PAIRS), True), one.loglikelihood(scored(*PAIRS), True), 1e-5)
    contexts = [text(seed, 1 + 7 * seed) for seed in range(8)]
    assert four.generate_until(continued(*contexts), True) == one.generate_until(continued(*contexts), True)
    assert len(set(one.generate_until(continued(*contexts), True))) > 1


@pytest.mark.parametrize("chunk", [1, SEGMENT, 3 * SEGMENT, 1000])
def test_chunks_change_nothing(original, tokenizer, chunk):
    """One pass over everything is the definition: of choices, of whole texts, of contexts that are read once."""
    model = convert_llama(original, MEMORY)
    rng = np.random.default_rng(0)
    context = rng.integers(2, 300, 70).tolist()
    choices = [rng.integers(2, 300, count).tolist() for count in (1, 5, 40)]
    expected = []
    for choice in choices:
        ids = torch.tensor([context + choice])
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0, len(context) - 1 : -1].double()
        logprobs = logits.log_softmax(-1).gather(1, ids[0, len(context) :, None])
        expected.append((float(logprobs.sum()), logits.argmax(-1).tolist() == choice))
    close(score_after(model, context, choices, batch=2, chunk_tokens=chunk), expected)
    close(score_rows(model, [context + c for c in choices], list(map(len, choices)), chunk_tokens=chunk), expected)


def test_the_likeliest_continuation_is_greedy_and_another_is_not(original):
    model = convert_llama(original, MEMORY)
    row = list(range(2, 60))
    for _ in range(3):
        with torch.no_grad():
            row.append(int(model(torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
    others = [[*row[:-1], row[-1] - 1], [*row[:-3], row[-3] - 1, *row[-2:]]]
    found = score_rows(model, [row, *others], [3, 3, 3], chunk_tokens=SEGMENT)
    assert [each.greedy for each in found] == [True, False, False]


def test_a_long_context_is_read_in_chunks_and_once_for_all_its_choices(original, tokenizer, monkeypatch):
    mine = ours(original, tokenizer, MEMORY, batch_size=4, chunk_tokens=2 * SEGMENT)
    context = text(1, 200)
    widths = []
    monkeypatch.setattr(
        mine.model.model,
        "forward",
        lambda *a, f=mine.model.model.forward, **k: widths.append(k["input_ids"].shape) or f(*a, **k),
    )
    mine.loglikelihood(scored(*((context, f" {word}") for word in WORDS[:4])), True)
    tokens = len(tokenizer(context)["input_ids"])
    assert max(width for _, width in widths) <= 2 * SEGMENT
    assert sum(width for rows, width in widths if rows == 1) == tokens - 1
    widths.clear()
    mine.generate_until(continued(context, tokens=4), True)
    assert max(width for _, width in widths) <= 2 * SEGMENT
    assert sum(width for _, width in widths) == tokens + 3


def test_bounded_models_read_any_length_and_others_say_when_it_is_too_much(original, tokenizer):
    bounded = ours(original, tokenizer, MEMORY, chunk_tokens=64)
    assert state_is_bounded(bounded.model.config)
    assert bounded.max_length == UNLIMITED
    long = text(2, 900)
    assert len(tokenizer(long)["input_ids"]) > 600
    assert math.isfinite(bounded.loglikelihood(scored((long, " cat")), True)[0][0])
    full = ours(original, tokenizer, FULL)
    assert full.max_length == 512
    for ask in (
        lambda: full.loglikelihood(scored((long, " cat")), True),
        lambda: full.generate_until(continued(long), True),
    ):
        with pytest.raises(InputError, match=r"more than max_length 512, and nothing is cut off"):
            ask()
    assert math.isfinite(full.loglikelihood_rolling(whole(long))[0])  # in windows, as the harness does
    longer = ours(original, tokenizer, FULL, max_length=2000)
    assert math.isfinite(longer.loglikelihood(scored((long, " cat")), True)[0][0])


def test_the_limit_is_exact(original, tokenizer):
    context = text(5, 30)
    tokens = len(tokenizer(context)["input_ids"])
    at = ours(original, tokenizer, FULL, max_length=tokens + 8)
    assert at.generate_until(continued(context), True)
    with pytest.raises(InputError):
        at.generate_until(continued(context, tokens=9), True)


def broken(lm: PalimpsestLM, tokenizer, word: str) -> None:
    """Make everything after a word not a number."""
    (token,) = tokenizer.encode(f" {word}", add_special_tokens=False)
    with torch.no_grad():
        lm.model.model.embed_tokens.weight[token] = torch.nan


def test_logits_that_are_not_numbers_are_failures_with_a_name(original, tokenizer, caplog):
    mine = ours(original, tokenizer, MEMORY, batch_size=4)
    whole_model = ours(original, tokenizer, MEMORY, batch_size=4)
    broken(mine, tokenizer, "bird")
    pairs = [("the cat sat", " on a mat"), ("the bird sat", " on a mat"), ("a mat", " while")]
    found = mine.loglikelihood(scored(*pairs), True)
    close([found[0], found[2]], [whole_model.loglikelihood(scored(*pairs), True)[place] for place in (0, 2)])
    assert found[1] == (-math.inf, False)
    assert mine.nan_items == ["task:1"]
    assert "task:1" in caplog.text
    said = mine.generate_until(continued("the cat sat on", "one bird sang", "a mat under green hills"), True)
    fine = whole_model.generate_until(continued("the cat sat on", "one bird sang", "a mat under green hills"), True)
    assert said == [fine[0], "", fine[2]]
    assert mine.loglikelihood_rolling(whole("the bird sang", "the cat sat"))[0] == -math.inf
    assert mine.get_model_info()["nan_items"] == ["task:1", "task:0"]
    assert whole_model.get_model_info()["nan_items"] == []


def test_drawing_goes_on_beside_a_row_that_is_broken(original, tokenizer):
    mine = ours(original, tokenizer, MEMORY, batch_size=2)
    broken(mine, tokenizer, "bird")
    requests = continued("one bird sang", "the cat sat on", do_sample=True, temperature=1.0)
    with torch.random.fork_rng(devices=[]):
        said = mine.generate_until(requests, True)
    assert said[0] == ""
    assert mine.nan_items == ["task:0"]


def test_stop_sequences_end_a_text(original, tokenizer):
    mine = ours(original, tokenizer, MEMORY)
    (said,) = mine.generate_until(continued(text(4, 12), tokens=20), True)
    stop = said[len(said) // 2]
    assert mine.generate_until(continued(text(4, 12), tokens=20, until=[stop]), True) == [said[: said.index(stop)]]


def test_a_checkpoint_is_loaded_by_path(original, tokenizer, tmp_path):
    convert_llama(original, MEMORY).save_pretrained(tmp_path / "ours")
    tokenizer.save_pretrained(tmp_path / "ours")
    original.save_pretrained(tmp_path / "llama")
    loaded = PalimpsestLM(str(tmp_path / "ours"), device="cpu")
    close(
        loaded.loglikelihood(scored(*PAIRS[:5]), True),
        ours(original, tokenizer, MEMORY).loglikelihood(scored(*PAIRS[:5]), True),
    )
    info = loaded.get_model_info()
    assert len(info["model_sha"]) == 64
    assert info["attention"]["segment_length"] == SEGMENT
    json.dumps(info)
    with pytest.raises(InputError, match="is a model of type 'llama', not 'palimpsest'; run it with --model hf"):
        PalimpsestLM(str(tmp_path / "llama"), device="cpu")
    with pytest.raises(InputError, match=r"no checkpoint: there is no config\.json"):
        checkpoint_of(str(tmp_path))


@pytest.mark.parametrize("size", ["auto", "auto:4", 0, "x"])
def test_a_batch_size_must_be_a_number(size):
    with pytest.raises(InputError, match="batch_size is a number of rows"):
        PalimpsestLM("anywhere", batch_size=size)


def test_a_continuation_without_a_token_is_refused(original, tokenizer):
    with pytest.raises(InputError, match="adds no token"):
        ours(original, tokenizer, MEMORY).loglikelihood(scored(("the cat", "")), True)


def test_the_harness_finds_the_model_by_its_name():
    from lm_eval.api.registry import get_model

    assert get_model("palimpsest") is PalimpsestLM
    assert module.PalimpsestLM is PalimpsestLM


def test_groups_hold_every_request_once(original, tokenizer):
    mine = ours(original, tokenizer, MEMORY)
    asked = [module.Request(None, [5] * length, [6]) for length in (3, 140, 140, 7, 150, 3, 140)]
    groups = list(mine._groups(asked, 2))
    assert sorted(itertools.chain(*groups)) == list(range(len(asked)))
    assert groups[0] == [1, 2, 6]
    assert [len(group) for group in groups[1:]] == [2, 2]
