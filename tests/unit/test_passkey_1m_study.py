"""The study of passkeys to a million tokens: what its tables count, and that a reading has the weights of its arm."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_passkey_1m import model_of, passkey

from palimpsest.errors import InputError
from palimpsest.models import PalimpsestCache, PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.models.streaming import prefill
from palimpsest.records import ItemRecord, write_jsonl
from palimpsest.schema import parse_yaml
from palimpsest.statistics import estimate
from palimpsest.study.evaluate import Subject, item_record
from palimpsest.tasks import Output
from script_case import load_script
from text_case import tokenizer


def script(name: str):
    """Import a file of the study, which is no package."""
    return load_script(Path(__file__).parents[2] / "studies" / "passkey_1m" / f"{name}.py")


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies" / "passkey_1m"))
    return script("run")


def record(answer: str, output: str, index: int = 0, seed: int = 0, depth: float = 0.0) -> ItemRecord:
    sample = passkey().sample(split="evaluation", seed=0, index=index, length=1024, depth=depth)
    subject = Subject(model_of("ridge"), tokenizer(), "ridge", seed, "weights")
    found = item_record(subject, passkey(), sample, Output(output, np.zeros(16)), "none")
    return found.model_copy(update={"answer": answer, "exact": output == answer})


@pytest.mark.parametrize(
    ("said", "right"), [("12345", 5), ("12354", 3), ("1234", 4), ("", 0), ("51234", 0), (" 2345", 4), ("123456", 5)]
)
def test_a_digit_counts_where_it_stands(said, right):
    assert sum(script("tables").right_digits(record("12345", said))) == right


def test_the_tables_have_the_shares_and_the_intervals_of_the_records():
    tables = script("tables")
    said = ["12345", "12345", "12340", "99999"]
    one = [record("12345", text, index) for index, text in enumerate(said)]
    two = [record("12345", text, index, seed=1, depth=1.0) for index, text in enumerate(said)]
    assert tables.whole_keys(one) == estimate([1.0, 1.0, 0.0, 0.0])
    assert tables.digits(one).mean == 14 / 20
    wilson = estimate([1.0] * 14 + [0.0] * 6)  # as if digits were independent
    assert tables.digits(one).low < wilson.low
    both = tables.whole_keys([*one, *(item.model_copy(update={"exact": True}) for item in two)])
    assert both.n == 2
    assert (both.mean, both.low, both.high) == (0.75, 0.0, 1.0)  # two seeds that differ bound nothing
    text = tables.render([*one, *two])
    row = next(line for line in text.splitlines() if line.startswith("| ridge | 1,024 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["ridge", "1,024", "16", "2", "8"]
    assert cells[5].startswith("50 [")
    assert cells[6] == "–"
    assert cells[7].startswith("50 [")


def test_an_item_is_one_text_however_many_seeds_are_asked_it():
    """Three seeds that all fail on two items have seen two texts, not six."""
    tables = script("tables")
    found = [record("12345", "67890", index, seed) for index in range(2) for seed in range(3)]
    assert tables.whole_keys(found).high == pytest.approx(estimate([0.0, 0.0]).high)
    assert tables.digits(found).high == pytest.approx(estimate([0.0, 0.0]).high)


def claims(spec, **values):
    return [claim.model_copy(update=values) for claim in spec.claims]


def answered(folder: Path, *records: ItemRecord) -> Path:
    for number, one in enumerate(records):
        write_jsonl(folder / "answers" / "items" / f"passkey-{number}.jsonl", [one])
    return folder


def test_publishing_what_cannot_be_published_leaves_what_is_there(tmp_path):
    tables, results = script("tables"), tmp_path / "results"
    one = record("12345", "12345")
    tables.publish("study", (), answered(tmp_path / "a", one), results)
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="holds two answers of ridge, seed 0"):
        tables.publish("study", (), answered(tmp_path / "b", one, one), results)
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_a_claim_is_judged_when_both_sides_have_the_same_seeds(study):
    tables = script("tables")
    spec = parse_yaml(study.Study, study.HERE / "study.yaml")
    asked = claims(spec, arm="ridge", against="other", lengths=(1024,), depths=())[-1:]
    mine = [record("12345", "12345", index, seed) for index in range(3) for seed in range(2)]
    other = [one.model_copy(update={"arm": "other", "exact": False}) for one in mine]
    assert "## Claims" not in tables.render([*mine, *other[:3]], asked)
    assert "INCONCLUSIVE" in tables.render([*mine, *other], asked)  # two seeds, where three are demanded


def test_the_tables_are_those_of_the_committed_records(study):
    tables, results = script("tables"), study.HERE / "results"
    claims = parse_yaml(study.Study, study.HERE / "study.yaml").claims
    assert (results / "tables.md").read_text(encoding="utf-8") == tables.render(tables.load(results), claims)


def test_the_rows_of_the_readme_are_those_of_the_tables(study):
    rows = [
        line for line in (study.HERE / "README.md").read_text(encoding="utf-8").splitlines() if "-segments_" in line
    ]
    assert len(rows) == 6
    assert set(rows) <= set((study.HERE / "results" / "tables.md").read_text(encoding="utf-8").splitlines())


def test_every_claim_names_an_arm_that_is_trained_and_a_length_that_is_asked(study):
    spec = parse_yaml(study.Study, study.HERE / "study.yaml")
    arms = {f"{arm}-{finetune}" for arm in spec.arms for finetune in spec.finetunes}
    for claim in spec.claims:
        assert {claim.arm, claim.against or claim.arm} <= arms
        assert set(claim.lengths) <= set(spec.evaluation.items)


def test_a_reading_has_the_weights_of_its_arm_and_says_nearly_the_same(study):
    spec = parse_yaml(study.Study, study.HERE / "study.yaml")
    assert {part.passkey.max_length / 64 for part in spec.finetunes.values()} == {2.5, 8.0}
    model = model_of("ridge")
    attention = model.config.attention_spec.model_copy(update={"memory": spec.readings["ridge_root"].memory})
    other = study.rebuilt(model.float(), attention).double()
    model = model.double()
    tokens = torch.randint(64, (2, 1024), generator=torch.Generator().manual_seed(0))
    states = []
    for each in (model, other):
        cache = PalimpsestCache(each.config)
        states.append((prefill(each, tokens, cache), type(cache.layers[0].state)))
    torch.testing.assert_close(states[0][0], states[1][0], atol=1e-8, rtol=0)
    assert [kind.__name__ for _, kind in states] == ["RidgeState", "RidgeRootState"]


def test_strengths_are_those_of_the_layers_by_what_is_written():
    strengths = script("strengths")
    attention = {"segment_length": 64, "memory": {"kind": "ridge", "strength": "token"}}
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = PalimpsestConfig(**sizes, attention=attention)
    with torch.random.fork_rng(devices=[]):
        model = PalimpsestForCausalLM(config).eval()
    tokens = torch.arange(64)
    found = strengths.strengths(model, tokens)
    assert list(found) == [0, 1]
    assert all(np.array_equal(given, np.full((2, 64), 0.5)) for given in found.values())  # before training
    with torch.no_grad():
        model.model.layers[1].self_attn.strength.bias += 100.0
    assert [float(given.min()) for given in strengths.strengths(model, tokens).values()] == [0.5, 1.0]
    assert not strengths.strengths(model_of("ridge"), tokens)


def test_the_table_of_strengths_comes_from_its_record(study):
    strengths = script("strengths")
    found = strengths.Strengths.model_validate_json((study.HERE / "results" / "strengths.json").read_text())
    assert (study.HERE / "results" / "strengths.md").read_text(encoding="utf-8") == strengths.render(found)


def test_tokens_are_told_apart_by_the_needle_and_its_digits():
    strengths = script("strengths")
    sample = passkey().sample(split="evaluation", seed=0, index=0, length=1024, depth=0.5)
    digits = np.array([tokenizer().convert_tokens_to_ids(digit) for digit in "0123456789"])
    kinds = strengths.classes(sample, digits)
    (needle,) = sample.needles
    assert set(kinds[needle.start : needle.end]) == {0, 1}
    assert set(np.flatnonzero(kinds < 2)) == set(range(needle.start, needle.end))
    said = tokenizer().decode(sample.input_ids[kinds == 0]).replace(" ", "")
    assert said == sample.answer * (len(said) // len(sample.answer))  # once or twice, whole
