"""The recipes of the 300M study and of the original: what they say, what they cost, and that they run.

Real in the updates below: width, heads, MLP, gates, memories, initial weights, precision, optimizer and schedule of
each recipe. Shrunk: one layer for twelve, 512 tokens of vocabulary for 49,152, segments of 32 for 1,024 (eight of them
a row, as there), one row for four. The updates on tensors without data have two layers and shrink nothing else. The
chain from text to needles has all stages and switches of the recipes, and a model of 16 numbers.
"""

import copy
import re
import socket
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

from palimpsest.attention.kinds import KINDS
from palimpsest.attention.spec import AttentionSpec
from palimpsest.cli import app
from palimpsest.cli.info import describe_recipe
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.models.budget import (
    ACCELERATORS,
    UnknownValues,
    hours,
    parameter_count,
    saved_bytes,
    training_memory,
)
from palimpsest.schema import parse
from palimpsest.training import ModelSpec, Recipe, load_recipe, model_config, new_model, train
from palimpsest.training.data import Batch
from palimpsest.training.loop import accumulate_gradients, recompute_activations
from palimpsest.training.optimizer import build_optimizer, set_learning_rates
from training_case import text_data, write_texts

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
STUDY = RECIPES / "study-300m"
FILES = sorted([*STUDY.rglob("*.yaml"), *(RECIPES / "infini-attention").glob("*.yaml")])
PRETRAINED = sorted(STUDY.glob("*.yaml"))
ARMS = [path.stem for path in PRETRAINED]
FOLDERS = (STUDY, *(STUDY / name for name in ("as_intended", "needles_as_published", "needles_as_intended")))
UNPUBLISHED = {"name", "init"}
"""What names files of ours, and is no choice."""


def name(path: Path) -> str:
    return path.relative_to(RECIPES).as_posix()


@cache
def text_of(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def values(path: Path) -> dict:
    return copy.deepcopy(text_of(path))


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


def config_of(path: Path) -> PalimpsestConfig:
    spec = load_recipe(path).model
    assert spec is not None
    assert spec.vocab_size is not None
    return model_config(spec, spec.vocab_size)


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


# What they cost


@pytest.fixture
def offline(monkeypatch):
    """Let nothing open a connection."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("offline")
def test_info_needs_no_tokenizer_and_no_hub():
    shown = CliRunner().invoke(app, ["info", str(STUDY / "infini.yaml")])
    assert shown.exit_code == 0, shown.output
    for said in ("302,015,584", "983,040,000 tokens, 1.59e+18 operations", "12 memory (delta)", "RTX 4090", "22.2 GB"):
        assert said in shown.stdout


@pytest.mark.usefixtures("offline")
def test_the_tutorial_says_what_the_code_computes():
    page = (ROOT / "docs" / "tutorial" / "study-300m.md").read_text(encoding="utf-8")
    cost = describe_recipe(STUDY / "infini.yaml").cost
    assert cost is not None
    for each in ACCELERATORS:
        spent = [f"{hours(cost.operations, each, share):.1f}" for share in (0.2, 0.4)]
        row = f"| {each.name} | {each.memory / 1e9:g} | {each.peak / 1e12:,.6g} | {spent[0]} | {spent[1]} |"
        assert row in page
    assert f"at most {cost.memory.total / 1e9:.1f} GB on one device" in page
    recomputed = training_memory(config_of(STUDY / "infini.yaml"), 1, 8192, 8192, bfloat16=True, recompute=True)
    assert f"which needs {recomputed.total / 1e9:.1f} GB" in page


def test_hours_are_operations_over_a_share_of_the_peak():
    assert hours(3.6e15, ACCELERATORS[0], 0.5) == pytest.approx(3.6e15 / (165.2e12 * 0.5) / 3600)


SMALL = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2}


def small(attention: dict) -> PalimpsestConfig:
    return PalimpsestConfig(
        vocab_size=3000, tie_word_embeddings=False, attention={"segment_length": 64} | attention, **SMALL
    )


def batch_of(vocabulary: int, tokens: int) -> Batch:
    ids = torch.randint(vocabulary, (1, tokens), generator=torch.Generator().manual_seed(0))
    return Batch(ids, ids.clone(), torch.zeros_like(ids), torch.ones(1))


def allocated(config: PalimpsestConfig, batch: Batch, *, bfloat16: bool, recompute: bool) -> int:
    """Return the peak of what the allocator hands out for an update, above what was there before."""
    model = PalimpsestForCausalLM(config).train()
    if recompute:
        recompute_activations(model)
    accumulate_gradients(model, [batch], bfloat16=bfloat16)  # so that there are gradients to add to
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        accumulate_gradients(model, [batch], bfloat16=bfloat16)
    now = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("attention", "bfloat16", "recompute"),
    [
        ({"pattern": ["memory"], "memory": {"kind": "delta"}}, True, False),
        ({"pattern": ["segment_local", "full"]}, False, False),
        ({"pattern": ["memory"], "memory": {"kind": "ridge"}}, True, True),
    ],
)
def test_the_estimate_of_memory_is_what_the_allocator_hands_out(attention, bfloat16, recompute):
    config, tokens = small(attention), 512
    batch = batch_of(config.vocab_size, tokens)
    memory = training_memory(config, 1, tokens, tokens, bfloat16=bfloat16, recompute=recompute)
    peak = allocated(config, batch, bfloat16=bfloat16, recompute=recompute)
    assert memory.activations + memory.head == pytest.approx(peak, rel=0.01)


def test_what_autograd_keeps_of_the_baseline_by_hand():
    """LLaMA's layer in bfloat16 keeps 68 bytes per token and number of its width, and copies of its weights."""
    tokens, width, mlp, heads = 8192, 1024, 4096, 8
    norms = 2 * (4 + 4) * width + 2 * 4  # input and normed, in float32, and the scale
    inputs = (3 + 2 + 1) * 2 * width  # what q, k, v, gate and up are given, each a copy; what o is given
    attention = 4 * 2 * width + 4 * heads  # q, k, v and the output in bfloat16, and the logarithm of the sum
    hidden = 4 * 2 * mlp  # gate, its SiLU, up, and their product
    weights = 2 * (4 * width * width + 3 * width * mlp)  # autocast's copies
    rotary = 4 * 2 * 1024 * 128  # cosines and sines of the places in a segment, for q and for k
    per_layer = tokens * (norms + inputs + attention + hidden) + weights + rotary
    last_norm = tokens * (8 * width + 4)
    memory = training_memory(config_of(STUDY / "baseline_segment_local.yaml"), 1, tokens, 0, bfloat16=True)
    assert memory.activations == pytest.approx(12 * per_layer + last_norm, rel=1e-4)
    assert (memory.weights, memory.gradients, memory.moments) == (302_015_488 * 4, 302_015_488 * 4, 302_015_488 * 8)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_memory_of_any_kind_can_be_estimated(kind):
    short, long = (saved_bytes(small({"pattern": [kind]}), 1, tokens, bfloat16=True) for tokens in (64, 128))
    assert 0 < short < long


# That they run


@pytest.mark.parametrize(
    ("first", "then"), [(FOLDERS[0], FOLDERS[2]), (FOLDERS[1], FOLDERS[3])], ids=["published", "intended"]
)
def test_pretraining_leads_to_fine_tuning(first, then, tmp_path):
    text, needles = values(first / "infini.yaml"), values(then / "infini.yaml")
    text["model"] |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text["model"] |= {"vocab_size": 600}
    text["model"]["attention"] |= {"segment_length": 64}
    text["data"] = {**text_data(write_texts(tmp_path / "texts"), sequence_length=128)}
    prompts = needles["data"]["prompts"]
    if prompts["kind"] == "stored":  # which is on the hub: the same form, made here
        prompts.clear()
        prompts |= {"kind": "published", "units": "characters"}
    lengths = [200, 300] if prompts["kind"] == "published" else [220]
    needles["data"] |= {"sequence_length": 256, "prompts": prompts | {"number": 8, "lengths": lengths}}
    needles["init"] = str(tmp_path / "text")
    for recipe, run in ((text, "text"), (needles, "needles")):
        recipe["training"] |= {"steps": 2, "batch_size": 2, "accumulation": 1, "warmup_steps": 1}
        checkpoint = train(parse(Recipe, recipe, run), tmp_path / run)
    config = PalimpsestConfig.from_pretrained(checkpoint)
    assert config.vocab_size == 600
    assert config.attention_spec.documents == text["model"]["attention"]["documents"]


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


@pytest.mark.parametrize("folder", FOLDERS[:2], ids=name)
@pytest.mark.parametrize("arm", ARMS)
def test_one_update_by_the_recipe(arm, folder):
    recipe = load_recipe(folder / f"{arm}.yaml")
    model = new_model(shrunk(recipe), recipe.seed).train()
    batch = batch_of(512, 8 * 32)
    documents = torch.arange(8 * 32)[None] // 100  # three documents, the last one short
    batch = batch._replace(document_ids=documents)
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    optimizer = build_optimizer(model, recipe.training)
    rate, gate_rate = set_learning_rates(optimizer, recipe.training.warmup_steps - 1, recipe.training)
    loss = accumulate_gradients(model, [batch], bfloat16=recipe.training.precision == "bfloat16")
    optimizer.step()
    assert rate == pytest.approx(recipe.training.learning_rate)
    assert gate_rate == pytest.approx(recipe.training.gate_learning_rate)
    assert loss == pytest.approx(torch.log(torch.tensor(512.0)).item(), rel=0.2)  # it knows nothing yet
    for key, weight in model.state_dict().items():
        moved = (weight - before[key]).abs()
        assert bool(moved.isfinite().all())
        assert float(moved.max()) > 0 or "self_attn" in key, key  # one segment a document reads no memory


@pytest.mark.parametrize("arm", ARMS)
def test_one_update_at_full_size_on_tensors_without_data(arm):
    """The whole vocabulary, the whole row and two of twelve layers: all shapes of an update agree."""
    config = config_of(STUDY / f"{arm}.yaml")
    config.num_hidden_layers = 2
    with FakeTensorMode(), UnknownValues():
        model = PalimpsestForCausalLM(config).train()
        ids = torch.zeros(1, 8192, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(input_ids=ids, labels=ids, use_cache=False)
        assert out.logits.shape == (1, 8192, 49_152)
        out.loss.backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
