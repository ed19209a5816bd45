"""Peak memory of ``palimpsest generate`` over a long text and over a short one, for every kind of bounded attention.

python benchmarks/generate_memory.py                              # on the screen
python benchmarks/generate_memory.py --out benchmarks/results     # also write NAME_HARDWARE_DATE.json
"""

import argparse
import os
import random
import re
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from palimpsest.attention.kinds import KINDS
from palimpsest.attention.sizes import Sizes
from palimpsest.data import train_tokenizer
from palimpsest.data.tokenizer import document_encoder
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.records import Measurement, Record
from palimpsest.training.provenance import measurement

SHORT, LONG = 50_000, 1_000_000
ALLOWED = 1.05
"""How many times the peak of the short text that of the long one may be."""
SEGMENT = 32
RIDGE = {"kind": "ridge"}
CHOICES: dict[str, dict] = {"memory": {"memory": RIDGE}, "memorizing": {"memorizing": {"capacity": 512, "top_k": 8}}}
"""What is chosen for a kind whose defaults are not wanted here."""
WORDS = 2000

LAUNCHER = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""
"""Runs a command and prints its peak. A process of its own, because a child's peak begins with that of its parent."""
READ = re.compile(r"Read ([\d,]+) tokens .* into ([\d,]+) bytes of state and ([\d,]+) of keys and values")
FORMULA = re.compile(r"([\d,]+) bytes of (state|keys|for)")


class Reading(Record):
    """One run of the command.

    Attributes:
        tokens: how many it read.
        peak_bytes: the most memory that its process had at once (``ru_maxrss``), libraries and weights included.
        state_bytes: what the cache held afterwards.
        seconds: from its start to its end.
    """

    tokens: int
    peak_bytes: int
    state_bytes: int
    seconds: float


class KindReadings(Record):
    """One kind of attention: the bytes of its state by the formula of ``palimpsest info``, and a reading per length."""

    kind: str
    attention: dict
    formula_bytes: int
    short: Reading
    long: Reading

    @property
    def ratio(self) -> float:
        """The peak of the long text, in those of the short one."""
        return self.long.peak_bytes / self.short.peak_bytes

    @property
    def holds(self) -> bool:
        """Whether memory does not grow, and the state is as large as the formula says."""
        states = {self.short.state_bytes, self.long.state_bytes}
        return self.ratio <= ALLOWED and states == {self.formula_bytes}


class GenerateMemory(Measurement):
    """One run of the benchmark, with what is needed to judge it."""

    case: str = "generate_memory"
    parameters: int
    kinds: list[KindReadings]


def bounded_kinds() -> list[str]:
    """Return the kinds of attention whose state does not grow with the text."""
    sizes = Sizes(2, 2, 32, 64)
    return [name for name, kind in KINDS.items() if not kind.bytes_per_token(sizes, 4)]


def attention_of(kind: str) -> dict:
    """Return the attention block of a model of this kind."""
    return {"pattern": [kind], "segment_length": SEGMENT} | CHOICES.get(kind, {})


def make_checkpoint(folder: Path, kind: str) -> tuple[PalimpsestForCausalLM, PreTrainedTokenizerBase]:
    """Save a model of the size of ``recipes/tiny-ridge.yaml`` with random weights, and its tokenizer."""
    tokenizer = train_tokenizer([" ".join(vocabulary())], 1024)
    config = PalimpsestConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=2,
        attention=attention_of(kind),
    )
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = PalimpsestForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def vocabulary() -> list[str]:
    """Return made-up words."""
    source = random.Random(0)
    return ["".join(source.choices(string.ascii_lowercase, k=source.randint(1, 9))) for _ in range(WORDS)]


def write_book(path: Path, tokenizer: PreTrainedTokenizerBase, tokens: int) -> None:
    """Write a text of exactly so many tokens."""
    words = [f" {word}" for word in [*string.ascii_lowercase, *vocabulary()]]
    lengths = dict(zip(words, map(len, document_encoder(tokenizer)(words)), strict=True))
    filler = next(word for word in words if lengths[word] == 1)
    source, left = random.Random(1), tokens
    with open(path, "w", encoding="utf-8") as book:
        while left:
            word = source.choice(words)
            word = word if lengths[word] <= left else filler
            book.write(word)
            left -= lengths[word]


def read(checkpoint: Path, book: Path) -> Reading:
    """Run the command on one thread and return what it took."""
    words = [sys.executable, "-m", "palimpsest", "generate", str(checkpoint), "--prompt-file", str(book)]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *words, "--max-new-tokens", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - began
    said = READ.search(done.stderr)
    if done.returncode or said is None:
        raise RuntimeError(f"palimpsest generate failed: {done.stderr}")
    tokens, memory, local = (int(number.replace(",", "")) for number in said.groups())
    unit = 1 if sys.platform == "darwin" else 1024
    return Reading(tokens=tokens, peak_bytes=int(done.stdout) * unit, state_bytes=memory + local, seconds=seconds)


def formula(checkpoint: Path) -> int:
    """Return the bytes of state by ``palimpsest info``."""
    words = [sys.executable, "-m", "palimpsest", "info", str(checkpoint)]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in shown.splitlines() if "state per sequence" in line)
    return sum(int(size.replace(",", "")) for size, _ in FORMULA.findall(line))


def measure(kind: str, short: int = SHORT, long: int = LONG) -> tuple[KindReadings, int]:
    """Read a short and a long text with a model of this kind; return that and the number of its parameters."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, book = Path(folder) / "checkpoint", Path(folder) / "book.txt"
        model, tokenizer = make_checkpoint(checkpoint, kind)
        readings = []
        for tokens in (short, long):
            write_book(book, tokenizer, tokens)
            readings.append(read(checkpoint, book))
        found = KindReadings(
            kind=kind,
            attention=attention_of(kind),
            formula_bytes=formula(checkpoint),
            short=readings[0],
            long=readings[1],
        )
        return found, model.num_parameters()


def main() -> int:
    """Measure, print one line a kind, and return 1 if memory grew anywhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=bounded_kinds(), default=bounded_kinds())
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    began = measurement(threads=1)
    kinds, parameters = [], 0
    for kind in given.kinds:
        found, parameters = measure(kind)
        kinds.append(found)
        print(
            f"{kind}: peak {found.short.peak_bytes / 2**20:.1f} MiB at {found.short.tokens:,} tokens, "
            f"{found.long.peak_bytes / 2**20:.1f} MiB at {found.long.tokens:,}: {found.ratio:.3f} times; "
            f"state {found.long.state_bytes:,} bytes, by formula {found.formula_bytes:,}; {found.long.seconds:.0f} s",
            flush=True,
        )
    record = GenerateMemory(**dict(began), parameters=parameters, kinds=kinds)
    if given.out is not None:
        print(f"Results: {record.save(given.out, record.case)}")
    return 0 if all(found.holds for found in kinds) else 1


if __name__ == "__main__":
    sys.exit(main())
