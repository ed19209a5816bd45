"""What the laws need to know of a feature map: how mapped random keys overlap, measured in float64."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from palimpsest.memory import FEATURE_MAPS
from palimpsest.probes.mechanism.draws import KeyLaw
from palimpsest.probes.mechanism.theory import Floats

ASKED, OTHERS = 32, 4096
"""Keys whose overlaps are measured, and keys they are measured with."""


class Moments(NamedTuple):
    """Overlaps of mapped keys, for a sample of J keys that are asked for.

    Attributes:
        own: |phi(k_j)|^2 ``[J]``.
        common: mean over i of phi(k_j) phi(k_i) ``[J]``.
        spread: its variance ``[J]``.
        centred_own: |delta_j|^2 ``[J]``, with delta = phi - E phi.
        centred_spread: mean over i of (delta_j delta_i)^2 ``[J]``.
        effective: (tr C)^2 / tr C^2 of the covariance C, the effective dimension of the centred keys.
        kappa: (|E phi|^2 / tr C)^2, how much the part common to all keys exceeds a key's own, per pair; m^4 / s^4
            where all features are alike.
    """

    own: Floats
    common: Floats
    spread: Floats
    centred_own: Floats
    centred_spread: Floats
    effective: float
    kappa: float


@lru_cache(maxsize=256)
def moments_of(features: str, size: int, law: KeyLaw) -> Moments:
    """Return the overlaps of random keys under a feature map."""
    return measured(_mapped(features, size, law))


class Spectrum(NamedTuple):
    """Eigenvalues of E phi phi^T ``[F]``, and the squares of the parts of J keys along its eigenvectors ``[J, F]``."""

    values: Floats
    projections: Floats


@lru_cache(maxsize=256)
def spectrum_of(features: str, size: int, law: KeyLaw) -> Spectrum:
    """Return how random keys spread over the directions of a feature map."""
    phi = _mapped(features, size, law)
    asked, others = phi[:ASKED], phi[ASKED:]
    values, vectors = torch.linalg.eigh(others.mT @ others / len(others))
    return Spectrum(values.clamp_min(0.0).numpy(), (asked @ vectors).square().numpy())


def measured(phi: Tensor) -> Moments:
    """Return the overlaps of mapped keys ``[n, F]`` (float64), of the first ``ASKED`` with all the others.

    These may be the keys of a trained model.
    """
    asked, others = phi[:ASKED], phi[ASKED:]
    overlap = asked @ others.mT
    mean = others.mean(0)
    delta, deltas = asked - mean, others - mean
    covariance = deltas.mT @ deltas / len(deltas)
    return Moments(
        asked.square().sum(-1).numpy(),
        overlap.mean(1).numpy(),
        overlap.var(1).numpy(),
        delta.square().sum(-1).numpy(),
        (delta @ deltas.mT).square().mean(1).numpy(),
        float(covariance.trace() ** 2 / covariance.square().sum()),
        float((mean.square().sum() / covariance.trace()) ** 2),
    )


def _mapped(features: str, size: int, law: KeyLaw) -> Tensor:
    random = torch.Generator().manual_seed(size)
    keys = law.mean + law.deviation * torch.randn(ASKED + OTHERS, size, generator=random, dtype=torch.float64)
    return FEATURE_MAPS[features].apply(keys)
