"""Score known tokens one after another, in memory that grows neither with the text nor with the vocabulary."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.models.streaming import prefill

PASS_TOKENS = 8192
"""Tokens of one pass, all rows together."""
PASS_LOGITS = 2**26
"""Logits of one pass, all rows together: 256 MiB in float32."""
ROWS = 64
"""Texts that are read together at most."""


class Scores(NamedTuple):
    """How tokens ``[B, T]`` were predicted.

    Attributes:
        nll: minus their log-probability, in nats, float64.
        hits: whether they were the likeliest; never where a logit is not finite.
    """

    nll: NDArray[np.float64]
    hits: NDArray[np.bool_]


def batches(model: PalimpsestForCausalLM, count: int) -> Iterator[NDArray[np.int64]]:
    """Yield 0 .. count - 1 in parts that can be read together, none of one text if there are two."""
    segment = model.config.attention_spec.segment_length
    rows = min(ROWS, PASS_TOKENS // segment, PASS_LOGITS // (segment * model.config.vocab_size))
    # parts differ by one text at most, so that those of two or more stay so
    yield from np.array_split(np.arange(count), max(1, count // max(2, rows)))


def chunk_tokens(model: PalimpsestForCausalLM, rows: int) -> int:
    """Return how many tokens of so many rows one pass may score: whole segments, at least one."""
    segment = model.config.attention_spec.segment_length
    tokens = min(PASS_TOKENS, PASS_LOGITS // model.config.vocab_size) // rows
    return max(1, tokens // segment) * segment


def spans(begin: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of [begin, end) between multiples of ``step``."""
    edges = [begin, *range((begin // step + 1) * step, end, step), end]
    yield from pairwise(edges)


@torch.inference_mode()
def score(model: PalimpsestForCausalLM, tokens: Tensor, cache: PalimpsestCache) -> Scores:
    """Read ``tokens[:, :-1]`` after a cache, in one pass, and score ``tokens[:, 1:]`` ``[B, T - 1]``.

    The cache is updated in place.
    """
    tokens = tokens.to(model.device)
    logits = model(tokens[:, :-1], past_key_values=cache, use_cache=True).logits
    wide = logits if logits.dtype == torch.float64 else logits.float()
    targets = tokens[:, 1:]
    nll = torch.nn.functional.cross_entropy(wide.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    hits = (wide.argmax(-1) == targets) & wide.isfinite().all(-1)
    return Scores(nll.double().cpu().numpy(), hits.cpu().numpy())


def score_from(model: PalimpsestForCausalLM, tokens: NDArray[np.int64], begin: int) -> Scores:
    """Score ``tokens[:, begin:]`` of texts ``[B, T]``, each token after all those before it, from an empty cache.

    The numbers are those of one pass over the whole texts; what is held of them is a chunk and the state.

    Args:
        model: the model.
        tokens: the texts.
        begin: the first token that is scored, at least 1: the first of a text is predicted from nothing.

    Returns:
        Scores ``[B, T - begin]``.
    """
    ids = torch.from_numpy(tokens)
    step = chunk_tokens(model, len(ids))
    cache = PalimpsestCache(model.config)
    if begin > 1:
        prefill(model, ids[:, : begin - 1], cache, chunk_tokens=max(1, PASS_TOKENS // len(ids)))
    parts = [score(model, ids[:, start : stop + 1], cache) for start, stop in spans(begin - 1, ids.shape[1] - 1, step)]
    return Scores(np.concatenate([part.nll for part in parts], 1), np.concatenate([part.hits for part in parts], 1))
