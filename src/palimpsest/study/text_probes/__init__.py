"""Probes on running text: what a model predicts better, or can still copy, because of what it read far back."""

from palimpsest.statistics.text_probes import (
    EffectiveContext,
    context_gain,
    effective_context,
    forgetting,
    mean_loss,
    memory_spans,
)
from palimpsest.study.text_probes.forgetting import forgetting_curve
from palimpsest.study.text_probes.perturbation import perturb
from palimpsest.study.text_probes.position import TextLosses, place_losses

__all__ = [
    "EffectiveContext",
    "TextLosses",
    "context_gain",
    "effective_context",
    "forgetting",
    "forgetting_curve",
    "mean_loss",
    "memory_spans",
    "perturb",
    "place_losses",
]
