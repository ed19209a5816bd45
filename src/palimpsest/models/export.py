"""A model as a folder that runs without this package: weights, configuration, tokenizer, code and model card."""

import ast
import functools
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from palimpsest.models.bundle import bundle
from palimpsest.models.card import CardFacts, model_card
from palimpsest.models.directory import new_directory
from palimpsest.models.modeling import PalimpsestForCausalLM
from palimpsest.records import read_json, write_atomic, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DISTRIBUTION = "palimpsest-lm"
ENTRY = "palimpsest.models.modeling"
AUTO_MAP = {
    "AutoConfig": "modeling_palimpsest.PalimpsestConfig",
    "AutoModelForCausalLM": "modeling_palimpsest.PalimpsestForCausalLM",
    "AutoModelForDecision": "modeling_palimpsest.PalimpsestForCausalLM",
}
"""Which class transformers takes for what, all from one file (see ``ENTRY_END``).

A causal model is also what decides in transformers' pipeline of that name, and ``transformers serve`` asks for that
class first: without it, it looks for the model among its own classes, where code that comes with a model never is.
"""
HEAD = """\
# SPDX-License-Identifier: {license}
# Written by `palimpsest export` from {distribution} {version}; the source, to be changed there and not here, is
# """
ENTRY_END = """
# transformers keeps a copy of the code for every file that auto_map names. As a class of this file, the configuration
# shares the copy of the model, so that each class exists once, and the map stays so when the model is saved again.
PalimpsestConfig.__module__ = __name__
"""


def export(
    model: PalimpsestForCausalLM,
    directory: Path,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    facts: CardFacts | None = None,
) -> None:
    """Write a model into a new directory from which transformers loads it with or without this package.

    With ``trust_remote_code``, ``AutoModelForCausalLM.from_pretrained(directory)`` runs the code that is beside the
    weights; where ``palimpsest.models`` has been imported, it takes the classes of the package and needs no trust.

    Args:
        model: the model; it is saved in the dtype that it has.
        directory: a directory that does not exist yet or is empty; it appears when all of it is written.
        tokenizer: saved beside the model, if given.
        facts: what the model card shall say that the model does not know; by default its title is the directory's name.

    Raises:
        InputError: the directory is a file, is not empty, or could not be written.
    """
    with new_directory(directory) as partial:
        model.save_pretrained(partial)
        write_json(partial / "config.json", read_json(partial / "config.json") | {"auto_map": AUTO_MAP})
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        for name, text in code().items():
            write_atomic(partial / name, text)
        card = model_card(model, facts or CardFacts(directory.absolute().name), requirements())
        write_atomic(partial / "README.md", card)


def code() -> dict[str, str]:
    """Return the files, name to text, that are a model's code: this package's own, in as far as a model needs them."""
    package = importlib.metadata.metadata(DISTRIBUTION)
    head = HEAD.format(license=package["License-Expression"], distribution=DISTRIBUTION, version=package["Version"])
    files = {f"{flat_name(module)}.py": f"{head}{module}\n{text}" for module, text in bundled().items()}
    files[f"{flat_name(ENTRY)}.py"] += ENTRY_END
    return files


@functools.cache
def bundled() -> Mapping[str, str]:
    """Return the modules that a model needs, full name to text."""
    return MappingProxyType(bundle(ENTRY, flat_name))


def flat_name(module: str) -> str:
    """Return the name of a module's file, as transformers has it for those of models (``modeling_palimpsest``)."""
    package, *parts = module.split(".")
    flat = "_".join(parts[1:] if parts[:1] == ["models"] else parts)
    return f"{flat}_{package}" if parts[:1] == ["models"] else flat or package


@functools.cache
def requirements() -> tuple[str, ...]:
    """Return what has to be installed for the code to run, with the versions that this package asks for, sorted."""
    imported = {name for text in bundled().values() for name in _libraries(ast.parse(text))} - sys.stdlib_module_names
    distributions = importlib.metadata.packages_distributions()
    needed = {canonicalize_name(found) for name in imported for found in distributions.get(name, ())}
    stated = [Requirement(line) for line in importlib.metadata.requires(DISTRIBUTION) or ()]
    return tuple(sorted(str(one) for one in stated if canonicalize_name(one.name) in needed))


def _libraries(tree: ast.Module) -> Iterator[str]:
    """Yield the top-level modules that a module imports in full, not relatively."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield f"{node.module}".split(".")[0]
