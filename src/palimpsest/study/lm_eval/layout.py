"""Item records in the layout of lm-evaluation-harness, for the viewers that read it.

``OUT/<model>/results_<date>.json`` and, beside it, one ``samples_<task>_<date>.jsonl`` per task. A model is an arm, a
seed and an intervention; a task is one of ours at one length.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from palimpsest.errors import InputError
from palimpsest.records import ItemRecord, write_atomic, write_json

FILTER = "none"
METRICS: dict[str, Callable[[ItemRecord], float]] = {
    "exact": lambda record: float(record.exact),
    "contains": lambda record: float(record.contains),
    "recall": lambda record: record.recall,
    "rank_first": lambda record: float(record.rank == 1),
    "answer_logprob": lambda record: record.answer_logprob,
}


def write_results(records: Iterable[ItemRecord], out: Path, *, date: datetime | None = None) -> list[Path]:
    """Write records as the harness writes results and samples.

    The prompt is not in a record: ``arguments`` holds what names it, the task and the item, and ``prompt_hash`` is the
    hash of that.

    Args:
        records: of any arms, seeds, interventions, tasks and lengths.
        out: the folder that gets one folder per model.
        date: of the results; by default now.

    Returns:
        The results files, one per model.

    Raises:
        InputError: there is no record, one item was answered twice, or the records of a task have several versions.
    """
    models: dict[str, dict[str, list[ItemRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        models[_model(record)][f"{record.task}_{record.length}"].append(record)
    if not models:
        raise InputError("There are no item records to write results of.")
    when = date or datetime.now(UTC)
    stamp = when.isoformat().replace(":", "-")
    written = []
    for model, tasks in sorted(models.items()):
        for name, items in tasks.items():
            _check(name, items)
            lines = [json.dumps(sample, ensure_ascii=False) for sample in map(_sample, range(len(items)), items)]
            write_atomic(out / model / f"samples_{name}_{stamp}.jsonl", "\n".join(lines) + "\n")
        path = out / model / f"results_{stamp}.json"
        write_json(path, _results(model, dict(tasks), when))
        written.append(path)
    return written


def _model(record: ItemRecord) -> str:
    changed = "" if record.intervention == "none" else f"-{record.intervention}"
    return f"{record.arm}-s{record.seed}{changed}".replace("/", "__")


def _check(name: str, items: Sequence[ItemRecord]) -> None:
    versions = sorted({item.version for item in items})
    if len(versions) > 1:
        raise InputError(f"The records of '{name}' are of several versions of the task, {versions}; score them apart.")
    seen: set[tuple[str, str]] = set()
    for item in items:
        if (item.item_id, item.checkpoint) in seen:
            raise InputError(f"The item {item.item_id} of '{name}' was answered twice by one checkpoint.")
        seen.add((item.item_id, item.checkpoint))


def _results(model: str, tasks: dict[str, list[ItemRecord]], when: datetime) -> dict[str, Any]:
    first = next(iter(tasks.values()))[0]
    return {
        "results": {name: _scores(name, items) for name, items in tasks.items()},
        "group_subtasks": {},
        "configs": {name: _config(name, items[0]) for name, items in tasks.items()},
        "versions": {name: items[0].version for name, items in tasks.items()},
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {name: dict.fromkeys(METRICS, True) for name in tasks},
        "n-samples": {name: {"original": len(items), "effective": len(items)} for name, items in tasks.items()},
        "config": {
            "model": "palimpsest",
            "model_args": f"pretrained={first.arm}",
            "model_sha": first.checkpoint,
            "intervention": first.intervention,
            "random_seed": first.seed,
            "bootstrap_iters": 0,
        },
        "git_hash": None,
        "date": when.timestamp(),
        "task_hashes": {name: _hash("".join(item.item_id for item in items)) for name, items in tasks.items()},
        "model_source": "palimpsest",
        "model_name": model,
        "model_name_sanitized": model,
        "palimpsest_version": version("palimpsest-lm"),
    }


def _scores(name: str, items: Sequence[ItemRecord]) -> dict[str, Any]:
    """Return means and their standard errors (s / sqrt(n), as the harness's ``mean_stderr``; "N/A" for one item)."""
    scores: dict[str, Any] = {"alias": name, "sample_len": len(items)}
    for metric, value in METRICS.items():
        values = [value(item) for item in items]
        mean = math.fsum(values) / len(values)
        scores[f"{metric},{FILTER}"] = _finite(mean)
        scores[f"{metric}_stderr,{FILTER}"] = _stderr(values, mean)
    return scores


def _stderr(values: Sequence[float], mean: float) -> float | str:
    if len(values) < 2 or not math.isfinite(mean):
        return "N/A"
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else "N/A"


def _config(name: str, first: ItemRecord) -> dict[str, Any]:
    return {
        "task": name,
        "output_type": "generate_until",
        "num_fewshot": 0,
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in METRICS],
        "metadata": {"version": first.version, "length": first.length, "segment_length": first.segment_length},
    }


def _sample(place: int, item: ItemRecord) -> dict[str, Any]:
    coordinates = ("item_id", "length", "depth", "segment_length", "distance", "compressions", "locally_reachable")
    doc = {name: getattr(item, name) for name in coordinates}
    asked = f"{item.task}@{item.version}:{item.item_id}"
    return {
        "doc_id": place,
        "doc": doc,
        "target": item.answer,
        "arguments": {"gen_args_0": {"arg_0": asked, "arg_1": {"until": []}}},
        "resps": [[item.output]],
        "filtered_resps": [item.output],
        "filter": FILTER,
        "metrics": list(METRICS),
        "doc_hash": _hash(json.dumps(doc, sort_keys=True)),
        "prompt_hash": _hash(asked),
        "target_hash": _hash(item.answer),
        **{metric: _finite(value(item)) for metric, value in METRICS.items()},
    }


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()
