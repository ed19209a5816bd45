"""Small language models on a bounded, compressive memory, and the evidence whether it works.

The names below are imported when they are first used: ``import palimpsest`` alone needs neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM, convert_llama

    __version__: str

__all__ = ["PalimpsestConfig", "PalimpsestForCausalLM", "__version__", "convert_llama"]


def __getattr__(name: str) -> object:
    """Import a public name on first use, and keep it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        value = import_module("importlib.metadata").version("palimpsest-lm")  # slow to import: only when asked
    else:
        value = getattr(import_module("palimpsest.models"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Name what can be imported."""
    return sorted({*globals(), *__all__})
