"""The probes on running text equal their definitions, one plain pass per condition, and say what they should."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.errors import InputError
from palimpsest.models import PalimpsestCache, PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.probes import INTERVENTIONS
from palimpsest.records import PerturbationRecord, PlaceLossRecord
from palimpsest.statistics.text_probes import (
    Range,
    effective_context,
    forgetting,
    mean_loss,
)
from palimpsest.study.evaluate import Subject
from palimpsest.study.text_probes import forgetting_curve, perturb, perturbation, place_losses, scoring
from palimpsest.tasks.documents import (
    SENTENCE,
    SPOILINGS,
    doubling,
    first_documents,
    forgetting_pairs,
    partners,
    sentences,
    spoilt,
    stacked,
)
from palimpsest.tasks.draws import Draws

SEGMENT, WORDS, BEGIN, END, STOP = 4, 13, 1, 2, 3
NOTHING = np.empty(0, dtype=np.int64)
TOKENIZER = SimpleNamespace(
    bos_token_id=BEGIN,
    eos_token_id=END,
    name_or_path="words",
    get_vocab=lambda: {f"w{number}": number for number in range(WORDS)},
    batch_decode=lambda rows: [" ends." if row == [STOP] else " goes" for row in rows],
    convert_ids_to_tokens=lambda number: f"w{number}",
)


def build(pattern) -> PalimpsestForCausalLM:
    config = PalimpsestConfig(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention={"pattern": pattern, "segment_length": SEGMENT, "memory": {"kind": "ridge"}},
    )
    model = PalimpsestForCausalLM(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.5)
    return model


@pytest.fixture(params=[["memory"], ["full"], ["memory", "full"]], ids="+".join)
def subject(request):
    return Subject(build(request.param), TOKENIZER, "tiny", 0, "c")


@pytest.fixture
def few_tokens(monkeypatch):
    """Passes of so few tokens that every text is read in several chunks, and the texts in several batches."""
    monkeypatch.setattr(scoring, "PASS_TOKENS", 3 * SEGMENT)


def texts(count=5, length=27, seed=0):
    random = np.random.default_rng(seed)
    return [(f"d{number}", random.integers(4, WORDS, length)) for number in range(count)]


@torch.no_grad()
def plain(model, tokens):
    """Return loss and greedy guess of tokens 1 .. T - 1 of one text, by one pass over all of it."""
    logits = model(torch.as_tensor(np.asarray(tokens))[None], use_cache=False).logits[0, :-1]
    targets = torch.as_tensor(np.asarray(tokens))[1:]
    return -logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].numpy(), logits.argmax(-1).numpy()


# How documents are cut and spoilt


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.data())
def test_a_spoilt_document_keeps_what_is_near_and_only_rearranges_what_is_far(words, data):
    tokens = np.array(words)
    far = data.draw(st.integers(1, len(words) - 1))
    other = tokens + 10
    for how in SPOILINGS:
        got = spoilt(tokens, far, how, other=other, ends=np.array([0]), draws=Draws("x"))
        assert got[len(got) - (len(tokens) - far) :].tolist() == words[far:]
        beyond = got[: len(got) - (len(tokens) - far)].tolist()
        if how == "other":
            assert beyond == other[:far].tolist()
        elif how == "dropped":
            assert beyond == []
        else:
            assert sorted(beyond) == sorted(words[:far])


def test_sentences_end_where_they_end_and_keep_their_order():
    tokens = np.array([5, STOP, 6, 7, STOP, 8, 9])
    assert [piece.tolist() for piece in sentences(tokens, np.array([STOP]))] == [[5, STOP], [6, 7, STOP], [8, 9]]
    assert [len(piece) for piece in sentences(np.arange(40), NOTHING)] == [SENTENCE, SENTENCE, 40 - 2 * SENTENCE]
    shuffled = {
        tuple(spoilt(tokens, 5, "sentences", other=tokens, ends=np.array([STOP]), draws=Draws(str(label))).tolist())
        for label in range(20)
    }
    assert shuffled == {(5, 3, 6, 7, 3, 8, 9), (6, 7, 3, 5, 3, 8, 9)}
    orders = {tuple(spoilt(tokens, 5, "tokens", other=tokens, ends=NOTHING, draws=Draws(str(n)))) for n in range(20)}
    assert len(orders) > 5


@given(st.integers(2, 30), st.integers(0, 5))
def test_every_document_is_the_partner_of_another_one(count, seed):
    partner = partners(count, seed)
    assert sorted(partner) == list(range(count))
    assert (partner != np.arange(count)).all()


def test_targets_take_turns_and_never_meet_their_own_document():
    documents = [*texts(4, 30), ("short", np.arange(5))]
    pairs = forgetting_pairs(documents, 8, 8, seed=1)
    assert sorted(pair.target.document_id for pair in pairs[:4]) == ["d0", "d1", "d2", "d3"]
    assert sorted(pair.target.document_id for pair in pairs[4:]) == ["d0", "d1", "d2", "d3"]
    content = dict(documents)
    for pair in pairs:
        assert pair.target.document_id != pair.unrelated.document_id
        for part in pair:
            assert part.tokens.tolist() == content[part.document_id][part.start : part.start + 8].tolist()
    assert len({pair.target.start for pair in pairs}) > 2
    again, other = (forgetting_pairs(documents, 8, 8, seed=seed) for seed in (1, 2))
    assert [p.target.start for p in again] == [p.target.start for p in pairs] != [p.target.start for p in other]
    with pytest.raises(InputError, match=r"31 tokens .* two documents that long, but 0 of 5 are"):
        forgetting_pairs(documents, 31, 8, seed=1)


def test_the_first_documents_are_read_no_further_than_needed():
    def endless():
        for number in range(1000):
            assert number < 4, "nothing is read after enough was found"
            yield f"d{number}", np.arange(number * 10)

    assert [(name, len(ids)) for name, ids in first_documents(endless(), 2, 15, where="here")] == [
        ("d2", 15),
        ("d3", 15),
    ]
    with pytest.raises(InputError, match=r"here: 1 of 2 documents have 20 tokens .* longest has 30"):
        first_documents(texts(1, 30) + texts(1, 10, seed=1), 5, 20, where="here")
    assert len(first_documents(texts(3, 30), 5, 20, where="here")) == 3


def test_documents_must_be_alike_and_have_names_of_their_own():
    with pytest.raises(InputError, match="from 5 to 6 tokens"):
        stacked([("a", np.arange(5)), ("b", np.arange(6))])
    with pytest.raises(InputError, match="Two documents are called 'a'"):
        stacked([("a", np.arange(5)), ("a", np.arange(5))])
    with pytest.raises(InputError, match="no documents"):
        stacked([])


def test_buckets_double_up_to_the_end():
    assert doubling(1, 11) == [1, 2, 4, 8, 11]
    assert doubling(1, 8) == [1, 2, 4, 8]
    assert doubling(1, 2) == [1, 2]


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
