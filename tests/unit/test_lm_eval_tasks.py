"""Our tasks in lm-evaluation-harness, and our records in its layout."""

import json
import math
import sys
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest
import torch

from palimpsest.data.tokenizer import train_tokenizer
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.records import ItemRecord
from palimpsest.study.lm_eval.layout import write_results
from palimpsest.tasks import TASKS, Passkey, PasskeySpec

pytest.importorskip("lm_eval")

import lm_eval
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table

from palimpsest.study.lm_eval.__main__ import main
from palimpsest.study.lm_eval.model import PalimpsestLM
from palimpsest.study.lm_eval.tasks import CatalogueTask, HarnessTask, Items, write_task_files
from palimpsest.tasks.templates import INTRODUCTION, NEEDLES, QUESTION

SEGMENT = 64
ITEMS = Items(lengths=(160,), depths=(0.0, 1.0), items=3, segment_length=SEGMENT)


@pytest.fixture(scope="module")
def tokenizer():
    text = " ".join([INTRODUCTION, *NEEDLES.values(), QUESTION]).format(key="12345")
    return train_tokenizer(
        [text * 20 + "The grass is green. The sky is blue. The sun is yellow. Here we go." * 20], 400
    )


@pytest.fixture(scope="module")
def passkey(tokenizer):
    task = Passkey(PasskeySpec(max_length=400), tokenizer, segment_length=SEGMENT)
    return task, Items(**{**ITEMS.model_dump(), "lengths": (task.nearest_length(160, at_most=400),)})


@pytest.fixture(scope="module")
def model(tokenizer):
    config = PalimpsestConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=0,
        pad_token_id=1,
        attention={"memory": {"kind": "linear"}, "segment_length": SEGMENT},
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        made = PalimpsestForCausalLM(config).eval()
        with torch.no_grad():
            made.lm_head.weight.mul_(20)
    return made


class Knowing(LM):
    """Says and prefers the candidate at one place: 0 is the right one."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def loglikelihood(self, requests):
        return [(0.0 if each.args[1] == each.doc["candidates"][self.place] else -9.0, True) for each in requests]

    def loglikelihood_rolling(self, requests):
        raise AssertionError("not asked for")

    def generate_until(self, requests):
        assert {each.args[1]["max_gen_toks"] for each in requests} == {5}
        return [each.doc["candidates"][self.place] for each in requests]


def run(lm, task):
    return lm_eval.evaluate(lm=lm, task_dict={task.config.task: task})


@pytest.mark.parametrize(("place", "score"), [(0, 1.0), (1, 0.0)])
def test_who_knows_scores_one_and_who_errs_zero(passkey, tokenizer, place, score):
    task, items = passkey
    found = run(Knowing(place), HarnessTask(task, tokenizer, items))
    scores = found["results"]["palimpsest_passkey"]
    assert [scores[f"{metric},none"] for metric in ("exact", "contains", "recall", "rank_first")] == [score] * 4
    assert scores["exact_stderr,none"] == 0.0
    assert found["versions"]["palimpsest_passkey"] == task.version
    assert found["n-samples"]["palimpsest_passkey"] == {"original": 6, "effective": 6}
    assert found["configs"]["palimpsest_passkey"]["metadata"]["floor"]["rank_first"] == 1 / 16
    assert "palimpsest_passkey" in make_table(found)


def test_the_harness_asks_for_exactly_the_items_of_the_task(passkey, tokenizer):
    """What a model is given, token by token, is what ``Task.sample`` made."""
    task, items = passkey
    documents = HarnessTask(task, tokenizer, items).eval_docs
    assert len(documents) == len({doc["item_id"] for doc in documents}) == 6
    for doc, (depth, index) in zip(documents, [(d, i) for d in (0.0, 1.0) for i in range(3)], strict=True):
        sample = task.sample(split="evaluation", seed=0, index=index, length=items.lengths[0], depth=depth)
        assert doc["item_id"] == sample.id
        assert tokenizer(doc["prompt"])["input_ids"] == sample.prompt_ids.tolist()
        assert [
            tokenizer(doc["prompt"] + candidate)["input_ids"][sample.prompt_length :] for candidate in doc["candidates"]
        ] == sample.candidate_ids.tolist()


@pytest.mark.parametrize(
    "path", [partial(PalimpsestLM, chunk_tokens=SEGMENT), partial(HFLM, backend="causal")], ids=["ours", "hf"]
)
def test_a_model_answers_as_it_does_by_itself(passkey, tokenizer, model, path):
    """Greedy text and rank through the harness, from our class and from its own, are those of plain forward passes."""
    task, items = passkey
    made = HarnessTask(task, tokenizer, items)
    found = run(path(model, tokenizer=tokenizer, batch_size=4), made)["samples"]["palimpsest_passkey"]
    samples = sorted(found, key=lambda each: each["doc_id"])
    ranks = []
    for logged, sample in zip(samples, made._samples, strict=True):
        prompt = sample.prompt_ids.tolist()
        row, logprobs = list(prompt), []
        with torch.no_grad():
            for _ in range(5):
                row.append(int(model(torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
            for candidate in sample.candidate_ids.tolist():
                ids = torch.tensor([prompt + candidate])
                each = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                logprobs.append(float(each.gather(1, torch.tensor(candidate)[:, None]).sum()))
        assert logged["filtered_resps"][0] == tokenizer.decode(row[len(prompt) :], skip_special_tokens=True)
        told = np.array([float(answer[0]) for answer in logged["filtered_resps"][1:]])
        # the harness moves the space before the answer into the continuation, the same for every candidate
        np.testing.assert_allclose(told - told.max(), np.array(logprobs) - max(logprobs), atol=1e-4)
        ranks.append(float(np.argmax(logprobs) == 0))
    assert [logged["rank_first"] for logged in samples] == ranks


def test_a_task_is_found_by_its_name(tokenizer, model, tmp_path, passkey):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    written = write_task_files(tmp_path / "tasks")
    assert [path.stem for path in written] == [f"palimpsest_{kind}" for kind in TASKS]
    metadata = {"pretrained": str(tmp_path / "model"), "palimpsest": {"lengths": list(passkey[1].lengths), "items": 2}}
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False, metadata=metadata)
    task = manager.load(["palimpsest_passkey"])["tasks"]["palimpsest_passkey"]
    assert isinstance(task, CatalogueTask)
    assert task.config.metadata["segment_length"] == SEGMENT  # the model's own
    assert len(task.eval_docs) == 2


def test_the_command_line_knows_model_and_tasks(tokenizer, model, tmp_path, passkey, monkeypatch, capsys):
    """What ``python -m palimpsest.study.lm_eval`` runs, without the harness's own tasks: the list takes 12 seconds."""
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda: None)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    settings = json.dumps({"palimpsest": {"lengths": list(passkey[1].lengths), "items": 2}})
    words = ["run", "--model", "palimpsest", "--model_args", f"pretrained={tmp_path / 'model'}", "--device", "cpu"]
    words += ["--tasks", "palimpsest_passkey", "--metadata", settings, "--batch_size", "2"]
    with torch.random.fork_rng(devices=[]):
        monkeypatch.setattr(sys, "argv", ["lm_eval", *words, "--log_samples", "--output_path", str(tmp_path / "out")])
        main()
    assert "|palimpsest_passkey|" in capsys.readouterr().out
    (results,) = (tmp_path / "out").rglob("results_*.json")
    (samples,) = (tmp_path / "out").rglob("samples_palimpsest_passkey_*.jsonl")
    assert json.loads(results.read_text())["config"]["attention"]["segment_length"] == SEGMENT
    assert len(samples.read_text().splitlines()) == 2
    monkeypatch.setattr(sys, "argv", ["lm_eval", *words[:-2], "--batch_size", "auto"])
    with pytest.raises(SystemExit) as ended, torch.random.fork_rng(devices=[]):
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("palimpsest: batch_size is a number of rows")


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({}, "The task 'palimpsest_passkey' counts tokens: name a tokenizer"),
        ({"palimpsest": {"length": [5]}}, "--metadata palimpsest: .*length"),
        ({"palimpsest": {"lengths": []}}, "--metadata palimpsest: .*lengths"),
        (
            {"palimpsest": {"lengths": [200], "knobs": {"key_digits": 1}}},
            "knobs of the task .*: key_digits",
        ),
        ({"palimpsest": {"lengths": [20]}}, "a passkey context of 20 tokens is shorter than"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(tokenizer, tmp_path, metadata, sentence):
    if metadata:
        tokenizer.save_pretrained(tmp_path)
        metadata = metadata | {"tokenizer": str(tmp_path)}
    with pytest.raises(InputError, match=sentence):
        CatalogueTask({"task": "palimpsest_passkey", "metadata": {"kind": "passkey", **metadata}})


def test_a_tokenizer_that_loses_tokens_is_refused(passkey, tokenizer):
    class Lossy:
        def decode(self, ids):
            return tokenizer.decode(ids).lower()

        def encode(self, text, *, add_special_tokens):
            return tokenizer.encode(text, add_special_tokens=add_special_tokens)

    with pytest.raises(InputError, match="does not give the tokens of an item of the task 'passkey' back"):
        HarnessTask(passkey[0], Lossy(), passkey[1])


# The layout


def record(**changes) -> ItemRecord:
    values = {
        "task": "passkey",
        "version": 2,
        "item_id": "a" * 16,
        "arm": "ridge",
        "seed": 3,
        "checkpoint": "c" * 64,
        "intervention": "none",
        "length": 256,
        "depth": 0.5,
        "segment_length": 32,
        "needle_start": 80,
        "needle_end": 96,
        "question_start": 240,
        "distance": 155,
        "compressions": 5,
        "segments": 8,
        "locally_reachable": False,
        "answer": "12345",
        "output": "12345",
        "exact": True,
        "error_class": "correct",
        "rank": 1,
        "candidates": 16,
        "answer_logprob": -0.25,
    }
    return ItemRecord.model_validate(values | changes)


SAMPLE_KEYS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}
SAMPLE_KEYS |= {"doc_hash", "prompt_hash", "target_hash"}
RESULT_KEYS = {"results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config"}
RESULT_KEYS |= {"git_hash", "date", "task_hashes", "model_source", "model_name", "model_name_sanitized"}


def test_records_have_the_layout_of_the_harness(passkey, tokenizer, tmp_path):
    """The keys are those that a run of the harness itself has, and its table shows the numbers."""
    own = run(Knowing(0), HarnessTask(passkey[0], tokenizer, passkey[1]))
    assert own["samples"]["palimpsest_passkey"][0].keys() >= SAMPLE_KEYS
    written_later = {"task_hashes", "model_source", "model_name", "model_name_sanitized"}  # by its tracker of results
    assert own.keys() >= (RESULT_KEYS - written_later - {"config", "git_hash", "date"})
    rights = (True, True, False, True)
    records = [
        record(item_id=f"{place:016x}", exact=right, rank=1 if right else 4, output="12345" if right else "99999")
        for place, right in enumerate(rights)
    ]
    records += [record(length=512), record(intervention="erase_all", exact=False)]
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    files = write_results(records, tmp_path, date=when)
    assert [path.parent.name for path in files] == ["ridge-s3", "ridge-s3-erase_all"]
    assert files[0].name == "results_2026-01-02T03-04-05+00-00.json"
    results = json.loads(files[0].read_text())
    assert results.keys() >= RESULT_KEYS
    scores = results["results"]["passkey_256"]
    assert scores["exact,none"] == 0.75
    assert scores["exact_stderr,none"] == pytest.approx(np.std(rights, ddof=1) / 2)
    assert scores["answer_logprob,none"] == -0.25
    assert results["results"]["passkey_512"]["exact_stderr,none"] == "N/A"
    assert results["versions"] == {"passkey_256": 2, "passkey_512": 2}
    table = make_table(results)
    assert "|passkey_256|" in table
    assert "| 0.75|" in table
    samples = [
        json.loads(line)
        for line in (files[0].parent / f"samples_passkey_256_{files[0].stem[8:]}.jsonl").read_text().splitlines()
    ]
    assert len(samples) == 4
    assert all(sample.keys() >= SAMPLE_KEYS | set(sample["metrics"]) for sample in samples)
    assert [sample["exact"] for sample in samples] == [1.0, 1.0, 0.0, 1.0]
    assert samples[2]["filtered_resps"] == ["99999"]
    assert all(
        isinstance(metric, float) for sample in samples for metric in (sample["exact"], sample["answer_logprob"])
    )


def test_log_probabilities_that_are_infinite_do_not_break_the_file(tmp_path):
    (path,) = write_results([record(answer_logprob=-math.inf), record(item_id="b" * 16)], tmp_path)
    scores = json.loads(path.read_text())["results"]["passkey_256"]
    assert scores["answer_logprob,none"] == scores["answer_logprob_stderr,none"] == "N/A"
    assert scores["exact,none"] == 1.0


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([], "There are no item records"),
        ([record(), record()], "was answered twice"),
        ([record(), record(version=3, item_id="b" * 16)], r"several versions of the task, \[2, 3\]"),
    ],
)
def test_records_that_do_not_fit_together_are_refused(records, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        write_results(records, tmp_path)
