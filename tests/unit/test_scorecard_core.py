"""The scorecard from its file to its verdicts: what is refused, what is planned, asked, found and corrected for."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from synthetic_findings import spec as small_spec

from palimpsest.data import TokenizerSpec
from palimpsest.errors import InputError
from palimpsest.records import ItemRecord, write_json, write_jsonl
from palimpsest.schema import Closed, parse
from palimpsest.statistics import Estimate, holm
from palimpsest.study.evaluate import _turns, batches
from palimpsest.study.plan import Stage
from palimpsest.study.preregistration import log_opening, openings, preregister
from palimpsest.study.scorecard import judge, stages, texts
from palimpsest.study.scorecard.ask import AskSpec
from palimpsest.study.scorecard.collect import scorecard_record
from palimpsest.study.scorecard.findings import Findings, load_findings
from palimpsest.study.scorecard.judge import judge_rows
from palimpsest.study.scorecard.measures.base import Measure, Measured, Missing
from palimpsest.study.scorecard.plan import plan_scorecard
from palimpsest.study.scorecard.spec import DocumentsSpec, RowSpec, ScorecardSpec
from palimpsest.study.stages import DONE
from palimpsest.tasks import build_task
from palimpsest.training.tasks import symbolic_tokenizer

SEGMENT = 16
ABOVE_ZERO = {"kind": "conditions", "pass_when": {"all_of": [{"estimate": "x", "bound": "low", "op": ">", "value": 0}]}}
PAIRS = {"task": {"kind": "sym_multikey", "needles": 4}, "lengths": [96], "items": 8, "seed": 10_001}
FOUND = {"measure": "memory_effect", "given": {"ask": "pairs", "arm": "memory"}}


def row(number=8, **changed):
    return {"id": f"E{number:02}", "demand": "d", "claim": "c", "rule": ABOVE_ZERO, **FOUND, **changed}


def content(**changed) -> dict:
    """A study as it stands in a file."""
    return small_spec(ask={"pairs": {**PAIRS, "interventions": ["swap"]}}).model_dump(mode="json") | changed


def study(**changed) -> ScorecardSpec:
    return parse(ScorecardSpec, content(**changed), "study.yaml")


def digests(spec):
    return {stage.name: stage.digest for stage in plan_scorecard(spec)}


def _ask(**changed):
    return lambda c: c["ask"]["pairs"].update(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_ask(arms=["rigde"]), "'pairs' names the arm 'rigde'"),
        (_ask(interventions=["swop"]), "Unknown intervention 'swop'"),
        (lambda c: c["documents"]["text"].update(interventions=["resett"]), "Unknown intervention 'resett'"),
        (lambda c: c.update(seeds=[0, 1, 0]), "seeds names the seed 0 twice"),
        (lambda c: c.update(seeds=[-1]), "greater than or equal to 0"),
        (lambda c: c["arms"]["local"].update(seeds=[3, 3]), "'local' names the seed 3 twice"),
        (
            lambda c: c["arms"].update(on={"after": "local", "learning_rate": 1, "phases": ["long"], "seeds": [9]}),
            "seed 9",
        ),
        (lambda c: c["ask"]["pairs"]["task"].update(questions=3), "asked 3 questions"),
        (_ask(items=4, depths=[0.0, 1.0], intervened=1), "intervened is 1, which is 0 at each of 2 depths"),
        (_ask(items=1), "have only one"),
        (_ask(vary={"needles": [1, 2], "questions": [1]}), "equally many values"),
        (lambda c: c["documents"]["text"].update(distances=[250]), "need documents of 315 tokens"),
        (lambda c: c["ask"]["pairs"].update(task={"kind": "passkey"}), "has no corpus"),
        (lambda c: c["phases"]["long"].update(data={"kind": "text", "sequence_length": 64}), "has no corpus"),
        (lambda c: c.update(tokenizer={"vocab_size": 512}), "corpus and tokenizer belong together"),
        (lambda c: c.update(corpus={}, tokenizer={"vocab_size": 512}), "symbolic task, but the study has a corpus"),
    ],
)
def test_a_wrong_study_is_refused_in_one_sentence(change, message):
    wrong = copy.deepcopy(content())
    change(wrong)
    with pytest.raises(InputError, match=message) as caught:
        parse(ScorecardSpec, wrong, "study.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"measure": "memory_efect"}, "the measure 'memory_efect'"),
        ({"given": {"ask": "pears", "arm": "memory"}}, "row E08 names 'pears' under 'ask'.*'pairs'"),
        ({"given": {"ask": "pairs", "arm": "rigde"}}, "row E08 names 'rigde' under 'arms'"),
        ({"given": {"ask": "pairs", "arm": "memory", "depth": 1}}, "unknown key 'depth'"),
        ({"measure": "difference", "given": {"ask": "pairs", "arm": "memory", "against": "nobody"}}, "'nobody'"),
        ({"measure": "accuracy_curve", "given": {"ask": ["pairs", "pears"], "arm": "memory"}}, "'pears' under 'ask'"),
        (
            {
                "measure": "families",
                "given": {"arm": "memory", "families": {"f": {"ask": "pears", "base": 1, "length": 2, "shortest": 2}}},
            },
            "'pears' under 'ask'",
        ),
        (
            {"measure": "effective_context", "given": {"documents": "test", "arm": "memory"}},
            "'test' under 'documents'",
        ),
    ],
)
def test_a_row_that_cannot_be_measured_is_refused_before_anything_runs(wrong, message):
    plan_scorecard(study(rows=[row()]))
    with pytest.raises(InputError, match=message):
        plan_scorecard(study(rows=[row(**wrong)]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lengths": [96, 3]}, "'pairs', 3 tokens: sym_multikey: 3 tokens leave no room"),
        ({"vary": {"needles": [4, 120]}}, "'pairs', 96 tokens: .*120 needles of 3 tokens do not fit"),
    ],
)
def test_items_that_do_not_fit_are_refused_before_anything_runs(changed, message):
    with pytest.raises(InputError, match=message):
        plan_scorecard(study(ask={"pairs": PAIRS | changed}))


def test_rows_and_more_seeds_leave_the_stages_as_they_are():
    before = digests(study(rows=[], seeds=[0]))
    after = digests(study(rows=[row()], seeds=[0, 1]))
    assert before.items() < after.items()


def test_what_is_asked_decides_the_stages_that_ask_and_no_others():
    before, after = digests(study()), digests(study(ask={"pairs": {**PAIRS, "items": 9}}))
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {name for name in before if "-ask-" in name}


def test_a_change_of_an_arm_changes_what_goes_on_after_it():
    arms = content()["arms"] | {"on": {"after": "memory", "learning_rate": 1e-3, "phases": ["short"]}}
    before = digests(study(arms=arms))
    after = digests(study(arms=arms | {"memory": arms["memory"] | {"learning_rate": 2e-3}}))
    changed = {name.partition("-")[0] for name in before if before[name] != after[name]}
    assert changed == {"memory", "on"}


def text_study(**changed) -> ScorecardSpec:
    training = {"steps": 2, "batch_size": 2, "learning_rate": 1e-3}
    tasks = {"kind": "tasks", "row_length": 256, "documents": 0.0, "tasks": [{"task": {"kind": "passkey"}}]}
    return study(
        corpus={"source": "sotu"},
        tokenizer={"vocab_size": 512},
        phases={
            "long": {"data": {"kind": "text", "sequence_length": 128}, "training": training},
            "short": {"data": tasks, "training": training},
        },
        ask={"pairs": {"task": {"kind": "passkey"}, "lengths": [256], "items": 4, "seed": 1}},
        **changed,
    )


def test_a_corpus_is_prepared_first_and_is_part_of_every_digest_that_rests_on_it():
    plan = plan_scorecard(text_study(validity={"items": 2, "seed": 1}))
    (corpus,) = [stage for stage in plan if stage.kind == "corpus"]
    assert plan[0] is corpus
    reads = {stage.kind for stage in plan if corpus.name in stage.inputs}
    assert reads == {"train", "documents", "validity"}
    other = text_study(validity={"items": 2, "seed": 1}).model_copy(update={"tokenizer": TokenizerSpec(vocab_size=600)})
    assert not {s.digest for s in plan if s.kind == "train"} & {s.digest for s in plan_scorecard(other)}


def test_a_phase_of_text_reads_the_corpus_and_one_of_tasks_its_tokenizer(tmp_path, monkeypatch):
    spec = text_study()
    by_label = {stage.name.rpartition("-")[2]: stage for stage in plan_scorecard(spec) if stage.kind == "train"}
    monkeypatch.setattr(stages, "open_corpus", lambda path: SimpleNamespace(tokenizer_directory=path / "tokenizer"))
    text = stages.recipe_of_phase(by_label["long"].settings, "run", init=None, corpus=tmp_path)
    assert text.data.directory == tmp_path
    tasks = stages.recipe_of_phase(by_label["short"].settings, "run", init=None, corpus=tmp_path)
    assert tasks.data.tokenizer == tmp_path / "tokenizer"


def test_a_study_without_a_corpus_has_the_digest_that_it_had_before_there_were_any():
    assert not {"corpus", "tokenizer"} & study().model_dump(mode="json").keys()


@pytest.fixture
def heldout(monkeypatch, tmp_path):
    found = [(f"doc-{number}", np.arange(number, number + 40)) for number in range(200)]
    monkeypatch.setattr(
        texts, "open_corpus", lambda path: SimpleNamespace(heldout_documents=lambda tokens: iter(found))
    )
    return {texts.CORPUS: tmp_path}


def documents(count, seed):
    return DocumentsSpec(count=count, tokens=32, seed=seed)


def test_documents_of_test_seeds_are_never_those_of_design_seeds(heldout):
    design, test = (
        {name for seed in seeds for name, _ in texts.documents_of(heldout, documents(60, seed))}
        for seeds in ((0, 1, 99), (10_000, 10_001, 20_000))
    )
    assert not design & test
    assert len(design) > 60  # other seeds, other documents
    assert all(len(ids) == 32 for _, ids in texts.documents_of(heldout, documents(60, 0)))


def test_too_few_documents_are_refused(heldout):
    with pytest.raises(InputError, match="150 held-out documents of 32 tokens are asked for, and the test half"):
        texts.documents_of(heldout, documents(150, 10_000))


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


class _Given(Closed):
    z: float | None


def _measure(findings, given):
    """A mean of z standard errors of 1."""
    if given.z is None:
        raise Missing("not measured")

    def at(level):
        half = float(stats.norm.isf((1 - level) / 2))
        return Estimate(given.z, given.z - half, given.z + half, 100, "z", level, 5)

    return Measured({"x": at})


@pytest.fixture
def of_z(monkeypatch):
    monkeypatch.setitem(judge.MEASURES, "z", Measure(_Given, _measure))


@pytest.fixture(scope="module")
def plain():
    return study(documents={})


BELOW_ZERO = {"all_of": [{"estimate": "x", "bound": "high", "op": "<", "value": 0}]}


def verdicts(spec, values):
    rule = ABOVE_ZERO | {"fail_when": BELOW_ZERO}
    rows = [row(i, measure="z", given={"z": z}, rule=rule, primary=True) for i, z in enumerate(values, 1)]
    with_rows = spec.model_copy(update={"rows": tuple(RowSpec.model_validate(each) for each in rows)})
    return [each.verdict for each in judge_rows(Findings(spec=with_rows)).rows]


@given(values=st.lists(st.floats(-5, 5).map(lambda z: round(z, 3)), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_the_verdicts_of_primary_rows_are_those_of_holms_procedure(plain, values):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(judge.MEASURES, "z", Measure(_Given, _measure))
        found = verdicts(plain, values)
    rejected = holm(2 * stats.norm.sf(np.abs(values))) <= 0.05
    one_by_one = ["PASS" if z > 0 else "FAIL" for z in values]
    assert found == [each if sure else "INCONCLUSIVE" for each, sure in zip(one_by_one, rejected, strict=True)]


def test_rows_that_were_not_measured_still_count_as_claims(of_z, plain):
    assert verdicts(plain, [2.0]) == ["PASS"]
    assert verdicts(plain, [2.0, None]) == ["INCONCLUSIVE", "INCONCLUSIVE"]


def test_rows_that_are_not_primary_are_judged_alone(of_z):
    rows = [row(i, measure="z", given={"z": 2.0}) for i in range(1, 10)]
    judged = judge_rows(Findings(spec=study(rows=rows, documents={})))
    assert {each.verdict for each in judged.rows} == {"PASS"}
    assert judged.trained == {f"E{i:02}": 5 for i in range(1, 10)}


def test_a_verdict_that_falls_to_the_correction_says_so(of_z):
    rows = [row(i, measure="z", given={"z": 2.0}, primary=True) for i in (1, 2)]
    first = judge_rows(Findings(spec=study(rows=rows, documents={}))).rows[0]
    assert first.verdict == "INCONCLUSIVE"
    assert first.sentence.startswith("PASS on its own")


def test_a_rule_for_a_quantity_that_its_measure_does_not_have_is_refused(of_z):
    other = {"kind": "at_least", "value": 0.5}
    with pytest.raises(InputError, match="asks for 'estimate'; the measure 'z' gives x"):
        judge_rows(Findings(spec=study(rows=[row(measure="z", given={"z": 1.0}, rule=other)], documents={})))


def test_a_card_of_which_nothing_was_run_is_open_and_says_what_is_missing(tmp_path):
    spec = study(rows=[row()])
    plan = plan_scorecard(spec)
    record = scorecard_record(load_findings(spec, plan, tmp_path), plan, tmp_path, ["changed"], [])
    assert [(each.verdict, each.tested) for each in record.rows] == [("INCONCLUSIVE", False)]
    assert record.deviations[0] == "changed"
    assert record.deviations[1].startswith(f"{len(plan)} of {len(plan)} stages have not been run")
    assert {arm.name: arm.reach for arm in record.arms}["window"] == 63


def test_each_thing_that_is_changed_after_the_first_run_is_named(tmp_path):
    first = study(rows=[row(1), row(2)])
    assert preregister(first, first.sha256, tmp_path) == []
    assert preregister(first, first.sha256, tmp_path) == []
    looser = row(2, rule=ABOVE_ZERO | {"min_seeds": 2})
    arms = content()["arms"]
    arms["memory"]["learning_rate"] = 0.5
    del arms["short"]
    then = study(rows=[row(1), looser, row(3)], arms=arms)
    said = [sentence.partition(" was changed")[0] for sentence in preregister(then, then.sha256, tmp_path)]
    assert said == ["arms.memory", "arms.short", "rows.E02", "rows.E03"]


def test_rows_in_another_order_are_a_change(tmp_path):
    first, then = study(rows=[row(1), row(2)]), study(rows=[row(2), row(1)])
    preregister(first, first.sha256, tmp_path)
    assert [s.partition(" was")[0] for s in preregister(then, then.sha256, tmp_path)] == ["the order of rows"]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ([0, 1, 2, 3, 4, 5], "5 added"),
        ([0, 1, 2], "3, 4 left out"),
        ([0, 1, 2, 3, 7], "7 added; 4 left out"),
        ([4, 3, 2, 1, 0], None),
    ],
)
def test_seeds_that_were_added_or_left_out_are_named(tmp_path, now, said):
    preregister(study(), study().sha256, tmp_path)
    then = study(seeds=now)
    expected = [] if said is None else [f"the training seeds were changed after the first run: {said}"]
    assert preregister(then, then.sha256, tmp_path) == expected


def test_opening_the_items_of_test_seeds_is_logged_once_with_the_settings(tmp_path):
    first, then = study(), study(name="other")
    assert openings(first, tmp_path) == []
    log_opening(first, tmp_path)
    log_opening(then, tmp_path)
    (line,) = openings(first, tmp_path)  # the documents have a design seed
    assert line.startswith("pairs (seed 10001) was opened at")
    assert line.endswith(".")
    assert "under other settings" not in line
    assert f"under other settings ({first.sha256[:12]})" in openings(then, tmp_path)[0]
