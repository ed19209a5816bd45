"""The configurations of the token delta and the associative memory: what they learn, build, refuse and cost."""

import pytest
import torch
from torch.nn.functional import softplus
from torch.utils.flop_counter import FlopCounterMode

from palimpsest.attention.memories import AssociativeSpec, TokenDeltaSpec
from palimpsest.errors import InputError
from palimpsest.memory import FEATURE_MAPS, AssociativeMemory, TokenDeltaMemory
from palimpsest.memory.base import init_like
from palimpsest.models import PalimpsestConfig
from palimpsest.testing import assert_close

BATCH, HEADS, TOKENS, SIZE = 1, 2, 12, 6


@pytest.mark.parametrize("half_life", [0.1, 1.0, 512.0, 1e6])
def test_after_a_half_life_half_is_left(half_life: float) -> None:
    spec = TokenDeltaSpec(half_life=half_life)
    learned = {name: torch.full((HEADS,), value, dtype=torch.float64) for name, value in spec.learned().items()}
    memory = spec.build(learned)
    assert isinstance(memory, TokenDeltaMemory)
    assert memory.log_decay is not None
    assert_close("left", (half_life * memory.log_decay).exp(), torch.full((HEADS,), 0.5, dtype=torch.float64))
    assert_close("decay", -memory.log_decay, softplus(learned["decay"]))


def test_without_a_half_life_nothing_fades_or_is_learned() -> None:
    assert TokenDeltaSpec().learned() == {}
    assert TokenDeltaSpec(features="dpfp3_l2").build({}) == TokenDeltaMemory(FEATURE_MAPS["dpfp3_l2"])
    assert AssociativeSpec().build({}) == AssociativeMemory(FEATURE_MAPS["dpfp3_l2"])


@pytest.mark.parametrize(
    ("memory", "sentence"),
    [
        ({"kind": "token_delta", "features": "elu1"}, "should be features of norm at most one"),
        ({"kind": "token_delta", "half_life": 0.0}, "'memory.half_life': should be greater than or equal to 0.001"),
        ({"kind": "associative", "features": "identity_l2"}, "should be features that are never negative"),
    ],
)
def test_what_cannot_work_is_refused(memory: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        PalimpsestConfig(attention={"memory": memory})


def test_features_that_are_allowed_are_short() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 5.0 * torch.randn(100, SIZE, generator=generator, dtype=torch.float64)
    refused = []
    for name, features in FEATURE_MAPS.items():
        try:
            TokenDeltaSpec(features=name)
        except ValueError:
            refused.append(name)
        else:
            assert features.apply(x).norm(dim=-1).max() <= 1.0 + 1e-12, name
    assert {"elu1", "identity", "dpfp3", "squared_relu"} <= set(refused)


@pytest.mark.parametrize("spec", [AssociativeSpec(), AssociativeSpec(features="elu1")])
def test_the_cost_of_a_segment_is_that_of_its_matrix_products(spec: AssociativeSpec) -> None:
    memory = spec.build({})
    q, k, v = torch.randn(3, BATCH, HEADS, TOKENS, SIZE, generator=torch.Generator().manual_seed(0)).unbind(0)
    state = init_like(memory, q, v)
    with FlopCounterMode(display=False) as counter:
        memory.write(memory.write(state, k, v), k, v)
        writes = counter.get_total_flops() / 2
        memory.read(state, q)
        reads = counter.get_total_flops() - 2 * writes
    assert spec.flops(SIZE, TOKENS) == pytest.approx((writes + reads) / (BATCH * HEADS * TOKENS))


@pytest.mark.parametrize("spec", [TokenDeltaSpec(), TokenDeltaSpec(features="dpfp2_l2")])
def test_the_cost_of_a_token_is_that_of_the_definition(spec: TokenDeltaSpec) -> None:
    width = spec.width(SIZE)
    answered = written = read = 2 * width * SIZE  # k M, k u^T and q M, a product and a sum for every number of M
    for segment_length in (1, TOKENS, 1000):
        assert spec.flops(SIZE, segment_length) == answered + written + read
