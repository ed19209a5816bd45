"""Effective context: how far back must a text be spoilt before a model stops to notice?

Source: Khandelwal et al. (2018, arXiv:1805.04623); Sun et al. (2021, arXiv:2109.09115); O'Connor and Andreas (2021,
arXiv:2106.08367).
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import InputError
from palimpsest.records import PerturbationRecord
from palimpsest.study.evaluate import Subject
from palimpsest.study.text_probes.scoring import batches, score_from
from palimpsest.tasks.documents import SPOILINGS, Spoiling, TokenDocument, partners, spoilt, stacked
from palimpsest.tasks.draws import Draws

SENTENCE_MARKS = (".", "!", "?")
CLOSING = " \t\"'”’)]"
"""What may follow the mark that ends a sentence."""


class _Condition(NamedTuple):
    """The texts ``[D, T]`` of one condition, and of which documents what stands far back is."""

    name: Literal["true", Spoiling]
    distance: int
    others: Sequence[str]
    tokens: NDArray[np.int64]


def perturb(
    subject: Subject, documents: Sequence[TokenDocument], distances: Sequence[int], scored: int, seed: int
) -> list[PerturbationRecord]:
    """Score the ends of documents of equal length, with and without the true text beyond each distance.

    The documents are cut so that the scored tokens begin a segment. Text that is replaced keeps its length, so that
    segments begin at the same tokens under all conditions; where it is dropped they do if ``distance`` is a whole
    number of segments.

    Args:
        subject: the model under test.
        documents: two or more, identifiers and tokens ``[T]``, all of the same T.
        distances: how many tokens right before the scored ones stay true; below the tokens that come before them.
        scored: how many tokens at the end are scored.
        seed: of the partners and orders.

    Returns:
        For each document, one record of the true text and one per spoiling and distance.

    Raises:
        InputError: fewer than two documents, different lengths, or no room for the scored tokens and a distance.
    """
    tokens = stacked(documents)
    partner = partners(len(tokens), seed)
    segment = subject.model.config.attention_spec.segment_length
    context = (tokens.shape[1] - scored) // segment * segment
    _check(tokens.shape[1], scored, context, distances)
    names = [name for name, _ in documents]
    tokens = tokens[:, : context + scored]
    records = list(_score(subject, _Condition("true", context, names, tokens), names, context, scored))
    ends = sentence_ends(subject.tokenizer)
    for distance in sorted(set(distances)):
        for how in SPOILINGS:
            rows = [
                spoilt(
                    row,
                    context - distance,
                    how,
                    other=tokens[partner[index]],
                    ends=ends,
                    draws=Draws(f"spoilt|{seed}|{names[index]}|{how}|{distance}"),
                )
                for index, row in enumerate(tokens)
            ]
            others = [names[index] for index in partner] if how == "other" else names
            records += _score(subject, _Condition(how, distance, others, np.stack(rows)), names, context, scored)
    return records


def sentence_ends(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """Return the tokens that end a sentence: in a full stop, question or exclamation mark, or with a line break."""
    numbers = sorted(tokenizer.get_vocab().values())
    texts = tokenizer.batch_decode([[number] for number in numbers])
    ends = [
        number
        for number, text in zip(numbers, texts, strict=True)
        if "\n" in text or text.rstrip(CLOSING).endswith(SENTENCE_MARKS)
    ]
    return np.array(ends, dtype=np.int64)


def _check(length: int, scored: int, context: int, distances: Sequence[int]) -> None:
    if scored < 1 or context < 2:
        raise InputError(
            f"{scored} scored tokens leave {max(0, context)} whole-segment tokens before them in documents of "
            f"{length:,} tokens; score at least 1 and leave a segment or more."
        )
    wrong = [distance for distance in distances if not 1 <= distance < context]
    if wrong or not distances:
        asked = f"not {wrong[0]:,}" if wrong else "and there is none"
        raise InputError(
            f"A distance lies between 1 and {context - 1:,}, below the {context:,} tokens before the scored ones, "
            f"{asked}; give other distances or longer documents."
        )


def _score(
    subject: Subject, condition: _Condition, names: Sequence[str], context: int, scored: int
) -> Iterator[PerturbationRecord]:
    """Score the last tokens of all documents under one condition."""
    tokens = condition.tokens
    for part in batches(subject.model, len(tokens)):
        nll = score_from(subject.model, tokens[part], tokens.shape[1] - scored).nll
        for index, row in zip(map(int, part), nll, strict=True):
            yield PerturbationRecord(
                arm=subject.arm,
                seed=subject.seed,
                checkpoint=subject.checkpoint,
                condition=condition.name,
                document_id=names[index],
                other_id=condition.others[index],
                context=context,
                distance=condition.distance,
                segment_length=subject.model.config.attention_spec.segment_length,
                tokens=scored,
                nll=float(row.sum()),
                not_finite=int((~np.isfinite(row)).sum()),
            )
