"""Write docs/kinds.md, the table of all kinds of attention, from the code that runs them: python docs/kinds.py."""

from pathlib import Path

import torch

from palimpsest.models import PalimpsestConfig
from palimpsest.models.comparison import KindRow, compare

PAGE = Path(__file__).with_name("kinds.md")
LENGTHS = (8_192, 131_072, 1_048_576)
HEADINGS = (
    "kind",
    "what is kept",
    *(f"bytes of {length:,} tokens" for length in LENGTHS),
    *(f"operations at {length:,}" for length in LENGTHS),
    "reach",
    "gradient",
    "one more token costs",
)
HEAD = """# Kinds of attention

One layer of every kind, in a model with the sizes of the 300M study (arXiv 2512.23862: 8 heads of 128, hidden size
1,024, segments of 1,024 tokens), with the defaults of every kind, for one sequence; keys and values in bfloat16, states
of memories in float32. Operations are multiplications and additions per token of a forward pass, without LLaMA's four
projections. N is the segment length, T the context, d the size of a head, G the heads of keys and values, H those of
queries, M a cache's length, W a window, C a capacity, c a ratio. `palimpsest info RECIPE` prints such a table for the
sizes of a recipe, at lengths of its own and with keys and values in float32; this page is written by `docs/kinds.py`.

"""
FOOT = """
A layer of kind `memory` has the memory's state and the keys and values of its open segment; both are counted. What
each memory forgets, and why, is on its page: [linear](memories/linear.md), [delta](memories/delta.md),
[ridge](memories/ridge.md), [hebbian](memories/hebbian.md), [decayed ridge](memories/decayed_ridge.md),
[token delta](memories/token_delta.md), [associative](memories/associative.md); their feature maps:
[features](memories/features.md). The other kinds: [sliding window](attention/sliding_window.md),
[Transformer-XL](attention/transformer_xl.md), [compressive](attention/compressive.md),
[memorizing](attention/memorizing.md), [linear attention](attention/linear_attention.md),
[delta net](attention/delta_net.md).

Every kind streams: a context is read in any pieces, token by token or a chunk at a time, with the same result, and
whatever is kept can be reordered for beams, saved as a snapshot and restored.
"""


def study_sizes() -> PalimpsestConfig:
    """Return a configuration with the sizes of the 300M study."""
    return PalimpsestConfig(
        vocab_size=49_152,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=12,
        num_attention_heads=8,
        attention={"segment_length": 1024},
    )


def page() -> str:
    """Return the text of the page."""
    rows = [_cells(kind) for kind in compare(study_sizes(), LENGTHS, torch.bfloat16)]
    lines = [HEADINGS, ["---", "---", *["--:"] * (2 * len(LENGTHS)), "---", "---", "---"], *rows]
    return HEAD + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + FOOT


def _cells(kind: KindRow) -> list[str]:
    return [
        f"`{kind.name}`",
        kind.facts.state,
        *(f"{kept:,}" for kept in kind.kept),
        *(f"{flops:,.0f}" for flops in kind.flops),
        kind.facts.reach,
        kind.facts.gradient,
        kind.facts.streaming,
    ]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
