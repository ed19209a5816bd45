"""The forgetting curve: how much of a text can a model say again, by the length of the text?

Source: the forgetting curve of Liu et al. (2024, arXiv:2410.04727): no prompt and no instruction, so that models of any
size can be asked, and a language-model condition that takes away what the target gives away by itself.
"""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from palimpsest.data.tokenizer import end_of_text_number
from palimpsest.errors import InputError
from palimpsest.records import ForgettingRecord
from palimpsest.study.evaluate import Subject
from palimpsest.study.text_probes.scoring import batches, score_from
from palimpsest.tasks.documents import Pair, TokenDocument, forgetting_pairs

SHORTEST = 2
"""Tokens of the shortest text that has a last half and something before it."""


def forgetting_curve(
    subject: Subject, documents: Sequence[TokenDocument], lengths: Sequence[int], repeats: int, seed: int
) -> list[ForgettingRecord]:
    """Let a model say texts again that it has just read (``copy``), and the same texts after others (``lm``).

    A row is separator, prefix, separator, target, where prefix and target have one length. Scored is the last half of
    the target, greedily, by teacher forcing. The end-of-text token that closes a row in the definition comes after all
    that is scored, changes nothing for a causal model, and is left out. Only lengths above the segment say something
    about memory: below, the end of a target can be read off by local attention.

    Args:
        subject: the model under test.
        documents: identifiers and tokens, without end-of-text tokens.
        lengths: tokens of prefix and of target, at least 2.
        repeats: targets for each length; the documents take turns.
        seed: of the texts that are taken.

    Raises:
        InputError: no length or repeat, a length below 2, or above that of all documents but one.
    """
    if repeats < 1:
        raise InputError(f"The forgetting curve needs at least 1 repeat, not {repeats}.")
    if not lengths or min(lengths) < SHORTEST:
        raise InputError(f"The forgetting curve needs lengths of {SHORTEST} tokens and more, not {list(lengths)}.")
    records = []
    for length in sorted(set(lengths)):
        pairs = forgetting_pairs(documents, length, repeats, seed)
        for part in batches(subject.model, len(pairs)):
            records += _ask(subject, [pairs[index] for index in part], int(part[0]))
    return records


def separator(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that begins a text: the tokenizer's own, else the one that closes the text before.

    Raises:
        InputError: the tokenizer has neither.
    """
    token = tokenizer.bos_token_id
    return token if isinstance(token, int) else end_of_text_number(tokenizer)


def _ask(subject: Subject, pairs: Sequence[Pair], first: int) -> list[ForgettingRecord]:
    """Ask for targets of one length; ``first`` is the number of the first of them."""
    mark = separator(subject.tokenizer)
    length = len(pairs[0].target.tokens)
    scored = length // 2
    records = []
    for condition in ("copy", "lm"):
        prefixes = [pair.target if condition == "copy" else pair.unrelated for pair in pairs]
        rows = [[mark, *prefix.tokens, mark, *pair.target.tokens] for prefix, pair in zip(prefixes, pairs, strict=True)]
        tokens = np.array(rows, dtype=np.int64)
        scores = score_from(subject.model, tokens, tokens.shape[1] - scored)
        for row, (prefix, pair) in enumerate(zip(prefixes, pairs, strict=True)):
            records.append(
                ForgettingRecord(
                    arm=subject.arm,
                    seed=subject.seed,
                    checkpoint=subject.checkpoint,
                    condition=condition,
                    length=length,
                    segment_length=subject.model.config.attention_spec.segment_length,
                    repeat=first + row,
                    target_id=pair.target.document_id,
                    target_start=pair.target.start,
                    prefix_id=prefix.document_id,
                    prefix_start=prefix.start,
                    separator=str(subject.tokenizer.convert_ids_to_tokens(mark)),
                    tokens=scored,
                    correct=int(scores.hits[row].sum()),
                    nll=float(scores.nll[row].sum()),
                    not_finite=int((~np.isfinite(scores.nll[row])).sum()),
                )
            )
    return records
