"""How many floating-point operations a model needs per token, by formula.

Counted are the multiplications and additions of matrix products and of the memory's triangular solves, as each layer's
definition needs them, whatever form computes them: a model that is computed with less, or more, keeps its number, so
that numbers of different models compare. Element-wise work (norms, rotary embedding, softmax, feature maps, gates, the
optimizer) is left out, and so is what gradient checkpointing computes again.

Each kind of attention counts its own, and each kind of memory (``palimpsest.attention``).
"""

from palimpsest.attention.kinds import KINDS
from palimpsest.attention.sizes import Sizes
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
    sizes, spec = Sizes.of(config), config.attention_spec
    projections = 2 * sizes.hidden * sizes.head * (sizes.heads + sizes.key_heads)
    block = projections + 3 * sizes.hidden * config.intermediate_size
    layers = range(config.num_hidden_layers)
    own = sum(KINDS[spec.kind(layer)].weights(sizes, spec) for layer in layers)
    return config.num_hidden_layers * block + own + sizes.hidden * config.vocab_size


def attention_flops_per_token(config: PalimpsestConfig, layer: int, sequence_length: int) -> float:
    """Return the operations of a layer's attention without its projections, forward, per token and all heads."""
    spec = config.attention_spec
    return KINDS[spec.kind(layer)].flops(Sizes.of(config), spec, sequence_length)
