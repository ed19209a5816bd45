"""Interventions on memories, as pure functions on their states."""

from palimpsest.probes.interventions import (
    INTERVENTIONS,
    applicable,
    gated_layers,
    intervene,
    memory_layers,
    override_gates,
    swap,
    zero,
)

__all__ = [
    "INTERVENTIONS",
    "applicable",
    "gated_layers",
    "intervene",
    "memory_layers",
    "override_gates",
    "swap",
    "zero",
]
