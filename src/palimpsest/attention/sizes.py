"""The sizes of an attention layer, all that its state and its cost depend on."""

from typing import NamedTuple

from transformers.models.llama.configuration_llama import LlamaConfig


class Sizes(NamedTuple):
    """Sizes of a layer: ``heads`` of queries, ``key_heads`` of keys and values, ``head`` numbers each, ``hidden``."""

    heads: int
    key_heads: int
    head: int
    hidden: int

    @classmethod
    def of(cls, config: LlamaConfig) -> "Sizes":
        """Return the sizes that a configuration asks for."""
        heads = config.num_attention_heads
        return cls(
            heads,
            config.num_key_value_heads or heads,
            config.head_dim or config.hidden_size // heads,
            config.hidden_size,
        )
