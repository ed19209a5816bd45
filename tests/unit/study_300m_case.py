"""The recipes of the 300M study: where they are, what they say, and their models, whole or shrunk."""

import copy
from functools import cache
from pathlib import Path

import torch
import yaml

from palimpsest.models import PalimpsestConfig
from palimpsest.schema import parse
from palimpsest.training import ModelSpec, Recipe, load_recipe, model_config
from palimpsest.training.data import Batch

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
STUDY = RECIPES / "study-300m"
PRETRAINED = sorted(STUDY.glob("*.yaml"))
ARMS = [path.stem for path in PRETRAINED]
FOLDERS = (STUDY, *(STUDY / name for name in ("as_intended", "needles_as_published", "needles_as_intended")))


def name(path: Path) -> str:
    return path.relative_to(RECIPES).as_posix()


@cache
def text_of(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def values(path: Path) -> dict:
    return copy.deepcopy(text_of(path))


def config_of(path: Path) -> PalimpsestConfig:
    spec = load_recipe(path).model
    assert spec is not None
    assert spec.vocab_size is not None
    return model_config(spec, spec.vocab_size)


def batch_of(vocabulary: int, tokens: int) -> Batch:
    ids = torch.randint(vocabulary, (1, tokens), generator=torch.Generator().manual_seed(0))
    return Batch(ids, ids.clone(), torch.zeros_like(ids), torch.ones(1))


def shrunk(recipe: Recipe) -> PalimpsestConfig:
    """Return the model of a recipe with real layers, but one of them, and less of a vocabulary and of a segment."""
    assert recipe.model is not None
    content = recipe.model.model_dump(mode="json", exclude_none=True)
    attention = content["attention"] | {"segment_length": 32}
    for block, length in (("sliding_window", "window"), ("transformer_xl", "cache_length")):
        if block in attention:
            attention[block] = {length: 32}
    content |= {"num_hidden_layers": 1, "vocab_size": 512, "attention": attention}
    return model_config(parse(ModelSpec, content, "shrunk"), 512)
