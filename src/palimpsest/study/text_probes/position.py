"""Held-out loss by position in the document and by place in the segment, intact and under interventions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from palimpsest.errors import InputError
from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.probes import INTERVENTIONS, Intervention
from palimpsest.records import PlaceLossRecord, PositionLossRecord
from palimpsest.study.evaluate import Subject
from palimpsest.study.text_probes.scoring import batches, chunk_tokens, score, spans
from palimpsest.tasks.documents import TokenDocument, doubling, stacked

INTACT = "none"
PLACES = 32
"""Parts into which a segment is divided at most."""


class TextLosses(NamedTuple):
    """The losses of the same tokens, summed in two ways: by position in the document, by place in the segment."""

    positions: list[PositionLossRecord]
    places: list[PlaceLossRecord]


def place_losses(subject: Subject, documents: Sequence[TokenDocument], interventions: Iterable[str] = ()) -> TextLosses:
    """Return the loss of documents of equal length, intact ("none") and under each intervention.

    An intervention that must be in force from the first token on (``reset``) is: the document is read again under it.
    Any other (``swap``, ``zero``, ``gate_closed``) acts on a copy of the intact cache at the boundary where a segment
    begins, and ends with the segment: what it takes away is the memory as it is there, and ``swap`` gives the one that
    another document has at the same place, not one that earlier swaps have mixed.

    Args:
        subject: the model under test.
        documents: identifiers and tokens ``[T]``, all of the same T >= 2.
        interventions: names of interventions; "none" is made in any case.

    Raises:
        InputError: documents of different lengths, an intervention that there is not, one document to be swapped.
    """
    tokens = stacked(documents)
    if tokens.shape[1] < 2:
        raise InputError("A document of one token has nothing to predict; give longer ones.")
    wanted = {name: INTERVENTIONS[name] for name in interventions if name != INTACT}
    found = TextLosses([], [])
    for part in batches(subject.model, len(tokens)):
        for intervention, nll in _losses(subject.model, tokens[part], wanted).items():
            for index, row in zip(part, nll, strict=True):
                found.positions.extend(_by_position(subject, intervention, documents[index][0], row))
                found.places.extend(_by_place(subject, intervention, documents[index][0], row))
    return found


def _losses(
    model: PalimpsestForCausalLM, tokens: NDArray[np.int64], interventions: Mapping[str, Intervention]
) -> dict[str, NDArray[np.float64]]:
    """Return ``[B, T - 1]`` by intervention: the losses of tokens 1 .. T - 1."""
    ids = torch.from_numpy(tokens)
    names = (INTACT, *interventions)
    # those that share the past of the intact model have no cache of their own
    own = {name: PalimpsestCache(model.config) for name in names if name == INTACT or interventions[name].throughout}
    shared = len(own) < len(names)
    step = model.config.attention_spec.segment_length if shared else chunk_tokens(model, len(ids))
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for start, stop in spans(0, ids.shape[1] - 1, step):
        read = ids[:, start : stop + 1]
        for name, intervention in interventions.items():
            with intervention(model):
                parts[name].append(score(model, read, own.get(name) or own[INTACT].clone()).nll)
        parts[INTACT].append(score(model, read, own[INTACT]).nll)  # last: it moves the past on
    return {name: np.concatenate(each, 1) for name, each in parts.items()}


def _by_position(
    subject: Subject, intervention: str, document: str, nll: NDArray[np.float64]
) -> Iterator[PositionLossRecord]:
    """Yield one record per bucket of predicted positions 1, 2-3, 4-7, ..."""
    for start, end in pairwise(doubling(1, nll.size + 1)):
        yield PositionLossRecord(
            arm=subject.arm,
            seed=subject.seed,
            checkpoint=subject.checkpoint,
            intervention=intervention,
            document_id=document,
            position_start=start,
            position_end=end,
            nll=float(nll[start - 1 : end - 1].sum()),
            tokens=end - start,
        )


def _by_place(
    subject: Subject, intervention: str, document: str, nll: NDArray[np.float64]
) -> Iterator[PlaceLossRecord]:
    """Yield one record per bucket of places in the segment, over all segments but the first."""
    segment = subject.model.config.attention_spec.segment_length
    later = nll[segment:]  # those that a token of the second segment or a later one predicts
    places = np.arange(later.size) % segment
    width = -(-segment // PLACES)
    for start in range(0, segment, width):
        end = min(start + width, segment)
        here = later[(places >= start) & (places < end)]
        if here.size:
            yield PlaceLossRecord(
                arm=subject.arm,
                seed=subject.seed,
                checkpoint=subject.checkpoint,
                intervention=intervention,
                document_id=document,
                segment_length=segment,
                place_start=start,
                place_end=end,
                nll=float(here.sum()),
                tokens=here.size,
                not_finite=int((~np.isfinite(here)).sum()),
            )
