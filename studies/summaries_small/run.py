r"""Fine-tune small models on documents with their summaries, and score what they write of documents they have not seen.

python studies/summaries_small/run.py runs/summaries
python studies/summaries_small/run.py runs/papers --pairs data/benchmarks/qasper_yesno-train.parquet --cut \
    --init runs/continual/arms --arms ridge,sliding_window --row-length 8192 --batch-size 4

Everything is kept in the folder it is given: the same command goes on where it stopped.
"""

import argparse
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from palimpsest.data import load_tokenizer, train_tokenizer
from palimpsest.data.summaries import PairsSpec, summary_pairs
from palimpsest.errors import InputError, refused
from palimpsest.records import (
    Measurement,
    Record,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
    write_jsonl,
)
from palimpsest.report.tables import markdown_of
from palimpsest.schema import parse
from palimpsest.statistics import Estimate
from palimpsest.study.embeddings import load_encoder
from palimpsest.study.evaluate import Subject
from palimpsest.study.summaries import Writing, asked_pairs, evaluate_summaries
from palimpsest.study.summary_scores import METRICS, WRITERS, SummaryRecord, arm_difference, mean_score
from palimpsest.training import ModelSpec, Recipe, TrainingSpec, resolve_checkpoint, train
from palimpsest.training.checkpoint import sha256_of
from palimpsest.training.provenance import measurement
from palimpsest.training.recipe import StoriesSpec, SummariesData
from palimpsest.training.run import run_log
from palimpsest.training.state import WEIGHTS, pretrained_model
from palimpsest.training.summaries import story_pair

RESULTS = Path(__file__).parent / "results"
ARMS: dict[str, dict[str, Any]] = {
    "ridge": {"memory": {"kind": "ridge"}},
    "delta": {"memory": {"kind": "delta"}},
    "segment_local": {"pattern": "segment_local"},
    "sliding_window": {"pattern": "sliding_window"},
    "transformer_xl": {"pattern": "transformer_xl"},
    "full": {"pattern": "full"},
}
MEMORIES = ("ridge", "delta")
TOKENIZER_TEXTS = 2000
"""Stories, or documents, that the tokenizer of a new model learns from."""


class Settings(Record):
    """What the study is run with; a folder holds the results of one choice.

    ``pairs`` is ``stories``, a file with documents and summaries, or the name of a set; ``words`` are those of a story.
    ``init`` is a folder with a converted checkpoint for every arm; None: new models of ``hidden_size``.
    """

    pairs: str
    words: int
    cut: bool
    init: str | None
    arms: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    hidden_size: int
    layers: int
    vocab_size: int
    segment_length: int
    row_length: int
    steps: int
    batch_size: int
    learning_rate: float
    items: int
    item_seed: int
    max_new_tokens: int
    temperature: float
    encoder: str | None


class Results(Measurement):
    """All that was found; the summaries themselves are in ``summaries.jsonl`` of each run.

    The commit and the day are those of the report; ``training_commits`` has those of the trainings.
    """

    settings: Settings
    data_fingerprint: str
    training_commits: dict[str, str]
    parameters: dict[str, int]
    training_seconds: dict[str, float]
    training_flops: dict[str, float]
    records: tuple[SummaryRecord, ...]


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run or go on, write the results, and return their path."""
    given = _parser().parse_args(arguments)
    work: Path = given.work
    fields = set(Settings.model_fields)
    settings = Settings.model_validate({name: value for name, value in vars(given).items() if name in fields})
    for arm in settings.arms:
        if arm not in ARMS:
            raise InputError(f"There is no arm '{arm}'; take some of {', '.join(ARMS)}.")
    work.mkdir(parents=True, exist_ok=True)
    if (work / "settings.json").exists() and Settings.model_validate(read_json(work / "settings.json")) != settings:
        raise InputError(f"{work} holds results of other settings (settings.json); choose another folder.")
    write_json(work / "settings.json", settings)
    data = _data(settings, work)
    for arm in settings.arms:
        for seed in settings.seeds:
            _run(work / f"{arm}-s{seed}", arm, seed, data, settings)
    return _report(work, settings, given.results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for checkpoints and records")
    parser.add_argument("--pairs", default="stories", help="stories, booksum, arxiv, or a .parquet or .jsonl file")
    parser.add_argument("--words", type=int, default=100, help="words of a story (default: 100)")
    parser.add_argument("--cut", action="store_true", help="cut documents that do not fit into a row")
    parser.add_argument("--init", help="folder of converted checkpoints, one for each arm")
    parser.add_argument("--arms", type=_names, default=("ridge", "segment_local", "full"), help="of " + ",".join(ARMS))
    parser.add_argument("--seeds", type=lambda text: tuple(map(int, text.split(","))), default=(0,))
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocab-size", type=int, default=512)
    parser.add_argument("--segment-length", type=int, default=32)
    parser.add_argument("--row-length", type=int, default=320)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--items", type=int, default=50, help="documents that are summarised (default: 50)")
    parser.add_argument("--item-seed", type=int, default=0, help="of stories; keep 10,000 and above for final tests")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--encoder", help="directory of a sentence encoder, for a score of embeddings")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are written")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _data(settings: Settings, work: Path) -> SummariesData:
    """Return the data of all runs; a tokenizer for new models is trained first."""
    if settings.pairs == "stories":
        pairs: dict[str, Any] = {
            "kind": "stories",
            "words": settings.words,
            "people": 2,
            "rooms": 3,
            "objects": 2,
        }
    else:
        pairs = {"kind": "pairs", "source": settings.pairs}
        if Path(settings.pairs).name.startswith("qasper"):
            pairs["layout"] = "paper"
    value = {"row_length": settings.row_length, "pairs": pairs, "long_documents": "cut" if settings.cut else "refuse"}
    data = parse(SummariesData, value, "pairs")
    if settings.init is None:
        folder = work / "tokenizer"
        if not folder.exists():
            train_tokenizer(_texts(data), settings.vocab_size).save_pretrained(folder)
        data = data.model_copy(update={"tokenizer": folder})
    return data


def _texts(data: SummariesData) -> Iterable[str]:
    """Yield training texts for a tokenizer."""
    if isinstance(data.pairs, StoriesSpec):
        for index in range(TOKENIZER_TEXTS):
            story = story_pair(data.pairs, "training", 0, index)
            yield f"{story.text}{data.cue}{story.summary}"
    else:
        assert isinstance(data.pairs, PairsSpec)  # the only other kind
        for pair in islice(summary_pairs(data.pairs, "train"), TOKENIZER_TEXTS):
            yield f"{pair.document}{data.cue}{pair.summary}"


def _run(folder: Path, arm: str, seed: int, data: SummariesData, settings: Settings) -> None:
    """Train one model and let it summarise, unless that has been done."""
    attention = {**ARMS[arm], "segment_length": settings.segment_length, "documents": "reset"}
    sizes = {
        "hidden_size": settings.hidden_size,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": max(1, settings.hidden_size // 32),
        "attention": attention,
    }
    recipe = Recipe(
        name=f"summaries-{arm}-s{seed}",
        seed=seed,
        model=parse(ModelSpec, sizes, "model") if settings.init is None else None,
        init=None if settings.init is None else Path(settings.init) / arm,
        data=data,
        training=TrainingSpec(
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=min(20, settings.steps),
            checkpoint_every=max(1, settings.steps // 4),
            log_every=max(1, settings.steps // 20),
        ),
    )
    print(f"training {arm}, seed {seed}", flush=True)
    train(recipe, folder / "run", progress=True)
    if (folder / "summaries.jsonl").exists():
        return
    checkpoint = resolve_checkpoint(folder / "run")
    model = torch.nn.Module.to(pretrained_model(checkpoint), "cuda" if torch.cuda.is_available() else "cpu").eval()
    subject = Subject(model, load_tokenizer(checkpoint), arm, seed, sha256_of(checkpoint / WEIGHTS))
    asked = asked_pairs(data, settings.items, seed=settings.item_seed)
    print(f"{arm}, seed {seed}: {len(asked)} documents", flush=True)
    found = evaluate_summaries(
        subject,
        asked,
        data.cue,
        Writing(settings.max_new_tokens, settings.temperature, seed),
        interventions=("gate_closed",) if arm in MEMORIES else (),
        encoder=None if settings.encoder is None else load_encoder(settings.encoder),
    )
    write_jsonl(folder / "summaries.jsonl", found)


def _report(work: Path, settings: Settings, folder: Path) -> Path:
    """Write the results of this folder as JSON and as a table."""
    runs = {f"{arm}-s{seed}": work / f"{arm}-s{seed}" for arm in settings.arms for seed in settings.seeds}
    logs = {name: run_log(run / "run") for name, run in runs.items()}
    results = Results(
        **dict(measurement()),
        settings=settings,
        data_fingerprint=next(iter(logs.values())).provenance.data_fingerprint,
        training_commits={name: log.provenance.commit for name, log in logs.items()},
        parameters={name: log.provenance.parameters for name, log in logs.items()},
        training_seconds={name: log.last.seconds for name, log in logs.items()},
        training_flops={name: log.provenance.flops for name, log in logs.items()},
        records=tuple(record for run in runs.values() for record in read_jsonl(run / "summaries.jsonl", SummaryRecord)),
    )
    pairs = "stories" if settings.pairs == "stories" else Path(settings.pairs).stem
    path = results.save(folder, f"{pairs}-{settings.steps}-updates")
    write_atomic(path.with_suffix(".md"), render(results))
    print(f"Results: {path} and {path.with_suffix('.md').name}")
    return path


def render(results: Results) -> str:
    """Return the tables of a result file: every number comes from the records."""
    chosen = results.settings
    costs = [
        (name, f"{results.parameters[name]:,}", f"{results.training_flops[name]:.3g}", f"{seconds:,.0f}")
        for name, seconds in results.training_seconds.items()
    ]
    about = (
        f"{'Stories of ' + str(chosen.words) + ' words' if chosen.pairs == 'stories' else chosen.pairs}, segments of "
        f"{chosen.segment_length} tokens, rows of {chosen.row_length}, {chosen.steps} updates of {chosen.batch_size} "
        f"rows, learning rate {chosen.learning_rate:g}, seeds {', '.join(map(str, chosen.seeds))}; {chosen.items} "
        f"documents of item seed {chosen.item_seed}; {results.threads} thread(s). Intervals: 95 %, Student's t, "
        "clustered by document; they speak of these checkpoints, not of other seeds, but for differences of arms, "
        "which are over seeds where there are several. `far_recall` counts the facts that were last told before the "
        "segment in which the summary begins; lead, tail and random are sentences of "
        "the document, as many as the reference has."
    )
    parts = [
        f"# Summaries by small models ({results.date[:10]}, {results.hardware})",
        about,
        "## Cost",
        markdown_of(("run", "parameters", "operations", "seconds of training"), costs),
        "## Scores",
        _scores(results),
        "## Differences",
        _differences(results),
    ]
    return "\n\n".join(parts) + "\n"


def _scores(results: Results) -> str:
    rows = []
    for arm in results.settings.arms:
        mine = [record for record in results.records if record.arm == arm]
        for intervention in dict.fromkeys(record.intervention for record in mine):
            scores = (mean_score(mine, metric, intervention=intervention) for metric in METRICS)
            name = arm if intervention == "none" else f"{arm}, {intervention}"
            rows.append((name, *map(_shown, scores)))
    first = [record for record in results.records if record.arm == results.settings.arms[0]]
    rows += [
        (writer, *(_shown(mean_score(first, metric, writer=writer)) for metric in METRICS)) for writer in WRITERS[1:]
    ]
    return markdown_of(("writer", *METRICS), rows)


def _differences(results: Results) -> str:
    """Compare the first arm with the others, each with the first sentences, a memory with itself without it."""
    first, *others = results.settings.arms
    rows = [
        (f"{first} − {other}", *(_shown(arm_difference(results.records, first, other, metric)) for metric in METRICS))
        for other in others
    ]
    for arm in results.settings.arms:
        mine = [record for record in results.records if record.arm == arm]
        others = [("lead", "none")] + [("model", "gate_closed")] * (arm in MEMORIES)
        for other in others:
            name = f"{arm} − {other[0] if other[0] != 'model' else 'gates closed'}"
            rows.append((name, *(_shown(mean_score(mine, metric, against=other)) for metric in METRICS)))
    return markdown_of(("difference", *METRICS), rows)


def _shown(found: Estimate | None) -> str:
    if found is None:
        return ""
    mean = f"{found.mean:.3f}"
    return f"{mean} [{found.low:.3f}, {found.high:.3f}]" if found.bounded else mean


if __name__ == "__main__":
    with refused("summaries_small"):
        main()
