"""Feature maps phi: what a key or a query becomes before it meets the memory.

Source: ELU+1 is sigma of Katharopoulos et al. 2020 and of Infini-attention (arXiv 2404.07143, eq. 7).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class FeatureMap(NamedTuple):
    """A map phi from ``[..., K]`` to ``[..., width(K)]``.

    Attributes:
        name: the name used in configurations.
        apply: the map itself.
        width: number of features for a key of the given size.
    """

    name: str
    apply: Callable[[Tensor], Tensor]
    width: Callable[[int], int]


def _elu_plus_one(x: Tensor) -> Tensor:
    return F.elu(x) + 1.0


def _same(size: int) -> int:
    return size


elu1 = FeatureMap("elu1", _elu_plus_one, _same)

FEATURE_MAPS: dict[str, FeatureMap] = {feature.name: feature for feature in (elu1,)}
