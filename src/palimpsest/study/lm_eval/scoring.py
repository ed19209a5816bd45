"""Log-probabilities of continuations, in bounded memory and whatever the length of what they follow."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.models.modeling import IGNORED
from palimpsest.models.streaming import prefill

PADDING = 0
"""Any token: what stands right of a row's end is seen by nothing that is scored."""


class Continuation(NamedTuple):
    """What becomes of a continuation: its log-probability in nats, and whether each token is the likeliest one."""

    logprob: float
    greedy: bool


@torch.inference_mode()
def score_after(
    model: PalimpsestForCausalLM,
    context: Sequence[int],
    continuations: Sequence[Sequence[int]],
    *,
    batch: int,
    chunk_tokens: int,
) -> list[Continuation]:
    """Score continuations of one context, which is read once.

    Args:
        model: the model.
        context: at least two tokens.
        continuations: at least one token each.
        batch: how many continuations are read together.
        chunk_tokens: tokens per pass, rounded down to whole segments (at least one).
    """
    past = PalimpsestCache(model.config)
    prefill(model, torch.tensor([context[:-1]]), past, chunk_tokens=chunk_tokens)
    found = []
    for start in range(0, len(continuations), batch):
        part = continuations[start : start + batch]
        branch = past.clone()
        branch.batch_repeat_interleave(len(part))
        found += _score(model, [[context[-1], *each] for each in part], list(map(len, part)), branch, chunk_tokens)
    return found


@torch.inference_mode()
def score_rows(
    model: PalimpsestForCausalLM, rows: Sequence[Sequence[int]], scored: Sequence[int], *, chunk_tokens: int
) -> list[Continuation]:
    """Score the ends of rows: the last ``scored[i]`` tokens of ``rows[i]`` after those before them.

    Args:
        model: the model.
        rows: token ids, longer than what is scored of them.
        scored: how many tokens of each row are its continuation.
        chunk_tokens: tokens per pass, rounded down to whole segments (at least one).
    """
    return _score(model, rows, scored, None, chunk_tokens)


def _score(
    model: PalimpsestForCausalLM,
    rows: Sequence[Sequence[int]],
    scored: Sequence[int],
    past: PalimpsestCache | None,
    chunk_tokens: int,
) -> list[Continuation]:
    inputs, targets = _shifted(rows, scored)
    segment = model.config.attention_spec.segment_length
    chunk = max(1, chunk_tokens // segment) * segment
    tokens = inputs.shape[1]
    cache = PalimpsestCache(model.config) if past is None and tokens > chunk else past
    start, end = 0, chunk - (0 if cache is None else cache.columns % segment)
    logprobs = torch.zeros(len(rows), dtype=torch.float64)
    greedy = torch.ones(len(rows), dtype=torch.bool)
    while start < tokens:
        part = targets[:, start:end]
        columns = (part != IGNORED).any(0).nonzero().squeeze(1)
        logits = model(
            inputs[:, start:end].to(model.device),
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=columns.to(model.device),
        ).logits
        if len(columns):
            each, likeliest = _of_targets(logits, part[:, columns].to(model.device))
            logprobs += each.cpu()
            greedy &= likeliest.cpu()
        start, end = end, end + chunk
    return [
        Continuation(logprob, likeliest) for logprob, likeliest in zip(logprobs.tolist(), greedy.tolist(), strict=True)
    ]


def _shifted(rows: Sequence[Sequence[int]], scored: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return inputs and targets ``[B, T]``, both padded on the right; -100 where nothing is scored."""
    width = max(map(len, rows)) - 1
    inputs = torch.full((len(rows), width), PADDING)
    targets = torch.full((len(rows), width), IGNORED)
    for place, (row, count) in enumerate(zip(rows, scored, strict=True)):
        inputs[place, : len(row) - 1] = torch.tensor(row[:-1])
        targets[place, len(row) - 1 - count : len(row) - 1] = torch.tensor(row[len(row) - count :])
    return inputs, targets


def _of_targets(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return per row, of logits ``[B, C, vocabulary]``, the sum over its targets and whether all are likeliest."""
    counted = targets != IGNORED
    wanted = targets.where(counted, 0).unsqueeze(-1)
    logprobs = logits.float().log_softmax(-1).gather(2, wanted).squeeze(-1)
    likeliest = (logits.argmax(-1) == targets) & ~logprobs.isnan()
    return logprobs.where(counted, 0.0).double().sum(1), (likeliest | ~counted).all(1)
