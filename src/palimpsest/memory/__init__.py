"""Memories of fixed size: pure functions on tensors, in torch alone.

``scan`` is the definition, ``parallel`` the same numbers without a loop over segments.
"""

from palimpsest.memory.base import Memory, scan, state_bytes
from palimpsest.memory.delta import DeltaMemory
from palimpsest.memory.features import FEATURE_MAPS, FeatureMap, elu1
from palimpsest.memory.linear import LinearMemory, LinearState
from palimpsest.memory.parallel import parallel
from palimpsest.memory.ridge import RidgeMemory, RidgeRootMemory, RidgeRootState, RidgeState

__all__ = [
    "FEATURE_MAPS",
    "DeltaMemory",
    "FeatureMap",
    "LinearMemory",
    "LinearState",
    "Memory",
    "RidgeMemory",
    "RidgeRootMemory",
    "RidgeRootState",
    "RidgeState",
    "elu1",
    "parallel",
    "scan",
    "state_bytes",
]
