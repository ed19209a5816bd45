"""Which items of an ask are shown one by one, and what they looked like."""

from collections.abc import Iterator, Sequence

import numpy as np

from palimpsest.records import ItemRecord, ShownItemRecord
from palimpsest.report.scorecard_items import chosen, shown_item
from palimpsest.study.scorecard.spec import AskSpec
from palimpsest.tasks import Sample, build_task
from palimpsest.tasks.symbolic.vocabulary import names
from palimpsest.training.tasks import symbolic_tokenizer


def shown_items(ask: AskSpec, records: Sequence[ItemRecord], segment_length: int) -> list[ShownItemRecord]:
    """Return some items with their prompts, which are made again from the coordinates of the ask."""
    picked = chosen(records)
    wanted = {record.item_id for record in picked}
    samples = {sample.id: sample for sample in _samples(ask, segment_length) if sample.id in wanted}
    answers: dict[tuple[str, str, int], list[ItemRecord]] = {}
    for record in records:
        if record.item_id in wanted:
            answers.setdefault((record.item_id, record.arm, record.seed), []).append(record)
    words = np.array(names())
    return [
        shown_item(answers[each.item_id, each.arm, each.seed], words[samples[each.item_id].prompt_ids].tolist())
        for each in picked
        if each.item_id in samples
    ]


def _samples(ask: AskSpec, segment_length: int) -> Iterator[Sample]:
    """Make the items of an ask again."""
    tokenizer = symbolic_tokenizer()
    for version in ask.versions():
        task = build_task(version, tokenizer, segment_length=segment_length)
        for length in ask.lengths:
            yield from ask.samples(task, length)
