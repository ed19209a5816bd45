"""Training: one recipe, one run directory, one loop; interrupted anywhere, it continues to the same bits."""

from palimpsest.training.checkpoint import Checkpoints, resolve_checkpoint
from palimpsest.training.console import Interrupted
from palimpsest.training.course import TrainingError
from palimpsest.training.loop import train
from palimpsest.training.recipe import (
    MixtureData,
    ModelSpec,
    PasskeyData,
    Recipe,
    TextData,
    TrainingSpec,
    load_recipe,
)
from palimpsest.training.state import model_config, new_model

__all__ = [
    "Checkpoints",
    "Interrupted",
    "MixtureData",
    "ModelSpec",
    "PasskeyData",
    "Recipe",
    "TextData",
    "TrainingError",
    "TrainingSpec",
    "load_recipe",
    "model_config",
    "new_model",
    "resolve_checkpoint",
    "train",
]
