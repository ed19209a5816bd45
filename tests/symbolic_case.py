"""Every symbolic task with its default knobs and with others, for the tests that hold for all of them."""

from typing import Any, NamedTuple

from palimpsest.tasks import Sample, Trainable, build_task, task_spec
from palimpsest.tasks.symbolic.vocabulary import names, spelled

SEGMENT = 32


class Words:
    """The tokenizer of the symbolic words."""

    def __init__(self) -> None:
        self._ids = {word: number for number, word in enumerate(names())}

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [self._ids[word] for word in text.split()]


WORDS = Words()


class Case(NamedTuple):
    """A task by its kind and knobs, and the length of items and rows that fits it."""

    kind: str
    knobs: dict[str, Any]
    length: int = 320

    def __str__(self) -> str:
        return "-".join([self.kind, *(f"{knob}={value}" for knob, value in self.knobs.items())])


CASES = [
    Case("sym_passkey", {}),
    Case("sym_passkey", {"distractors": 4}),
    Case("sym_multikey", {}),
    Case("sym_multikey", {"needles": 24, "questions": 8}, 640),
    Case("sym_multikey", {"needles": 8, "questions": 2, "similarity": 0.5}),
    Case("sym_multikey", {"needles": 1}),
    Case("sym_multivalue", {}, 640),
    Case("sym_multivalue", {"keys": 1, "values": 2}),
    Case("sym_multivalue", {"keys": 3, "values": 2, "questions": 2}),
    Case("sym_multiquery", {"questions": 2}, 480),
    Case("sym_multiquery", {"needles": 2, "queries": 2}),
    Case("sym_overwrite", {"questions": 3}),
    Case("sym_overwrite", {"ask": "first", "writes": 3}),
    Case("sym_overwrite", {"gap": "same", "writes": 4}),
    Case("sym_overwrite", {"gap": "same", "ask": "first"}),
    Case("sym_overwrite", {"keys": 1, "writes": 1}),
    Case("sym_mqar", {"questions": 4}),
    Case("sym_mqar", {"pairs": 16, "passes": 3, "power": 1.0}),
    Case("sym_forgetting_mqar", {"questions": 8}),
    Case("sym_vt", {}),
    Case("sym_vt", {"hops": 4, "chains": 3, "order": "shuffled", "questions": 3}, 640),
    Case("sym_vt", {"hops": 1, "chains": 1}),
    Case("sym_vt", {"hops": 3, "ask": "set", "questions": 2}, 640),
    Case("sym_vt", {"chains": 1, "ask": "set"}),
    Case("sym_cwe", {}),
    Case("sym_cwe", {"top": 3}),
    Case("sym_fwe", {}),
    Case("sym_fwe", {"top": 1, "words": 6, "skew": 2.0}),
    Case("sym_babi", {"questions": 2}),
    Case("sym_babi", {"supporting": 2}),
    Case("sym_babi", {"supporting": 3, "statements": 24}, 640),
    Case("sym_copy", {}),
    Case("sym_copy", {"symbols": 50}),
    Case("sym_copy", {"symbols": 1}),
    Case("sym_selective_copy", {}),
    Case("sym_induction", {}),
    Case("sym_induction", {"triggers": 6, "questions": 3}),
    Case("sym_parity", {}),
    Case("sym_parity", {"updates": 12}),
    Case("sym_s3", {}),
    Case("sym_s5", {}),
    Case("sym_s5", {"updates": 12}),
    Case("sym_summary", {}, 640),
    Case("sym_summary", {"facts": 1}),
]


def build(case: Case, *, segment_length: int = SEGMENT, **knobs: Any) -> Trainable:
    """Return the task of a case; keywords replace knobs."""
    rows = {"min_length": case.length // 2, "max_length": case.length}
    spec = task_spec({"kind": case.kind, **rows, **case.knobs, **knobs})
    return build_task(spec, WORDS, segment_length=segment_length)


def items(case: Case, count: int = 20) -> list[Sample]:
    task = build(case)
    return [
        task.sample(split="evaluation", seed=2, index=index, length=case.length, depth=None) for index in range(count)
    ]


def haystack(sample: Sample) -> str:
    return spelled(sample.input_ids[: sample.question_start])


def question(sample: Sample) -> str:
    return spelled(sample.input_ids[sample.question_start : sample.prompt_length])
