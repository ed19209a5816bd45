"""A tokenizer that spells needle prompts as those of the papers do: a token for every word, full stop and digit."""

from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from palimpsest.data import train_tokenizer
from palimpsest.tasks.filler import CLASSIC_SENTENCES
from palimpsest.tasks.needles import ASKED, TOLD, WORDINGS
from palimpsest.tasks.templates import INTRODUCTION, NEEDLES, QUESTION
from palimpsest.training import Recipe
from training_case import SEGMENT, recipe

CYCLE_TOKENS = 24
"""Of the 90 characters of the filler's cycle."""


@cache
def needle_tokenizer() -> PreTrainedTokenizerFast:
    texts = [INTRODUCTION, *(word.introduction for word in WORDINGS.values()), "".join(CLASSIC_SENTENCES)]
    texts += [text.format(key=1234567890) for text in (TOLD, f" {TOLD}", ASKED, *NEEDLES.values(), QUESTION)]
    return train_tokenizer(texts * 2, 700)


def encode(text: str) -> list[int]:
    return needle_tokenizer().encode(text, add_special_tokens=False)


def needles_recipe(tokenizer: Path, data: dict, **training: object) -> Recipe:
    values = {"kind": "needles", "sequence_length": 3 * SEGMENT, "tokenizer": str(tokenizer)}
    return recipe({**values, **data}, **training)
