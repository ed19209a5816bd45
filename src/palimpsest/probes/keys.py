"""What the mapped keys of a head are like, and how many pairs a memory of such keys should hold."""

from typing import NamedTuple

import torch
from torch import Tensor

CAPACITY = 0.083
"""Half of n50 = 0.083 d_eff d_v random pairs are recalled; measured on random keys, values decoded among 256 codes."""
FEWEST = 4
"""Keys without which the moments have no unbiased estimate."""


class KeyStatistics(NamedTuple):
    """Of each head, all of the shape of the leading axes of the keys.

    Attributes:
        dimension: d_eff = (tr C)^2 / tr C^2, of the covariance C of the mapped keys: F if all directions are alike, 1
            if there is but one; 0 for keys that are all the same.
        common_mode: kappa = (|mu|^2 / tr C)^2 for their mean mu: how much stronger than what is peculiar to a key the
            part is that answers every query alike, in powers. m^4 / s^4 for features of mean m and variance s^2.
        n50: 0.083 d_eff d_v, the pairs of which half are recalled if the common mode does no harm (it is centred away,
            or the weights after the read have learned to subtract it).
        n50_common_mode: 0.083 d_v / (kappa + 1 / d_eff), likewise if the common mode is noise as any other.
    """

    dimension: Tensor
    common_mode: Tensor
    n50: Tensor
    n50_common_mode: Tensor


def key_statistics(phi: Tensor, d_v: int) -> KeyStatistics:
    """Describe mapped keys ``[..., n, F]`` that are bound to values of size ``d_v``.

    A read of phi_i from sum_j phi_j v_j^T meets its own value with strength tr C and the value of every other pair with
    that of the mean, |mu|^2, and a random one of variance tr C^2: to leading order noise / signal = kappa n + n / d_eff
    in powers. What is recalled of n pairs falls with that ratio over d_v, so that one constant serves both laws.

    All moments are unbiased whatever the distribution of the (independent) keys: |mu|^2 is |mean|^2 - tr S / n, and
    tr C^2 is the estimate of Himeno and Yamada (2014, J. Multivariate Anal. 130). d_eff is kept between 1 and F, kappa
    at 0 and above.

    Raises:
        ValueError: fewer than 4 keys.
    """
    n, width = phi.shape[-2:]
    if n < FEWEST:
        raise ValueError(f"key statistics need at least {FEWEST} keys, got {n}")
    phi = phi.double()
    mean = phi.mean(-2)
    centred = phi - mean.unsqueeze(-2)
    scatter = centred.mT @ centred / (n - 1)
    trace = scatter.diagonal(dim1=-2, dim2=-1).sum(-1)
    of_square = _trace_of_square(centred, scatter, trace)
    varied = trace > torch.finfo(phi.dtype).eps * mean.square().sum(-1)
    # rounding alone can leave an estimate of next to nothing below zero
    dimension = (trace.square() / of_square.clamp_min(torch.finfo(phi.dtype).tiny)).clamp(1.0, float(width))
    dimension = torch.where(varied, dimension, 0.0)
    common = ((mean.square().sum(-1) - trace / n).clamp_min(0.0) / trace).square()
    common = torch.where(varied, common, torch.inf)
    n50 = CAPACITY * dimension * d_v
    return KeyStatistics(dimension, common, n50, torch.where(varied, n50 / (1.0 + common * dimension), 0.0))


def _trace_of_square(centred: Tensor, scatter: Tensor, trace: Tensor) -> Tensor:
    """Return the unbiased estimate of tr C^2."""
    n = centred.shape[-2]
    fourth = centred.square().sum(-1).square().sum(-1) / (n - 1)
    plain = scatter.square().sum((-2, -1))
    return (n - 1) / (n * (n - 2) * (n - 3)) * ((n - 1) * (n - 2) * plain + trace.square() - n * fourth)
