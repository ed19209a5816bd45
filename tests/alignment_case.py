"""A small model in the symbolic vocabulary, chats and preferences, and the recipes that tests align it by."""

import json
from pathlib import Path
from typing import Any

from palimpsest.schema import parse
from palimpsest.tasks.templates import INTRODUCTION
from palimpsest.training.alignment import AlignmentRecipe
from palimpsest.training.recipe import ModelSpec
from palimpsest.training.state import model_config, new_model
from palimpsest.training.tasks import symbolic_tokenizer

SEGMENT = 16

CHATS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": INTRODUCTION},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "And now? " + "The grass is green. " * 5},
            {"role": "assistant", "content": "No, 31 of 47."},
        ]
    },
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello, you."}]},
]

COMPLETIONS = [
    {"prompt": "The sky is", "completion": " blue."},
    {"prompt": "The grass is green. The sun is", "completion": " yellow."},
]

PREFERENCES = [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green, perhaps."},
    {
        "prompt": [{"role": "user", "content": "The pass key is 12345. What is it?"}],
        "chosen": [{"role": "assistant", "content": "12345"}],
        "rejected": [{"role": "assistant", "content": "54321"}],
    },
    {
        "chosen": [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Well."}],
        "rejected": [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Bad."}],
    },
]


def save_base(folder: Path, *, kind: str = "ridge", seed: int = 0) -> Path:
    """Write a new model of two memory layers and its tokenizer, as ``save_pretrained`` does."""
    spec = ModelSpec.model_validate(
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "initializer_range": 0.2,
            "attention": {"pattern": ["memory"], "segment_length": SEGMENT, "memory": {"kind": kind}},
        }
    )
    tokenizer = symbolic_tokenizer()
    new_model(model_config(spec, len(tokenizer), tokenizer), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tasks_data(length: int = 64, **changed: Any) -> dict[str, Any]:
    """Return data of haystacks of several segments and of unequal length, four questions on each."""
    task = {"kind": "sym_multikey", "needles": 4, "min_length": length * 3 // 4, "max_length": length}
    return {"kind": "tasks", "row_length": length, "documents": 0.0, "tasks": [{"task": task | changed}]}


def recipe_values(init: Path, method: Any = "sft", *, data: dict[str, Any] | None = None, **training: Any) -> dict:
    """Return the values of a small recipe; keywords replace those of its training block."""
    return {
        "name": "tiny",
        "seed": 3,
        "init": str(init),
        "method": method,
        "data": tasks_data() if data is None else data,
        "training": {"steps": 3, "batch_size": 4, "learning_rate": 3e-3, "warmup_steps": 1, "log_every": 1, **training},
    }


def recipe(init: Path, method: Any = "sft", *, data: dict[str, Any] | None = None, **training: Any) -> AlignmentRecipe:
    return parse(AlignmentRecipe, recipe_values(init, method, data=data, **training), "recipe")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
