"""Interventions on memories, as pure functions on their states."""

from palimpsest.probes.expressions import INTERVENTIONS, NAMES, applicable, parse_intervention, split_interventions
from palimpsest.probes.hooks import gated_layers, intervene, memory_layers, override_gates
from palimpsest.probes.interventions import Intervention, Rows
from palimpsest.probes.states import swap, zero

__all__ = [
    "INTERVENTIONS",
    "NAMES",
    "Intervention",
    "Rows",
    "applicable",
    "gated_layers",
    "intervene",
    "memory_layers",
    "override_gates",
    "parse_intervention",
    "split_interventions",
    "swap",
    "zero",
]
