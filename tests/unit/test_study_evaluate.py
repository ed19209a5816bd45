"""Asking a model: ranking and generation through the cache equal one plain forward pass over the whole text."""

import pytest
import torch

from palimpsest.models import PalimpsestCache, PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.study import evaluate
from palimpsest.study.evaluate import answer_greedily, rank_candidates

SEGMENT, PROMPT, ANSWER = 4, 13, 3


@pytest.fixture(params=["full", "segment_local", "memory"])
def model(request):
    config = PalimpsestConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention={"pattern": [request.param], "segment_length": SEGMENT, "memory": {"kind": "ridge"}},
    )
    model = PalimpsestForCausalLM(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.5)
    return model


@pytest.fixture
def prompts():
    return torch.randint(0, 11, (5, PROMPT), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def read(model, prompts):
    cache = PalimpsestCache(model.config)
    return model(prompts, past_key_values=cache).logits[:, -1:], cache


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 12, 1000])
def test_ranking_is_the_plain_log_likelihood_however_it_is_grouped(model, prompts, rows, monkeypatch):
    monkeypatch.setattr(evaluate, "RANKED_ROWS", rows)
    candidates = torch.randint(0, 11, (5, 7, ANSWER), generator=torch.Generator().manual_seed(2))
    logits, cache = read(model, prompts)
    got = rank_candidates(model, logits, cache, candidates)
    for item in range(5):
        for option in range(7):
            text = torch.cat([prompts[item], candidates[item, option]])[None]
            scores = model(text, use_cache=False).logits[0, -ANSWER - 1 : -1].float().log_softmax(-1)
            expected = scores.gather(1, candidates[item, option][:, None]).sum()
            torch.testing.assert_close(got[item, option], expected, atol=1e-5, rtol=0)
    assert cache.columns == PROMPT, "ranking must leave the past as it is"


@torch.no_grad()
def test_greedy_answers_are_the_likeliest_tokens_of_a_plain_forward_pass(model, prompts):
    logits, cache = read(model, prompts)
    answers = answer_greedily(model, logits, cache, ANSWER)
    text = prompts
    for place in range(ANSWER):
        likeliest = model(text, use_cache=False).logits[:, -1].argmax(-1)
        assert answers[:, place].tolist() == likeliest.tolist()
        text = torch.cat([text, likeliest[:, None]], 1)
