"""One item and one training row of every task in text: they change only when the task's ``version`` does.

The tokenizer has one token per byte, so nothing but the task decides what the items look like. After an intended change
raise the version, run ``PYTHONPATH=tests python tests/unit/test_text_golden.py`` and review the diff.
"""

import json
from hashlib import sha256
from pathlib import Path

from palimpsest.records import write_json
from palimpsest.tasks import build_task, task_spec
from text_case import CASES, byte_tokenizer

SNAPSHOT = Path(__file__).parents[1] / "golden" / "text.json"
SEGMENT, LENGTH = 512, 6_000


def golden_items() -> dict[str, dict[str, object]]:
    written = {}
    tokenizer = byte_tokenizer()

    def decode(ids) -> str:
        return str(tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))

    for case in CASES:
        knobs = {"min_length": LENGTH - 100, "max_length": LENGTH, **case.knobs}
        task = build_task(task_spec({"kind": case.kind, **knobs}), tokenizer, segment_length=SEGMENT)
        sample = task.sample(split="evaluation", seed=1, index=3, length=LENGTH, depth=0.25)
        row = task.training_sample(1, 3)
        written[str(case)] = {
            "version": sample.version,
            "id": sample.id,
            "row": sha256(b"".join(array.astype("<i8").tobytes() for array in row)).hexdigest()[:16],
            "begin": decode(sample.input_ids[:160]),
            "question": decode(sample.input_ids[sample.question_start : sample.prompt_length]),
            "answer": sample.answer,
            "candidates": sha256(" | ".join(sample.candidates).encode()).hexdigest()[:16],
            "others": len(sample.others),
            "needles": [[*span, decode(sample.input_ids[slice(*span)])] for span in sample.needles[:4]],
        }
    return written


def test_golden_items_are_unchanged():
    assert golden_items() == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    write_json(SNAPSHOT, golden_items())
