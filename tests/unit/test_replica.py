"""The study files of arXiv 2512.23862, small and at full size: proportions, equal effort, a rule for every baseline."""

import importlib
import itertools
import json
import math
import socket
from collections import Counter
from pathlib import Path

import pytest
import yaml

from palimpsest.schema import parse
from palimpsest.study import estimate, load_study, plan
from palimpsest.study.estimate import estimate_stages
from palimpsest.study.plan import Evaluation
from palimpsest.study.preregistration import TEST_SEEDS
from palimpsest.study.readings import characters_per_token, document_tokens
from palimpsest.study.spec import StudySpec
from palimpsest.study.stages import recipe_of
from palimpsest.training import load_recipe
from palimpsest.training.recipe import NeedlesData

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "studies"
RECIPES = ROOT / "recipes" / "study-300m"
MEMORIES = ("infini", "ridge")
BASELINES = ("segment_local", "sliding_window", "transformer_xl", "full")
PROTOCOLS = {"published": "carry", "intended": "reset"}
FULL_SIZE = ("study-300m-as-published", "study-300m-as-intended")


def study(name: str) -> StudySpec:
    spec = load_study(STUDIES / f"{name}.yaml")
    assert isinstance(spec, StudySpec)
    return spec


def proportions(spec: StudySpec, arm: str) -> tuple[float, ...]:
    """Return sequence, fine-tuning rows and longest test in segments."""
    segment = spec.segment_length
    longest = max(max(grid.lengths) for grid in spec.named_grids.values())
    return spec.pretrain.sequence_length / segment, spec.finetuning(arm).row_length / segment, longest / segment


# Proportions


def test_the_small_replica_has_the_proportions_of_the_study():
    small, full = study("replica-small"), study("study-300m-as-published")
    assert proportions(full, "infini") == (8, 4, 32)
    for arm in small.arms:
        assert proportions(small, arm) == (8, 4, 32)
    for name, grid in full.named_grids.items():
        assert small.named_grids[name].depths == grid.depths == [0.0, 0.25, 0.5, 0.75, 0.95]
        assert small.named_grids[name].items.kind == grid.items.kind
        segments = [length // full.segment_length for length in grid.lengths]
        assert [length // small.segment_length for length in small.named_grids[name].lengths] == segments[1:]


def test_about_twenty_documents_share_a_row_as_they_do_in_the_study():
    """By the study's own arithmetic, which takes medians: 8,192 / 418. Half as many do by the mean."""
    small = study("replica-small")
    words_per_token = document_tokens(small, 1024) / (small.corpus.pieces.median_words * math.exp(1.12**2 / 2))
    median_tokens = small.corpus.pieces.median_words * words_per_token
    assert small.pretrain.sequence_length / median_tokens == pytest.approx(8192 / 418, rel=0.15)


def test_arms_differ_in_what_their_names_say_and_in_nothing_else():
    small = study("replica-small")
    assert list(small.arms) == [f"{kind}_{p}" for p in PROTOCOLS for kind in (*MEMORIES, *BASELINES)]
    for (kind, protocol), arm in zip(
        itertools.product((*MEMORIES, *BASELINES), PROTOCOLS),
        (small.arms[f"{kind}_{p}"] for kind in (*MEMORIES, *BASELINES) for p in PROTOCOLS),
        strict=True,
    ):
        assert arm.attention.documents == PROTOCOLS[protocol]
        assert arm.finetune == f"as_{protocol}"
        assert arm.attention.pattern == ["memory" if kind in MEMORIES else kind]
        if kind in MEMORIES:
            assert arm.attention.memory.kind == {"infini": "delta", "ridge": "ridge"}[kind]
            assert (arm.attention.gate.kind, arm.attention.gate.init) == ("hard_sigmoid", 0.0)
    published, intended = (small.finetunes[f"as_{protocol}"] for protocol in PROTOCOLS)
    assert published.training == intended.training
    assert (published.needles.packing, published.needles.loss) == ("packed", "all")
    assert published.needles.prompts.units == "characters"
    assert intended.passkey.max_length == published.needles.sequence_length, "whole prompts in rows of one length"


# Rules


def test_every_memory_meets_every_baseline_in_both_units_and_both_protocols():
    small = study("replica-small")
    made = Counter(
        (claim.arm, claim.against, claim.grid)
        for claim in small.claims
        if claim.against is not None and not claim.depths and claim.rule.kind == "greater"
    )
    for memory, base, protocol, grid in itertools.product(MEMORIES, BASELINES, PROTOCOLS, ("characters", "tokens")):
        assert made[f"{memory}_{protocol}", f"{base}_{protocol}", grid] == 1
    for claim in small.claims:
        assert claim.rule.min_seeds == 3 == len(small.seeds)
        if claim.against is not None and claim.lengths:
            trained = small.finetuning(claim.arm).row_length
            assert claim.grid == "characters" or min(claim.lengths) > trained, "long is longer than trained"
    assert all(grid.seed >= TEST_SEEDS for grid in small.named_grids.values())


def test_the_published_difference_is_judged_as_it_was_published():
    for name, segments in (("replica-small", 16), ("study-300m-as-published", 16)):
        spec = study(name)
        claim = next(each for each in spec.claims if each.id == "infini-beats-segment_local-as-published")
        assert claim.lengths == (segments * spec.segment_length,)
        assert (claim.depths, claim.score, claim.memory_only, claim.grid) == ((0.0,), "contains", False, "characters")


# Equal effort


def test_rates_are_tuned_with_equal_effort_on_other_seeds_and_items():
    small, tune = study("replica-small"), study("replica-small-tune")
    tried: dict[str, list[tuple[float, float]]] = {}
    for name, arm in tune.arms.items():
        whose = name.partition("-")[0]
        assert arm.attention == small.arms[whose].attention
        assert arm.finetune == small.arms[whose].finetune
        tried.setdefault(whose, []).append((arm.pretrain_learning_rate, arm.finetune_learning_rate))
    assert tried.keys() == small.arms.keys()
    assert len({tuple(settings) for settings in tried.values()}) == 1
    assert all(len(set(settings)) == 5 for settings in tried.values())
    for name, arm in small.arms.items():
        assert arm.pretrain_learning_rate in {rate for rate, _ in tried[name]}
        assert arm.finetune_learning_rate in {rate for _, rate in tried[name]}
    assert not set(tune.seeds) & set(small.seeds)
    assert not set(tune.item_seeds.values()) & set(small.item_seeds.values())
    assert (tune.corpus, tune.tokenizer, tune.model, tune.pretrain) == (
        small.corpus,
        small.tokenizer,
        small.model,
        small.pretrain,
    )


def test_the_rates_are_those_that_the_sweep_chose(monkeypatch):
    monkeypatch.syspath_prepend(STUDIES)
    found = importlib.import_module("rates").tried(STUDIES / "replica-small-tune" / "results")
    for name, arm in study("replica-small").arms.items():
        assert found[name].chosen == (arm.pretrain_learning_rate, arm.finetune_learning_rate), name
    assert {len(rates) for each in found.values() for rates in each} == {3}


# Full size


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_full_size_files_say_what_the_recipes_say(name):
    spec = study(name)
    intended = name.endswith("intended")
    for arm, settings in spec.arms.items():
        file = f"{arm if arm in MEMORIES else f'baseline_{arm}'}.yaml"
        recipe = load_recipe(RECIPES / "as_intended" / file if intended else RECIPES / file)
        assert recipe.model == spec.model.model_copy(update={"attention": settings.attention})
        assert (recipe.data.corpus, recipe.data.tokenizer) == (spec.corpus, spec.tokenizer)
        assert recipe.data.sequence_length == spec.pretrain.sequence_length
        assert (recipe.seed,) == spec.seeds
        same_training(recipe.training, spec.pretrain.training, settings.pretrain_learning_rate)
        needles = load_recipe(RECIPES / f"needles_{name.removeprefix('study-300m-').replace('-', '_')}" / file)
        assert needles.data == spec.finetune.needles
        same_training(needles.training, spec.finetune.training, settings.finetune_learning_rate)


def same_training(recipe, training, rate) -> None:
    """The rate of the gates counts only where there are gates, and a recipe without them names none."""
    assert recipe.learning_rate == rate
    update = {"learning_rate": rate}
    if "gate_learning_rate" not in recipe.model_fields_set:
        update["gate_learning_rate"] = recipe.gate_learning_rate
    assert recipe == training.model_copy(update=update)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_full_size_is_planned_without_a_network_and_never_timed_without_an_accelerator(name, monkeypatch, tmp_path):
    def refuse(*given, **named):
        raise AssertionError("a plan asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(estimate, "_measure", refuse)
    monkeypatch.setattr(estimate.torch.cuda, "is_available", lambda: False)
    spec = study(name)
    stages = plan(spec)
    found = {each.stage.name: each for each in estimate_stages(spec, stages, tmp_path, timing=True)}
    assert len(found) == len(stages)
    assert all(each.seconds is None for each in found.values())
    work = found["infini-s42-pretrain"].work
    assert work.tokens == 30_000 * 4 * 8192 == 983_040_000
    # 6 operations a token for each of the 252M weights of matrices, and those of attention beside them
    assert 1.0 < work.flops / work.tokens / (6 * 251.7e6) < 1.25
    tuned = found["infini-s42-finetune"].work.tokens
    assert tuned == 500 * 64 * spec.finetune.row_length


def test_characters_are_counted_as_tokens_about_right_where_there_is_no_tokenizer():
    """The cycle of the filler has 90 characters."""
    assert 90 / characters_per_token(49_152) == pytest.approx(24, rel=0.1)
    assert 90 / characters_per_token(1024) == pytest.approx(39, rel=0.1)


# Plans with several fine-tunings and grids


@pytest.fixture
def smoke():
    content = yaml.safe_load((STUDIES / "replica-smoke.yaml").read_text())
    return json.loads(json.dumps(content))  # what aliases share is apart now


def stages_of(content):
    return {stage.name: stage for stage in plan(parse(StudySpec, content, "smoke"))}


def changed(before, after):
    return {name for name in before if before[name].digest != after[name].digest}


def test_zero_shot_models_are_those_before_fine_tuning(smoke):
    stages = stages_of(smoke)
    zero = stages["infini_published-s0-passkey-characters-pretrained"]
    assert zero.inputs == ("corpus", "infini_published-s0-pretrain")
    assert stages["infini_published-s0-passkey-characters"].inputs == ("corpus", "infini_published-s0-finetune")
    assert "infini_published-s0-passkey-tokens-pretrained" not in stages
    assert Evaluation.of_facts(zero.settings["facts"]) == ("characters", "pretrained")
    smoke["finetunes"]["as_published"]["training"]["steps"] = 7
    expected = {
        f"{arm}_published-s0-{what}"
        for arm in ("infini", "segment_local", "full")
        for what in ("finetune", "passkey-characters", "passkey-tokens")
    }
    assert changed(stages, stages_of(smoke)) == expected


def test_a_grid_changes_its_own_stages_only(smoke):
    before = stages_of(smoke)
    smoke["grids"]["tokens"]["new_tokens"] = 10
    assert {name.rpartition("-")[2] for name in changed(before, stages_of(smoke))} == {"tokens"}


def test_arms_are_fine_tuned_on_what_they_name(smoke, tmp_path):
    stages = stages_of(smoke)
    places = {"corpus": tmp_path / "corpus", "pretrain": tmp_path / "pretrain"}
    published = recipe_of(stages["infini_published-s0-finetune"], places)
    intended = recipe_of(stages["infini_intended-s0-finetune"], places)
    assert isinstance(published.data, NeedlesData)
    assert published.data.prompts.units == "characters"
    assert published.init == intended.init == tmp_path / "pretrain"
    assert intended.data.kind == "passkey"
