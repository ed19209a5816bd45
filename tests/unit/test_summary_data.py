"""Documents with their summaries: what is read, how they are divided and packed into rows, and how they are scored."""

import json
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from tests.cli_case import run
from tests.text_case import decode, encode, tokenizer
from tests.training_case import recipe_values

from palimpsest.data import IGNORED
from palimpsest.data import summaries as reader
from palimpsest.data.summaries import SUMMARY_SETS, PairsSpec, SummaryPair, prepare_pairs, summary_pairs
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.schema import parse
from palimpsest.study import summaries as study
from palimpsest.study.evaluate import Subject
from palimpsest.study.summaries import (
    Asked,
    Writing,
    asked_pairs,
    evaluate_summaries,
    mean_score,
    write_summary,
)
from palimpsest.tasks.stories import facts_of
from palimpsest.training import Recipe, resolve_checkpoint, train
from palimpsest.training.data import batch_source
from palimpsest.training.recipe import StoriesSpec, SummariesData
from palimpsest.training.state import pretrained_model
from palimpsest.training.summaries import SummaryRows, prompt_of

CUE = "\n\nSummary:\n"


def chapters(count: int = 12) -> list[dict]:
    """Return rows in BookSum's schema, two chapters a book."""
    return [
        {
            "bid": number // 2,
            "is_aggregate": False,
            "book_id": f"Book {number // 2}.chapter {number % 2}",
            "chapter": f"Chapter {number}. " + f"He went to town {number}. " * (3 + number),
            "chapter_length": 3.0,
            "summary_text": f"He went to town {number} often.",
            "summary_analysis": None,
        }
        for number in range(count)
    ]


@pytest.fixture
def booksum(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    parquet.write_table(pa.Table.from_pylist(chapters()), folder / "train.parquet")
    return folder


def spec(source, **values) -> PairsSpec:
    named = SUMMARY_SETS["booksum-chapters"] | {"source": str(source)}
    return parse(PairsSpec, {"kind": "pairs", **named, **values}, "pairs")


# What is read


def test_rows_of_booksums_schema(booksum):
    found = list(summary_pairs(spec(booksum)))
    assert [pair.summary for pair in found] == [row["summary_text"] for row in chapters()]
    assert [pair.document for pair in found] == [row["chapter"].strip() for row in chapters()]
    assert [pair.group for pair in found] == [str(row["bid"]) for row in chapters()]


def test_a_book_is_never_on_both_sides(booksum):
    chosen = spec(booksum, heldout_fraction=0.5)
    parts = [[pair.group for pair in summary_pairs(chosen, part)] for part in ("train", "heldout")]
    assert not set(parts[0]) & set(parts[1])
    assert Counter(parts[0]) + Counter(parts[1]) == Counter(pair.group for pair in summary_pairs(chosen))
    assert all(parts)


def test_a_book_with_several_summaries_makes_several_pairs(tmp_path):
    summaries = [{"source": "a", "text": "One.", "analysis": None}, {"source": "b", "text": "Two.", "analysis": "x"}]
    rows = [{"bid": 7, "text": "Once upon a time.", "summary": summaries}, {"bid": 8, "text": " ", "summary": ["No."]}]
    (tmp_path / "books.jsonl").write_text("\n".join(map(json.dumps, rows)))
    named = SUMMARY_SETS["booksum"] | {"source": str(tmp_path / "books.jsonl"), "config": None}
    found = list(summary_pairs(parse(PairsSpec, named, "pairs")))
    assert found == [
        SummaryPair("books.jsonl#1.0", "7", "Once upon a time.", "One."),
        SummaryPair("books.jsonl#1.1", "7", "Once upon a time.", "Two."),
    ]


def test_papers_lose_their_abstract_and_come_once(tmp_path):
    text = "A Title\n\nWe study it.\n\nMethod\n\nWe study it.\n\nWe add.\n\nIt works."  # two of the 260 say it twice
    rows = [{"id": f"p_{n}", "paper": "p", "text": text, "question": "?", "label": n} for n in range(2)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "qasper_yesno-train.parquet")
    chosen = parse(PairsSpec, {"kind": "pairs", "source": str(tmp_path), "layout": "paper"}, "pairs")
    (pair,) = summary_pairs(chosen)
    assert pair.document == "A Title\n\nMethod\n\nWe add.\n\nIt works."
    assert pair.summary == "We study it."
    assert pair.group == "p"


def test_a_named_set_fills_in_what_is_not_given():
    named = parse(PairsSpec, {"kind": "pairs", "source": "arxiv", "split": "validation"}, "pairs")
    assert (named.source, named.config, named.split) == ("ccdv/arxiv-summarization", "document", "validation")
    assert (named.document_column, named.summary_column) == ("article", "abstract")
    assert parse(PairsSpec, named.model_dump(), "pairs") == named


def test_a_set_on_the_hub_is_streamed_at_one_commit(monkeypatch):
    calls = []

    def load_dataset(*names, **options):
        calls.append((names, options))
        yield from chapters(2)
        raise ConnectionError("The line is dead.\nTry later.")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr(reader, "resolve_revision", lambda *each: "abc")
    found = summary_pairs(parse(PairsSpec, {"kind": "pairs", "source": "booksum-chapters", "split": "test"}, "pairs"))
    assert [next(found).id for _ in range(2)] == ["test#1", "test#2"]
    with pytest.raises(
        InputError, match=r"'kmfoda/booksum' \(config None, split 'test'\) cannot be read \(The line is"
    ):
        next(found)
    assert calls == [(("kmfoda/booksum", None), {"split": "test", "revision": "abc", "streaming": True})]


@pytest.mark.parametrize(
    ("rows", "values", "sentence"),
    [
        ([{"text": "a", "y": "b"}], {}, "has no column 'document' (its columns: text, y); set document_column"),
        ([{"document": "a", "y": "b"}], {}, "has no column 'summary' (its columns: document, y); set summary_column"),
        ([{"document": "a", "summary": "b"}], {"group_column": "bid"}, "set group_column to the right one"),
        ([{"document": 3, "summary": "b"}], {}, "the column 'document' holds int, not text"),
        ([{"document": "a", "summary": [3]}], {}, "the column 'summary' holds int, not text"),
        ([{"document": "a", "summary": ""}], {}, "has no document with a summary"),
        ([{"text": "a", "paper": "b"}], {"layout": "paper"}, "is no paper of title, abstract and sections"),
        ([["a"]], {}, "line 1 is not a JSON object"),
    ],
)
def test_rows_that_do_not_fit(tmp_path, rows, values, sentence):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError) as refusal:
        list(summary_pairs(parse(PairsSpec, {"kind": "pairs", "source": str(tmp_path / "a.jsonl"), **values}, "pairs")))
    assert sentence in str(refusal.value)


def test_sources_that_are_none(tmp_path):
    (tmp_path / "a.txt").write_text("A text without a summary.")
    for source, sentence in (
        (tmp_path, "has no summaries beside its text"),
        ("nowhere", "does not exist: give booksum"),
    ):
        with pytest.raises(InputError, match=sentence):
            list(summary_pairs(PairsSpec(source=str(source))))
    with pytest.raises(InputError, match="The option config is for hub datasets only"):
        list(summary_pairs(PairsSpec(source=str(tmp_path), config="books")))


# Tokens and rows


def encoded(texts) -> list[list[int]]:
    return [encode(text) for text in texts]


def data(pairs, **values) -> SummariesData:
    block = pairs.model_dump() if isinstance(pairs, PairsSpec) else pairs
    return parse(SummariesData, {"row_length": 192, "pairs": block, **values}, "data")


def rows_of(pairs, tmp_path, seed: int = 0, **values) -> SummaryRows:
    return SummaryRows(data(pairs, **values), seed, tokenizer(), tmp_path / "data")


def test_tokens_on_disk_are_those_of_the_texts(booksum, tmp_path):
    chosen = spec(booksum, heldout_fraction=0.5)
    made = prepare_pairs(chosen, encoded, tokenizer().get_vocab(), tmp_path / "p")
    expected = list(summary_pairs(chosen, "train"))
    assert len(made) == len(expected)
    for number, pair in enumerate(expected):
        document, summary = made.pair(number)
        assert (document.tolist(), summary.tolist()) == (encode(pair.document), encode(pair.summary))
        assert made.lengths[number].tolist() == [len(document), len(summary)]
    with pytest.raises(InputError, match="holds pairs of another source or tokenizer"):
        prepare_pairs(spec(booksum), encoded, tokenizer().get_vocab(), tmp_path / "p")


def test_a_row_is_document_cue_summary_and_end_with_labels_on_the_last_two(booksum, tmp_path):
    rows = rows_of(spec(booksum, heldout_fraction=0.3), tmp_path)
    pairs = list(summary_pairs(spec(booksum, heldout_fraction=0.3), "train"))
    written = set()
    for index in range(len(pairs)):
        row = rows.row(index)
        real = row.document_ids == 0
        text = decode(row.input_ids[real])
        written.add(text)
        said = decode(row.labels[row.labels != IGNORED])
        assert text.endswith(CUE + said)
        assert said.endswith("<|endoftext|>")
        assert len(row.input_ids) == 192
        assert (row.labels[~real] == IGNORED).all()
    assert written == {f"{pair.document}{CUE}{pair.summary}<|endoftext|>" for pair in pairs}  # each once an epoch


def test_rows_are_functions_of_seed_and_index(booksum, tmp_path):
    whole = spec(booksum, heldout_fraction=0.0)
    one, again, other = (rows_of(whole, tmp_path, seed=seed) for seed in (1, 1, 2))
    tokens = [[rows.row(index).input_ids.tobytes() for index in range(24)] for rows in (one, again, other)]
    assert tokens[0] == tokens[1] != tokens[2]
    assert sorted(tokens[0][:12]) == sorted(tokens[0][12:]) == sorted(tokens[2][:12])
    assert tokens[0][:12] != tokens[0][12:]
    assert one.fingerprint == other.fingerprint != rows_of(whole, tmp_path, cue="\n").fingerprint


def test_a_document_that_does_not_fit_is_refused_cut_or_dropped(booksum, tmp_path):
    whole = spec(booksum, heldout_fraction=0.0)
    with pytest.raises(InputError) as refusal:
        rows_of(whole, tmp_path, row_length=80)
    assert "documents do not fit into rows of 80 tokens with their summaries" in str(refusal.value)
    cut = rows_of(whole, tmp_path, row_length=80, long_documents="cut")
    drop = rows_of(whole, tmp_path, row_length=80, long_documents="drop")
    texts = {pair.summary: pair.document for pair in summary_pairs(whole)}
    kinds = Counter()
    for index in range(12):
        row = cut.row(index)
        document, said = decode(row.input_ids[row.document_ids == 0]).split(CUE)
        summary = said.removesuffix("<|endoftext|>")
        assert texts[summary].startswith(document)  # the end is cut, never the summary
        kinds[document == texts[summary]] += 1
    assert kinds[True]
    assert kinds[False]
    assert {decode(drop.row(i).labels[drop.row(i).labels != IGNORED]) for i in range(kinds[True])} == {
        f"{summary}<|endoftext|>"
        for summary, text in texts.items()
        if len(encode(text)) <= drop._room(len(encode(summary)))
    }
    with pytest.raises(InputError, match="No document fits into rows of 12 tokens"):
        rows_of(whole, tmp_path, row_length=12, long_documents="drop")


def test_stories_come_without_end_and_never_from_the_evaluation_split(tmp_path):
    stories = {"kind": "stories", "words": 60, "people": 2, "rooms": 2, "objects": 2}
    rows = rows_of(stories, tmp_path, row_length=400)
    row = rows.row(3)
    document, said = decode(row.input_ids[row.document_ids == 0]).split(CUE)
    assert facts_of(document) == facts_of(said)
    asked = asked_pairs(data(stories, row_length=400), 5, seed=0)
    trained = {decode(rows.row(index).input_ids).split(CUE)[0] for index in range(5)}
    assert not trained & {each.pair.document for each in asked}
    with pytest.raises(InputError, match=r"Story 3 has \d+ tokens, but a row of 60 has room for"):
        rows_of(stories, tmp_path, row_length=60).row(3)


def test_the_recipe_names_what_is_wrong():
    values = recipe_values({"kind": "summaries", "row_length": 64, "pairs": {"kind": "stories", "words": 30}})
    with pytest.raises(InputError, match=r"data\.tokenizer is needed"):
        parse(Recipe, values, "recipe")
    values["data"]["tokenizer"] = "somewhere"
    assert parse(Recipe, values, "recipe").data == SummariesData.model_validate(values["data"])
    values["data"]["long_documents"] = "shorten"
    with pytest.raises(InputError, match="long_documents"):
        parse(Recipe, values, "recipe")


# What models make of them


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three updates on BookSum's schema, and the same after an interruption."""
    folder = tmp_path_factory.mktemp("summaries")
    parquet.write_table(pa.Table.from_pylist(chapters()), folder / "train.parquet")
    tokenizer().save_pretrained(folder / "tokenizer")
    block = data(spec(folder / "train.parquet", heldout_fraction=0.3)).model_dump(mode="json")
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


def build(words: int) -> PalimpsestForCausalLM:
    config = PalimpsestConfig(
        vocab_size=words,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention={"pattern": ["memory"], "segment_length": 16, "memory": {"kind": "ridge"}},
    )
    model = PalimpsestForCausalLM(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.5)
    return model


@pytest.fixture(scope="module")
def subject():
    return Subject(build(len(tokenizer())), tokenizer(), "tiny", 0, "c")


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
        data({"kind": "stories", "words": 80, "people": 2, "rooms": 2, "objects": 2}, row_length=400), 4, seed=0
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
    (each,) = asked_pairs(data({"kind": "stories", "words": 90}, row_length=400), 1, seed=seed)
    text = each.pair.document
    for fact, until in zip(each.facts, each.told_until, strict=True):
        assert text[until - 1] == "."
        assert fact in facts_of(text[:until])
        begin = text.rfind(".", 0, until - 1) + 1
        assert {found[:2] for found in facts_of(text[begin:until])} >= {fact[:2]}
        assert fact[:2] not in {found[:2] for found in facts_of(text[until:])}


def test_only_far_facts_are_far(subject, monkeypatch):
    monkeypatch.setattr(study, "write_summary", oracle)
    (each,) = asked_pairs(data({"kind": "stories", "words": 80}, row_length=400), 1, seed=0)
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


def test_stories_of_more_people_than_there_are():
    with pytest.raises(InputError, match="2 to 12 people"):
        asked_pairs(SummariesData(row_length=64, pairs=StoriesSpec(words=40, people=40)), 1, seed=0)
