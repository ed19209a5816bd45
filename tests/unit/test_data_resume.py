"""A preparation that is interrupted, wherever that may be, and goes on: nothing twice, nothing lost, the same bytes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from fineweb_case import listing, pages, save_tokenizer, write_fineweb
from resume_case import SHARD, Cut, batches_of, interrupted, write_mixed

from cli_case import refusal
from palimpsest.data import CorpusSpec, TokenizerSpec, open_corpus, prepare_corpus
from palimpsest.data.corpus import PieceSpec
from palimpsest.data.documents import DocumentReader
from palimpsest.data.journal import read_journal
from palimpsest.data.writer import SCRATCH


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> TokenizerSpec:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusSpec:
    return write_mixed(tmp_path / "corpus")


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the journal after every batch, and make batches small."""
    monkeypatch.setattr("palimpsest.data.tokenising.BATCH_CHARACTERS", 600)
    monkeypatch.setattr("palimpsest.data.tokenising.CHECKPOINT_TOKENS", 1)


def test_after_any_batch_it_goes_on_to_the_same_bytes_and_reads_no_file_before_that_place(corpus, tokenizer, tmp_path):
    whole, batches = batches_of(corpus, tokenizer, tmp_path / "whole")
    assert batches > 12
    assert len(whole.manifest.train.shards) > 2
    for stop in range(1, batches + 1, 2):
        out = tmp_path / f"out{stop}"
        partial = interrupted(corpus, tokenizer, out, stop)
        assert not out.exists()
        journal = read_journal(partial)
        kept = journal.documents
        seen: list[tuple[int, int]] = []
        announced = []
        again = prepare_corpus(
            corpus,
            tokenizer,
            out,
            shard_tokens=SHARD,
            announce=announced.append,
            progress=lambda *now: seen.append(now),  # noqa: B023 (called within this round)
        )
        assert listing(out) == listing(whole.directory)
        assert again.fingerprint == whole.fingerprint
        assert not partial.exists()
        assert [told.done_documents for told in announced] == [kept]
        assert all(documents > kept for documents, _ in seen)


def test_what_is_behind_the_journal_is_made_again(corpus, tokenizer, tmp_path):
    whole, _ = batches_of(corpus, tokenizer, tmp_path / "whole")
    partial = interrupted(corpus, tokenizer, tmp_path / "out", 9)
    journal = read_journal(partial)
    for path in (partial / "train-ids.jsonl", partial / SCRATCH / "train-lengths", partial / "heldout-00000.bin"):
        with open(path, "ab") as out:
            out.write(b"written and not noted" * 500)  # more than what is still to come
    (partial / "train-00077.bin").write_bytes(b"begun and not noted")
    (partial / "train-offsets.npy").write_bytes(b"half")
    (partial / ".manifest.json.1.partial").write_bytes(b"{")
    (partial / "folder").mkdir()
    assert journal.documents > 0
    prepare_corpus(corpus, tokenizer, tmp_path / "out", shard_tokens=SHARD)
    assert listing(tmp_path / "out") == listing(whole.directory)


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 40},
        {"limit": 52},
        {"pieces": PieceSpec(median_words=15, spread=0.5)},
        {"heldout_fraction": 0.0},
        {"id_column": "none"},
    ],
)
def test_every_kind_of_corpus_goes_on(corpus, tokenizer, tmp_path, change):
    spec = corpus.model_copy(update=change)
    whole, batches = batches_of(spec, tokenizer, tmp_path / "whole")
    for stop in (1, batches // 2, batches):
        interrupted(spec, tokenizer, tmp_path / "out", stop)
        prepare_corpus(spec, tokenizer, tmp_path / "out", shard_tokens=SHARD)
        assert listing(tmp_path / "out") == listing(whole.directory)
        shutil.rmtree(tmp_path / "out")


def test_the_addresses_and_a_trained_tokenizer_go_on(tmp_path):
    spec = CorpusSpec(limit=8, heldout_fraction=0.3)
    trained = TokenizerSpec(vocab_size=300, sample_characters=20_000)
    whole, batches = batches_of(spec, trained, tmp_path / "whole")
    interrupted(spec, trained, tmp_path / "out", batches - 2)
    prepare_corpus(spec, trained, tmp_path / "out", shard_tokens=SHARD)
    assert listing(tmp_path / "out") == listing(whole.directory)


def test_every_place_of_every_source_can_be_gone_on_from(corpus):
    reader = DocumentReader(corpus)
    found = list(reader)
    assert len(found) == len({document.id for document in found}) == 76
    reader = DocumentReader(corpus)
    for number, _ in enumerate(reader, 1):
        assert list(DocumentReader(corpus, reader.position, number)) == found[number:]


def test_a_whole_corpus_that_was_not_yet_in_its_place_is_put_there(corpus, tokenizer, tmp_path, monkeypatch):
    def cut(*_: object, **__: object) -> None:
        raise Cut

    with monkeypatch.context() as patched:
        patched.setattr("palimpsest.data.prepare.shutil.rmtree", cut)
        with pytest.raises(Cut):
            prepare_corpus(corpus, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    made = prepare_corpus(corpus, tokenizer, tmp_path / "out", progress=cut)
    assert open_corpus(made.directory, verify=True).fingerprint == made.fingerprint
    assert not (made.directory / SCRATCH).exists()


def test_another_corpus_or_tokenizer_does_not_go_on_with_it(corpus, tokenizer, tmp_path, monkeypatch):
    out = tmp_path / "out"
    partial = interrupted(corpus, tokenizer, out, 5)
    before = listing(partial)

    def go_on(spec: CorpusSpec = corpus, other: TokenizerSpec = tokenizer, shard_tokens: int = SHARD) -> str:
        return refusal(lambda: prepare_corpus(spec, other, out, shard_tokens=shard_tokens))

    assert f"in {partial} was made with corpus.limit None, not 3" in go_on(corpus.model_copy(update={"limit": 3}))
    assert f"tokenizer.path {tokenizer.path!r}, not None" in go_on(other=TokenizerSpec(vocab_size=300))
    assert "shard_tokens 700, not 800" in go_on(shard_tokens=800)
    with monkeypatch.context() as patched:
        patched.setattr("palimpsest.data.journal.importlib.metadata.version", lambda name: "0.0.1")
        assert "tokenizers 0.0.1" in go_on()
    with open(Path(corpus.source) / "d.txt", "a") as source:
        source.write("more")
    assert "made with source" in go_on()
    assert listing(partial) == before


def test_a_tokenizer_that_changed_meanwhile_is_refused(corpus, tmp_path):
    given = save_tokenizer(tmp_path / "tokenizer")
    interrupted(corpus, given, tmp_path / "out", 5)
    with open(tmp_path / "tokenizer" / "tokenizer.json", "a") as file:
        file.write(" ")
    assert "made with tokenizer_source" in refusal(
        lambda: prepare_corpus(corpus, given, tmp_path / "out", shard_tokens=SHARD)
    )


def test_a_source_that_gives_other_documents_is_refused(corpus, tokenizer, tmp_path):
    out = tmp_path / "out"
    path = Path(corpus.source) / "c.jsonl"
    partial = interrupted(corpus, tokenizer, out, batches_of(corpus, tokenizer, tmp_path / "whole")[1] - 2)
    assert read_journal(partial).reading.start.offset > 0  # in the lines
    path.write_text(path.read_text().replace("letters", "LETTERS"))  # of the same size
    sentence = refusal(lambda: prepare_corpus(corpus, tokenizer, out, shard_tokens=SHARD))
    assert "no longer gives the documents that it gave before the interruption" in sentence
    path.write_text(path.read_text().replace("LETTERS", "letters"))
    prepare_corpus(corpus, tokenizer, out, shard_tokens=SHARD)
    assert listing(out) == listing(tmp_path / "whole")


@pytest.mark.parametrize(
    "name", ["train-00000.bin", "train-00001.bin", "heldout-ids.jsonl", f"{SCRATCH}/train-lengths"]
)
def test_damage_to_what_was_written_is_found(corpus, tokenizer, tmp_path, name):
    path = interrupted(corpus, tokenizer, tmp_path / "out", 9) / name
    content = path.read_bytes()

    def go_on() -> str:
        return refusal(lambda: prepare_corpus(corpus, tokenizer, tmp_path / "out", shard_tokens=SHARD))

    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert "are not what an interrupted preparation has left" in go_on()
    path.write_bytes(content[:3])
    assert f"{path} has 3 bytes, fewer than" in go_on()
    path.unlink()
    assert f"{path}, which an interrupted preparation has written, is missing" in go_on()


def test_a_journal_of_another_version_is_refused(corpus, tokenizer, tmp_path):
    partial = interrupted(corpus, tokenizer, tmp_path / "out", 3)
    (partial / SCRATCH / "journal.json").write_text('{"format": 2}')
    assert "another version of palimpsest" in refusal(lambda: prepare_corpus(corpus, tokenizer, tmp_path / "out"))


# A dataset of the hub


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[CorpusSpec]:
    """A dataset that streams from local files, and says how many rows were asked of it."""
    write_fineweb(tmp_path / "hub" / "0.parquet", pages(30))
    write_fineweb(tmp_path / "hub" / "1.parquet", pages(30, 30))
    real = datasets.load_dataset

    def load(path: str, name: str | None, *, split: str, revision: str | None, streaming: bool):
        assert revision == "0123abc"
        files = sorted(str(file) for file in (tmp_path / "hub").glob("*.parquet"))
        return real("parquet", data_files=files, split=split, streaming=streaming, cache_dir=str(tmp_path / "cache"))

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "load_dataset_builder", offline)  # so the size is unknown
    commits = iter(["0123abc"])  # a second question to the hub would bring another commit

    def resolve(name: str, kind: str, revision: str | None, instead: str) -> str:
        return revision or next(commits)

    monkeypatch.setattr("palimpsest.data.prepare.resolve_revision", resolve)
    monkeypatch.setattr("palimpsest.data.hub.resolve_revision", resolve)
    return CorpusSpec(source="HuggingFaceFW/fineweb", config="sample-10BT", heldout_fraction=0.2)


def at_beginning(state: object) -> object:
    """Return the state of a stream as it is before its first row."""
    if not isinstance(state, dict):
        return state
    counters = ("shard_idx", "shard_example_idx")
    return {key: 0 if key in counters else at_beginning(value) for key, value in state.items()}


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_stream_of_the_hub_goes_on_again_and_again(hub, tokenizer, tmp_path, monkeypatch, forgetful):
    local = CorpusSpec(source=str(tmp_path / "hub"), heldout_fraction=0.2)
    whole, batches = batches_of(local, tokenizer, tmp_path / "whole")
    if forgetful:  # as in datasets 5.0, where a stream that has been gone on with says that it is at its beginning
        real = datasets.IterableDataset.state_dict
        monkeypatch.setattr(datasets.IterableDataset, "state_dict", lambda rows: at_beginning(real(rows)))
    out = tmp_path / "out"
    done = 0
    while done < batches - 4:
        partial = interrupted(hub, tokenizer, out, 4)
        done += 4
        start = read_journal(partial).reading.start
        assert start.row > 0
        assert (start.state is None) == (forgetful and done > 4)  # then rows are counted
    made = prepare_corpus(hub, tokenizer, out, shard_tokens=SHARD)
    assert made.fingerprint == whole.fingerprint
    assert made.manifest.source == "hub 0123abc"
    assert made.manifest.corpus == hub
    kept = {name: content for name, content in listing(out).items() if name != "manifest.json"}
    assert kept == {name: content for name, content in listing(whole.directory).items() if name != "manifest.json"}
