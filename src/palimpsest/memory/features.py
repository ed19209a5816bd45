"""Feature maps phi: what a key or a query becomes before it meets the memory.

Names are composed: a map, then ``_centred`` (minus the mean over the features), then ``_l2`` (divided by the Euclidean
norm) or, where features are never negative, ``_sum`` (divided by their sum). ``FEATURE_MAPS`` holds all of them.

Sources: ELU+1 is sigma of Katharopoulos et al. 2020 and of Infini-attention (arXiv 2404.07143, eq. 7). DPFP, and the
division by the sum, are from Schlag et al. 2021 (arXiv 2102.11174, section 5.3 and 4.2); squared relu from Primer (So
et al. 2021); softmax over the features from Efficient Attention (Shen et al. 2018).
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_NORM = 1e-6
"""Features with a smaller norm or sum are divided by this instead, so that those of a zero vector stay zero."""


class FeatureMap(NamedTuple):
    """A map phi from ``[..., K]`` to ``[..., width(K)]``.

    Attributes:
        name: the name used in configurations.
        apply: the map itself.
        width: number of features for a key of the given size.
        signed: whether features can be negative; a memory that divides by a sum of features cannot use them.
    """

    name: str
    apply: Callable[[Tensor], Tensor]
    width: Callable[[int], int]
    signed: bool = False


def require_unsigned(features: FeatureMap, memory: str) -> None:
    """Refuse features that can be negative.

    Raises:
        ValueError: the features are signed.
    """
    if features.signed:
        raise ValueError(
            f"{memory} divides by a sum of features, which must not be negative as those of '{features.name}' can be: "
            "use HebbianMemory or RidgeMemory with them"
        )


def _elu_plus_one(x: Tensor) -> Tensor:
    return F.elu(x) + 1.0


def _identity(x: Tensor) -> Tensor:
    return x


def _dpfp(order: int, x: Tensor) -> Tensor:
    """Return r_i r_(i+j) for j = 1 .. order, with r = [relu(x), relu(-x)] and i counted round (equation 37)."""
    r = torch.cat([x.relu(), (-x).relu()], -1)
    return torch.cat([r * r.roll(-shift, -1) for shift in range(1, order + 1)], -1)


def _squared_relu(x: Tensor) -> Tensor:
    return x.relu().square()


def _softmax(x: Tensor) -> Tensor:
    return x.softmax(-1)


def _centre(phi: Tensor) -> Tensor:
    """Take away what all features have in common, which would answer every query alike."""
    return phi - phi.mean(-1, keepdim=True)


def _l2(phi: Tensor) -> Tensor:
    # the clamp is inside the root, whose gradient at zero is infinite
    return phi * phi.square().sum(-1, keepdim=True).clamp_min(SMALLEST_NORM**2).rsqrt()


def _sum(phi: Tensor) -> Tensor:
    return phi / phi.sum(-1, keepdim=True).clamp_min(SMALLEST_NORM)


def _times(factor: int, size: int) -> int:
    return factor * size


_BASES = (
    FeatureMap("elu1", _elu_plus_one, partial(_times, 1)),
    FeatureMap("identity", _identity, partial(_times, 1), signed=True),
    *(FeatureMap(f"dpfp{nu}", partial(_dpfp, nu), partial(_times, 2 * nu)) for nu in (1, 2, 3)),
    FeatureMap("squared_relu", _squared_relu, partial(_times, 1)),
    FeatureMap("softmax", _softmax, partial(_times, 1)),
)

Step = Callable[[Tensor], Tensor]
_CENTRING: dict[str, Step | None] = {"": None, "_centred": _centre}
_NORMALISATION: dict[str, Step | None] = {"": None, "_l2": _l2, "_sum": _sum}


def _in_turn(steps: tuple[Step, ...], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x


def _composed() -> Iterator[FeatureMap]:
    """Name every base map, centred or not, with every normalisation that its features allow."""
    for base, (centring, centre), (normalisation, norm) in product(_BASES, _CENTRING.items(), _NORMALISATION.items()):
        signed = base.signed or centre is not None
        if not (signed and norm is _sum):
            steps = tuple(step for step in (base.apply, centre, norm) if step is not None)
            yield FeatureMap(base.name + centring + normalisation, partial(_in_turn, steps), base.width, signed)


FEATURE_MAPS: dict[str, FeatureMap] = {features.name: features for features in _composed()}

elu1 = FEATURE_MAPS["elu1"]
identity_l2 = FEATURE_MAPS["identity_l2"]


class Mapped(NamedTuple):
    """A segment ready to be written: zero where a token is not kept.

    Attributes:
        phi: phi(k), ``[..., N, F]``.
        weighted: w phi(k), the same tensor if no strength was given.
        values: v, ``[..., N, V]``.
    """

    phi: Tensor
    weighted: Tensor
    values: Tensor


def mapped(
    features: FeatureMap,
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    strength: Tensor | None,
    dtype: torch.dtype,
) -> Mapped:
    """Map keys and weigh them by their strength, in the dtype of the state.

    ``k`` is ``[B, H, N, K]`` with ``keep`` ``[B, N]`` and ``strength`` ``[B, H, N]``, or ``[B, H, S, N, K]`` with
    ``[B, S, N]`` and ``[B, H, S, N]``.
    """
    phi, v = features.apply(k.to(dtype)), v.to(dtype)
    weights = kept_strength(keep, strength, dtype)
    if keep is not None:
        # where, not a product: a token that is not kept may hold anything, even NaN
        kept = keep[:, None, ..., None]
        phi, v = torch.where(kept, phi, 0.0), torch.where(kept, v, 0.0)
    return Mapped(phi, phi if weights is None else weights.unsqueeze(-1) * phi, v)


def kept_strength(keep: Tensor | None, strength: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return the strength in the dtype of the state, zero where ``keep`` is False; None if none was given."""
    if strength is None:
        return None
    strength = strength.to(dtype)
    return strength if keep is None else torch.where(keep[:, None], strength, 0.0)
