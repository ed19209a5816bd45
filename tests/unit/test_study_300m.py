"""The recipes of the 300M study and of the original: what they say, and the models that they describe."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from study_300m_case import ARMS, FOLDERS, RECIPES, ROOT, STUDY, config_of, name, shrunk, text_of, values

from palimpsest.attention.spec import AttentionSpec
from palimpsest.models.budget import parameter_count
from palimpsest.schema import parse
from palimpsest.training import ModelSpec, load_recipe, model_config, new_model

FILES = sorted([*STUDY.rglob("*.yaml"), *(RECIPES / "infini-attention").glob("*.yaml")])
UNPUBLISHED = {"name", "init"}
"""What names files of ours, and is no choice."""


# The table of numbers


@cache
def table_rows() -> list[tuple[set[str], str, object]]:
    """Return, for each row of the table, the files it is about, the key, and the value."""
    page = (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8")
    section = page.split("## The numbers of the recipes")[1].split("\n## ")[0]
    rows = []
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 5 or cells[0] in ("paper", "---"):
            continue
        *patterns, key = re.findall(r"`([^`]+)`", cells[2])
        files = {path.relative_to(RECIPES).as_posix() for pattern in patterns for path in RECIPES.glob(pattern)}
        rows.append((files, key, yaml.safe_load(cells[3])))
    return rows


def at(recipe: dict, key: str) -> object:
    value: object = recipe
    for part in key.split("."):
        assert isinstance(value, dict)
        value = value[part]
    return value


def leaves(value: object, key: str = "") -> set[str]:
    if not isinstance(value, dict):
        return {key}
    return {leaf for part, inner in value.items() for leaf in leaves(inner, f"{key}.{part}" if key else part)}


def test_every_row_of_the_table_is_what_the_files_say():
    rows = table_rows()
    assert len(rows) > 100
    for files, key, value in rows:
        assert files, f"{key}: no file"
        for file in files:
            assert at(text_of(RECIPES / file), key) == value, f"{file}: {key}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_value_of_a_file_is_in_a_row_of_the_table(path):
    rows = [key for files, key, _ in table_rows() if name(path) in files]
    missing = {
        leaf for leaf in leaves(values(path)) if not any(leaf == row or leaf.startswith(f"{row}.") for row in rows)
    }
    assert missing <= UNPUBLISHED


# The files


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_recipe_is_valid_and_named_after_its_file(path):
    named = load_recipe(path).name
    assert path.stem.replace("_", "-") in named
    assert path.relative_to(RECIPES).parts[0] in named


def test_no_two_recipes_share_a_run_directory():
    names = [load_recipe(path).name for path in FILES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_all_arms_are_in_every_folder(folder):
    assert sorted(path.stem for path in folder.glob("*.yaml")) == ARMS
    assert len(ARMS) == 6


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_arms_differ_in_attention_and_rates_alone(folder):
    def rest(path: Path) -> dict:
        content = load_recipe(path).model_dump(mode="json", exclude={"name", "init"})
        (content["model"] or {}).pop("attention", None)
        for rate in ("learning_rate", "gate_learning_rate"):
            content["training"].pop(rate)
        return content

    first, *others = (rest(folder / f"{arm}.yaml") for arm in ARMS)
    assert all(other == first for other in others)


@pytest.mark.parametrize("arm", ARMS)
def test_as_intended_differs_from_as_published_by_documents_and_rate(arm):
    published, intended = (values(folder / f"{arm}.yaml") for folder in FOLDERS[:2])
    assert published["model"]["attention"].pop("documents") == "carry"
    assert intended["model"]["attention"].pop("documents") == "reset"
    for recipe in (published, intended):
        recipe["training"].pop("learning_rate")
        recipe.pop("name")
    assert published == intended


@pytest.mark.parametrize("path", [path for path in FILES if "needles" in name(path)], ids=name)
def test_fine_tuning_starts_from_the_run_of_its_own_arm(path):
    folder = STUDY / "as_intended" if "intended" in name(path) else STUDY
    assert str(load_recipe(path).init) == f"runs/{load_recipe(folder / path.name).name}"


@pytest.mark.parametrize("policy", ["published", "intended"])
@pytest.mark.parametrize("arm", ARMS)
def test_the_study_file_says_the_same(arm, policy):
    study = values(ROOT / "studies" / f"study-300m-as-{policy}.yaml")
    text = values((STUDY / "as_intended" if policy == "intended" else STUDY) / f"{arm}.yaml")
    needles = values(STUDY / f"needles_as_{policy}" / f"{arm}.yaml")
    there = study["arms"][arm.removeprefix("baseline_")]
    assert AttentionSpec(**there["attention"]) == AttentionSpec(**text["model"].pop("attention"))
    assert there["pretrain_learning_rate"] == text["training"]["learning_rate"]
    assert there["finetune_learning_rate"] == needles["training"]["learning_rate"]
    assert ModelSpec(**study["model"]) == ModelSpec(**text["model"])
    assert study["pretrain"]["sequence_length"] == text["data"]["sequence_length"]
    assert study["finetune"]["needles"] == {key: needles["data"][key] for key in study["finetune"]["needles"]}
    for part, recipe in (("pretrain", text), ("finetune", needles)):
        apart = {"learning_rate", "gate_learning_rate", "log_every"}  # of the arm; of arms with gates; of no weight
        training = {key: value for key, value in study[part]["training"].items() if key not in apart}
        assert training == {key: value for key, value in recipe["training"].items() if key not in apart}
        assert recipe["training"].get("gate_learning_rate") in (None, study[part]["training"]["gate_learning_rate"])


# What they are


@pytest.mark.parametrize("arm", ARMS)
def test_the_number_of_parameters(arm):
    own = {"infini": 96, "ridge": 192}.get(arm, 0)  # a gate for each of 12 x 8 heads, and a lambda
    by_hand = 2 * 49_152 * 1024 + 12 * (4 * 1024**2 + 3 * 1024 * 4096 + 2 * 1024) + 1024
    assert parameter_count(config_of(STUDY / f"{arm}.yaml")) == by_hand + own == 302_015_488 + own


def test_a_vocabulary_that_is_too_small_is_refused():
    spec = load_recipe(STUDY / "infini.yaml").model
    assert spec is not None
    with pytest.raises(ValueError, match=r"model.vocab_size is 49152, but the tokenizer has 49153 tokens"):
        model_config(spec, 49_153)
    assert model_config(spec, 32_000).vocab_size == 49_152


def test_what_was_not_chosen_leaves_no_trace_in_a_recipe():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    assert not parse(ModelSpec, sizes, "model").model_dump().keys() & {"vocab_size", "residual_initializer_range"}
    chosen = sizes | {"vocab_size": 9, "residual_initializer_range": 0.5}
    assert parse(ModelSpec, chosen, "model").model_dump().items() >= chosen.items()


def test_weights_begin_with_the_deviations_of_the_recipe():
    weights = new_model(shrunk(load_recipe(STUDY / "infini.yaml")), seed=0).state_dict()
    for key, weight in weights.items():
        if weight.dim() == 2:
            expected = 0.03125 / 24**0.5 if key.endswith(("o_proj.weight", "down_proj.weight")) else 0.03125
            assert float(weight.std()) == pytest.approx(expected, rel=0.01), key


def test_without_a_deviation_of_their_own_all_weights_begin_alike():
    spec = load_recipe(STUDY / "infini.yaml")
    own = new_model(shrunk(spec), seed=0).state_dict()
    config = shrunk(spec)
    config.residual_initializer_range = None
    plain = new_model(config, seed=0).state_dict()
    for key, weight in plain.items():
        scale = 24**-0.5 if key.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
        torch.testing.assert_close(own[key], weight * scale)
