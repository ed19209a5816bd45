"""A small run that several tests train: text, a tokenizer, and recipes over them."""

from pathlib import Path

from palimpsest.schema import parse
from palimpsest.tasks.filler import CLASSIC_SENTENCES
from palimpsest.tasks.templates import INTRODUCTION, NEEDLES, QUESTION
from palimpsest.training import Recipe

SEGMENT = 32


def write_texts(folder: Path) -> Path:
    """Write documents in which the sentences of the passkey task are common, so that few tokens spell them."""
    folder.mkdir(parents=True, exist_ok=True)
    classic = "".join(CLASSIC_SENTENCES)
    for number in range(12):
        key = (31 * number + 10_007) % 90_000 + 10_000
        told = "".join((INTRODUCTION, classic, *NEEDLES.values(), classic, QUESTION)).format(key=key)
        story = " ".join(f"Line {line} of {number} says {line * key}." for line in range(12))
        (folder / f"{number:02d}.txt").write_text(told + "\n" + story, encoding="utf-8")
    return folder


def text_data(folder: Path, *, sequence_length: int = 96) -> dict:
    return {
        "kind": "text",
        "sequence_length": sequence_length,
        "corpus": {"source": str(folder), "heldout_fraction": 0.1},
        "tokenizer": {"vocab_size": 480},
    }


def recipe_values(data: dict, **training: object) -> dict:
    """Return the values of a small recipe; keywords replace those of its training block."""
    return {
        "name": "tiny",
        "seed": 3,
        "model": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "attention": {
                "pattern": ["memory", "full"],
                "segment_length": SEGMENT,
                "memory": {"kind": "ridge"},
            },
        },
        "data": data,
        "training": {
            "steps": 6,
            "batch_size": 4,
            "accumulation": 2,
            "learning_rate": 3e-3,
            "warmup_steps": 2,
            "checkpoint_every": 2,
            "log_every": 1,
            **training,
        },
    }


def recipe(data: dict, **training: object) -> Recipe:
    return parse(Recipe, recipe_values(data, **training), "recipe")
