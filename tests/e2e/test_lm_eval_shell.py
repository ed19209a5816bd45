"""The harness's command line in a process of its own, with all its own tasks, on our model and on its own class."""

import json
import os
import subprocess
import sys

import pytest
import torch

from palimpsest.data.tokenizer import train_tokenizer
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.tasks import Passkey, PasskeySpec
from palimpsest.tasks.filler import CLASSIC_SENTENCES
from palimpsest.tasks.templates import INTRODUCTION, NEEDLES, QUESTION

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SEGMENT = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    text = "".join([INTRODUCTION, *NEEDLES.values(), QUESTION, *CLASSIC_SENTENCES]).format(key="12345")
    tokenizer = train_tokenizer([text * 20], 400)
    config = PalimpsestConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=0,
        pad_token_id=1,
        attention={"memory": {"kind": "ridge"}, "segment_length": SEGMENT},
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        PalimpsestForCausalLM(config).save_pretrained(out)
    tokenizer.save_pretrained(out)
    length = Passkey(PasskeySpec(max_length=400), tokenizer, segment_length=SEGMENT).nearest_length(160, at_most=400)
    return out, length


def lm_eval(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "palimpsest.study.lm_eval", "run", *map(str, words), "--device", "cpu"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("model", ["palimpsest", "hf"])
def test_our_model_and_our_task_from_a_shell(checkpoint, tmp_path, model):
    where, length = checkpoint
    items = json.dumps({"palimpsest": {"lengths": [length], "items": 3}})
    words = (
        "--model",
        model,
        "--model_args",
        f"pretrained={where}",
        "--tasks",
        "palimpsest_passkey",
        "--metadata",
        items,
    )
    done = lm_eval(*words, "--log_samples", "--output_path", tmp_path, "--batch_size", "2")
    assert done.returncode == 0, done.stderr
    assert "|palimpsest_passkey|" in done.stdout
    (results,) = tmp_path.rglob("results_*.json")
    scores = json.loads(results.read_text())["results"]["palimpsest_passkey"]
    assert set(scores) >= {"exact,none", "exact_stderr,none", "rank_first,none"}
    (samples,) = tmp_path.rglob("samples_*.jsonl")
    assert len(samples.read_text().splitlines()) == 3


def test_bad_input_is_one_sentence(checkpoint):
    where, _ = checkpoint
    items = json.dumps({"palimpsest": {"lengths": [20]}})
    words = ("--model", "palimpsest", "--model_args", f"pretrained={where}", "--tasks", "palimpsest_passkey")
    done = lm_eval(*words, "--metadata", items)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("palimpsest: a passkey context of 20 tokens is shorter than")
    assert "Traceback" not in done.stderr
