"""The probes on running text equal their definitions, one plain pass per condition, and say what they should."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from text_probe_case import BEGIN, END, SEGMENT, STOP, TOKENIZER, WORDS, texts

from palimpsest.errors import InputError
from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.probes import INTERVENTIONS
from palimpsest.records import PerturbationRecord, PlaceLossRecord
from palimpsest.statistics.text_probes import Range, effective_context, forgetting, mean_loss
from palimpsest.study.evaluate import Subject
from palimpsest.study.text_probes import forgetting_curve, perturb, perturbation, place_losses, scoring
from palimpsest.tasks.documents import SPOILINGS
from tiny_case import tiny_model


def build(pattern: list[str]) -> PalimpsestForCausalLM:
    attention = {"pattern": pattern, "segment_length": SEGMENT, "memory": {"kind": "ridge"}}
    return tiny_model(attention, vocab_size=WORDS)


@pytest.fixture(params=[["memory"], ["full"], ["memory", "full"]], ids="+".join)
def subject(request):
    return Subject(build(request.param), TOKENIZER, "tiny", 0, "c")


@pytest.fixture
def few_tokens(monkeypatch):
    """Passes of so few tokens that every text is read in several chunks, and the texts in several batches."""
    monkeypatch.setattr(scoring, "PASS_TOKENS", 3 * SEGMENT)


@torch.no_grad()
def plain(model, tokens):
    """Return loss and greedy guess of tokens 1 .. T - 1 of one text, by one pass over all of it."""
    logits = model(torch.as_tensor(np.asarray(tokens))[None], use_cache=False).logits[0, :-1]
    targets = torch.as_tensor(np.asarray(tokens))[1:]
    return -logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].numpy(), logits.argmax(-1).numpy()


# Equal to the definition


@pytest.mark.usefixtures("few_tokens")
def test_the_forgetting_curve_is_its_definition(subject):
    documents = texts(3, 20)
    records = forgetting_curve(subject, documents, [9, 2], 4, seed=0)
    assert len(records) == 2 * 2 * 4
    assert {(r.length, r.tokens) for r in records} == {(2, 1), (9, 4)}
    content = dict(documents)
    for record in records:
        target, prefix = (
            content[name][start : start + record.length]
            for name, start in ((record.target_id, record.target_start), (record.prefix_id, record.prefix_start))
        )
        assert np.array_equal(target, prefix) == (record.condition == "copy")
        row = [BEGIN, *prefix, BEGIN, *target, END]
        loss, guess = plain(subject.model, row)
        last = slice(-1 - record.tokens, -1)  # of the target; END comes after it
        assert record.nll == pytest.approx(loss[last].sum(), rel=1e-9)
        assert record.correct == (guess[last] == row[-1 - record.tokens : -1]).sum()
        assert (record.separator, record.not_finite) == ("w1", 0)


def test_without_a_beginning_token_the_end_of_text_stands_before_a_text():
    tokenizer = SimpleNamespace(**{**vars(TOKENIZER), "bos_token_id": None})
    record = forgetting_curve(Subject(build(["memory"]), tokenizer, "a", 0, ""), texts(2), [4], 1, seed=0)[0]
    assert record.separator == f"w{END}"


@pytest.mark.usefixtures("few_tokens")
def test_perturbation_is_its_definition(subject, monkeypatch):
    documents, scored, seen = texts(5, 27), 6, []
    documents[0][1][[3, 8]] = STOP

    def spy(model, tokens, begin):
        seen.extend(tokens)
        return scoring.score_from(model, tokens, begin)

    monkeypatch.setattr(perturbation, "score_from", spy)
    records = perturb(subject, documents, [8, 4, 3], scored, seed=0)
    assert len(records) == len(seen) == 5 * (1 + 3 * len(SPOILINGS))
    content = {name: ids[:26] for name, ids in documents}  # 20 before the scored ones: five whole segments
    for record, row in zip(records, seen, strict=True):
        own, far = content[record.document_id], 20 - record.distance
        assert record.nll == pytest.approx(plain(subject.model, row)[0][-scored:].sum(), rel=1e-9)
        assert row[-scored - record.distance :].tolist() == own[far:].tolist()
        beyond = row[: -scored - record.distance].tolist()
        if record.condition == "true":
            assert (record.distance, beyond) == (20, [])
        elif record.condition == "other":
            assert record.other_id != record.document_id
            assert beyond == content[record.other_id][:far].tolist()
        elif record.condition == "dropped":
            assert beyond == []
        else:
            assert sorted(beyond) == sorted(own[:far])
    moved = {
        how: [r.nll for r in records if r.condition == how and r.distance == 4 and r.document_id == "d0"]
        for how in SPOILINGS
    }
    assert len({nll for each in moved.values() for nll in each}) == len(SPOILINGS)


def summed(records, document, intervention):
    """Return (first, past the last, loss) of every bucket of one document under one intervention."""
    mine = [r for r in records if (r.document_id, r.intervention) == (document, intervention)]
    if isinstance(mine[0], PlaceLossRecord):
        return [(r.place_start, r.place_end, r.nll) for r in mine]
    return [(r.position_start, r.position_end, r.nll) for r in mine]


def expected_sums(loss):
    """Return the same of losses of tokens 1 .. T - 1, by position and by place."""
    edges = [1, 2, 4, 8, 16, 23]
    by_position = [(start, end, loss[start - 1 : end - 1].sum()) for start, end in pairwise(edges)]
    return by_position, [(place, place + 1, loss[SEGMENT:][place::SEGMENT].sum()) for place in range(SEGMENT)]


def assert_losses(found, document, intervention, loss):
    for records, expected in zip(found, expected_sums(loss), strict=True):
        got = summed(records, document, intervention)
        assert [row[:2] for row in got] == [row[:2] for row in expected]
        np.testing.assert_allclose([row[2] for row in got], [row[2] for row in expected], rtol=1e-9)


@pytest.mark.usefixtures("few_tokens")
@pytest.mark.parametrize("names", [(), ("reset",)])
def test_losses_by_position_and_place_are_those_of_one_plain_pass_per_condition(subject, names):
    documents = texts(7, 23)
    names = names if "memory" in subject.model.config.attention_spec.pattern else ()
    found = place_losses(subject, documents, names)
    assert [sum(r.tokens for r in records) for records in found] == [
        7 * 22 * (1 + len(names)),
        7 * 18 * (1 + len(names)),
    ]
    for name in ("none", *names):
        for document, ids in documents:
            with INTERVENTIONS[name](subject.model):
                loss = plain(subject.model, ids)[0]
            assert_losses(found, document, name, loss)


@torch.no_grad()
def with_past(model, past, ids, intervention):
    """Return the losses of a text whose every segment is read, under an intervention, after the past that is given."""
    losses = []
    for start in range(0, len(ids) - 1, SEGMENT):
        part = torch.as_tensor(ids[start : start + SEGMENT + 1])[None]
        cache = PalimpsestCache(model.config)
        if start:
            model(torch.as_tensor(past[:start])[None], past_key_values=cache)
        with INTERVENTIONS[intervention](model):
            logits = model(part[:, :-1], past_key_values=cache).logits[0]
        losses.append(-logits.log_softmax(-1).gather(1, part[0, 1:, None])[:, 0].numpy())
    return np.concatenate(losses)


@pytest.mark.usefixtures("few_tokens")
def test_an_intervention_at_a_boundary_leaves_the_past_intact():
    for pattern in (["memory"], ["memory", "full"]):
        subject, documents = Subject(build(pattern), TOKENIZER, "tiny", 0, "c"), texts(3, 23)
        found = place_losses(subject, documents, ("zero", "gate_closed"))
        for document, ids in documents:
            for name in ("zero", "gate_closed"):
                assert_losses(found, document, name, with_past(subject.model, ids, ids, name))


@pytest.mark.usefixtures("few_tokens")
def test_a_swapped_memory_is_that_of_another_document_at_the_same_place():
    subject, documents = Subject(build(["memory"]), TOKENIZER, "tiny", 0, "c"), texts(7, 23)
    found = place_losses(subject, documents, ("swap",))
    for part in scoring.batches(subject.model, 7):
        for row, other in zip(part, np.roll(part, -1), strict=True):
            expected = with_past(subject.model, documents[other][1], documents[row][1], "none")
            assert_losses(found, documents[row][0], "swap", expected)
    with pytest.raises(InputError, match="at least 2"):
        place_losses(subject, documents[:1], ("swap",))


def test_passes_are_no_larger_than_allowed(few_tokens, monkeypatch):
    subject, sizes = Subject(build(["memory"]), TOKENIZER, "tiny", 0, "c"), []
    forward = type(subject.model).forward

    def measured(self, input_ids, **given):
        sizes.append(input_ids.numel())
        return forward(self, input_ids, **given)

    monkeypatch.setattr(type(subject.model), "forward", measured)
    perturb(subject, texts(3, 40), [4], 5, seed=0)
    place_losses(subject, texts(3, 40))
    forgetting_curve(subject, texts(3, 40), [20], 3, seed=0)
    assert max(sizes) <= scoring.PASS_TOKENS
    monkeypatch.setattr(scoring, "PASS_LOGITS", SEGMENT * WORDS)
    assert [len(part) for part in scoring.batches(subject.model, 7)] == [3, 2, 2]
    assert scoring.chunk_tokens(subject.model, 2) == SEGMENT


# What is not finite


@pytest.fixture
def broken():
    """A model whose logits are not a number after token 4, and documents of which one has that token."""
    model = build(["memory"])
    with torch.no_grad():
        model.model.embed_tokens.weight[4] = math.nan
    documents = [(name, np.where(ids == 4, 5, ids)) for name, ids in texts(4, 26)]
    documents[2][1][24] = 4
    return Subject(model, TOKENIZER, "tiny", 0, "c"), documents


def test_losses_that_are_not_finite_are_counted_and_named(broken):
    subject, documents = broken
    records = perturb(subject, documents, [4], 6, seed=0)
    bad = {r.document_id for r in records if r.not_finite}
    assert bad == {"d2"}
    assert all(math.isnan(r.nll) == bool(r.not_finite) for r in records)
    assert {r.not_finite for r in records if r.document_id == "d2" and r.condition == "true"} == {1}
    (row, *_) = effective_context(records).table
    assert row.rise.left_out == ("d2",)
    assert row.rise.found.n == 3
    assert PerturbationRecord.model_validate_json(records[2].model_dump_json()).model_dump() == pytest.approx(
        records[2].model_dump(), nan_ok=True
    )
    positions, places = place_losses(subject, documents)
    assert {r.document_id for r in positions if math.isnan(r.nll)} == {"d2"}
    assert [(r.document_id, r.not_finite) for r in places if r.not_finite] == [("d2", 1)]
    assert mean_loss(positions)[Range(16, 26)].left_out == ("d2",)


def test_guesses_from_logits_that_are_not_finite_are_wrong(broken):
    subject, documents = broken
    with torch.no_grad():
        subject.model.model.embed_tokens.weight[:] = math.nan
    zeros = [
        (name, np.zeros_like(ids)) for name, ids in documents
    ]  # the token that argmax names when nothing is finite
    records = forgetting_curve(subject, zeros, [8], 4, seed=0)
    assert {(r.correct, r.not_finite) for r in records} == {(0, 4)}
    assert forgetting(records)[0].not_finite == 8 * 4
    places = place_losses(subject, documents).places
    assert mean_loss(places)[Range(0, 1)].found.n == 0, "nothing is left to be averaged, and nothing is raised"


# What cannot be asked


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda subject: forgetting_curve(subject, texts(), [1], 2, 0), "lengths of 2 tokens and more"),
        (lambda subject: forgetting_curve(subject, texts(), [], 2, 0), "lengths of 2 tokens and more"),
        (lambda subject: forgetting_curve(subject, texts(), [4], 0, 0), "at least 1 repeat"),
        (lambda subject: perturb(subject, texts(1), [4], 4, 0), "needs two documents, got 1"),
        (lambda subject: perturb(subject, texts(), [24], 3, 0), "between 1 and 23, .* not 24"),
        (lambda subject: perturb(subject, texts(), [], 3, 0), "and there is none"),
        (lambda subject: perturb(subject, texts(), [4], 25, 0), "25 scored tokens leave 0"),
        (lambda subject: place_losses(subject, texts(), ["swop"]), "Unknown intervention 'swop'"),
        (lambda subject: place_losses(subject, texts(2, 1)), "nothing to predict"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(ask, sentence):
    with pytest.raises(InputError, match=sentence):
        ask(Subject(build(["memory"]), TOKENIZER, "a", 0, ""))
