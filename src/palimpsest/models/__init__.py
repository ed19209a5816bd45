"""Hugging Face classes; importing this package registers them with the Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM

from palimpsest.models.cache import PalimpsestCache
from palimpsest.models.configuration import PalimpsestConfig
from palimpsest.models.conversion import convert_llama, new_weights
from palimpsest.models.modeling import PalimpsestForCausalLM, PalimpsestModel

AutoConfig.register("palimpsest", PalimpsestConfig, exist_ok=True)
AutoModelForCausalLM.register(PalimpsestConfig, PalimpsestForCausalLM, exist_ok=True)

__all__ = [
    "PalimpsestCache",
    "PalimpsestConfig",
    "PalimpsestForCausalLM",
    "PalimpsestModel",
    "convert_llama",
    "new_weights",
]
