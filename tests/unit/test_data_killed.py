"""A preparation whose processes are killed, wherever that may be: it goes on to the same bytes and leaves no worker."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fineweb_case import listing, save_tokenizer
from resume_case import batches_of, write_mixed

from palimpsest.data import CorpusSpec, TokenizerSpec
from palimpsest.data.journal import read_journal


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> TokenizerSpec:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusSpec:
    return write_mixed(tmp_path / "corpus")


KILLER = """
import json, os, shutil, signal, sys
from pathlib import Path
import pyarrow.parquet
from palimpsest.data import CorpusSpec, TokenizerSpec, load_tokenizer, prepare_corpus, tokenising, writer
tokenising.BATCH_CHARACTERS, tokenising.CHECKPOINT_TOKENS = 2000, 1
source, tokenizer, work = sys.argv[1:]
load_tokenizer(tokenizer).save_pretrained(Path(work) / "loaded")  # imports what every child needs; starts no thread
done = 0

def prepare(out, kill_at):
    "Prepare in a child that kills itself before the given operation on files; return how many it has done."
    report, end = os.pipe()
    child = os.fork()
    if child:
        os.close(end)
        with os.fdopen(report) as told:
            operations = told.read()
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), status
        return int(operations) if status == 0 else None

    def counted(module, name, real):
        def call(*arguments, **options):
            global done
            done += 1
            if done == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        setattr(module, name, call)

    for module, name in ((os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"), (writer.np, "save")):
        counted(module, name, getattr(module, name))
    counted(os, "fsync", lambda handle: None)  # a killed process loses nothing that the kernel has
    counted(writer.HashedFile, "write", writer.HashedFile.write)
    counted(writer.HashedFile, "sync", writer.HashedFile.sync)
    spec = CorpusSpec(source=source, heldout_fraction=0.2)
    prepare_corpus(spec, TokenizerSpec(path=tokenizer), out, shard_tokens=700)
    os.write(end, str(done).encode())
    os._exit(0)

def content(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}

work = Path(work)
operations = prepare(work / "whole", 0)
whole, wrong, kills = content(work / "whole"), [], 0
for point in sorted({1 + operations * k // 24 for k in range(24)} | set(range(operations - 9, operations + 1))):
    out = work / "killed"
    assert prepare(out, point) is None, point
    kills += 1
    prepare(out, 0)
    if content(out) != whole or (work / ".killed.partial").exists():
        wrong.append(point)
    shutil.rmtree(out)
chain = 0
while prepare(work / "chain", 110) is None:
    chain += 1
print(json.dumps({"operations": operations, "kills": kills, "wrong": wrong, "chain": chain,
                  "chained": content(work / "chain") == whole}))
"""


@pytest.mark.slow
def test_a_process_killed_at_any_operation_on_files_goes_on_to_the_same_bytes(corpus, tokenizer, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    words = [sys.executable, "-c", KILLER, corpus.source, str(tokenizer.path), str(work)]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert found["operations"] > 200
    assert found["kills"] > 30
    assert found["wrong"] == []
    assert found["chain"] >= 3  # killed again and again, and every time a little further
    assert found["chained"]


WORKERS = """
import multiprocessing, sys, time
from palimpsest.data import CorpusSpec, TokenizerSpec, prepare_corpus, tokenising
if __name__ == "__main__":
    tokenising.BATCH_CHARACTERS, tokenising.CHECKPOINT_TOKENS = 600, 1
    source, tokenizer, out, stop = sys.argv[1:]
    count = 0
    def progress(*_):
        global count
        count += 1
        if count == int(stop):
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            time.sleep(60)
    spec = CorpusSpec(source=source, heldout_fraction=0.2)
    prepare_corpus(spec, TokenizerSpec(path=tokenizer), out, shard_tokens=700, workers=2, progress=progress)
"""


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state.rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes by /proc")
def test_several_processes_make_the_same_and_end_with_the_one_that_is_killed(corpus, tokenizer, tmp_path):
    whole, _ = batches_of(corpus, tokenizer, tmp_path / "whole")
    script, out = tmp_path / "prepare.py", tmp_path / "out"
    script.write_text(WORKERS)
    words = [sys.executable, str(script), corpus.source, str(tokenizer.path), str(out)]
    with subprocess.Popen([*words, "6"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.send_signal(signal.SIGKILL)
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)
    assert read_journal(tmp_path / ".out.partial").documents > 0
    subprocess.run([*words, "0"], check=True)
    assert listing(out) == listing(whole.directory)
