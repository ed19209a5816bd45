"""What stages ask and find: turns, interruption, arms that begin alike, and reach."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_scorecard_file import PAIRS, SEGMENT, content, study

from palimpsest.records import ItemRecord, write_json, write_jsonl
from palimpsest.schema import parse
from palimpsest.study.evaluate import _turns, batches
from palimpsest.study.plan import Stage
from palimpsest.study.scorecard import stages
from palimpsest.study.scorecard.ask import AskSpec
from palimpsest.study.scorecard.findings import load_findings
from palimpsest.study.scorecard.plan import plan_scorecard
from palimpsest.study.stages import DONE
from palimpsest.tasks import build_task
from palimpsest.training.tasks import symbolic_tokenizer


def asked(**changed) -> AskSpec:
    return parse(AskSpec, PAIRS | changed, "ask")


def task_of(part):
    return build_task(part.task, symbolic_tokenizer(), segment_length=SEGMENT)


@pytest.mark.parametrize(
    ("changed", "again", "once"),
    [
        ({}, 8, 0),
        ({"intervened": 3}, 3, 5),
        ({"intervened": 100}, 8, 0),
        ({"depths": [0.0, 0.5, 1.0], "intervened": 7}, 6, 3),
    ],
)
def test_at_most_so_many_items_are_asked_again_equally_many_at_every_depth(changed, again, once):
    part = asked(**changed)
    both = part.samples(task_of(part), 96)
    assert (len(both.again), len(both.once)) == (again, once)
    assert len({sample.id for group in both for sample in group}) == again + once
    if part.depths:
        assert np.unique([sample.depth for sample in both.again], return_counts=True)[1].tolist() == [2, 2, 2]


@given(haystacks=st.integers(2, 20), questions=st.integers(1, 4), size=st.integers(2, 7), missing=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_no_row_of_a_turn_stands_beside_another_question_about_its_own_haystack(haystacks, questions, size, missing):
    samples = [
        SimpleNamespace(cluster=str(h), number=q, prompt_ids=np.arange(5), segment_length=4)
        for h in range(haystacks)
        for q in range(questions)
    ]
    samples = samples[: max(questions, len(samples) - missing)]
    parts = list(batches(samples, size))
    assert [sample for part in parts for sample in part] == samples
    whole = [{sample.cluster for sample in part} for part in parts]
    assert sum(map(len, whole)) == len(set.union(*whole))  # no haystack is in two batches
    for part in parts:
        turns = _turns(part)
        assert sorted(id(s) for turn in turns for s in turn.samples) == sorted(map(id, part))
        for turn in turns:
            clusters = [sample.cluster for sample in turn.samples]
            assert len(set(clusters)) == len(clusters)


def item(number, *, seed=0, arm="memory", **changed) -> ItemRecord:
    fields = {
        "task": "sym_multikey",
        "version": 1,
        "item_id": str(number),
        "arm": arm,
        "seed": seed,
        "checkpoint": "sha",
        "intervention": "none",
        "length": 96,
        "depth": 0.5,
        "segment_length": SEGMENT,
        "needle_start": 10,
        "needle_end": 13,
        "question_start": 93,
        "distance": 82,
        "compressions": 5,
        "segments": 6,
        "locally_reachable": False,
        "answer": "v1",
        "output": "v1",
        "exact": True,
        "error_class": "correct",
        "rank": 1,
        "candidates": 2,
        "answer_logprob": -0.1,
        "cluster": str(number),
        "facts": {"needles": 4},
    }
    return ItemRecord(**fields | changed)


def test_a_stage_that_was_stopped_goes_on_with_the_batch_it_was_at(tmp_path, monkeypatch):
    part = asked(lengths=[96, 128], batch_size=2).model_dump(mode="json")
    stage = Stage("s", "ask", "memory", 0, {"part": part, "task": part.pop("task")}, (), "0" * 64)
    tokenizer, answered, stop = symbolic_tokenizer(), [], [5]
    subject = SimpleNamespace(
        tokenizer=tokenizer,
        model=SimpleNamespace(config=SimpleNamespace(attention_spec=SimpleNamespace(segment_length=SEGMENT))),
    )

    def evaluate(subject, task, batch, interventions):
        if len(answered) == stop[0]:
            raise KeyboardInterrupt
        answered.append([sample.id for sample in batch])
        return [item(sample.id, length=sample.length) for sample in batch]

    monkeypatch.setattr(stages, "open_subject", lambda stage, run: subject)
    monkeypatch.setattr(stages, "evaluate_items", evaluate)
    with pytest.raises(KeyboardInterrupt):
        stages._ask(stage, tmp_path, {"train": tmp_path})
    assert not (tmp_path / "items.jsonl.gz").exists()
    stop[0] = -1
    stages._ask(stage, tmp_path, {"train": tmp_path})
    assert len(answered) == 8  # none of the four batches of each length twice
    found = list(stages.read_jsonl(tmp_path / "items.jsonl.gz", ItemRecord))
    assert [record.item_id for record in found] == [name for batch in answered for name in batch]
    assert [path.name for path in tmp_path.iterdir()] == ["items.jsonl.gz"]


def _finish(stage, root):
    directory = root / stage.directory
    if stage.kind == "train":
        from synthetic_findings import provenance, steps

        write_jsonl(directory / "metrics.jsonl", steps((float(stage.settings["training"]["learning_rate"]),)))
        write_json(directory / "provenance.json", provenance().model_dump(mode="json"))
    if stage.kind == "ask":
        write_jsonl(directory / "items.jsonl.gz", [item(0, arm=stage.arm, seed=stage.seed)])
    write_json(directory / DONE, {"seconds": 1.0})


def test_arms_that_begin_alike_both_have_all_their_phases(tmp_path):
    arms = content()["arms"]
    memory = arms["memory"] | {"phases": ["long", "short"]}
    phases = content()["phases"]
    phases["other"] = phases["short"] | {"rate": 5.0}
    twins = {"one": memory, "same": memory, "two": memory | {"phases": ["long", "other"]}}
    spec = study(arms=twins, phases=phases, documents={}, seeds=[0])
    plan = plan_scorecard(spec)
    assert len([stage for stage in plan if stage.kind == "train"]) == 3
    for stage in plan:
        _finish(stage, tmp_path)
    found = load_findings(spec, plan, tmp_path)
    rates = {arm: [phase[0].grad_norm for phase in found.steps[arm, 0]] for arm in twins}
    assert rates == {"one": [1e-3, 1e-3], "same": [1e-3, 1e-3], "two": [1e-3, 5e-3]}
    assert {arm for arm, _ in found.provenance} == set(twins)
    assert not found.failures


def test_an_item_is_reached_from_the_token_that_must_produce_its_answer(tmp_path):
    spec = study(documents={}, seeds=[0])
    plan = plan_scorecard(spec)
    (stage, *_) = [stage for stage in plan if stage.kind == "ask"]
    # two layers with a window of 32 see 63 tokens: the token at 94 sees from 32 on
    near, far = (
        item(1, needle_start=30, needle_end=33, distance=62),
        item(2, needle_start=29, needle_end=32, distance=63),
    )
    write_jsonl(tmp_path / stage.directory / "items.jsonl.gz", [near, far])
    write_json(tmp_path / stage.directory / DONE, {"seconds": 1.0})
    found = load_findings(spec, plan, tmp_path)
    assert [record.reachable_by for record in found.items["pairs"]] == [("full", "window"), ("full",)]
    assert [record.item_id for record in found.memory_only(found.items["pairs"])] == ["2"]
    assert len(found.memory_only(found.items["pairs"], ["memory"])) == 2
    assert len(found.failures) == len(plan) - 1
