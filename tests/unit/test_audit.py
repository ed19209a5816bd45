"""The contamination audit, from texts to findings, and its command."""

import json
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli_case import refused, run
from palimpsest.data import CorpusSpec, TokenizerSpec, is_heldout, prepare_corpus
from palimpsest.data.audit import AuditOptions, audit, open_evaluated, open_training, split
from palimpsest.data.audit.canaries import PERTURBATIONS, draw_canaries
from palimpsest.data.audit.ngrams import Lexicon, pieces, windows_covered, word_spans, words
from palimpsest.data.corpus import Document
from palimpsest.errors import InputError
from palimpsest.records import AuditRecord, AuditSetting, CanaryRecord, read_jsonl
from palimpsest.report.audit import summarise, write_audit_page

VOCABULARY = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


def prose(seed: int, count: int) -> str:
    rng = np.random.default_rng(seed)
    chosen = [VOCABULARY[i] for i in rng.integers(0, len(VOCABULARY), count)]
    return " ".join(word.capitalize() + "." if i % 9 == 8 else word for i, word in enumerate(chosen))


def write_rows(path: Path, texts: dict[str, str]) -> str:
    path.write_text("".join(json.dumps({"id": k, "text": v}) + "\n" for k, v in texts.items()), encoding="utf-8")
    return str(path)


TRAINING = {f"train-{i}": prose(i, 400) for i in range(12)}
CLEAN = prose(1000, 500)
COPIED = " ".join(TRAINING["train-7"].split()[100:160])


@pytest.fixture
def training(tmp_path) -> str:
    return write_rows(tmp_path / "training.jsonl", TRAINING)


def findings(training: str, evaluated: dict[str, str], options: AuditOptions | None = None):
    texts = [("evaluated", Document(name, text)) for name, text in evaluated.items()]
    return audit(open_training(training, heldout_fraction=0.0), texts, options)


def test_a_copied_passage_is_found_where_it_is_and_nothing_else_is(training):
    dirty = f"{prose(2000, 100)} {COPIED} {prose(2001, 100)}"
    found = findings(training, {"clean": CLEAN, "dirty": dirty})
    clean, record = found.records
    assert (clean.hits, clean.covered, clean.reasons, clean.offending, clean.passages) == (0, 0.0, (), (), ())
    assert record.hits == 60 - 13 + 1
    assert record.covered == pytest.approx(60 / 260)
    assert record.eightgrams_seen == pytest.approx((60 - 8 + 1) / (260 - 8 + 1))
    assert record.longest_words == 60
    assert record.longest_tokens >= 60
    assert record.reasons == ("ngram", "longest_match")
    assert record.offending == ("train-7",)
    (passage,) = record.passages
    assert (passage.training_document, passage.start, passage.words) == ("train-7", 100, 60)
    assert COPIED in passage.evaluated_text
    assert COPIED in passage.training_text
    assert split(found.records) == (["clean"], ["dirty"])


def by_sets(evaluated: str, training: dict[str, str], size: int) -> tuple[int, int]:
    """Count the n-grams of a text, and those that stand in a training document, with Janitor's normalisation."""
    table = str.maketrans("", "", string.punctuation)

    def grams(text: str) -> list[tuple[str, ...]]:
        found = text.lower().translate(table).split()
        return [tuple(found[i : i + size]) for i in range(len(found) - size + 1)]

    there = {gram for text in training.values() for gram in grams(text)}
    own = grams(evaluated)
    return sum(gram in there for gram in own), len(own)


@given(st.integers(0, 2**32), st.integers(1, 13))
def test_hits_and_coverage_are_those_of_sets_of_ngrams(tmp_path_factory, seed, ngram):
    rng = np.random.default_rng(seed)
    alphabet = ["a", "B,", "c-d", "--", "(a)", "b"]
    texts = [" ".join(alphabet[i] for i in rng.integers(0, 6, 60)) for _ in range(4)]
    training = {f"t{i}": text for i, text in enumerate(texts[1:])}
    source = write_rows(tmp_path_factory.mktemp("sets") / "t.jsonl", training)
    (record,) = findings(source, {"x": texts[0]}, AuditOptions(ngram=ngram, canaries=0)).records
    assert (record.hits, record.ngrams) == by_sets(texts[0], training, ngram)
    if ngram >= 8:
        seen, count = by_sets(texts[0], training, 8)
        assert record.eightgrams_seen == pytest.approx(seen / count)


@given(st.text())
def test_words_are_those_of_janitor_on_ascii_and_have_a_place(text):
    found = words(text)
    assert [words(text[start:stop]) for start, stop in word_spans(text)] == [[word] for word in found]
    plain = "".join(c for c in text if c in string.printable)
    assert words(plain) == plain.lower().translate(str.maketrans("", "", string.punctuation)).split()
    assert "".join(pieces(text)) == "".join(text.split())


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 5))
def test_covered_positions(starts, size):
    expected = [any(starts[max(i - size + 1, 0) : i + 1]) for i in range(len(starts))]
    assert windows_covered(np.array(starts, dtype=bool), size).tolist() == expected


def test_the_canaries_are_found_however_they_are_written_and_leave_no_trace(training):
    evaluated = {f"e{i}": prose(3000 + i, 600) for i in range(3)}
    found = findings(training, evaluated)
    assert len(found.canaries) == 20
    assert {c.perturbation for c in found.canaries} == set(PERTURBATIONS)
    assert all(c.found for c in found.canaries)
    assert {c.longest_words for c in found.canaries if c.perturbation != "edited"} == {50}
    assert all(c.longest_words == 19 for c in found.canaries if c.perturbation == "edited")
    assert all(c.longest_tokens >= 50 for c in found.canaries if c.perturbation in ("verbatim", "whitespace"))
    assert all(c.longest_tokens < 50 for c in found.canaries if c.perturbation in ("case", "edited"))
    assert split(found.records).dirty == []
    without = findings(training, evaluated, AuditOptions(canaries=0))
    assert without.records == found.records
    assert findings(training, evaluated).canaries == found.canaries
    assert findings(training, evaluated, AuditOptions(seed=1)).canaries != found.canaries


def test_a_blind_audit_finds_no_canary(training, monkeypatch):
    """The recall is measured: an audit that leaves planted documents out of its stream has none."""
    monkeypatch.setattr("palimpsest.data.audit.canaries.Canary.planted", lambda canary, text: text)
    found = findings(training, {"e": prose(3000, 2000)})
    assert [c.found for c in found.canaries] == [False] * 20


def test_a_canary_from_a_passage_that_is_in_training_already_is_found_by_itself(training):
    found = findings(training, {"copy": TRAINING["train-4"]})
    assert [c.found for c in found.canaries] == [True] * 8
    assert {c.longest_words for c in found.canaries if c.perturbation == "verbatim"} == {50}


def test_canaries_do_not_overlap_and_come_from_the_texts():
    texts = [prose(5, 130), prose(6, 20), prose(7, 210)]
    units = Lexicon("words", words)
    units.evaluated(texts)
    canaries = draw_canaries(texts, units, 9, 20, ngram=13, seed=0)
    assert len(canaries) == 2 + 4
    assert len({(c.document, c.words) for c in canaries}) == 6
    for canary in canaries:
        assert canary.tokens == canary.words
        if canary.perturbation == "verbatim":
            assert words(canary.passage) == words(texts[canary.document])[slice(*canary.words)]
        assert canary.passage in canary.planted("one two three")
        assert 0 <= canary.host < 9
    wide = draw_canaries(texts, units, 9, 20, ngram=60, seed=0)
    assert {c.words[1] - c.words[0] for c in wide} == {120}


def test_eightgram_coverage_and_identifiers_are_findings(training):
    chopped = " ".join(
        " ".join(TRAINING["train-3"].split()[i : i + 12]) + f" x{i}" for i in range(0, 240, 12)
    )  # never 13 words in a row
    found = findings(training, {"chopped": chopped * 1, "folder/TRAIN-2.txt": CLEAN})
    assert found.records[0].longest_words == 12
    assert found.records[0].reasons == ()
    assert found.records[0].eightgrams_seen == pytest.approx(20 * 5 / (260 - 7))
    assert found.records[1].same_id
    assert found.records[1].reasons == ("same_id",)
    whole = findings(training, {"whole": TRAINING["train-3"]}).records[0]
    assert (whole.eightgrams_seen, whole.covered) == (1.0, 1.0)
    assert whole.reasons == ("ngram", "coverage", "longest_match")


def test_boilerplate_is_cut_and_formulas_are_reported(training):
    formula = " ".join(TRAINING["train-1"].split()[:30])
    evaluated = {f"e{i}": f"{prose(4000 + i, 60)} {formula} {prose(5000 + i, 60)}" for i in range(4)}
    found = findings(training, evaluated)
    assert [r.documents for r in found.setting.repeated] == [4] * len(found.setting.repeated)
    assert found.setting.repeated
    assert all(r.text in " ".join(words(formula)) for r in found.setting.repeated)
    cut = findings(training, evaluated, AuditOptions(boilerplate=(formula.upper().replace(" ", "\n"),)))
    assert split(cut.records).dirty == []
    assert [record.boilerplate_cuts for record in cut.records] == [1] * 4


@pytest.fixture
def prepared(tmp_path) -> Path:
    texts = {name: text + " " + prose(77, 30) for name, text in TRAINING.items()}
    heldout = [f"n{i}" for i in range(200) if is_heldout(f"n{i}", 0.2)][:3]
    training = [f"n{i}" for i in range(200) if not is_heldout(f"n{i}", 0.2)][:12]
    rows = dict(zip(training, texts.values(), strict=True))
    rows |= {name: f"{prose(6000 + i, 300)} {COPIED if i == 0 else ''}" for i, name in enumerate(heldout)}
    spec = CorpusSpec(source=write_rows(tmp_path / "all.jsonl", rows), heldout_fraction=0.2)
    return prepare_corpus(spec, TokenizerSpec(vocab_size=300), tmp_path / "prepared", shard_tokens=5000).directory


def test_a_prepared_corpus_is_audited_in_its_own_tokens_over_all_its_shards(prepared):
    training = open_training(str(prepared))
    assert len(list(prepared.glob("train-*.bin"))) > 1 or len(training.corpus.manifest.train.shards) > 1
    found = audit(training, open_evaluated(training, []))
    assert found.setting.unit == "tokens of the corpus' tokenizer"
    assert [record.longest_words for record in found.records if record.reasons] == [60]
    (dirty,) = (record for record in found.records if record.reasons)
    ours = training.corpus.tokenizer()
    assert abs(dirty.longest_tokens - len(ours.encode(COPIED))) <= 4
    assert found.setting.training_documents == 12
    assert found.setting.training_bytes == training.corpus.manifest.train.text_bytes
    assert all(c.found for c in found.canaries)


def test_another_corpus_is_compared_as_text_whatever_its_tokenizer(prepared, tmp_path, training):
    spec = CorpusSpec(source=training, heldout_fraction=0.5)
    other = prepare_corpus(spec, TokenizerSpec(vocab_size=400), tmp_path / "other")
    source = open_training(str(prepared))
    found = audit(source, open_evaluated(source, [str(other.directory)]), AuditOptions(canaries=0))
    assert all(record.covered > 0.9 for record in found.records)
    assert len(found.records) == other.manifest.heldout.documents


def test_summary_page_and_verdict(training, tmp_path):
    found = findings(training, {"clean": CLEAN, "dirty<b>": f"{prose(9000, 99)} {COPIED}"})
    summary = summarise(found.setting, found.records, found.canaries)
    assert (summary.verdict, summary.long_matches, summary.dirty) == ("FAIL", 1, 1)
    assert summary.any_ngram.mean == 0.5
    page = write_audit_page(tmp_path, found.setting, found.records, found.canaries).read_text()
    assert page.count(COPIED) == 2
    assert "dirty&lt;b&gt;" in page
    assert "dirty<b>" not in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")

    clean = [r for r in found.records if not r.reasons]
    assert summarise(found.setting, clean, [*found.canaries * 3][:20]).verdict == "PASS"
    missed = [c.model_copy(update={"found": i > 0}) for i, c in enumerate([*found.canaries * 3][:20])]
    assert summarise(found.setting, clean, missed).verdict == "PASS"
    assert summarise(found.setting, clean, [missed[0], *missed[:-1]]).verdict == "INCONCLUSIVE"
    assert summarise(found.setting, clean, []).verdict == "INCONCLUSIVE"
    assert summarise(found.setting, clean, found.canaries[:3]).verdict == "INCONCLUSIVE"


def test_the_command(training, tmp_path):
    evaluated = write_rows(tmp_path / "items.jsonl", {"a": CLEAN, "b": f"{CLEAN} {COPIED}"})
    result = run("data", "audit", training, "--against", evaluated, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "FAIL: of 2 evaluated texts 1 share a passage of 50 tokens or more" in result.stdout
    records = list(read_jsonl(tmp_path / "out" / "records" / "audit.jsonl", AuditRecord))
    canaries = list(read_jsonl(tmp_path / "out" / "records" / "canaries.jsonl", CanaryRecord))
    setting = AuditSetting.model_validate_json((tmp_path / "out" / "records" / "audit.json").read_text())
    assert split(records) == (["a"], ["b"])
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["verdict"] == "FAIL"
    assert setting.training_documents == 12
    assert len(canaries) == 20
    assert (tmp_path / "out" / "index.html").stat().st_size > 5000


def test_bad_input_ends_in_one_sentence(training, tmp_path, prepared):
    out = ("--out", tmp_path / "out")
    empty = tmp_path / "empty.txt"
    empty.write_text("  \n")
    assert "is empty" in refused("data", "audit", training, "--against", empty, *out)
    assert "does not exist" in refused("data", "audit", "nowhere", *out)
    assert "does not exist" in refused("data", "audit", training, "--against", "nowhere", *out)
    assert "no held-out part" in refused("data", "audit", training, "--heldout-fraction", "0", *out)
    assert "smaller --ngram" in refused("data", "audit", training, "--against", training, "--ngram", "401", *out)
    assert "no training document" in refused("data", "audit", training, "--heldout-fraction", "0.99", *out)
    wrong = refused("data", "audit", training, "--against", training, "--against-column", "prompt", *out)
    assert "no column 'prompt'" in wrong
    assert "heldout_fraction 0.2" in refused("data", "audit", prepared, "--heldout-fraction", "0.5", *out)
    lines = refused("data", "audit", training, "--against", training, "--boilerplate", tmp_path, *out)
    assert "--boilerplate" in lines
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_lost_text_is_refused(tmp_path, training):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "?": 1, "bal": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", unk_token="?")
    fast.save_pretrained(tmp_path / "words")
    spec = CorpusSpec(source=training, heldout_fraction=0.3)
    corpus = prepare_corpus(spec, TokenizerSpec(path=str(tmp_path / "words")), tmp_path / "lossy")
    assert "knows no token" in refused("data", "audit", corpus.directory, "--out", tmp_path / "out")


def test_nothing_to_evaluate_is_refused(training):
    with pytest.raises(InputError, match="nothing to evaluate"):
        audit(open_training(training), [])
