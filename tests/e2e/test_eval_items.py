"""``palimpsest eval`` killed in the middle: what was finished is kept, and what comes out is the same."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli_case import run
from palimpsest.models import PalimpsestConfig
from palimpsest.training.state import new_model
from palimpsest.training.tasks import symbolic_tokenizer

pytestmark = pytest.mark.e2e

ASKED = ("--tasks", "sym_multikey[questions=2],sym_overwrite", "--items", "150", "--lengths", "256,512")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "words"
    words = symbolic_tokenizer()
    attention = {"pattern": ["memory"], "segment_length": 32, "memory": {"kind": "ridge"}}
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    new_model(PalimpsestConfig(vocab_size=len(words), **sizes, attention=attention), seed=0).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "items").iterdir()}


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_evaluation_goes_on(checkpoint, tmp_path, signum):
    program = "from palimpsest.cli import main; main()"
    words = [sys.executable, "-c", program, "eval", checkpoint, *ASKED, "--out", tmp_path / "killed"]
    with subprocess.Popen([str(word) for word in words], stderr=subprocess.PIPE, text=True) as process:
        while len(kept := list((tmp_path / "killed").glob("batches/*/*.jsonl"))) < 2 and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == (-signum if signum == signal.SIGKILL else 128 + signum), errors
    assert "Traceback" not in errors
    assert len(kept) >= 2
    again = run("eval", checkpoint, *ASKED, "--out", tmp_path / "killed")
    assert again.exit_code == 0, again.output
    assert "batches had been answered before" in again.stderr
    assert run("eval", checkpoint, *ASKED, "--out", tmp_path / "whole").exit_code == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 2
