"""How many floating-point operations a model needs per token, by formula.

Counted are the multiplications and additions of matrix products and of the memory's triangular solves, as each layer's
definition needs them, whatever form computes them: a model that is computed with less, or more, keeps its number, so
that numbers of different models compare. Element-wise work (norms, rotary embedding, softmax, feature maps, gates, the
optimizer) is left out, and so is what gradient checkpointing computes again.

Per token and head, with T tokens in a row, segments of N tokens, keys and values of size d and F features phi(k):

==============  ==========================================================================================
full            2 d (T + 1): a query meets (T + 1) / 2 keys on average, 2 d for its score and 2 d for its value
segment_local   2 d (N + 1), the same inside every segment
memory          segment_local, and what the kind of memory says (``palimpsest.attention.memories``)
==============  ==========================================================================================
"""

from palimpsest.models.configuration import PalimpsestConfig

BACKWARD = 2
"""A backward pass takes two products, for the input and for the weight, where the forward pass takes one."""


def flops_per_token(config: PalimpsestConfig, sequence_length: int) -> float:
    """Return the operations of training on one token: forward and backward, 6 per weight of a matrix, and attention.

    Args:
        config: the model.
        sequence_length: tokens in a row, of one document; for ``full`` attention the cost per token grows with it.
    """
    return (1 + BACKWARD) * forward_flops_per_token(config, sequence_length)


def forward_flops_per_token(config: PalimpsestConfig, sequence_length: int) -> float:
    """Return the operations of a forward pass per token, logits included; arguments as for ``flops_per_token``."""
    attention = sum(
        attention_flops_per_token(config, layer, sequence_length) for layer in range(config.num_hidden_layers)
    )
    return 2.0 * matrix_weights(config) + attention


def matrix_weights(config: PalimpsestConfig) -> int:
    """Return how many weights a token is multiplied with: projections, MLPs and the head, but not the embedding."""
    hidden, head = config.hidden_size, _head_size(config)
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    spec = config.attention_spec
    block = 2 * hidden * head * (heads + key_heads) + 3 * hidden * config.intermediate_size
    gated = sum(spec.kind(layer) == "memory" for layer in range(config.num_hidden_layers))
    gates = gated * hidden * heads if spec.gate.kind == "token" else 0
    return config.num_hidden_layers * block + gates + hidden * config.vocab_size


def attention_flops_per_token(config: PalimpsestConfig, layer: int, sequence_length: int) -> float:
    """Return the operations of a layer's attention without its projections, forward, per token and all heads."""
    spec, head = config.attention_spec, _head_size(config)
    kind = spec.kind(layer)
    whole, rest = divmod(sequence_length, sequence_length if kind == "full" else spec.segment_length)
    segment = sequence_length if kind == "full" else spec.segment_length
    pairs = whole * segment * (segment + 1) / 2 + rest * (rest + 1) / 2
    per_head = 4.0 * head * pairs / sequence_length
    if kind == "memory":
        segments = whole + (rest > 0)
        per_head += spec.memory.flops(head, sequence_length / segments)
    return config.num_attention_heads * per_head


def _head_size(config: PalimpsestConfig) -> int:
    return config.head_dim or config.hidden_size // config.num_attention_heads
