"""``palimpsest generate``: a book is read once and asked many times; what cannot be read is refused in one sentence."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from palimpsest.cli import app
from palimpsest.data import load_tokenizer, train_tokenizer
from palimpsest.data.tokenizer import document_encoder
from palimpsest.models import PalimpsestCache, PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.models.snapshot import Snapshot
from palimpsest.models.streaming import continue_from, prefill
from palimpsest.training.state import pretrained_model

pytestmark = pytest.mark.e2e

BOOK = "It was the best of times; it was the worst of times.\r\nCafé — 猫 sat in 1859 ways.\n\n" * 120
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom palimpsest.cli import main; main()"
)


def run(*words: object, stdin: bytes | None = None):
    return CliRunner().invoke(app, ["generate", *(str(word) for word in words)], input=stdin)


def written(*words: object, stdin: bytes | None = None) -> str:
    """Return what a command that succeeds writes."""
    result = run(*words, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: object, stdin: bytes | None = None) -> str:
    """Return the sentence of a command that must refuse its input."""
    result = run(*words, stdin=stdin)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("palimpsest: ")


def make_checkpoint(folder: Path, seed: int = 0, **attention: object) -> Path:
    """Save a model with random weights, large enough that what it writes depends on what it read."""
    tokenizer = train_tokenizer([BOOK], 330)
    config = PalimpsestConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention={"segment_length": 16, "memory": {"kind": "ridge"}} | attention,
    )
    model = PalimpsestForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("book") / "book.txt"
    path.write_bytes(BOOK.encode())
    return path


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return load_tokenizer(checkpoint)


def expected(checkpoint: Path, tokenizer, texts: list[str], tokens: int) -> str:
    """Return what the model writes after these texts, each tokenised as a whole, the tokens read at once."""
    model = pretrained_model(checkpoint).eval()
    cache = PalimpsestCache(model.config)
    for text in texts:
        logits = prefill(model, torch.tensor(document_encoder(tokenizer)([text])), cache)
    end = tokenizer.eos_token_id
    return str(tokenizer.decode(list(continue_from(model, logits, cache, max_new_tokens=tokens, stop=(end,)))))


def test_a_book_is_continued_as_if_it_had_been_read_at_once(checkpoint, book, tokenizer):
    result = run(checkpoint, "--prompt-file", book, "--max-new-tokens", 12)
    assert result.exit_code == 0, result.output
    assert result.stdout == expected(checkpoint, tokenizer, [BOOK], 12) + "\n"
    formula = CliRunner().invoke(app, ["info", str(checkpoint)]).stdout
    memory, local = re.findall(r"([\d,]+) bytes of (?:state|keys)", formula)
    tokens = len(document_encoder(tokenizer)([BOOK])[0])
    said = rf"Read {tokens:,} tokens \([\d,]+ tokens/s\) into {memory} bytes of state and {local} of keys and values"
    assert re.search(said, result.stderr)


def test_a_text_from_standard_input_or_the_command_line_is_the_same_text(checkpoint, book):
    shown = written(checkpoint, "--prompt-file", book, "--max-new-tokens", 9)
    assert written(checkpoint, "--prompt-file", "-", "--max-new-tokens", 9, stdin=BOOK.encode()) == shown
    assert written(checkpoint, "--prompt", BOOK, "--max-new-tokens", 9) == shown


def test_every_question_is_asked_of_the_same_state(checkpoint, book, tokenizer):
    questions = ["Who sat?", " It was", "Who sat?"]
    asked = [word for question in questions for word in ("--ask", question)]
    shown = written(checkpoint, "--prompt-file", book, "--max-new-tokens", 7, *asked)
    answers = [expected(checkpoint, tokenizer, [BOOK, text], 7) for text in ("\nWho sat?", " It was")]
    assert answers[0] != answers[1]
    assert shown == f"> Who sat?\n{answers[0]}\n\n> It was\n{answers[1]}\n\n> Who sat?\n{answers[0]}\n"


def test_drawn_answers_do_not_depend_on_the_questions_before(checkpoint, book):
    drawn = ["--temperature", 1, "--seed", 5, "--max-new-tokens", 7]
    alone = written(checkpoint, "--prompt-file", book, *drawn, "--ask", "Who?")
    after = written(checkpoint, "--prompt-file", book, *drawn, "--ask", "When?", "--ask", "Who?")
    assert after.endswith("\n" + alone)


def test_a_snapshot_is_read_once_and_asked_later(checkpoint, book, tokenizer, tmp_path):
    state = tmp_path / "deep" / "book.state"
    read = ["--prompt-file", book, "--max-new-tokens", 8]
    continued = written(checkpoint, *read, "--snapshot", state)
    assert continued == written(checkpoint, *read)
    assert continued == written(checkpoint, "--from-snapshot", state, "--max-new-tokens", 8)
    answer = written(checkpoint, *read, "--ask", "Who sat?")
    assert answer == written(checkpoint, "--from-snapshot", state, "--max-new-tokens", 8, "--ask", "Who sat?")
    # a second volume after the first
    both = tmp_path / "both.state"
    more = ["--prompt", "The second volume. ", "--max-new-tokens", 8]
    shown = written(checkpoint, "--from-snapshot", state, *more, "--snapshot", both)
    assert shown == expected(checkpoint, tokenizer, [BOOK, "The second volume. "], 8) + "\n"
    assert shown == written(checkpoint, "--from-snapshot", both, "--max-new-tokens", 8)
    assert [source.bytes for source in Snapshot.load(both).header.sources] == [len(BOOK.encode()), 19]


def test_a_state_can_be_saved_and_nothing_written(checkpoint, book, tmp_path):
    result = run(checkpoint, "--prompt-file", book, "--snapshot", tmp_path / "s", "--max-new-tokens", 0)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == ""
    assert f"Saved what was read to {tmp_path / 's'}" in result.stderr


# Bad input


def test_texts_that_cannot_be_read(checkpoint, tmp_path):
    ask = [checkpoint, "--prompt-file"]
    assert "nowhere.txt: cannot be read" in refused(*ask, tmp_path / "nowhere.txt")
    assert "cannot be read" in refused(*ask, tmp_path)
    far = tmp_path / "far.txt"
    far.write_bytes(BOOK.encode() * 9 + b"\xff" + BOOK.encode())
    place = len(BOOK.encode()) * 9
    assert refused(*ask, far) == f"{far} is not UTF-8 text: there is a byte 0xff at offset {place}."
    assert f"offset {place}" in refused(*ask, "-", stdin=far.read_bytes())
    # a file is looked at before anything is loaded, let alone read for an hour
    assert f"offset {place}" in refused(tmp_path / "no checkpoint", "--prompt-file", far)
    for empty in (b"", b"\xef\xbb\xbf"):
        far.write_bytes(empty)
        assert "The prompt is empty" in refused(*ask, far)
        assert "The prompt is empty" in refused(*ask, "-", stdin=empty)
        assert "The prompt is empty" in refused(tmp_path / "no checkpoint", "--prompt-file", far)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "either --prompt or --prompt-file, and none only with --from-snapshot"),
        (["--prompt", "a", "--prompt-file", "b"], "either --prompt or --prompt-file"),
        (["--prompt", ""], "The prompt is empty"),
        (["--prompt", "a", "--ask", " "], "--ask: the question is empty"),
        (["--prompt", "a", "--ask", "\udcff"], "--ask: the question is not UTF-8"),
        (["--prompt", "a\udcff"], "--prompt is not UTF-8 text: there is a byte 0xff at offset 1"),
        (["--from-snapshot", "nowhere"], "--from-snapshot: there is no file nowhere"),
        (["--prompt", "a", "--snapshot", "."], "--snapshot: . is a directory"),
    ],
)
def test_options_that_cannot_be(checkpoint, options, words):
    assert words in refused(checkpoint, *options)


def test_snapshots_that_cannot_be_continued(checkpoint, tmp_path):
    state = tmp_path / "state"
    written(checkpoint, "--prompt", "It was", "--snapshot", state, "--max-new-tokens", 0)
    begin = ["--from-snapshot", state]
    other = make_checkpoint(tmp_path / "other", seed=1)
    assert f"{state} is of another model: its configuration is the same" in refused(other, *begin)
    shorter = make_checkpoint(tmp_path / "shorter", segment_length=8)
    assert "its attention.segment_length is 16, that of this model 8" in refused(shorter, *begin)
    loaded = Snapshot.load(state)
    Snapshot(loaded.header, {name: x for name, x in loaded.tensors.items() if name != "logits"}).save(state)
    assert "saved without logits" in refused(checkpoint, *begin)
    assert written(checkpoint, *begin, "--ask", "Who?", "--max-new-tokens", 2)
    model, rows = pretrained_model(checkpoint).eval(), torch.ones(2, 3, dtype=torch.long)
    with torch.inference_mode():
        model.snapshot(model(rows, use_cache=True).past_key_values).save(state)
    assert "is a snapshot of 2 texts at once" in refused(checkpoint, *begin)
    state.write_bytes(state.read_bytes()[:-1])
    assert "not all of one" in refused(checkpoint, *begin)


def test_an_interrupted_reading_keeps_nothing_and_says_so(checkpoint, tmp_path):
    words = [checkpoint, "--prompt-file", "-", "--snapshot", tmp_path / "state"]
    command = [sys.executable, "-c", PROGRAM, "generate", *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(BOOK.encode() * 30)  # far more than a pipe holds: when it is gone, reading has begun
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, errors
    assert errors.decode() == "palimpsest: Stopped; nothing is kept, and the same command starts over.\n"
    assert not list(tmp_path.iterdir())
