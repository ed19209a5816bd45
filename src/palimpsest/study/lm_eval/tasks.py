"""Our tasks as tasks of lm-evaluation-harness: its prompts in, its answers scored by ``Task.score``.

Every item is one ``generate_until`` request and one ``loglikelihood`` request per candidate, so that greedy answer and
rank are scored by our own code, whatever model of the harness answers.
"""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from pydantic import Field, ValidationError

from palimpsest.data import load_tokenizer
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestConfig
from palimpsest.records import read_json, write_atomic
from palimpsest.schema import Closed, parse
from palimpsest.tasks import TASKS, Output, Sample, Task, build_task, task_spec
from palimpsest.training import resolve_checkpoint

PREFIX = "palimpsest_"
METRICS = ("exact", "contains", "recall", "rank_first")
SEGMENT_LENGTH = 1024
"""Where needles may lie when the model has no segments of its own."""

Depth = Annotated[float, Field(ge=0, le=1)]


class Items(Closed):
    """Which items are asked: what ``--metadata '{"palimpsest": {...}}'`` may give.

    Attributes:
        lengths: exact numbers of tokens of prompt and answer.
        depths: places of the needle, from 0 to 1; empty draws one per item.
        items: items per length and depth.
        seed: development seeds are small; 10,000 and above are for final runs.
        segment_length: no needle crosses a multiple of it; by default the model's own, or 1024.
        tokenizer: where the tokenizer is that lengths are counted with; by default the model's own.
        knobs: the task's settings.
    """

    lengths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1024,)
    depths: tuple[Depth, ...] = ()
    items: Annotated[int, Field(ge=1)] = 100
    seed: Annotated[int, Field(ge=0)] = 0
    segment_length: Annotated[int, Field(ge=1)] | None = None
    tokenizer: str | None = None
    knobs: dict[str, Any] = Field(default_factory=dict)


class HarnessTask(ConfigurableTask):
    """One of our tasks, with the items of a grid, for lm-evaluation-harness.

    Args:
        task: the task.
        tokenizer: the one that the task was made with.
        items: which items.
        metadata: what the results say of the task beside its version.

    Raises:
        InputError: an item cannot be made, or the tokenizer does not give its tokens back from its text.
    """

    def __init__(self, task: Task, tokenizer: Any, items: Items, metadata: dict[str, Any] | None = None) -> None:
        self._task = task
        self._samples = list(_samples(task, items))
        self._tokenizer = tokenizer
        told = {"version": task.version, "floor": task.floor._asdict(), "ceiling": task.ceiling._asdict()}
        super().__init__(
            config={
                "task": PREFIX + task.name,
                "output_type": "generate_until",
                "test_split": "test",
                "doc_to_text": "prompt",
                "doc_to_target": "answer",
                "generation_kwargs": {"until": [], "do_sample": False},
                "metric_list": [
                    {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in METRICS
                ],
                "process_results": "palimpsest.tasks.Task.score",  # by its name: ``process_results`` below calls it
                "num_fewshot": 0,
                "metadata": {**(metadata or {}), **told, "items": items.model_dump(mode="json")},
            }
        )

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make the documents: nothing is downloaded."""
        documents = [
            _document(place, sample, self._tokenizer, self._task) for place, sample in enumerate(self._samples)
        ]
        self.dataset = {"test": Dataset.from_list(documents)}

    def construct_requests(  # pyright: ignore[reportIncompatibleMethodOverride] (any keyword there)
        self,
        doc: dict[str, Any],
        ctx: str,
        *,
        metadata: tuple[str, int, int],
        apply_chat_template: bool = False,
        chat_template: object = None,
    ) -> list[Instance]:
        """Return what is asked of the model about one item: to continue the prompt, and each candidate's likelihood."""
        settings = {**(self.config.generation_kwargs or {}), "max_gen_toks": doc["new_tokens"]}
        greedy = Instance("generate_until", doc, (ctx, settings), 0, metadata)
        ranked = (
            Instance("loglikelihood", doc, (ctx, candidate), place, metadata)
            for place, candidate in enumerate(doc["candidates"], 1)
        )
        return [greedy, *ranked]

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
        """Score the answers to one item."""
        text, *ranked = results
        score = self._task.score(
            self._samples[doc["place"]], Output(text, np.array([logprob for logprob, _ in ranked], dtype=np.float64))
        )
        return {
            "exact": float(score.exact),
            "contains": float(score.contains),
            "recall": score.recall,
            "rank_first": float(score.rank == 1),
        }


class CatalogueTask(HarnessTask):
    """A task by its name in ``palimpsest.tasks.TASKS``, as the files of ``write_task_files`` ask for it.

    Args:
        config: ``metadata`` says which task (``kind``), for which model (``pretrained``, ``tokenizer``) and which
            items (``palimpsest``).

    Raises:
        InputError: there is no tokenizer to count tokens with, or a setting is wrong.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        metadata = config["metadata"]
        items = parse(Items, metadata.get("palimpsest", {}), "--metadata palimpsest")
        where = items.tokenizer or metadata.get("tokenizer") or metadata.get("pretrained")
        if where is None:
            raise InputError(
                f"The task '{config['task']}' counts tokens: name a tokenizer, as in "
                """--metadata '{"palimpsest": {"tokenizer": "DIR"}}'."""
            )
        tokenizer = load_tokenizer(_directory(str(where)))
        segment_length = items.segment_length or _segment_length(metadata.get("pretrained")) or SEGMENT_LENGTH
        knobs = {"kind": metadata["kind"], **items.knobs}
        try:
            spec = task_spec(knobs)
        except ValidationError as error:
            wrong = error.errors()[0]
            raise InputError(f"knobs of the task '{config['task']}': {wrong['loc'][-1]}: {wrong['msg']}.") from error
        if hasattr(spec, "max_length"):
            spec = spec.model_copy(update={"max_length": max(spec.max_length, *items.lengths)})
        task = build_task(spec, tokenizer, segment_length=segment_length)
        super().__init__(task, tokenizer, items, {"kind": metadata["kind"], "segment_length": segment_length})


def write_task_files(folder: Path) -> list[Path]:
    """Write one task file per task of ours, for ``lm_eval --include_path``."""
    written = []
    for kind in TASKS:
        path = folder / f"{PREFIX}{kind}.yaml"
        lines = [
            f"task: {PREFIX}{kind}",
            f"class: !function {CatalogueTask.__module__}.{CatalogueTask.__name__}",
            f"metadata: {json.dumps({'kind': kind, 'version': TASKS[kind].version})}",
        ]
        write_atomic(path, "\n".join(lines) + "\n")
        written.append(path)
    return written


def _samples(task: Task, items: Items) -> Iterator[Sample]:
    depths: tuple[float | None, ...] = items.depths or (None,)
    for length, depth, index in product(items.lengths, depths, range(items.items)):
        yield task.sample(split="evaluation", seed=items.seed, index=index, length=length, depth=depth)


def _document(place: int, sample: Sample, tokenizer: Any, task: Task) -> dict[str, Any]:
    """Return an item in words; the harness passes text, so the text must stand for exactly the item's tokens."""
    prompt_ids = sample.prompt_ids.tolist()
    prompt = str(tokenizer.decode(prompt_ids))
    candidates = []
    for ids in sample.candidate_ids.tolist():
        whole_ids = [*prompt_ids, *(token for token in ids if token >= 0)]
        whole = str(tokenizer.decode(whole_ids))
        if not whole.startswith(prompt) or tokenizer.encode(whole, add_special_tokens=False) != whole_ids:
            raise InputError(
                f"The tokenizer does not give the tokens of an item of the task '{task.name}' back from its text, "
                "which is all that lm-eval passes on; use another tokenizer, or palimpsest eval."
            )
        candidates.append(whole[len(prompt) :])
    return {
        "place": place,
        "item_id": sample.id,
        "length": sample.length,
        "depth": sample.depth,
        "distance": sample.distance,
        "compressions": sample.compressions,
        "prompt": prompt,
        "answer": sample.answer,
        "candidates": candidates,
        "new_tokens": sample.new_tokens,
    }


def _directory(path: str) -> str:
    """Return where the tokenizer of a model is: in the checkpoint of a run directory."""
    if not (Path(path) / "checkpoints").is_dir():
        return path
    return str(resolve_checkpoint(Path(path)))


def _segment_length(pretrained: object) -> int | None:
    """Return the segment length of one of our checkpoints; None for other models."""
    config = Path(_directory(str(pretrained))) / "config.json"
    if pretrained is None or not config.is_file():
        return None
    settings = read_json(config)
    if settings.get("model_type") != PalimpsestConfig.model_type:
        return None
    return int(settings["attention"]["segment_length"])
