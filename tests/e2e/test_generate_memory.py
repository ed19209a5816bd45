"""A book of a million tokens takes no more memory to read than one of fifty thousand."""

from pathlib import Path

import pytest

from script_case import load_script

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "generate_memory.py"


@pytest.fixture(scope="module")
def benchmark():
    return load_script(SCRIPT)


@pytest.mark.parametrize("kind", ["memory", "segment_local"])
def test_peak_memory_does_not_grow_with_the_book(benchmark, kind):
    found, _ = benchmark.measure(kind, short=50_000, long=1_000_000)
    print(f"{found.short.peak_bytes:,} and {found.long.peak_bytes:,} bytes: {found.ratio:.3f}")
    assert (found.short.tokens, found.long.tokens) == (50_000, 1_000_000)
    assert found.ratio <= 1.05
    assert found.short.state_bytes == found.long.state_bytes == found.formula_bytes > 0


def test_a_state_that_grows_shows(benchmark, tmp_path):
    """The measure sees what it should: full attention keeps 1,536 bytes of every token of this model."""
    found, _ = benchmark.measure("full", short=1_000, long=9_000)
    assert found.long.state_bytes - found.short.state_bytes == 8_000 * 1_536
    assert found.long.peak_bytes > found.short.peak_bytes + 8_000 * 1_536 / 2
    assert not found.holds
