"""Configuration: LLaMA's fields and an ``attention`` block."""

from difflib import get_close_matches
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.models.llama.configuration_llama import LlamaConfig

from palimpsest.attention.spec import AttentionSpec
from palimpsest.errors import InputError
from palimpsest.schema import parse


@strict
class PalimpsestConfig(LlamaConfig):
    """A LLaMA configuration with an ``attention`` block (see ``palimpsest.attention.AttentionSpec``).

    ``residual_initializer_range`` is the standard deviation of new weights of ``o_proj`` and ``down_proj``; None:
    ``initializer_range``, as for all others.

    Raises:
        InputError: an attention block that does not fit its schema, or sizes that contradict each other.
    """

    model_type = "palimpsest"

    attention: Any = None  # a mapping; its own schema says more than ``@strict`` could
    residual_initializer_range: float | None = None

    def __post_init__(self, **kwargs):
        """Fill in the defaults of the attention block, so that what is saved is complete."""
        self._check_sizes()
        super().__post_init__(**kwargs)
        spec = parse(AttentionSpec, {} if self.attention is None else self.attention, "attention")
        self.attention = spec.model_dump(exclude_none=True)
        if len(spec.pattern) > self.num_hidden_layers:
            raise InputError(
                f"attention: 'pattern' names {len(spec.pattern)} layers, more than num_hidden_layers "
                f"({self.num_hidden_layers})."
            )
        for key in kwargs:  # any other key is allowed, as in all configurations of transformers
            if key in AttentionSpec.model_fields:
                raise InputError(f"'{key}' belongs in the attention block: attention={{'{key}': ...}}.")
            if get_close_matches(key, ["attention"], cutoff=0.8):
                raise InputError(f"unknown key '{key}'. Did you mean 'attention'?")

    @property
    def attention_spec(self) -> AttentionSpec:
        """The attention block, validated."""
        return parse(AttentionSpec, self.attention, "attention")

    def _check_sizes(self) -> None:
        heads, groups = self.num_attention_heads, self.num_key_value_heads or self.num_attention_heads
        if heads < 1 or self.hidden_size % heads:
            raise InputError(f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads ({heads}).")
        if groups < 1 or heads % groups:
            raise InputError(f"num_attention_heads ({heads}) must be a multiple of num_key_value_heads ({groups}).")
        head_dim = self.head_dim or self.hidden_size // heads
        if head_dim % 2:
            raise InputError(f"head_dim ({head_dim}) must be even: rotary embedding turns pairs.")
        if self.attention_dropout:
            raise InputError(
                f"attention_dropout ({self.attention_dropout}) must be 0: a memory has no weights to drop."
            )
