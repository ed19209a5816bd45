"""Ask a trained model: items of any task with and without interventions, and held-out loss by position."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise, zip_longest
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.models.streaming import prefill
from palimpsest.probes import INTERVENTIONS, Intervention, Rows, parse_intervention
from palimpsest.probes.usage import mean_reads
from palimpsest.records import ItemRecord, PositionLossRecord
from palimpsest.study.spec import PasskeyGrid
from palimpsest.tasks import Output, Sample, Task

RANKED_ROWS = 128
"""Rows, items times candidates, that are ranked together."""

RANKED_BYTES = 1 << 33
"""Bytes of the copies of the past that are held for it at a time, one copy at least."""

REFERENCE_ITEMS = 16
"""Items whose mean read stands for what all texts have in common."""

NO_TOKEN = -1

FirstVisible = Callable[[int], int]
"""From a position to the first one that exact attention lets it know of."""


@dataclass(frozen=True)
class Subject:
    """The model under test and the names that its records carry.

    ``reach`` says, for every arm that it is compared with, which positions exact attention reaches: an item that no arm
    reaches can only be answered from memory.
    """

    model: PalimpsestForCausalLM
    tokenizer: PreTrainedTokenizerBase
    arm: str
    seed: int
    checkpoint: str
    reach: Mapping[str, FirstVisible] = field(default_factory=dict)


def passkey_items(task: Task, grid: PasskeyGrid) -> Iterator[list[Sample]]:
    """Yield the items of a grid in batches of equal length in tokens, which of published needles differs by item."""
    for length in grid.lengths:
        samples = [
            task.sample(split="evaluation", seed=grid.seed, index=index, length=length, depth=depth)
            for depth in grid.depths
            for index in range(grid.items_per_cell)
        ]
        samples = [replace(sample, generated=grid.new_tokens) for sample in samples]
        samples.sort(key=lambda sample: sample.prompt_length)
        for _, alike in groupby(samples, key=lambda sample: sample.prompt_length):
            yield from batches(list(alike), grid.batch_size)


def batches(samples: Sequence[Sample], size: int) -> Iterator[list[Sample]]:
    """Yield samples in batches of about ``size`` haystacks, in their order; one left over joins the batch before.

    All questions about a haystack that follow each other are in one batch.
    """
    haystacks = _haystacks(samples)
    for chosen in np.array_split(np.arange(len(haystacks)), max(1, len(haystacks) // size)):
        if batch := [sample for index in chosen for sample in haystacks[index]]:
            yield batch


def _haystacks(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Return samples by haystack, as they follow each other."""
    return [list(group) for _, group in groupby(samples, key=lambda sample: sample.cluster)]


@torch.inference_mode()
def evaluate_items(
    subject: Subject, task: Task, samples: Sequence[Sample], interventions: Iterable[str]
) -> list[ItemRecord]:
    """Answer items of equal length, intact ("none") and under each intervention.

    A haystack that several items ask about (they follow each other) is read once, and each question starts from a copy
    of that state, if there are equally many about each. Unless it has to be in force throughout, an intervention acts
    at the boundary where the segment begins that must produce the answer, so that all conditions share the same past.

    Raises:
        InputError: an intervention that needs more rows, or another model.
    """
    turns = _turns(samples)
    alike = len({len(turn.samples) for turn in turns}) == 1
    past = _read_haystacks(subject.model, turns) if alike else PalimpsestCache(subject.model.config)
    records = []
    for name in ("none", *interventions):
        intervention = parse_intervention(name)
        reads = _reference(subject.model, task, samples[0]) if intervention.needs_reads else None
        for turn in turns:
            outputs = _ask(subject, turn, past, intervention, reads)
            records += [
                item_record(subject, task, sample, output, name)
                for sample, output in zip(turn.samples, outputs, strict=True)
            ]
    return records


class _Turn(NamedTuple):
    """One question about each of several haystacks: the rows of a batch.

    Attributes:
        samples: one item for each row.
        prompts: ``[B, T]`` their prompts.
        last: where the segment begins that must produce the first token of the answer.
    """

    samples: Sequence[Sample]
    prompts: Tensor
    last: int

    @property
    def rest(self) -> Tensor:
        """``[B, R]``, the end of each prompt, from ``last`` on."""
        return self.prompts[:, self.last :]


def needle_segments(samples: Sequence[Sample]) -> Tensor:
    """Return ``[B, 2]``, the first and the last segment of the needles of each item."""
    spans = [(sample.needle_start, sample.needle_end - 1) for sample in samples]
    return torch.tensor(spans) // samples[0].segment_length


def _turns(samples: Sequence[Sample]) -> list[_Turn]:
    """Sort items into turns: the first question about every haystack, then the second ones, and so on.

    So the rows of a turn are different haystacks, and what a swap gives a row is the memory of another one.
    """
    turns = []
    for row in zip_longest(*_haystacks(samples)):
        asked = [sample for sample in row if sample is not None]
        prompts = torch.from_numpy(np.stack([sample.prompt_ids for sample in asked])).long()
        segment = asked[0].segment_length
        turns.append(_Turn(asked, prompts, (prompts.shape[1] - 1) // segment * segment))
    return turns


def _read_haystacks(model: PalimpsestForCausalLM, turns: Sequence[_Turn]) -> PalimpsestCache:
    """Read what all turns have in common, in whole segments, and not beyond what any of them must read intact."""
    first = turns[0]
    segment = first.samples[0].segment_length
    common = first.last
    if len(turns) > 1:
        common = min(
            [turn.last for turn in turns] + [sample.question_start for turn in turns for sample in turn.samples]
        )
    return _read_on(model, first.prompts, common // segment * segment, PalimpsestCache(model.config))


def _read_on(model: PalimpsestForCausalLM, prompts: Tensor, end: int, cache: PalimpsestCache) -> PalimpsestCache:
    """Read on to a position, in bounded memory."""
    if end > cache.columns:
        prefill(model, prompts[:, cache.columns : end], cache)
    return cache


def _reference(model: PalimpsestForCausalLM, task: Task, like: Sample) -> Mapping[int, Tensor]:
    """Return the mean reads over training items of the same length, which have nothing of the items that are asked."""
    samples = [
        task.sample(split="training", seed=like.seed, index=index, length=like.length, depth=None)
        for index in range(REFERENCE_ITEMS)
    ]
    tokens = torch.from_numpy(np.stack([sample.input_ids for sample in samples])).long()
    return mean_reads(model, [tokens.to(model.device)])


def _ask(
    subject: Subject,
    turn: _Turn,
    past: PalimpsestCache,
    intervention: Intervention,
    reads: Mapping[int, Tensor] | None,
) -> list[Output]:
    """Finish the prompts, rank the candidates by teacher forcing, and generate greedily, all under an intervention."""
    model = subject.model
    rows = Rows(needle_segments(turn.samples), reads)
    if intervention.throughout:
        with intervention.apply(model, rows):
            cache = _read_on(model, turn.prompts, turn.last, PalimpsestCache(model.config))
            return answer(subject, turn.samples, turn.rest, cache)
    cache = _read_on(model, turn.prompts, turn.last, past.clone())
    with intervention.apply(model, rows):
        return answer(subject, turn.samples, turn.rest, cache)


def answer(subject: Subject, samples: Sequence[Sample], rest: Tensor, past: PalimpsestCache) -> list[Output]:
    """Read what is left of the prompts, ``[B, R]``, rank the candidates of the items, and generate greedily."""
    model = subject.model
    logits = model(rest.to(model.device), past_key_values=past, use_cache=True, logits_to_keep=1).logits
    candidates = _stacked([sample.candidate_ids for sample in samples]).to(model.device)
    logprobs = rank_candidates(model, logits, past, candidates).double().cpu()
    answers = answer_greedily(model, logits, past, max(sample.generated or sample.new_tokens for sample in samples))
    outputs = []
    for sample, said, row in zip(samples, answers.tolist(), logprobs.numpy(), strict=True):
        text = str(subject.tokenizer.decode(said[: sample.new_tokens]))
        whole = None if sample.generated is None else str(subject.tokenizer.decode(said[: sample.generated]))
        outputs.append(Output(text, row[: len(sample.candidates)], whole))
    return outputs


def _stacked(candidates: Sequence[np.ndarray]) -> Tensor:
    """Return ``[B, C, A]`` candidates, padded with -1 where an item has fewer or shorter ones."""
    count, length = (max(each.shape[axis] for each in candidates) for axis in (0, 1))
    padded = np.full((len(candidates), count, length), NO_TOKEN, dtype=np.int64)
    for row, each in enumerate(candidates):
        padded[row, : each.shape[0], : each.shape[1]] = each
    return torch.from_numpy(padded)


def rank_candidates(model: PalimpsestForCausalLM, logits: Tensor, past: PalimpsestCache, candidates: Tensor) -> Tensor:
    """Return ``[B, C]``, the log-probability of each candidate ``[B, C, A]`` after the prompt, in nats.

    Candidates may be padded on the right with -1, which counts for nothing. They go in groups: every one of them needs
    a copy of the past, which is long where attention is full. Candidates of one token need none.
    """
    if candidates.shape[2] == 1:
        scores = logits[:, -1].float().log_softmax(-1)
        known = candidates.squeeze(2)
        return scores.gather(1, known.clamp_min(0)).where(known >= 0, 0.0)
    room = RANKED_BYTES // max(1, sum(past.bytes()))
    group = max(1, min(RANKED_ROWS // len(candidates), room))
    return torch.cat([_logprobs(model, logits, past.clone(), each) for each in candidates.split(group, 1)], 1)


def _logprobs(model: PalimpsestForCausalLM, logits: Tensor, past: PalimpsestCache, candidates: Tensor) -> Tensor:
    batch, count, _ = candidates.shape
    past.batch_repeat_interleave(count)
    flat = candidates.flatten(0, 1)
    first = logits.repeat_interleave(count, 0)
    rest = model(flat[:, :-1].clamp_min(0), past_key_values=past, use_cache=True).logits
    scores = torch.cat([first, rest], 1).float().log_softmax(-1)
    said = scores.gather(2, flat.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return said.where(flat >= 0, 0.0).sum(1).view(batch, count)


def answer_greedily(model: PalimpsestForCausalLM, logits: Tensor, past: PalimpsestCache, tokens: int) -> Tensor:
    """Return ``[B, A]``, the likeliest continuation token by token."""
    answer = [logits[:, -1:].argmax(-1)]
    while len(answer) < tokens:
        answer.append(model(answer[-1], past_key_values=past, use_cache=True).logits.argmax(-1))
    return torch.cat(answer, 1)


def item_record(subject: Subject, task: Task, sample: Sample, output: Output, intervention: str) -> ItemRecord:
    """Score an answer and return its record."""
    score = task.score(sample, output)
    if output.whole is not None:
        score = replace(score, output=output.whole, contains=score.contains or sample.answer in output.whole)
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
        reachable_by=tuple(
            arm for arm, first in subject.reach.items() if sample.reachable_from(first(sample.prompt_length - 1))
        ),
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
    tokens = torch.from_numpy(np.stack([ids for _, ids in documents]).astype(np.int64)).to(subject.model.device)
    edges = _doubling(tokens.shape[1])
    records = []
    for intervention in ("none", *interventions):
        with INTERVENTIONS[intervention](subject.model):
            logits = subject.model(tokens, use_cache=False).logits
        nll = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        ).view(len(documents), -1)
        for (name, _), row in zip(documents, nll.double().cpu(), strict=True):
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
