"""How many times smaller a memory is, and than what: every ratio with its denominator and its length.

The papers count numbers ("parameters" of the memory), whatever their dtype; the first part does so. What a model of
ours keeps is counted in bytes, by the code that keeps it; a state is float32, keys and values mostly bfloat16.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from palimpsest.attention.kinds import KINDS
from palimpsest.attention.sizes import Sizes
from palimpsest.attention.spec import AttentionSpec
from palimpsest.models.comparison import kinds_of, layer_bytes
from palimpsest.models.configuration import PalimpsestConfig


class Heads(NamedTuple):
    """Attention of a model: l layers of H heads, with queries, keys and values of d numbers."""

    layers: int
    heads: int
    size: int

    @property
    def width(self) -> int:
        """Size of a token, where the heads fill it."""
        return self.heads * self.size


def memory_numbers(model: Heads) -> int:
    """Return d (d + 1) H l: M and z of Infini-attention (arXiv 2404.07143, Table 1)."""
    return model.size * (model.size + 1) * model.heads * model.layers


def cache_numbers(model: Heads, tokens: int) -> int:
    """Return 2 d H N l: keys and values of so many tokens in every layer (Transformer-XL in Table 1)."""
    return 2 * model.width * tokens * model.layers


def store_numbers(model: Heads, stored: int, window: int = 0) -> int:
    """Return 2 d H for each token in the store of one layer, and a window of keys and values in every layer.

    Table 1 has the store alone, (d_k + d_v) H N S; the 183M of Table 2 are this sum (Memorizing Transformers).
    """
    return 2 * model.width * stored + cache_numbers(model, window)


def compressed_numbers(model: Heads, cached: int, compressed: int) -> int:
    """Return d_model (c + N) l: hidden states as they are, and compressed ones (Compressive Transformer in Table 1)."""
    return model.width * (cached + compressed) * model.layers


def soft_prompt_numbers(model: Heads, vectors: int) -> int:
    """Return 2 d_model p l: what is read and what is written (RMT in Table 1)."""
    return 2 * model.width * vectors * model.layers


def accumulated_prompt_numbers(model: Heads, vectors: int, segments: int) -> int:
    """Return d_model p (m + 1) l: p vectors of every segment so far (AutoCompressors in Table 1)."""
    return model.width * vectors * (segments + 1) * model.layers


def equal_length(model: Heads, ratio: float) -> float:
    """Return the context N at which the model's own cache of keys and values is ``ratio`` times the memory.

    That is ratio (d + 1) / 2, whatever the number of layers and heads.
    """
    return ratio * memory_numbers(model) / cache_numbers(model, 1)


class Denominator(NamedTuple):
    """Something that a memory can be said to be smaller than; ``kept``: bytes of one sequence, for each length."""

    name: str
    kept: tuple[int, ...]


class Compression(NamedTuple):
    """What a model with memories keeps of one sequence, and what others of its sizes would keep, in bytes.

    Attributes:
        state: the memories, whatever the length.
        kept: everything: the memories, the open segment, and keys and values of layers of other kinds, for each length.
        others: the denominators.
    """

    state: int
    kept: tuple[int, ...]
    others: tuple[Denominator, ...]


def compression(
    config: PalimpsestConfig, lengths: Sequence[int], dtype: torch.dtype = torch.float32
) -> Compression | None:
    """Return what the memories of a model are smaller than; None if no layer has one.

    Args:
        config: the model.
        lengths: tokens of a context.
        dtype: that of keys and values.
    """
    spec, sizes, layers = config.attention_spec, Sizes.of(config), config.num_hidden_layers
    own = [spec.kind(layer) for layer in range(layers)]
    if "memory" not in own:
        return None
    # a window or a cache of the model's own is not what the denominators name
    kinds = kinds_of(spec.model_copy(update={"sliding_window": None, "transformer_xl": None}))

    def keeps(kind: str, given: AttentionSpec) -> list[int]:
        opened = KINDS[kind].open_segment_bytes(sizes, given, dtype.itemsize)
        return [KINDS[kind].state_bytes(sizes, given, dtype, length) + opened for length in lengths]

    def everywhere(kind: str) -> tuple[int, ...]:
        return tuple(layers * kept for kept in keeps(kind, kinds[kind]))

    store = keeps("memorizing", kinds["memorizing"])
    rest = keeps("transformer_xl", kinds["transformer_xl"])
    return Compression(
        state=sum(layer_bytes(sizes, spec, kind, dtype)[0] for kind in own if kind == "memory"),
        kept=tuple(map(sum, zip(*(keeps(kind, spec) for kind in own), strict=True))),
        others=(
            Denominator("keys and values of all N tokens", everywhere("full")),
            Denominator("a sliding window of one segment", everywhere("sliding_window")),
            Denominator("Transformer-XL, one segment cached", everywhere("transformer_xl")),
            Denominator(
                "Memorizing Transformer: a store in one layer, Transformer-XL in the others",
                tuple(one + (layers - 1) * other for one, other in zip(store, rest, strict=True)),
            ),
        ),
    )
