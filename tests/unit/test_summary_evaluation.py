"""Models that summarise: what is trained, what is written, and how it is scored beside what writes without a model."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from summary_case import CUE, booksum_spec, chapters, encoded, summaries_data

from cli_case import run
from palimpsest.data.summaries import SummaryPair, summary_pairs
from palimpsest.errors import InputError
from palimpsest.schema import parse
from palimpsest.study import summaries as study
from palimpsest.study.evaluate import Subject
from palimpsest.study.summaries import Asked, Writing, asked_pairs, evaluate_summaries, write_summary
from palimpsest.study.summary_scores import mean_score
from palimpsest.tasks.stories import facts_of
from palimpsest.training import Recipe, resolve_checkpoint, train
from palimpsest.training.data import batch_source
from palimpsest.training.recipe import StoriesSpec, SummariesData
from palimpsest.training.state import pretrained_model
from palimpsest.training.summaries import prompt_of
from text_case import decode, encode, tokenizer
from tiny_case import tiny_model
from training_case import recipe_values


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three updates on chapters in BookSum's schema: their folder, and the recipe."""
    folder = tmp_path_factory.mktemp("summaries")
    parquet.write_table(pa.Table.from_pylist(chapters()), folder / "train.parquet")
    tokenizer().save_pretrained(folder / "tokenizer")
    block = summaries_data(booksum_spec(folder / "train.parquet", heldout_fraction=0.3)).model_dump(mode="json")
    values = recipe_values(block | {"tokenizer": str(folder / "tokenizer")}, steps=3, checkpoint_every=1)
    made = parse(Recipe, values, "recipe")
    train(made, folder / "run")
    return folder, made


def test_training_sees_these_rows_and_the_checkpoint_is_described(trained):
    folder, made = trained
    source = batch_source(made, folder / "again", init=None, segment_length=32)
    batch = source.batch(0)
    assert batch.input_ids.shape == (2, 192)
    assert torch.equal(batch.input_ids[0], torch.from_numpy(source.rows.row(0).input_ids))
    shown = run("info", folder / "run" / "recipe.yaml")
    assert shown.exit_code == 0, shown.output
    assert "3 updates of 4 rows: 2,304 tokens" in shown.stdout


@pytest.fixture(scope="module")
def subject():
    attention = {"pattern": ["memory"], "segment_length": 16, "memory": {"kind": "ridge"}}
    return Subject(tiny_model(attention, vocab_size=len(tokenizer())), tokenizer(), "tiny", 0, "c")


@torch.no_grad()
def test_a_summary_is_what_plain_greedy_decoding_writes_and_the_reference_costs_what_it_costs(subject):
    prompt = np.concatenate(prompt_of(encoded, "He went to town. " * 9, CUE))
    end = subject.tokenizer.eos_token_id
    gold = [*encode("He went to town."), end]
    written = write_summary(subject, prompt, gold, Writing(max_new_tokens=9))
    ids = prompt.tolist()
    while len(ids) < len(prompt) + 9 and (not len(ids) > len(prompt) or ids[-1] != end):
        ids.append(int(subject.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    expected = [token for token in ids[len(prompt) :] if token != end]
    assert written.text == decode(expected).strip()
    assert written.finished == (ids[-1] == end)
    logits = subject.model(torch.tensor([[*prompt.tolist(), *gold]]), use_cache=False).logits[0]
    scores = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(gold)[:, None])
    assert written.reference_nats == pytest.approx(-float(scores.sum()), rel=1e-9)


def test_every_writer_is_scored_beside_the_model(subject, monkeypatch):
    asked = asked_pairs(
        summaries_data({"kind": "stories", "words": 80, "people": 2, "rooms": 2, "objects": 2}, row_length=400),
        4,
        seed=0,
    )
    monkeypatch.setattr(study, "write_summary", oracle)
    found = evaluate_summaries(subject, asked, CUE, Writing(8), interventions=["reset"])
    assert Counter((each.writer, each.intervention) for each in found) == Counter(
        dict.fromkeys(
            (("model", "none"), ("model", "reset"), ("lead", "none"), ("tail", "none"), ("random", "none")), 4
        )
    )
    best = mean_score(found, "fact_recall")
    assert (best.mean, mean_score(found, "rouge_l").mean) == (1.0, 1.0)  # it wrote the references
    assert mean_score(found, "fact_recall", intervention="reset").mean == 0.0  # and nothing
    assert mean_score(found, "reference_loss").mean == 2.0
    gain = mean_score(found, "fact_recall", against=("lead", "none"))
    lead = [each.fact_recall for each in found if each.writer == "lead"]
    assert gain.mean == pytest.approx(1 - np.mean(lead))
    assert all(0 < each.far_facts <= len(asked[0].facts) for each in found)


def oracle(subject, prompt, reference, writing, intervention):
    """Write the reference itself, and nothing without memory."""
    return study.Written(decode(reference[:-1]) if intervention == "none" else "", True, 2.0 * len(reference))


@given(st.integers(0, 10_000))
def test_the_places_of_facts_are_the_ends_of_the_sentences_that_told_them_last(seed):
    (each,) = asked_pairs(summaries_data({"kind": "stories", "words": 90}, row_length=400), 1, seed=seed)
    text = each.pair.document
    for fact, until in zip(each.facts, each.told_until, strict=True):
        assert text[until - 1] == "."
        assert fact in facts_of(text[:until])
        begin = text.rfind(".", 0, until - 1) + 1
        assert {found[:2] for found in facts_of(text[begin:until])} >= {fact[:2]}
        assert fact[:2] not in {found[:2] for found in facts_of(text[until:])}


def test_only_far_facts_are_far(subject, monkeypatch):
    monkeypatch.setattr(study, "write_summary", oracle)
    (each,) = asked_pairs(summaries_data({"kind": "stories", "words": 80}, row_length=400), 1, seed=0)
    record = evaluate_summaries(subject, [each], CUE, Writing(8))[0]
    begin = (len(np.concatenate(prompt_of(encoded, each.pair.document, CUE))) - 1) // 16 * 16
    ends = [len(encode(each.pair.document[:until])) for until in each.told_until]
    assert record.far_facts == sum(end <= begin for end in ends)
    assert record.far_recall == 1.0


def test_a_trained_checkpoint_is_evaluated_on_books_it_has_not_seen(trained):
    folder, made = trained
    checkpoint = resolve_checkpoint(folder / "run")
    subject = Subject(pretrained_model(checkpoint).eval(), tokenizer(), "tiny", 3, "c")
    assert isinstance(made.data, SummariesData)
    asked = asked_pairs(made.data, 10, seed=0)
    seen = {pair.group for pair in summary_pairs(made.data.pairs, "train")}
    assert asked
    assert not seen & {each.pair.group for each in asked}
    found = evaluate_summaries(subject, asked, made.data.cue, Writing(4, temperature=1.0))
    assert len(found) == 4 * len(asked)
    assert mean_score(found, "fact_recall") is None  # no fact table
    loss = mean_score(found, "reference_loss")
    assert 0 < loss.mean < 10


def test_what_cannot_be_scored_is_refused(subject):
    with pytest.raises(InputError, match="no document to summarise"):
        evaluate_summaries(subject, [], CUE, Writing(4))
    each = Asked(SummaryPair("a", "a", "Text.", "Short."))
    with pytest.raises(InputError, match="no intervention 'zeros'"):
        evaluate_summaries(subject, [each], CUE, Writing(4), interventions=["zeros"])
    with pytest.raises(InputError, match="no score 'rouge'"):
        mean_score([], "rouge")


def test_a_document_that_one_side_lacks_is_refused(subject):
    asked = [Asked(SummaryPair(name, name, "He went to town. She did not.", "He went.")) for name in ("a", "b")]
    both = evaluate_summaries(subject, asked, CUE, Writing(4))
    assert mean_score(both, "rouge1", against=("lead", "none")) is not None
    lacking = [record for record in both if (record.writer, record.pair_id) != ("lead", "b")]
    with pytest.raises(InputError, match=r"The document 'b' \(seed 0\) has a summary by one of model .* only"):
        mean_score(lacking, "rouge1", against=("lead", "none"))


def test_stories_of_more_people_than_there_are():
    with pytest.raises(InputError, match="2 to 12 people"):
        asked_pairs(SummariesData(row_length=64, pairs=StoriesSpec(words=40, people=40)), 1, seed=0)
