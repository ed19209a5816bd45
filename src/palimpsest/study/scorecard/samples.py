"""Which items of an ask are shown one by one, and what they looked like."""

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from palimpsest.records import ItemRecord, ShownItemRecord
from palimpsest.report.scorecard_items import chosen, shown_item
from palimpsest.study.scorecard.ask import AskSpec
from palimpsest.tasks import Sample, build_task
from palimpsest.tasks.symbolic.catalogue import SYMBOLIC_TASKS


def shown_items(
    ask: AskSpec, records: Sequence[ItemRecord], tokenizer: PreTrainedTokenizerBase, segment_length: int
) -> list[ShownItemRecord]:
    """Return some items with their prompts, which are made again from the coordinates of the ask."""
    picked = chosen(records)
    wanted = {record.item_id for record in picked}
    samples = {sample.id: sample for sample in _samples(ask, tokenizer, segment_length) if sample.id in wanted}
    answers: dict[tuple[str, str, int], list[ItemRecord]] = {}
    for record in records:
        if record.item_id in wanted:
            answers.setdefault((record.item_id, record.arm, record.seed), []).append(record)
    separator = " " if ask.task.kind in SYMBOLIC_TASKS else ""  # pieces of text bring their own blanks
    return [
        shown_item(
            answers[each.item_id, each.arm, each.seed],
            tokenizer.batch_decode(samples[each.item_id].prompt_ids[:, None]),
            separator=separator,
        )
        for each in picked
        if each.item_id in samples
    ]


def _samples(ask: AskSpec, tokenizer: PreTrainedTokenizerBase, segment_length: int) -> Iterator[Sample]:
    """Make the items of an ask again."""
    for version in ask.versions():
        task = build_task(version, tokenizer, segment_length=segment_length)
        for length in ask.lengths:
            for part in ask.samples(task, length):
                yield from part
