"""Asking a model: ranking and generation through the cache equal one plain forward pass over the whole text."""

from dataclasses import replace

import pytest
import torch

from palimpsest.attention.kinds import exact_start
from palimpsest.models import PalimpsestCache
from palimpsest.study import evaluate
from palimpsest.study.evaluate import Subject, answer_greedily, evaluate_items, rank_candidates
from palimpsest.tasks import build_task, task_spec
from palimpsest.tasks.symbolic.vocabulary import names
from tiny_case import tiny_model

SEGMENT, PROMPT, ANSWER = 4, 13, 3


@pytest.fixture(params=["full", "segment_local", "memory"])
def model(request):
    attention = {"pattern": [request.param], "segment_length": SEGMENT, "memory": {"kind": "ridge"}}
    return tiny_model(attention, vocab_size=11)


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


@torch.no_grad()
def test_shorter_candidates_count_only_the_tokens_that_they_have(model, prompts):
    candidates = torch.randint(0, 11, (5, 4, ANSWER), generator=torch.Generator().manual_seed(2))
    candidates[:, 1, 2:] = -1
    candidates[:, 2, 1:] = -1
    logits, cache = read(model, prompts)
    got = rank_candidates(model, logits, cache, candidates)
    for option, length in ((1, 2), (2, 1)):
        shorter = rank_candidates(model, logits, cache, candidates[:, option : option + 1, :length])
        torch.testing.assert_close(got[:, option : option + 1], shorter)
    assert (got[:, 3:] < got[:, 3:].new_tensor(0.0)).all()


WORDS = {word: number for number, word in enumerate(names())}
CONDITIONS = ("zero", "gate_closed", "reset", "drop[needle]", "swap+gate_closed")


class Blanks:
    """The symbolic tokenizer, without transformers."""

    def encode(self, text, *, add_special_tokens):
        return [WORDS[word] for word in text.split()]

    def decode(self, ids):
        return " ".join(names()[token] for token in ids)


@pytest.fixture(scope="module")
def subject():
    model = tiny_model({"pattern": ["memory"], "memory": {"kind": "ridge"}}, vocab_size=512)
    reach = {"memory": lambda at: exact_start(model.config.attention_spec, 2, at), "full": lambda at: 0}
    return Subject(model, Blanks(), "memory", 0, "", reach)


def items(questions: int, length: int = 83, haystacks: int = 4):
    task = build_task(
        task_spec({"kind": "sym_multikey", "needles": 4, "questions": questions}), Blanks(), segment_length=8
    )
    chosen = range(questions * haystacks)
    return task, [task.sample(split="evaluation", seed=0, index=i, length=length, depth=None) for i in chosen]


@pytest.mark.parametrize("length", [83, 81, 80])
def test_questions_about_one_haystack_get_the_answers_that_each_gets_alone(subject, length):
    task, samples = items(3, length)
    together = evaluate_items(subject, task, samples, CONDITIONS)
    alone = [
        record
        for turn in range(3)  # a question to each haystack, so that the rows that are swapped are the same
        for record in evaluate_items(subject, task, samples[turn::3], CONDITIONS)
    ]
    assert len(together) == len(samples) * (1 + len(CONDITIONS))
    found = {(each.item_id, each.intervention): each for each in alone}
    for record in together:
        other = found[record.item_id, record.intervention]
        assert record.model_copy(update={"answer_logprob": other.answer_logprob}) == other
        assert record.answer_logprob == pytest.approx(other.answer_logprob, abs=1e-9)


def test_an_intact_answer_is_that_of_one_plain_pass(subject):
    task, samples = items(1)
    for record, sample in zip(evaluate_items(subject, task, samples, ()), samples, strict=True):
        with torch.no_grad():
            logits = subject.model(torch.tensor(sample.prompt_ids.tolist())[None]).logits[0, -1]
        assert record.output == names()[int(logits.argmax())]
        expected = float(logits.float().log_softmax(-1)[int(sample.answer_ids[0])])
        assert record.answer_logprob == pytest.approx(expected, abs=1e-5)


def test_a_record_says_whose_exact_attention_reaches_a_needle(subject):
    task, samples = items(1)
    for record in evaluate_items(subject, task, samples, ()):
        last = (record.length - 2) // 8 * 8
        near = record.needle_end > last
        assert record.reachable_by == (("memory", "full") if near else ("full",))


def test_a_model_that_is_let_go_on_is_exact_by_the_beginning_and_contains_by_the_whole(subject):
    """The words that a copying model says are known: those of the plain passes, token by token."""
    task, samples = items(1)
    whole = [replace(sample, generated=9) for sample in samples]
    for short, long, sample in zip(
        evaluate_items(subject, task, samples, ()), evaluate_items(subject, task, whole, ()), samples, strict=True
    ):
        said = torch.tensor(sample.prompt_ids.tolist())[None]
        for _ in range(9):
            with torch.no_grad():
                said = torch.cat([said, subject.model(said).logits[:, -1].argmax(-1)[None]], 1)
        assert long.output == Blanks().decode(said[0, -9:].tolist())
        assert (long.exact, long.rank, long.error_class) == (short.exact, short.rank, short.error_class)
        assert short.output == long.output.split()[0]
        later = replace(sample, candidates=(long.output.split()[-1], *sample.candidates[1:]), generated=9)
        [found] = evaluate_items(subject, task, [later], ())
        assert found.contains
        assert not found.exact or found.answer == found.output.split()[0]


def test_ranking_takes_few_candidates_at_a_time_where_the_past_is_large(model, prompts, monkeypatch):
    candidates = torch.randint(0, 11, (5, 7, ANSWER), generator=torch.Generator().manual_seed(2))
    logits, cache = read(model, prompts)
    expected = rank_candidates(model, logits, cache, candidates)
    monkeypatch.setattr(evaluate, "RANKED_BYTES", 2 * sum(cache.bytes()))
    rows, ranked = [], evaluate._logprobs
    monkeypatch.setattr(evaluate, "_logprobs", lambda *given: rows.append(given[3].shape[1]) or ranked(*given))
    torch.testing.assert_close(rank_candidates(model, logits, cache, candidates), expected)
    assert rows == [2, 2, 2, 1]


def test_logits_that_are_not_finite_are_failures_and_are_named(subject):
    task, samples = items(1)
    head = subject.model.lm_head.weight
    before = head.detach().clone()
    with torch.no_grad():
        head[300] = float("nan")
    try:
        records = evaluate_items(subject, task, samples, ())
    finally:
        with torch.no_grad():
            head.copy_(before)
    assert {record.error_class for record in records} == {"not_finite"}
    assert not any(record.exact for record in records)
