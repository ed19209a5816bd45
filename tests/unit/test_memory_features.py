"""Feature maps: each against its equation, alone and composed."""

import numpy as np
import pytest
import torch
from torch import Tensor

from laws.feature_oracle import parts, phi
from palimpsest.memory import FEATURE_MAPS, DeltaMemory, FeatureMap, HebbianMemory, LinearMemory
from palimpsest.testing import assert_close

every_map = pytest.mark.parametrize("features", FEATURE_MAPS.values(), ids=lambda features: features.name)


def keys(size: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2.0 * torch.randn(40, size, generator=generator, dtype=torch.float64) - 0.3


def test_every_combination_that_makes_sense_has_a_name() -> None:
    bases = ("elu1", "identity", "dpfp1", "dpfp2", "dpfp3", "squared_relu", "softmax")
    names = {f"{base}{centred}{norm}" for base in bases for centred in ("", "_centred") for norm in ("", "_l2", "_sum")}
    divided_by_what_may_vanish = {name for name in names if name.endswith(("_centred_sum", "identity_sum"))}
    assert set(FEATURE_MAPS) == names - divided_by_what_may_vanish
    assert all(features.name == name for name, features in FEATURE_MAPS.items())


@every_map
def test_a_map_equals_its_equation(features: FeatureMap) -> None:
    x = keys()
    expected = np.array([phi(features.name, row.numpy()) for row in x])
    assert_close(features.name, features.apply(x), torch.from_numpy(expected), magnitude=1.0)
    assert expected.shape[-1] == features.width(x.shape[-1])


@every_map
def test_only_signed_maps_are_ever_negative(features: FeatureMap) -> None:
    assert bool((features.apply(keys()) < 0).any()) == features.signed


@every_map
def test_what_a_suffix_promises(features: FeatureMap) -> None:
    mapped = features.apply(keys())
    mapped = mapped[mapped.any(-1)]  # nothing can be made of features that all vanish
    assert len(mapped) > 30
    _, centred, normalisation = parts(features.name)
    ones = torch.ones(len(mapped), dtype=torch.float64)
    if centred:
        assert_close("mean", mapped.mean(-1), 0.0 * ones, magnitude=1.0)
    if normalisation == "l2":
        assert_close("norm", mapped.norm(dim=-1), ones)
    if normalisation == "sum":
        assert_close("sum", mapped.sum(-1), ones)


@every_map
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_zero_and_at_ties(features: FeatureMap, dtype: torch.dtype) -> None:
    rows = [[0.0] * 4, [1.0] * 4, [0.0, 0.0, 0.0, 2.0], [-200.0] * 4, [200.0, -200.0, 0.0, 200.0], [1e-30] * 4]
    x = torch.tensor(rows, dtype=dtype, requires_grad=True)
    mapped = features.apply(x)
    (gradient,) = torch.autograd.grad(mapped.square().sum() + mapped.sum(), x)
    assert mapped.isfinite().all()
    assert gradient.isfinite().all()


def test_centring_takes_away_what_all_keys_have_in_common() -> None:
    """Two random keys overlap by their common mode, which a centred map has none of (mean cosine 0.69 for ELU + 1)."""
    x = torch.randn(400, 64, generator=torch.Generator().manual_seed(1))

    def overlap(name: str) -> float:
        mapped = FEATURE_MAPS[name].apply(x)
        cosines = mapped @ mapped.mT
        return float(cosines.triu(1).sum() / (len(x) * (len(x) - 1) / 2))

    assert overlap("elu1_l2") == pytest.approx(0.69, abs=0.02)
    assert overlap("elu1_centred_l2") == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("memory", [LinearMemory, DeltaMemory])
def test_a_memory_that_divides_refuses_signed_features(memory: type) -> None:
    with pytest.raises(
        ValueError, match=f"{memory.__name__} divides .* 'identity_l2' can be: use HebbianMemory or Ridge"
    ):
        memory(FEATURE_MAPS["identity_l2"])
    HebbianMemory(FEATURE_MAPS["identity_l2"])
