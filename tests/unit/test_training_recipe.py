import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.errors import InputError
from palimpsest.models import PalimpsestConfig
from palimpsest.schema import parse
from palimpsest.training import ModelSpec, Recipe, load_recipe, model_config
from training_case import recipe, recipe_values

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
TEXT = {"kind": "text", "sequence_length": 64, "directory": "prepared"}


def changed(path: str, value: object) -> dict:
    values = copy.deepcopy(recipe_values(TEXT))
    *above, key = path.split(".")
    block = values
    for part in above:
        block = block[part]
    block[key] = value
    return values


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_is_valid_and_named_after_its_file(path):
    assert load_recipe(path).name == path.stem


def test_there_are_recipes():
    assert {"tiny-ridge"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("training.learning_rat", 1e-3, "Did you mean 'learning_rate'"),
        ("model.attention.memory.kindd", "delta", "Did you mean 'kind'"),
        ("data.sequence_lenght", 3, "Did you mean 'sequence_length'"),
        ("training.accumulation", 3, "batch_size 4 cannot be divided into 3 equal micro-batches"),
        ("training.warmup_steps", 7, "warmup_steps 7 exceeds steps 6"),
        ("training.keep_checkpoints", 1, "greater than or equal to 2"),
        ("training.clip_norm", 0, "greater than 0"),
        ("training.precision", "float16", "Did you mean 'bfloat16'"),
        ("model.hidden_size", 15, "hidden_size 15 is not a multiple of num_attention_heads 2"),
        ("model.head_dim", 7, "it must be even"),
        ("model.num_key_value_heads", 3, "not a multiple of num_key_value_heads 3"),
        ("model.attention.pattern", ["memory", "full", "full"], "names 3 layers, but num_hidden_layers is 2"),
        ("init", "somewhere", "give either model"),
        ("name", "../escape", "name"),
        ("data.tokenizer", {"vocab_size": 300}, "corpus and tokenizer belong together"),
        ("data", {"kind": "text", "sequence_length": 64}, "give directory"),
        ("data", {"kind": "passkey"}, "data.tokenizer is needed"),
        ("data", {"kind": "passkey", "tokenizer": "t", "min_length": 300}, "exceeds max_length"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(path, value, said):
    with pytest.raises(InputError) as error:
        parse(Recipe, changed(path, value), "r.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_digest_is_that_of_the_meaning_not_of_the_file(tmp_path):
    values = recipe_values(TEXT)
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(values, sort_keys=True))
    (tmp_path / "two.yaml").write_text(
        "# a comment\n" + yaml.safe_dump(values, sort_keys=False, default_flow_style=True)
    )
    one, two = load_recipe(tmp_path / "one.yaml"), load_recipe(tmp_path / "two.yaml")
    assert one.digest() == two.digest()
    assert one.digest() != recipe(TEXT, steps=7).digest()


def test_a_recipe_survives_being_written_to_a_run_directory():
    there = recipe(TEXT)
    again = parse(Recipe, yaml.safe_load(yaml.safe_dump(there.model_dump(mode="json"))), "recipe")
    assert again == there
    assert again.digest() == there.digest()


@given(
    heads=st.integers(1, 8),
    half=st.integers(1, 16),
    layers=st.integers(1, 3),
    vocab=st.integers(1, 5000),
)
def test_a_configuration_has_the_sizes_of_its_recipe(heads, half, layers, vocab):
    spec = ModelSpec(hidden_size=2 * half * heads, num_hidden_layers=layers, num_attention_heads=heads)
    config = model_config(spec, vocab)
    assert isinstance(config, PalimpsestConfig)
    assert (config.hidden_size, config.head_dim, config.num_key_value_heads) == (2 * half * heads, 2 * half, heads)
    assert (config.vocab_size, config.num_hidden_layers) == (vocab, layers)
    assert config.intermediate_size % 8 == 0
    assert 0 <= config.intermediate_size - 8 / 3 * config.hidden_size < 8
