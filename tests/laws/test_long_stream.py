"""A needle before a million tokens of repeated filler, in float32: what survives of it in each memory.

The figures of docs/memories/ridge.md: ``pytest tests/laws/test_long_stream.py -m slow -s``
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from palimpsest.memory import DeltaMemory, LinearMemory, Memory, RidgeMemory, RidgeRootMemory

HEADS, WIDTH, FILLER_KEYS, SEGMENT = 8, 32, 24, 1000
LENGTHS = (16_000, 128_000, 1_000_000)
MEMORIES: tuple[tuple[str, Memory[Any], torch.dtype], ...] = (
    ("linear", LinearMemory(), torch.float32),
    ("delta, exclusive", DeltaMemory(), torch.float32),
    ("ridge, normal equations", RidgeMemory(ridge=0.01), torch.float32),
    ("ridge, normal equations", RidgeMemory(ridge=0.01), torch.float64),
    ("ridge, square root", RidgeRootMemory(ridge=0.01), torch.float32),
)


def needle_cosines(memory: Memory[Any], dtype: torch.dtype) -> dict[int, tuple[float, float]]:
    """Return, for every length, the least and the greatest cosine over the heads between needle and answer.

    Every head has its own random keys: 24 for the filler and one for the needle, the first token of the stream.
    """
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 1, HEADS, FILLER_KEYS + 1, WIDTH, generator=generator).to(dtype)
    values = F.normalize(values, dim=-1)
    needle_key, needle_value = keys[:, :, -1:], values[:, :, -1:]
    # the order of the filler differs from segment to segment; eight of them take turns
    orders = [torch.randint(FILLER_KEYS, (SEGMENT,), generator=generator) for _ in range(8)]
    filler = [(keys[:, :, order], values[:, :, order]) for order in orders]
    state = memory.init(1, HEADS, WIDTH, WIDTH, dtype=dtype)
    state = memory.write(state, needle_key, needle_value)
    cosines = {}
    for segment in range(LENGTHS[-1] // SEGMENT):
        state = memory.write(state, *filler[segment % len(filler)])
        tokens = (segment + 1) * SEGMENT
        if tokens in LENGTHS:
            cosine = F.cosine_similarity(memory.read(state, needle_key), needle_value, dim=-1)
            cosines[tokens] = (cosine.min().item(), cosine.max().item())
    return cosines


@pytest.mark.slow
def test_square_root_keeps_the_needle_for_a_million_tokens() -> None:
    measured = {}
    print("\n| memory | sums | " + " | ".join(f"{length:,}" for length in LENGTHS) + " |")
    print("|---|---|" + "---|" * len(LENGTHS))
    for name, memory, dtype in MEMORIES:
        cosines = needle_cosines(memory, dtype)
        measured[type(memory), dtype] = cosines
        cells = " | ".join(f"{low:.2f} to {high:.2f}" for low, high in cosines.values())
        print(f"| {name} | {str(dtype).removeprefix('torch.')} | {cells} |")
    shortest, *_, longest = LENGTHS
    assert measured[RidgeRootMemory, torch.float32][longest][0] >= 0.9
    assert measured[RidgeMemory, torch.float64][longest][0] >= 0.9
    assert measured[RidgeMemory, torch.float32][shortest][0] >= 0.9
    # why there is a square root at all
    assert measured[RidgeMemory, torch.float32][longest][1] < 0.9
