"""One item and one training row of every symbolic task: they change only when the task's ``version`` does.

After an intended change raise the version, run ``PYTHONPATH=tests python tests/unit/test_symbolic_golden.py`` and
review the diff.
"""

import json
from hashlib import sha256
from pathlib import Path

from palimpsest.records import write_json
from palimpsest.tasks.symbolic.vocabulary import spelled
from symbolic_case import CASES, build

SNAPSHOT = Path(__file__).parents[1] / "golden" / "symbolic.json"


def golden_items() -> dict[str, dict[str, object]]:
    written = {}
    for case in CASES:
        task = build(case)
        sample = task.sample(split="evaluation", seed=1, index=3, length=case.length, depth=0.25)
        row = task.training_sample(1, 3)
        written[str(case)] = {
            "version": sample.version,
            "id": sample.id,
            "row": sha256(b"".join(array.astype("<i8").tobytes() for array in row)).hexdigest()[:16],
            "question": spelled(sample.input_ids[sample.question_start : sample.prompt_length]),
            "answer": sample.answer,
            "candidates": sha256(" | ".join(sample.candidates).encode()).hexdigest()[:16],
            "others": len(sample.others),
            "needles": [list(needle) for needle in sample.needles][:12],
        }
    return written


def test_golden_items_are_unchanged():
    assert golden_items() == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    write_json(SNAPSHOT, golden_items())
