"""10,000 items of 4K tokens are to be had in a minute, of every symbolic task."""

import time

import pytest

from palimpsest.tasks.symbolic.catalogue import SYMBOLIC_TASKS
from symbolic_case import Case, build

BUDGET = 60 / 10_000
ITEMS = 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", SYMBOLIC_TASKS)
def test_an_item_of_4k_tokens_takes_six_milliseconds(kind):
    task = build(Case(kind, {}), segment_length=128)
    task.sample(split="evaluation", seed=1, index=0, length=4_096, depth=None)  # fills the caches
    start = time.process_time()
    for index in range(ITEMS):
        task.sample(split="evaluation", seed=0, index=index, length=4_096, depth=None)
    seconds = (time.process_time() - start) / ITEMS
    print(f"{kind}: {1e3 * seconds:.2f} ms per item")
    assert seconds < BUDGET
