"""``palimpsest probe profile``: its records, its page and its tables, and what it refuses."""

import math
import shutil

import pytest
from page_case import Page, assert_harmless

from cli_case import refused, run
from palimpsest.data import open_corpus
from palimpsest.records import ProfileRecord, read_jsonl, write_jsonl
from palimpsest.report.profile import profile_page, thirds, write_profile_page
from palimpsest.training import train
from training_case import recipe, text_data, write_texts


def record(layer=0, head=0, document="a", **values):
    fields = {
        "arm": "tiny", "seed": 0, "checkpoint": "c", "document_id": document, "tokens": 64, "segment_length": 16,
        "layer": layer, "layers": 3, "head": head, "kind": "memory", "memory": "ridge", "features": "elu1",
        "state_bytes": 4096, "gate": 0.5, "gate_initial": 0.5, "gate_shift": 0.0, "memory_output": 1.0,
        "local_output": 3.0, "rho": 0.25, "read_norm": 1.0, "common_mode": 4.0, "n50": 20.0,
    }  # fmt: skip
    return ProfileRecord.model_validate(fields | values)


@pytest.fixture
def records():
    return [
        record(layer, head, document, gate=0.1 + 0.2 * layer + 0.1 * head, rho=0.1 * (layer + 1) + 0.02 * head + more)
        for document, more in (("a", 0.0), ("b", 0.03))
        for layer in range(3)
        for head in range(2)
    ]


def test_a_page_is_whole_and_the_same_every_time(records, tmp_path):
    write_jsonl(tmp_path / "profile.jsonl", records)
    page = write_profile_page(tmp_path / "profile.jsonl", tmp_path / "profile.html").read_text(encoding="utf-8")
    again = write_profile_page(tmp_path / "profile.jsonl", tmp_path / "again.html").read_text(encoding="utf-8")
    assert page == again
    assert "<script" not in page
    assert "http://www.w3.org/2000/svg" in page
    assert page.replace("http://www.w3.org/2000/svg", "").count("http") == 1  # the name of the policy
    assert_harmless(Page(page))


def test_a_page_shows_what_was_measured_and_nothing_else(records):
    page = profile_page(records, "x.jsonl")
    assert all(f'id="profile-{name}-title"' in page for name in ("gate", "rho", "common-mode", "n50", "gate-rho"))
    assert 'id="profile-effect-title"' not in page
    stores = [
        r.model_copy(update={"common_mode": None, "n50": None, "effect": 0.1, "intervention": "swap"}) for r in records
    ]
    page = profile_page(stores, "x.jsonl")
    assert 'id="profile-effect-title"' in page
    assert 'id="profile-n50-title"' not in page
    assert "kappa" not in page
    assert "what &#x27;swap&#x27; costs" in page


def test_a_page_stands_what_is_not_finite_and_foreign_names(records):
    odd = [r.model_copy(update={"common_mode": math.inf, "rho": math.nan, "arm": "<script>"}) for r in records[:4]]
    page = profile_page([*odd, *records[4:]], "x.jsonl")
    assert "<script" not in page
    assert "∞" in page
    assert_harmless(Page(page))
    nothing = [r.model_copy(update={"rho": math.nan, "gate": math.nan}) for r in records]
    assert [(third.gate, third.rho, third.share) for third in thirds(nothing)] == [(None,) * 3] * 3


def test_records_survive_the_disk(records, tmp_path):
    odd = records[0].model_copy(update={"common_mode": math.inf, "rho": math.nan})
    write_jsonl(tmp_path / "r.jsonl", [odd, *records[1:]])
    first, *rest = read_jsonl(tmp_path / "r.jsonl", ProfileRecord)
    assert rest == records[1:]
    assert first.common_mode == math.inf
    assert math.isnan(first.rho)


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    texts = write_texts(folder / "texts")
    data = text_data(texts)
    data["corpus"]["heldout_fraction"] = 0.4
    train(recipe(data, steps=2, checkpoint_every=2), folder / "run")
    return folder


def test_the_command_reads_held_out_documents_of_the_run(trained, tmp_path):
    shown = run(
        "probe", "profile", trained / "run", "--documents", 2, "--tokens", 80, "--out", tmp_path, "--effect", "swap"
    )
    assert shown.exit_code == 0, shown.output
    records = list(read_jsonl(tmp_path / "profile.jsonl", ProfileRecord))
    held_out = [name for name, _ in open_corpus(trained / "run" / "data").heldout_documents(80)]
    assert list(dict.fromkeys(r.document_id for r in records)) == held_out[:2]
    assert {(r.layer, r.head) for r in records} == {(0, 0), (0, 1)}  # the other layer is full attention
    assert {r.tokens for r in records} == {80}
    assert all(r.arm == "tiny" and len(r.checkpoint) == 64 and r.effect is not None for r in records)
    assert "early" in shown.stdout
    assert str(tmp_path / "profile.html") in shown.stdout.replace("\n", "")
    assert "2 documents of 80 tokens" in (tmp_path / "profile.html").read_text(encoding="utf-8")


def test_the_command_reads_a_text(trained, tmp_path):
    text = trained / "texts" / "00.txt"
    shown = run("probe", "profile", trained / "run", "--prompt-file", text, "--tokens", 70, "--out", tmp_path)
    assert shown.exit_code == 0, shown.output
    records = list(read_jsonl(tmp_path / "profile.jsonl", ProfileRecord))
    assert {(r.document_id, r.tokens, r.effect) for r in records} == {("00.txt", 70, None)}


def test_bad_input_is_refused_in_one_sentence(trained, tmp_path):
    def told(*words):
        return refused("probe", "profile", *words, "--out", tmp_path / "out")

    checkpoint, empty, short, binary = trained / "run", tmp_path / "e.txt", tmp_path / "s.txt", tmp_path / "b.txt"
    empty.write_text(" \n")
    short.write_text("Too short.")
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is empty" in told(checkpoint, "--prompt-file", empty)
    assert "less than two segments of 32" in told(checkpoint, "--prompt-file", short)
    assert "is not UTF-8 text" in told(checkpoint, "--prompt-file", binary)
    assert "cannot be read" in told(checkpoint, "--prompt-file", tmp_path / "missing.txt")
    assert "not both" in told(checkpoint, "--prompt-file", short, "--documents", 2)
    assert "no held-out document of 100000 tokens" in told(checkpoint, "--tokens", 100_000)
    text = trained / "texts" / "00.txt"
    assert "Did you mean 'swap'?" in told(checkpoint, "--prompt-file", text, "--effect", "swop")
    assert "needs 2 documents, got 1" in told(checkpoint, "--prompt-file", text, "--effect", "swap")
    assert not (tmp_path / "out").exists()
    (step,) = (checkpoint / "checkpoints").iterdir()
    alone = tmp_path / "alone"
    shutil.copytree(step, alone)
    assert "give a text with --prompt-file" in told(alone)
