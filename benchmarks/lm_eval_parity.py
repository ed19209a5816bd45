"""A converted LLaMA in lm-evaluation-harness against the LLaMA in the harness's own Hugging Face class, item by item.

palimpsest data benchmarks data/benchmarks --sets arc_challenge,hellaswag
python studies/smollm2/convert.py runs/smollm2 --download --stages before
python benchmarks/lm_eval_parity.py runs/smollm2/original data/benchmarks --limit arc_challenge=100 hellaswag=50
python benchmarks/lm_eval_parity.py runs/smollm2/original data/benchmarks --out benchmarks/results     # whole sets
"""

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, LlamaForCausalLM

from palimpsest.models import convert_llama
from palimpsest.records import Measurement, Record
from palimpsest.study.lm_eval.model import PalimpsestLM
from palimpsest.training.provenance import measurement

TASKS = ("arc_challenge", "hellaswag")
TOLERANCE = 1e-4
"""How far, in nats, the log-likelihood of a choice may be from the harness's own."""
DECISIONS = ("acc", "acc_norm")


class Scores(NamedTuple):
    """What one model made of a task: per item, the log-likelihoods of its choices and the two decisions."""

    logprobs: list[list[float]]
    decisions: dict[str, list[float]]
    seconds: float


class TaskParity(Record):
    """One task: how far the log-likelihoods are from each other, and how many decisions differ."""

    task: str
    source: str
    items: int
    items_of_set: int
    choices: int
    largest_difference: float
    mean_difference: float
    different: dict[str, int]
    accuracy: dict[str, float]
    accuracy_of_original: dict[str, float]
    seconds: float
    seconds_of_original: float

    @property
    def holds(self) -> bool:
        """Whether every log-likelihood is within the tolerance and every decision the same."""
        return self.largest_difference <= TOLERANCE and not any(self.different.values())


class LmEvalParity(Measurement):
    """One run of the comparison, with what is needed to judge it."""

    case: str = "lm_eval_parity"
    original: str
    parameters: int
    attention: dict[str, Any]
    batch_size: int
    tolerance: float
    tasks: list[TaskParity]


def score(model: HFLM, task: str, manager: TaskManager, limit: int | None) -> tuple[Scores, dict[str, Any]]:
    """Run one task, and return its scores and the harness's results without the samples."""
    began = time.monotonic()
    results = simple_evaluate(
        model=model, tasks=[task], task_manager=manager, limit=limit, bootstrap_iters=0, log_samples=True
    )
    assert results is not None
    samples = sorted(results.pop("samples")[task], key=lambda sample: sample["doc_id"])
    logprobs = [[float(logprob) for logprob, _ in sample["filtered_resps"]] for sample in samples]
    decisions = {metric: [float(sample[metric]) for sample in samples] for metric in DECISIONS}
    return Scores(logprobs, decisions, time.monotonic() - began), results


def compare(task: str, ours: Scores, theirs: Scores, results: dict[str, Any]) -> TaskParity:
    """Compare the two models on one task, choice by choice and item by item."""
    pairs = zip(ours.logprobs, theirs.logprobs, strict=True)
    gaps = [abs(one - other) for mine, yours in pairs for one, other in zip(mine, yours, strict=True)]
    items = len(ours.logprobs)
    return TaskParity(
        task=task,
        source=results["configs"][task]["metadata"]["source"],
        items=items,
        items_of_set=results["n-samples"][task]["original"],
        choices=len(gaps),
        largest_difference=max(gaps),
        mean_difference=sum(gaps) / len(gaps),
        different={
            metric: sum(
                one != other for one, other in zip(ours.decisions[metric], theirs.decisions[metric], strict=True)
            )
            for metric in DECISIONS
        },
        accuracy={metric: sum(ours.decisions[metric]) / items for metric in DECISIONS},
        accuracy_of_original={metric: sum(theirs.decisions[metric]) / items for metric in DECISIONS},
        seconds=ours.seconds,
        seconds_of_original=theirs.seconds,
    )


def measure(arguments: argparse.Namespace) -> LmEvalParity:
    """Score the tasks with both models."""
    began = measurement("lm_eval")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(arguments.llama)
    llama = LlamaForCausalLM.from_pretrained(arguments.llama, dtype=torch.float32)
    attention = {"memory": {"kind": "linear"}, "segment_length": arguments.segment_length}
    converted = convert_llama(arguments.llama, attention)
    theirs = HFLM(pretrained=torch.nn.Module.to(llama, device), tokenizer=tokenizer, batch_size=arguments.batch_size)
    ours = PalimpsestLM(torch.nn.Module.to(converted, device).float(), tokenizer, batch_size=arguments.batch_size)
    manager = TaskManager(include_path=str(arguments.benchmarks), include_defaults=False)
    found = []
    for task in arguments.tasks:
        limit = arguments.limit.get(task)
        yours, _ = score(theirs, task, manager, limit)
        mine, results = score(ours, task, manager, limit)
        found.append(compare(task, mine, yours, results))
        print(line(found[-1]), flush=True)
    return LmEvalParity(
        **dict(began),
        original=arguments.name,
        parameters=llama.num_parameters(),
        attention=converted.config.attention_spec.model_dump(mode="json", exclude_none=True),
        batch_size=arguments.batch_size,
        tolerance=TOLERANCE,
        tasks=found,
    )


def line(found: TaskParity) -> str:
    """Return one task in a line."""
    decisions = ", ".join(
        f"{metric} {found.accuracy[metric]:.4f} (original {found.accuracy_of_original[metric]:.4f}, "
        f"{found.different[metric]} items differ)"
        for metric in DECISIONS
    )
    return (
        f"{found.task}: {found.items:,} of {found.items_of_set:,} items, {found.choices:,} choices, largest difference "
        f"{found.largest_difference:.1e} nats; {decisions}; {found.seconds:.0f} s (original "
        f"{found.seconds_of_original:.0f} s)"
    )


def limits(words: Iterable[str]) -> dict[str, int]:
    """Read ``arc_challenge=100``."""
    return {name: int(number) for name, _, number in (word.partition("=") for word in words)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama", type=Path, help="a LLaMA checkpoint as save_pretrained writes it")
    parser.add_argument("benchmarks", type=Path, help="a folder that palimpsest data benchmarks made")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help=f"(default: {' '.join(TASKS)})")
    parser.add_argument("--limit", nargs="+", default=[], metavar="TASK=N", help="first N items only (default: all)")
    parser.add_argument("--batch-size", type=int, default=8, help="rows that are read together (default: 8)")
    parser.add_argument("--segment-length", type=int, default=1024, help="at least an item's length (default: 1024)")
    parser.add_argument("--name", default="SmolLM2-135M-Instruct, Q4_1 GGUF dequantised", help="of the LLaMA")
    parser.add_argument("--out", type=Path, help="also write a file NAME_HARDWARE_DATE.json into this folder")
    arguments = parser.parse_args()
    arguments.limit = limits(arguments.limit)
    found = measure(arguments)
    if arguments.out is not None:
        print(found.save(arguments.out, found.case))
    if not all(task.holds for task in found.tasks):
        sys.exit("The converted model is not what the LLaMA is.")


if __name__ == "__main__":
    main()
