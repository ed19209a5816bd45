"""Ask a trained model: passkey items with and without interventions, and held-out loss by position."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.probes import INTERVENTIONS
from palimpsest.records import ItemRecord, PositionLossRecord
from palimpsest.study.spec import PasskeyGrid
from palimpsest.tasks import Output, Passkey, Sample

RANKED_ROWS = 128
"""Rows, items times candidates, that are ranked together."""


@dataclass(frozen=True)
class Subject:
    """The model under test and the names that its records carry."""

    model: PalimpsestForCausalLM
    tokenizer: PreTrainedTokenizerBase
    arm: str
    seed: int
    checkpoint: str


def passkey_items(task: Passkey, grid: PasskeyGrid) -> Iterator[list[Sample]]:
    """Yield the items of a grid in batches of equal length."""
    for length in grid.lengths:
        samples = [
            task.sample(split="evaluation", seed=grid.seed, index=index, length=length, depth=depth)
            for depth in grid.depths
            for index in range(grid.items_per_cell)
        ]
        # a last batch of one row could not be swapped: it joins the one before
        batches = max(1, len(samples) // grid.batch_size)
        for batch in np.array_split(np.arange(len(samples)), batches):
            yield [samples[index] for index in batch]


@torch.inference_mode()
def evaluate_passkey(
    subject: Subject, task: Passkey, samples: Sequence[Sample], interventions: Iterable[str]
) -> list[ItemRecord]:
    """Answer items of equal length, intact ("none") and under each intervention.

    The prompt is read once up to the segment that holds the answer. Each intervention then acts on a copy of the cache,
    at the boundary where that last segment begins, so that all conditions share the same past.
    """
    model = subject.model
    prompts = torch.from_numpy(np.stack([sample.prompt_ids for sample in samples])).long()
    last = (prompts.shape[1] - 1) // task.segment_length * task.segment_length
    past = _read(model, prompts[:, :last], PalimpsestCache(model.config)) if last else PalimpsestCache(model.config)
    records = []
    for intervention in ("none", *interventions):
        with INTERVENTIONS[intervention](model):
            outputs = _answer(subject, samples, prompts, past.clone())
        for sample, output in zip(samples, outputs, strict=True):
            records.append(_item_record(subject, task, sample, output, intervention))
    return records


def _read(model: PalimpsestForCausalLM, tokens: Tensor, cache: PalimpsestCache) -> PalimpsestCache:
    model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def _answer(subject: Subject, samples: Sequence[Sample], prompts: Tensor, past: PalimpsestCache) -> list[Output]:
    """Finish the prompts, rank the candidates by teacher forcing, and generate greedily."""
    model = subject.model
    read = past.columns
    logits = model(prompts[:, read:], past_key_values=past, use_cache=True, logits_to_keep=1).logits
    candidates = torch.from_numpy(np.stack([sample.candidate_ids for sample in samples])).long()
    logprobs = rank_candidates(model, logits, past, candidates)
    answers = answer_greedily(model, logits, past, candidates.shape[2])
    return [
        Output(str(subject.tokenizer.decode(answer)), row)
        for answer, row in zip(answers.tolist(), logprobs.double().numpy(), strict=True)
    ]


def rank_candidates(model: PalimpsestForCausalLM, logits: Tensor, past: PalimpsestCache, candidates: Tensor) -> Tensor:
    """Return ``[B, C]``, the log-probability of each candidate ``[B, C, A]`` after the prompt, in nats.

    Candidates go in groups: every one of them needs a copy of the past, which is long where attention is full.
    """
    group = max(1, RANKED_ROWS // len(candidates))
    return torch.cat([_logprobs(model, logits, past.clone(), each) for each in candidates.split(group, 1)], 1)


def _logprobs(model: PalimpsestForCausalLM, logits: Tensor, past: PalimpsestCache, candidates: Tensor) -> Tensor:
    batch, count, _ = candidates.shape
    past.batch_repeat_interleave(count)
    flat = candidates.flatten(0, 1)
    first = logits.repeat_interleave(count, 0)
    rest = model(flat[:, :-1], past_key_values=past, use_cache=True).logits
    scores = torch.cat([first, rest], 1).float().log_softmax(-1)
    return scores.gather(2, flat.unsqueeze(-1)).sum((1, 2)).view(batch, count)


def answer_greedily(model: PalimpsestForCausalLM, logits: Tensor, past: PalimpsestCache, tokens: int) -> Tensor:
    """Return ``[B, A]``, the likeliest continuation token by token."""
    answer = [logits[:, -1:].argmax(-1)]
    while len(answer) < tokens:
        answer.append(model(answer[-1], past_key_values=past, use_cache=True).logits.argmax(-1))
    return torch.cat(answer, 1)


def _item_record(subject: Subject, task: Passkey, sample: Sample, output: Output, intervention: str) -> ItemRecord:
    score = task.score(sample, output)
    return ItemRecord(
        task=sample.task,
        version=sample.version,
        item_id=sample.id,
        arm=subject.arm,
        seed=subject.seed,
        checkpoint=subject.checkpoint,
        intervention=intervention,
        length=sample.length,
        depth=sample.depth,
        segment_length=sample.segment_length,
        needle_start=sample.needle_start,
        needle_end=sample.needle_end,
        question_start=sample.question_start,
        distance=sample.distance,
        compressions=sample.compressions,
        segments=sample.segments,
        locally_reachable=sample.locally_reachable,
        answer=sample.answer,
        output=score.output,
        exact=score.exact,
        error_class=score.error_class,
        rank=score.rank,
        candidates=score.candidates,
        answer_logprob=score.answer_logprob,
        cluster=sample.cluster,
        needles=sample.needles,
        facts=dict(sample.facts),
        contains=score.contains,
        recall=score.recall,
    )


@torch.inference_mode()
def position_loss(
    subject: Subject, documents: Sequence[tuple[str, np.ndarray]], interventions: Iterable[str]
) -> list[PositionLossRecord]:
    """Return the loss of documents of equal length in buckets of positions that double: 1, 2-3, 4-7, ...

    Args:
        subject: the model under test.
        documents: identifiers and tokens ``[T]``, all of the same T.
        interventions: what is done to the memory at every segment boundary, beside nothing ("none").
    """
    tokens = torch.from_numpy(np.stack([ids for _, ids in documents]).astype(np.int64))
    edges = _doubling(tokens.shape[1])
    records = []
    for intervention in ("none", *interventions):
        with INTERVENTIONS[intervention](subject.model):
            logits = subject.model(tokens, use_cache=False).logits
        nll = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        ).view(len(documents), -1)
        for (name, _), row in zip(documents, nll.double(), strict=True):
            for start, end in pairwise(edges):
                records.append(
                    PositionLossRecord(
                        arm=subject.arm,
                        seed=subject.seed,
                        checkpoint=subject.checkpoint,
                        intervention=intervention,
                        document_id=name,
                        position_start=start,
                        position_end=end,
                        nll=float(row[start - 1 : end - 1].sum()),
                        tokens=end - start,
                    )
                )
    return records


def _doubling(length: int) -> list[int]:
    """Return the edges of the buckets of predicted positions 1 .. length - 1."""
    edges = [1]
    while edges[-1] * 2 < length:
        edges.append(edges[-1] * 2)
    return [*edges, length]
