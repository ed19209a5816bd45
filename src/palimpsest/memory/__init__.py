"""Memories of fixed size: pure functions on tensors, in torch alone.

``scan`` is the definition, ``parallel`` the same numbers without a loop over segments.
"""

from palimpsest.memory.associative import AssociativeMemory
from palimpsest.memory.base import Memory, scan, state_bytes
from palimpsest.memory.decayed_ridge import DecayedRidgeMemory
from palimpsest.memory.delta import DeltaMemory
from palimpsest.memory.features import FEATURE_MAPS, FeatureMap, elu1, identity_l2
from palimpsest.memory.hebbian import FastWeights, HebbianMemory
from palimpsest.memory.linear import LinearMemory, LinearState
from palimpsest.memory.parallel import parallel
from palimpsest.memory.ridge import RidgeMemory, RidgeRootMemory, RidgeRootState, RidgeState
from palimpsest.memory.token_delta import TokenDeltaMemory

__all__ = [
    "FEATURE_MAPS",
    "AssociativeMemory",
    "DecayedRidgeMemory",
    "DeltaMemory",
    "FastWeights",
    "FeatureMap",
    "HebbianMemory",
    "LinearMemory",
    "LinearState",
    "Memory",
    "RidgeMemory",
    "RidgeRootMemory",
    "RidgeRootState",
    "RidgeState",
    "TokenDeltaMemory",
    "elu1",
    "identity_l2",
    "parallel",
    "scan",
    "state_bytes",
]
