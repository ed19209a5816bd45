"""What the records of the text probes say, how they are drawn, and the command that makes them."""

import json

import numpy as np
import pytest
from scipy import stats

from cli_case import refused, run
from palimpsest.data import CorpusSpec, TokenizerSpec, prepare_corpus
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.records import ForgettingRecord, PerturbationRecord, PlaceLossRecord, PositionLossRecord, read_jsonl
from palimpsest.report import text_figures
from palimpsest.statistics.text_probes import (
    FINE,
    Range,
    context_gain,
    effective_context,
    forgetting,
    memory_spans,
)
from palimpsest.tasks.documents import (
    symbolic_documents,
)
from palimpsest.training.tasks import symbolic_tokenizer

# What the records say


def perturbed(rises, *, documents=8, seeds=(0,), arm="a", checkpoint="c"):
    """Return records in which another document's text beyond d costs ``rises[d]`` nats per token, give or take."""
    random = np.random.default_rng(0)
    shared = {"arm": arm, "context": 64, "segment_length": 4, "tokens": 10, "not_finite": 0, "other_id": "o"}
    records = []
    for seed in seeds:
        for number in range(documents):
            own = dict(shared, seed=seed, checkpoint=f"{checkpoint}{seed}", document_id=f"d{number}")
            true = 20 + random.normal()
            records.append(PerturbationRecord(**own, condition="true", distance=64, nll=true))
            for distance, rise in rises.items():
                worse = true + 10 * (rise + 0.01 * random.normal())
                records.append(PerturbationRecord(**own, condition="other", distance=distance, nll=worse))
    return records


def differences(records, distance):
    true = {r.document_id: r.nll / r.tokens for r in records if r.condition == "true"}
    return [r.nll / r.tokens - true[r.document_id] for r in records if (r.condition, r.distance) == ("other", distance)]


def test_effective_context_is_the_largest_distance_with_its_whole_interval_above_the_margin():
    records = perturbed({4: 0.2, 8: 0.05, 16: 0.03, 32: 0.006})
    context = effective_context(records)
    assert context.distance == 16
    for row in context.table:
        t = stats.ttest_1samp(differences(records, row.distance), 0).confidence_interval(0.95)
        assert (row.rise.found.low, row.rise.found.high) == pytest.approx((t.low, t.high))
    assert {row.distance: row.rise.found.low > 0.005 for row in context.table} == {
        4: True,
        8: True,
        16: True,
        32: False,
    }
    assert effective_context(records, margin=0.04).distance == 4
    assert effective_context(records, margin=1.0).distance is None
    assert effective_context(perturbed({4: 0.2}, documents=1)).distance is None, "one document bounds nothing"


def test_seeds_of_one_document_are_one_cluster():
    once, twice = (effective_context(perturbed({4: 0.2}, seeds=seeds)).table[0].rise.found for seeds in ((0,), (0, 1)))
    assert once.n == twice.n == 8


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (perturbed({4: 0.1}, arm="b"), "The records are of the arms a, b; give those of one arm."),
        (perturbed({4: 0.1}, checkpoint="x"), "several checkpoints of one seed"),
        (perturbed({4: 0.1}, documents=9)[-1:], "'d8' .* one of two conditions only"),
    ],
)
def test_records_that_do_not_belong_together_are_refused(more, sentence):
    with pytest.raises(InputError, match=sentence):
        effective_context(perturbed({4: 0.1}) + more)
    with pytest.raises(InputError, match="The records are none"):
        effective_context([])


def said(accuracies, *, segment=8):
    """Return records in which a text of length l is said again as ``accuracies[l]`` = (copy, lm), give or take."""
    random = np.random.default_rng(0)
    records = []
    for length, pair in accuracies.items():
        for repeat in range(6):
            for condition, share in zip(("copy", "lm"), pair, strict=True):
                correct = int(np.clip(round(1000 * share + 5 * random.normal()), 0, 1000))
                records.append(
                    ForgettingRecord(
                        arm="a", seed=0, checkpoint="c", condition=condition, length=length, segment_length=segment,
                        repeat=repeat, target_id=f"d{repeat}", target_start=0, prefix_id="p", prefix_start=0,
                        separator="<s>", tokens=1000, correct=correct, nll=1.0, not_finite=0,
                    )
                )  # fmt: skip
    return records


def test_memory_spans_count_beyond_a_segment_only():
    records = said({4: (1.0, 0.1), 8: (1.0, 0.1), 16: (0.996, 0.1), 32: (0.5, 0.1), 64: (0.1, 0.1)})
    curve = forgetting(records)
    assert [point.beyond for point in curve] == [False, False, True, True, True]
    assert memory_spans(curve) == (32, 16)
    assert memory_spans(curve[:2]) == (None, None)
    assert curve[2].copy.mean >= FINE > curve[3].copy.mean
    a, b = ([r.correct / 1000 for r in records if (r.length, r.condition) == (32, c)] for c in ("copy", "lm"))
    t = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (curve[3].gap.low, curve[3].gap.high) == pytest.approx((t.low, t.high))
    with pytest.raises(InputError, match="one of the conditions"):
        forgetting(records[1:])


def lost(gain, *, arm="a"):
    """Return losses of 6 documents of which "reset" raises those from position 8 on by ``gain`` nats per token."""
    random = np.random.default_rng(1)
    return [
        PositionLossRecord(
            arm=arm, seed=0, checkpoint="c", intervention=name, document_id=f"d{number}", position_start=start,
            position_end=2 * start, tokens=start,
            nll=start * (3 + random.normal() * 0.01 + (gain if name == "reset" and start >= 8 else 0)),
        )
        for number in range(6) for start in (1, 2, 4, 8, 16) for name in ("none", "reset")
    ]  # fmt: skip


def test_context_gain_is_what_the_loss_rises_by():
    gain = context_gain(lost(0.3), "reset")
    assert list(gain) == [Range(start, 2 * start) for start in (1, 2, 4, 8, 16)]
    for where, loss in gain.items():
        assert loss.found.mean == pytest.approx(0.3 if where.start >= 8 else 0, abs=0.03)
        assert loss.found.low < loss.found.mean < loss.found.high


# Figures


def placed(arm="a"):
    return [
        PlaceLossRecord(
            arm=arm, seed=0, checkpoint="c", intervention=name, document_id=f"d{number}", segment_length=4,
            place_start=place, place_end=place + 1, nll=10 * (4 - 0.5 * place) + number, tokens=10, not_finite=0,
        )
        for number in range(4) for place in range(4) for name in ("none", "reset")
    ]  # fmt: skip


FIGURES = {
    "text-forgetting": lambda full: text_figures.forgetting_figure(said({4: (1.0, 0.1), 16: (0.6, 0.1)}) * full),
    "text-gain": lambda full: text_figures.gain_figure((lost(0.3) + lost(0.1, arm="b")) * full, 8),
    "text-sawtooth": lambda full: text_figures.sawtooth_figure((placed() + placed("b")) * full),
    "text-effective-context": lambda full: text_figures.effective_context_figure(perturbed({4: 0.2, 8: 0.001}) * full),
}


@pytest.mark.parametrize(
    ("name", "alt"),
    [
        ("text-forgetting", "a remembers something of 16 tokens (60 % at 16)."),
        ("text-gain", "Gain at the last positions: a reset 0.3027 and b reset 0.1027."),
        ("text-sawtooth", "Loss at the first places minus that at the last: a 1.5 and b 1.5."),
        ("text-effective-context", "Effective context: a 4 tokens."),
    ],
)
def test_figures_say_what_they_show_and_the_same_records_give_the_same_bytes(name, alt):
    plot = FIGURES[name](1)
    assert plot == FIGURES[name](1)
    assert plot.name == name
    assert plot.alt.startswith(alt)
    assert f'aria-labelledby="{name}-title' in plot.svg
    assert FIGURES[name](0) is None


# The command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    config = PalimpsestConfig(
        vocab_size=512,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention={"pattern": ["memory"], "segment_length": 4, "memory": {"kind": "ridge"}},
    )
    PalimpsestForCausalLM(config).save_pretrained(folder)
    symbolic_tokenizer().save_pretrained(folder)
    return folder


def test_the_command_writes_records_and_figures_and_writes_them_again(checkpoint, tmp_path):
    words = ("probe", "text", checkpoint, "--documents", 4, "--tokens", 40, "--out", tmp_path)
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "4 documents of 40 tokens, in the symbolic vocabulary" in result.stdout
    assert "Effective context:" in result.stdout
    (folder,) = tmp_path.iterdir()
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    records = {f"{name}.jsonl" for name in ("forgetting", "position_loss", "place_loss", "perturbation")}
    assert written.keys() - records == {f"{name}.svg" for name in FIGURES}
    found = list(read_jsonl(folder / "forgetting.jsonl", ForgettingRecord))
    assert sorted({record.length for record in found}) == [2, 4, 8, 16]
    assert {record.separator for record in found} == {"<eos>"}
    names = {json.loads(line)["intervention"] for line in written["position_loss.jsonl"].splitlines()}
    assert names == {"none", "reset", "swap", "zero", "gate_closed"}
    assert run(*words).exit_code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written


def test_the_command_reads_texts_and_prepared_corpora(checkpoint, tmp_path):
    for name, ids in symbolic_documents(12, 30, seed=1):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{name}.txt").write_text(symbolic_tokenizer().decode(ids))
    words = ("probe", "text", checkpoint, "--tests", "forgetting", "--tokens", 30, "--out", tmp_path / "out")
    assert f"12 documents of 30 tokens, of {tmp_path / 'texts'}" in run(*words, "--source", tmp_path / "texts").stdout
    spec = CorpusSpec(source=str(tmp_path / "texts"), heldout_fraction=0.5)
    prepare_corpus(spec, TokenizerSpec(path=str(checkpoint)), tmp_path / "corpus")
    result = run(*words, "--source", tmp_path / "corpus")
    assert "documents of 30 tokens, held out of" in result.stdout, result.output
    prepare_corpus(spec, TokenizerSpec(vocab_size=300), tmp_path / "other")
    assert "tokenised by another tokenizer" in refused(*words, "--source", tmp_path / "other")


def test_the_command_refuses_what_it_cannot_do(checkpoint, tmp_path):
    (tmp_path / "one.txt").write_text("f1 f2 f3")
    words = ("probe", "text", checkpoint, "--out", tmp_path)
    assert (
        refused(*words, "--tests", "forgeting") == "--tests: there is no test 'forgeting'. Did you mean 'forgetting'?"
    )
    assert "0 of 1 documents have 64 tokens or more (the longest has 3)" in refused(
        *words, "--source", tmp_path / "one.txt"
    )
    assert "does not exist" in refused(*words, "--source", tmp_path / "nowhere")
    assert "A distance lies between" in refused(*words, "--tests", "perturbation", "--tokens", 8)
