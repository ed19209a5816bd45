"""Feature maps in numpy, one vector at a time, from their equations: shares no code with the package."""

import numpy as np


def phi(name: str, x: np.ndarray) -> np.ndarray:
    """Return the features of one key ``[K]``, for a name as configurations give it."""
    base, centred, normalisation = parts(name)
    features = _base(base, x)
    if centred:
        features = features - features.sum() / len(features)
    divisor = {"": 1.0, "l2": np.sqrt((features**2).sum()), "sum": features.sum()}[normalisation]
    return features / (divisor if normalisation == "" else max(divisor, 1e-6))


def parts(name: str) -> tuple[str, bool, str]:
    """Take a name apart: the map, whether it is centred, and its normalisation."""
    normalisation = next((suffix for suffix in ("l2", "sum") if name.endswith(f"_{suffix}")), "")
    name = name.removesuffix(f"_{normalisation}")
    return name.removesuffix("_centred"), name.endswith("_centred"), normalisation


def _base(name: str, x: np.ndarray) -> np.ndarray:
    if name == "elu1":  # ELU(x) + 1, which is exp(x) below zero and x + 1 above
        return np.where(x > 0, x + 1.0, np.exp(np.minimum(x, 0.0)))
    if name == "identity":
        return x
    if name == "squared_relu":
        return np.where(x > 0, x**2, 0.0)
    if name == "softmax":
        return np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    nu = int(name.removeprefix("dpfp"))  # Schlag et al. 2021: r_i r_(i+j) for every j up to nu, i counted round
    r = [max(value, 0.0) for value in (*x, *-x)]
    return np.array([r[i] * r[(i + j) % len(r)] for j in range(1, nu + 1) for i in range(len(r))])
