"""``palimpsest eval``: how tasks are named, how long their items are, and what becomes of the answers."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from test_cli_views import item, shown
from typer.testing import CliRunner

from cli_case import refused, run
from palimpsest.cli import app, evaluation
from palimpsest.cli.evaluation import Shard, tokenizer_digest
from palimpsest.cli.item_files import Setting
from palimpsest.cli.item_lengths import check_lengths, nearest_length, usual_lengths
from palimpsest.cli.item_tables import answers_table, probe_table
from palimpsest.cli.task_names import SPECS, ByteTokenizer, parse_tasks, tasks_table
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestConfig
from palimpsest.records import ItemRecord, read_jsonl
from palimpsest.statistics import contrast
from palimpsest.tasks import TASKS, build_task
from palimpsest.tasks.text.niah import RULER, ruler
from palimpsest.training.state import new_model
from palimpsest.training.tasks import symbolic_tokenizer
from symbolic_case import WORDS
from text_case import tokenizer, write_articles

SEGMENT = 32


def save(folder: Path, words, segment: int, weights: float = 1.0) -> Path:
    """Write an untrained checkpoint."""
    attention = {"pattern": ["memory"], "segment_length": segment}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = new_model(PalimpsestConfig(vocab_size=len(words), **sizes, attention=attention), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(weights)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def symbolic(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("symbolic") / "words", symbolic_tokenizer(), SEGMENT)


@pytest.fixture(scope="module")
def textual(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("textual") / "text", tokenizer(), 128)


# Names


def test_names_of_the_catalogue_and_of_ruler_with_knobs_in_brackets():
    first, second, third = parse_tasks(
        "sym_multikey[needles=16, similarity=none], niah_multikey_1[prose=noise],passkey"
    )
    assert (first.spec().needles, first.spec().similarity) == (16, None)
    assert second.spec() == ruler("niah_multikey_1", {"prose": "noise"})
    assert third.spec({"key_digits": 3}).key_digits == 3
    assert len(parse_tasks("sym_copy,sym_copy")) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sym_multikye", ["there is no task 'sym_multikye'", "Did you mean 'sym_multikey'?", "eval --list"]),
        ("niah_single_9", ["Did you mean 'niah_single_"]),
        ("sym_multikey[needels=3]", ["unknown key 'needels'", "Did you mean 'needles'?"]),
        ("sym_multikey[needles=many]", ["needles", "whole number", "'many'"]),
        ("sym_multikey[needles]", ["'needles' is no knob", "needles=16"]),
        ("sym_multikey[questions=9]", ["9 questions"]),
        ("sym_multikey[needles=3", ["cannot be read"]),
        ("qa", ["missing key 'file'"]),
        ("", ["cannot be read"]),
    ],
)
def test_a_name_or_a_knob_that_there_is_not(text, words):
    with pytest.raises(InputError) as refusal:
        parse_tasks(text)
    assert all(word in str(refusal.value) for word in ["--tasks", *words]), refusal.value


def test_the_list_has_every_task_with_version_and_floor():
    result = CliRunner().invoke(app, ["eval", "--list"])
    assert result.exit_code == 0
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in result.stdout.splitlines() if "│" in line]
    found = {row[0]: row for row in rows if row[0]}
    assert set(found) == {*TASKS, *RULER}
    assert found["sym_multikey"][1:4] == ["symbolic", "1", "25 %"]
    assert found["passkey"][1:4] == ["text", str(TASKS["passkey"].version), "0.001 %"]
    assert all(row[4] for row in found.values())
    assert "100 %" in shown(tasks_table())


# Lengths


@pytest.mark.parametrize("kind", sorted({*SPECS} - {"qa"}))
def test_usual_lengths_begin_at_the_trained_one_or_at_the_least(kind):
    spec = SPECS[kind](max_length=4096)
    words, segment = (WORDS, SEGMENT) if kind.startswith("sym_") else (tokenizer(), 128)
    task = build_task(spec, words, segment_length=segment)
    lengths = usual_lengths(task, 300)
    assert len(lengths) == 3
    assert lengths[0] >= 236
    assert all(abs(long / short - 2) < 0.05 for short, long in itertools.pairwise(lengths))
    check_lengths(task, lengths)


def test_a_length_that_no_item_fits_names_the_nearest_that_does():
    task = build_task(SPECS["sym_multikey"](needles=64), WORDS, segment_length=SEGMENT)
    near = nearest_length(task, 100)
    with pytest.raises(InputError, match=f"the nearest length that fits is {near}"):
        check_lengths(task, [100])
    check_lengths(task, [near])
    for length in range(100, near):
        with pytest.raises(InputError):
            check_lengths(task, [length])


def test_knobs_that_no_length_fits_keep_their_own_sentence():
    task = build_task(SPECS["text_passkey"](max_length=4096), ByteTokenizer(), segment_length=16)
    with pytest.raises(InputError, match="segment"):
        usual_lengths(task, 300)


# Batches and shards


def setting(**changes) -> Setting:
    values = {
        "task": "sym_multikey",
        "version": 1,
        "knobs": {},
        "files": {},
        "questions": 1,
        "arm": "a",
        "seed": 0,
        "checkpoint": "c",
        "model": "m",
        "tokenizer": "t",
        "segment_length": SEGMENT,
        "lengths": (64, 128),
        "depths": (),
        "items": 60,
        "item_seed": 0,
        "interventions": (),
        "batch_size": 25,
    }
    return Setting(**values | changes)


def test_batches_hold_whole_haystacks_of_one_length():
    for questions, items, depths in ((1, 60, ()), (4, 60, (0.0, 1.0)), (30, 60, ()), (64, 64, (0.5,))):
        asked = setting(questions=questions, items=items, depths=depths)
        batches = asked.batches()
        places = [place for batch in batches for place in batch]
        assert len(set(places)) == len(places) == 2 * items * max(1, len(depths))
        for batch in batches:
            assert len({place.length for place in batch}) == 1
            assert len(batch) % questions == 0
            assert len(batch) // questions > 1 or questions == items  # somebody to swap memories with


def test_whatever_decides_the_answers_is_in_the_name_of_their_file():
    names = {setting(**{key: value}).stem for key, value in {"version": 2, "tokenizer": "u", "checkpoint": "d"}.items()}
    names |= {setting(item_seed=1).stem, setting(lengths=(64,)).stem, setting(depths=(0.5,)).stem}
    names |= {setting(interventions=("swap",)).stem, setting(knobs={"needles": 8}).stem, setting(items=61).stem}
    assert len({*names, setting().stem}) == 10


def test_shards():
    assert Shard.parse("2/4") == (2, 4)
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "-1/4"):
        with pytest.raises(InputError, match=r"--shard .* such as 1/4"):
            Shard.parse(text)


# Answers

ASKED = ("--tasks", "sym_multikey[needles=8,questions=4]", "--items", 40, "--lengths", "96,160")


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def answered(symbolic, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("answered")
    result = run("eval", symbolic, *ASKED, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"Items: {only(out / 'items')}"
    assert "[95 % Wilson interval over haystacks]" in unwrapped(result.stdout)
    assert "Floor, guessing: 12.5 % exact" in unwrapped(result.stdout)
    return out


def test_every_record_says_what_exact_attention_reaches_and_what_was_shared(answered):
    records = list(read_jsonl(only(answered / "items"), ItemRecord))
    assert len(records) == 80
    assert len({record.cluster for record in records}) == 20
    assert all(record.needles for record in records)
    for record in records:
        last = record.length - 2  # the token that must produce the answer
        reached = record.needle_end > last // SEGMENT * SEGMENT
        assert record.reachable_by == (("words",) if reached else ())
    assert 0 < sum(bool(record.reachable_by) for record in records) < 80


def test_a_second_call_answers_from_the_file(symbolic, answered, monkeypatch):
    before = only(answered / "items").read_bytes()
    monkeypatch.setattr(evaluation, "evaluate_items", None)
    result = run("eval", symbolic, *ASKED, "--out", answered)
    assert result.exit_code == 0, result.output
    assert "already answered" in result.stderr
    assert only(answered / "items").read_bytes() == before


def test_a_run_that_is_cut_off_goes_on_after_its_last_batch(symbolic, answered, tmp_path, monkeypatch):
    answer, asked = evaluation.evaluate_items, []

    def stop_after(count: int):
        def evaluate(subject, task, samples, interventions):
            if len(asked) == count:
                raise KeyboardInterrupt
            asked.append([sample.id for sample in samples])
            return answer(subject, task, samples, interventions)

        return evaluate

    monkeypatch.setattr(evaluation, "evaluate_items", stop_after(1))
    result = run("eval", symbolic, *ASKED, "--out", tmp_path)
    assert result.exit_code == 130
    assert f"finished batches are kept in {tmp_path}" in result.stderr
    assert not (tmp_path / "items").exists()
    monkeypatch.setattr(evaluation, "evaluate_items", stop_after(99))
    result = run("eval", symbolic, *ASKED, "--out", tmp_path)
    assert "1 of 2 batches had been answered before" in result.stderr
    assert len(asked) == 2  # none of them twice
    assert only(tmp_path / "items").read_bytes() == only(answered / "items").read_bytes()
    assert not list((tmp_path / "batches").iterdir())


def test_the_shards_together_are_the_whole(symbolic, answered, tmp_path, monkeypatch):
    for part in ("1/2", "2/2"):
        result = run("eval", symbolic, *ASKED, "--out", tmp_path / part[0], "--shard", part)
        assert result.exit_code == 0, result.output
        assert "1 of 2 batches are answered" in result.stderr
        assert not result.stdout
    (theirs,) = (tmp_path / "2" / "batches").glob("*/*.jsonl")
    theirs.rename(only(tmp_path / "1" / "batches") / theirs.name)
    monkeypatch.setattr(evaluation, "evaluate_items", None)
    result = run("eval", symbolic, *ASKED, "--out", tmp_path / "1")
    assert result.exit_code == 0, result.output
    assert only(tmp_path / "1" / "items").read_bytes() == only(answered / "items").read_bytes()


# What is refused


def test_a_task_for_another_tokenizer(symbolic, textual, tmp_path):
    sentence = refused("eval", symbolic, "--tasks", "niah_single_1", "--out", tmp_path)
    assert sentence.startswith(
        "--tasks: 'niah' needs a tokenizer of text, and the checkpoint 'words' has the symbolic tokenizer"
    )
    sentence = refused("eval", textual, "--tasks", "sym_copy", "--out", tmp_path)
    assert sentence.startswith(
        "--tasks: 'sym_copy' needs the symbolic tokenizer of 512 words, and the checkpoint 'text'"
    )
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_changed_since_the_items_were_written(symbolic, tmp_path):
    few = ("--tasks", "sym_copy", "--items", 2, "--lengths", 96, "--out", tmp_path / "out")
    checkpoint = tmp_path / "words"
    words = symbolic_tokenizer()
    save(checkpoint, words, SEGMENT)
    assert run("eval", checkpoint, *few).exit_code == 0
    before = tokenizer_digest(words)[:12]
    words.add_tokens(["more"])
    words.save_pretrained(checkpoint)
    sentence = refused("eval", checkpoint, *few)
    assert f"belongs to another tokenizer, {before}, and asked is {tokenizer_digest(words)[:12]}" in sentence
    assert run("eval", checkpoint, *few[:-1], tmp_path / "elsewhere").exit_code == 0


def test_items_of_another_version_of_the_task(symbolic, tmp_path, monkeypatch):
    few = ("--tasks", "sym_copy", "--items", 2, "--lengths", 96, "--out", tmp_path)
    assert run("eval", symbolic, *few).exit_code == 0
    monkeypatch.setattr(TASKS["sym_copy"], "version", 2)
    assert "belongs to another version, 1, and asked is 2" in refused("eval", symbolic, *few)


def test_items_of_another_checkpoint_under_this_name(symbolic, tmp_path):
    few = ("--tasks", "sym_copy", "--items", 2, "--lengths", 96)
    assert run("eval", symbolic, *few, "--out", tmp_path / "a").exit_code == 0
    other = save(tmp_path / "words", symbolic_tokenizer(), SEGMENT, weights=0.5)
    assert run("eval", other, *few, "--out", tmp_path / "b").exit_code == 0
    mine, theirs = only(tmp_path / "a" / "items"), only(tmp_path / "b" / "items")
    checkpoints = [json.loads(path.read_text().splitlines()[0])["checkpoint"][:12] for path in (theirs, mine)]
    assert checkpoints[0] != checkpoints[1]
    theirs.rename(mine)
    sentence = refused("eval", symbolic, *few, "--out", tmp_path / "a")
    assert f"another checkpoint, {checkpoints[0]}, and asked is {checkpoints[1]}" in sentence
    mine.write_text("")
    assert "0 answers in place of 2" in refused("eval", symbolic, *few, "--out", tmp_path / "a")


# Tests, interventions, NaN


def test_opening_test_items_is_logged_once(symbolic, tmp_path):
    few = ("--tasks", "sym_copy", "--items", 2, "--lengths", 96, "--out", tmp_path)
    assert not run("eval", symbolic, *few).stderr
    first = run("eval", symbolic, *few, "--seed", 10_000).stderr.splitlines()
    assert len(first) == 1
    assert "Test items of sym_copy by words (seed 10000) was opened at" in first[0]
    log = (tmp_path / "opened.json").read_text()
    assert list(json.loads(log)) == ["sym_copy by words (seed 10000)"]
    assert first[0] in run("eval", symbolic, *few, "--seed", 10_000).stderr
    assert (tmp_path / "opened.json").read_text() == log


def test_a_probe_asks_any_task_under_any_expression(symbolic, tmp_path):
    result = run("probe", symbolic, *ASKED, "--interventions", "swap,drop[needle]", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    records = list(read_jsonl(only(tmp_path / "items"), ItemRecord))
    conditions = [record.intervention for record in records]
    assert {name: conditions.count(name) for name in conditions} == {"none": 80, "swap": 80, "drop[needle]": 80}
    assert "drop[needle]" in result.stdout
    assert "[95 % interval, paired t over haystacks]" in unwrapped(result.stdout)


def test_every_text_task_is_asked(textual, tmp_path):
    articles = write_articles(tmp_path / "articles.json")
    kinds = [kind for kind in SPECS if not kind.startswith("sym_") and kind not in ("cwe", "qa")]
    tasks = ",".join([*kinds, "cwe[common=3,repeats=12,rest=2]", f"qa[file={articles}]", "niah_single_1"])
    result = run(
        "eval", textual, "--tasks", tasks, "--items", 1, "--depths", "anywhere", "--lengths", 900, "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    found = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "items").iterdir()}
    assert found == {kind for kind in SPECS if not kind.startswith("sym_")}


def test_every_symbolic_task_is_asked(symbolic, tmp_path):
    tasks = ",".join(kind for kind in SPECS if kind.startswith("sym_"))
    result = run("eval", symbolic, "--tasks", tasks, "--items", 1, "--lengths", 320, "--depths", 0.5, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "items").iterdir())) == 18


def test_logits_that_are_not_finite_are_failures_and_named(tmp_path):
    broken = save(tmp_path / "nan", symbolic_tokenizer(), SEGMENT, weights=float("nan"))
    for _ in range(2):  # answered, and read again
        result = run("eval", broken, "--tasks", "sym_passkey", "--items", 3, "--lengths", 96, "--out", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert "3 of 3 answers had logits that are not finite" in unwrapped(result.stdout)
    records = list(read_jsonl(only(tmp_path / "out" / "items"), ItemRecord))
    assert [(record.exact, record.error_class) for record in records] == [(False, "not_finite")] * 3


# Tables


def test_a_table_of_shared_haystacks_has_wider_intervals():
    task = build_task(SPECS["sym_multikey"](), WORDS, segment_length=SEGMENT)
    records = [item(index, exact=index < 8) for index in range(16)]
    shared = [each.model_copy(update={"cluster": str(number // 4)}) for number, each in enumerate(records)]
    plain, wide = (shown(answers_table(some, task, "x")) for some in (records, shared))
    assert "50 [28, 72]" in plain
    assert "50 [28, 72]" not in wide
    assert "over haystacks" in wide
    swapped = [each.model_copy(update={"intervention": "swap", "exact": False}) for each in shared]
    effect = shown(probe_table([*shared, *swapped], ["swap"]))
    difference = contrast([1.0] * 8 + [0.0] * 8, [0.0] * 16, method="paired_t", clusters=[i // 4 for i in range(16)])
    assert f"+50 [{100 * difference.low:+.0f}, {100 * difference.high:+.0f}]" in effect
    assert "McNemar" not in effect


def test_binding_errors_have_a_column():
    task = build_task(SPECS["sym_multikey"](), WORDS, segment_length=SEGMENT)
    wrong = [item(index).model_copy(update={"error_class": "other_value"}) for index in range(3)]
    text = shown(answers_table([*wrong, item(3, exact=True)], task, "sym_multikey"))
    assert "binding errors" in text
    assert "75" in next(line for line in text.splitlines() if "does not reach" in line)
