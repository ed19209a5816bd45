"""Two passkey items, written out: they change only when ``Passkey.version`` does.

The tokenizer has one token per byte, so nothing but the task decides what the items look like. After an intended change
raise the version, run ``PYTHONPATH=tests python tests/unit/test_passkey_golden.py`` and review the diff.
"""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from palimpsest.records import write_json
from palimpsest.tasks import Passkey, PasskeySpec, Sample
from text_case import byte_tokenizer

SNAPSHOT = Path(__file__).parents[1] / "golden" / "passkey.json"


def written_out(sample: Sample, tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    return {
        "id": sample.id,
        "version": sample.version,
        "text": tokenizer.decode(sample.input_ids.tolist(), clean_up_tokenization_spaces=False),
        "length": sample.length,
        "prompt_length": sample.prompt_length,
        "needle": [sample.needle_start, sample.needle_end],
        "question_start": sample.question_start,
        "distance": sample.distance,
        "compressions": sample.compressions,
        "segments": sample.segments,
        "locally_reachable": sample.locally_reachable,
        "answer": sample.answer,
        "candidates": list(sample.candidates),
    }


def golden_items() -> dict[str, dict[str, object]]:
    tokenizer = byte_tokenizer()
    repeat = Passkey(PasskeySpec(max_length=1_024), tokenizer, segment_length=128)
    short = Passkey(PasskeySpec(needle="short", max_length=1_024), tokenizer, segment_length=64)
    evaluation = repeat.sample(split="evaluation", seed=0, index=3, length=640, depth=0.25)
    return {
        "repeat, evaluation": written_out(evaluation, tokenizer),
        "short, training": written_out(short.training_item(seed=1, index=2), tokenizer),
    }


def test_golden_items_are_unchanged():
    assert golden_items() == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    write_json(SNAPSHOT, golden_items())
