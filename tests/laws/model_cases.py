"""The models that the laws of models are tried on, and the streams that hypothesis draws for them."""

from dataclasses import dataclass
from functools import cache

import torch
from hypothesis import strategies as st
from torch import Tensor

from palimpsest.models import PalimpsestCache, PalimpsestConfig, PalimpsestForCausalLM

VOCABULARY = 61
UNUSED = VOCABULARY - 1
"""A token that no drawn stream contains."""
SEGMENT = 4
HEADS, KEY_HEADS, HEAD_DIM = 4, 2, 6

ATTENTION: dict[str, dict] = {
    "full": {"pattern": "full"},
    "segment_local": {"pattern": "segment_local"},
    "sliding_window": {"pattern": "sliding_window", "sliding_window": {"window": 3}},
    "transformer_xl": {"pattern": "transformer_xl", "transformer_xl": {"cache_length": 3}},
    "linear_attention": {"pattern": "linear_attention", "linear_attention": {"chunk_length": 3}},
    "fast_weights": {"pattern": "delta_net", "delta_net": {"rule": "fast_weights", "chunk_length": 3}},
    "gated_delta_net": {"pattern": "delta_net", "delta_net": {"convolution": 5, "chunk_length": 3}},
    "compressive": {
        "pattern": "compressive",
        "compressive": {"cache_length": 4, "compressed_length": 3, "ratio": 2},
    },
    "compressive_mean": {
        "pattern": "compressive",
        "compressive": {"cache_length": 2, "compressed_length": 5, "ratio": 2, "compression": "mean"},
    },
    "memorizing": {"pattern": "memorizing", "memorizing": {"capacity": 6, "top_k": 3}},
    "linear": {"memory": {"kind": "linear"}},
    "hebbian": {"memory": {"kind": "hebbian", "features": "elu1_centred_l2"}},
    "token_delta": {"memory": {"kind": "token_delta", "half_life": 16.0}},
    "delta": {
        "memory": {"kind": "delta", "normaliser": "inclusive"},
        "first_segment": "local",
        "gate": {"kind": "hard_sigmoid"},
    },
    "ridge": {"memory": {"kind": "ridge"}, "gate": {"kind": "token"}},
    "ridge_root": {"memory": {"kind": "ridge", "form": "square_root"}},
    "memory_and_full": {"pattern": ["memory", "full"], "memory": {"kind": "decayed_ridge", "half_life": 16.0}},
    "memory_and_local": {
        "pattern": ["memory", "segment_local"],
        "memory": {"kind": "associative", "features": "dpfp1_l2", "strength": "one"},
        "first_segment": "local",
    },
}
"""The table of attention configurations, with every kind, memory, gate and policy of the first segment."""

TABLE = list(ATTENTION)
WITH_MEMORY = [name for name in ATTENTION if "memory" in ATTENTION[name].get("pattern", ["memory"])]
ALL_MEMORY = [name for name in WITH_MEMORY if "pattern" not in ATTENTION[name]]


WITHOUT_GRADIENT = ("transformer_xl", "compressive", "memorizing")
"""Kinds through whose stores of earlier segments no gradient flows."""


def reach(attention: dict, at: int, layers: int = 2) -> int:
    """Return the first token that a token can know of, by the definition of the first kind of a pattern."""
    pattern = attention.get("pattern", "memory")
    first = at
    for _ in range(layers):
        segment = first // SEGMENT * SEGMENT
        if pattern == "segment_local":
            first = segment
        elif pattern == "sliding_window":
            first -= attention["sliding_window"]["window"] - 1
        elif pattern == "transformer_xl":
            first = segment - attention["transformer_xl"]["cache_length"]
        else:
            return 0
        first = max(first, 0)
    return first


def config(attention: dict, **fields: object) -> PalimpsestConfig:
    """Return a tiny configuration with grouped heads; token ids are 1 and above, 0 is padding."""
    sizes: dict = {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return PalimpsestConfig(**(sizes | fields), attention={"segment_length": SEGMENT} | attention)


def build(attention: dict, seed: int = 0, **fields: object) -> PalimpsestForCausalLM:
    """Return a float64 model in evaluation mode, its weights drawn large enough that every part matters."""
    model = PalimpsestForCausalLM(config(attention, **fields)).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.dim() == 1 else 0.2, generator=generator)
    return model


def single(attention: dict) -> PalimpsestForCausalLM:
    """Return a model of one layer."""
    return build(attention, num_hidden_layers=1)


@cache
def model_of(name: str, documents: str = "carry") -> PalimpsestForCausalLM:
    """Return the model of a row of the table; tests share it and leave it as it is."""
    return build(ATTENTION[name] | {"documents": documents})


@dataclass(frozen=True)
class Case:
    """Tokens ``[B, T]``: ``rows`` holds document ids, -1 for padding; ``cuts`` are the lengths of the passes."""

    seed: int
    rows: tuple[tuple[int, ...], ...]
    cuts: tuple[int, ...]

    def ids(self) -> Tensor:
        return torch.tensor(self.rows)

    def real(self) -> Tensor:
        return self.ids() >= 0

    def tokens(self) -> Tensor:
        """Return input ids, anything at all in place of padding."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(1, UNUSED, (len(self.rows), len(self.rows[0])), generator=generator)


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return Case(seed, ((0,) * length,) * batch, ()).tokens()


def logits(model: PalimpsestForCausalLM, x: Tensor, **options: object) -> Tensor:
    """Return the logits of one pass without a cache."""
    with torch.no_grad():
        return model(x, use_cache=False, **options).logits


def in_passes(
    model: PalimpsestForCausalLM, x: Tensor, cuts: tuple[int, ...], mask: Tensor | None = None
) -> tuple[Tensor, PalimpsestCache]:
    """Return the logits of a stream fed through a cache in passes of these lengths, and the cache."""
    past, outs, begin = None, [], 0
    with torch.no_grad():
        for length in cuts:
            end = begin + length
            seen = None if mask is None else mask[:, :end]
            out = model(x[:, begin:end], attention_mask=seen, past_key_values=past, use_cache=True)
            past, begin = out.past_key_values, end
            outs.append(out.logits)
    assert begin == x.shape[1]
    assert past is not None
    return torch.cat(outs, 1), past


def run(value: int, length: int) -> tuple[int, ...]:
    return (value,) * length


@st.composite
def streams(draw: st.DrawFn, *, documents: bool = False, max_length: int = 15) -> Case:
    """Draw rows with padding anywhere (one document each, or several), and any way to cut them into passes."""
    length = draw(st.integers(1, max_length))
    ids = st.integers(-1, 2 if documents else 0)
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        row: list[int] = []
        while len(row) < length:
            row += [draw(ids)] * draw(st.integers(1, length - len(row)))
        rows.append(tuple(row))
    cuts: list[int] = []
    while sum(cuts) < length:
        cuts.append(draw(st.integers(1, length - sum(cuts))))
    return Case(draw(st.integers(0, 99)), tuple(rows), tuple(cuts))
