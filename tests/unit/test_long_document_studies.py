"""The scripts of the long-document studies run whole at toy size, and go on where they stopped."""

import importlib
import json
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from palimpsest.data import is_heldout
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestConfig
from palimpsest.models.flops import flops_per_token
from palimpsest.training.provenance import origin
from text_case import tokenizer
from training_case import write_texts

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture
def script(monkeypatch):
    """Import a script as the command line does, its folder first on the path; forget it afterwards."""

    def load(folder: str, name: str):
        monkeypatch.syspath_prepend(str(STUDIES / folder))
        return importlib.import_module(name)

    yield load
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(STUDIES)):
            sys.modules.pop(name)


# Continual pretraining


def make_llama(directory: Path, seed: int = 0) -> Path:
    """Save a LLaMA checkpoint with the tokenizer of the tests."""
    sizes = {
        "vocab_size": len(tokenizer()),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "eos_token_id": tokenizer().eos_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def llama(tmp_path):
    return make_llama(tmp_path / "llama")


def asked(tmp_path, llama, *options: object) -> list[str]:
    words = ["--llama", llama, "--corpus", tmp_path / "texts", "--segment-length", 16, "--tokens", 64, "--steps", 3]
    words += ["--curriculum", "32:1", "--backpropagate-segments", 2, "--documents", 2, "--words", 40]
    return [str(word) for word in (tmp_path / "work", *words, "--results", tmp_path / "results", *options)]


def test_continual_pretraining_measures_every_arm_before_and_after(script, tmp_path, llama, capsys):
    write_texts(tmp_path / "texts")
    held = (name for name in (f"more-{number}.txt" for number in range(999)) if is_heldout(name, 0.05))
    for name in islice(held, 2):
        (tmp_path / "texts" / name).write_text(f"This is a line of {name}. " * 30)
    continual = script("smollm2", "continual")
    path = continual.main(asked(tmp_path, llama))
    found = json.loads(path.read_text())
    assert {cost["arm"]: cost["tokens"] for cost in found["costs"]} == dict.fromkeys(continual.DEFAULT_ARMS, 3 * 64)
    assert len({cost["flops"] for cost in found["costs"]}) == 4  # equal tokens are not equal operations
    states = {(each["arm"], each["checkpoint"], each["intervention"]) for each in found["losses"]}
    assert states == {(arm, state, "none") for arm in continual.DEFAULT_ARMS for state in ("converted", "trained")} | {
        ("ridge", "trained", "gate_closed")
    }
    assert {each["words"] for each in found["losses"]} == {40}
    assert found["git_commit"] == origin().git_commit  # of the package, wherever the script is
    assert {commit for cost in found["costs"] for commit in cost["commits"]} == {origin().commit}
    logged = (tmp_path / "work" / "runs" / "ridge-s0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["tokens"] for line in logged] == [64, 128, 192]  # a stage of shorter rows has as many
    recipe = (tmp_path / "work" / "runs" / "ridge-s0" / "recipe.yaml").read_text()
    assert "backpropagate_segments: 2" in recipe
    table = path.with_suffix(".md").read_text()
    assert "ridge, trained − sliding_window, trained" in table
    assert "ridge, trained − ridge, trained, gates closed" in table

    capsys.readouterr()
    again = continual.main(asked(tmp_path, llama))
    assert "measuring" not in capsys.readouterr().out  # nothing is done twice
    assert json.loads(again.read_text())["losses"] == found["losses"]
    with pytest.raises(InputError, match="holds results of other settings"):
        continual.main(asked(tmp_path, llama, "--learning-rate", "0.1"))
    chosen = tmp_path / "work" / "settings.json"
    kept = chosen.read_text()
    chosen.write_text("{}")
    with pytest.raises(InputError, match=r"settings\.json"):
        continual.main(asked(tmp_path, llama))
    chosen.write_text(kept)
    other = make_llama(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="holds results of other settings"):
        continual.main(asked(tmp_path, other))
    assert [cost["state_bytes"] == 0 for cost in found["costs"]] == [False, True, False, False]  # the floor keeps none
    more = json.loads(continual.main(asked(tmp_path, llama, "--seeds", "0,1")).read_text())
    assert "training ridge, seed 1" in (said := capsys.readouterr().out)
    assert "measuring ridge-trained-s0" not in said  # what is there is kept
    assert {each["seed"] for each in more["losses"] if each["checkpoint"] == "trained"} == {0, 1}
    assert [each for each in more["losses"] if each["seed"] == 0] == found["losses"]
    assert "those are over seeds" in path.with_suffix(".md").read_text()


def test_a_difference_of_several_seeds_is_over_seeds(script):
    """Seeds that differ by as much as the arms do leave an interval with zero in it, however alike the documents."""
    table = script("smollm2", "continual_table")
    other = {(seed, document, 0): 0.0 for seed in (0, 1, 2) for document in "abcdefgh"}
    mine = {key: {0: 0.1, 1: 1.0, 2: -0.2}[key[0]] for key in other}
    found = table._difference(mine, other, 0)
    assert found.mean == pytest.approx(0.3)
    assert found.low < 0 < found.high
    assert table._difference({key: 1.0 for key in other if key[0] == 0}, other, 0).bounded is False
    one = {key: value for key, value in mine.items() if key[0] == 1}
    assert table._difference({**one, (1, "a", 0): 1.1}, other, 0).low > 0.9  # of one seed: over documents


def settings(continual, **values):
    fields = {"curriculum": ((32, 4),), "steps": 24, "tokens": 64, "batch_size": 2} | values
    return SimpleNamespace(**fields)


def test_equal_operations_change_the_last_stage_alone(script):
    continual = script("smollm2", "continual")
    configs = {
        arm: PalimpsestConfig(vocab_size=64, hidden_size=64, attention={**continual.ARMS[arm], "segment_length": 16})
        for arm in ("ridge", "full")
    }
    chosen = settings(continual)
    first = continual.budget(configs["ridge"], chosen)
    assert first.steps == 24
    for config in configs.values():  # full attention costs less on the shorter rows of a stage
        by_hand = 64 * 2 * (4 * flops_per_token(config, 32) + 20 * flops_per_token(config, 64))
        assert continual.budget(config, chosen).flops == pytest.approx(by_hand)
    other = continual.budget(configs["full"], chosen, first.flops)
    update = 64 * 2 * flops_per_token(configs["full"], 64)
    assert abs(other.flops - first.flops) <= update / 2
    with pytest.raises(InputError, match="The curriculum has 30 updates"):
        continual.budget(configs["ridge"], settings(continual, curriculum=((32, 30),)))


# Summaries


def test_summaries_are_trained_written_and_scored(script, tmp_path, capsys):
    small = script("summaries_small", "run")
    words = ["--arms", "ridge,full", "--hidden-size", 32, "--layers", 1, "--steps", 2, "--batch-size", 2]
    words += ["--items", 3, "--words", 40, "--row-length", 256, "--max-new-tokens", 6, "--vocab-size", 300]
    given = [str(word) for word in (tmp_path / "work", *words, "--results", tmp_path / "results")]
    path = small.main(given)
    found = json.loads(path.read_text())
    writers = [(each["arm"], each["writer"], each["intervention"]) for each in found["records"]]
    assert len(writers) == 3 * (5 + 4)
    assert found["git_commit"] == origin().git_commit
    assert set(found["training_commits"].values()) == {origin().commit}
    assert ("ridge", "model", "gate_closed") in writers
    assert all(each["reference_loss"] > 0 for each in found["records"] if each["writer"] == "model")
    assert all(0 <= each["fact_recall"] <= 1 for each in found["records"])
    table = path.with_suffix(".md").read_text()
    assert "| ridge, gate_closed |" in table
    assert "ridge − lead" in table
    capsys.readouterr()
    assert json.loads(small.main(given).read_text())["records"] == found["records"]
    assert "documents" not in capsys.readouterr().out
    with pytest.raises(InputError, match="There is no arm 'rigde'"):
        small.main([str(tmp_path / "other"), "--arms", "rigde"])


def test_differences_of_arms_are_paired_and_over_seeds(script):
    small = script("summaries_small", "run")
    path = committed("summaries_small")[0]
    everything = small.Results.model_validate_json(path.read_text()).records
    found = [one for one in everything if one.seed == 0]
    ridge, floor = ([one for one in found if one.arm == arm] for arm in ("ridge", "segment_local"))
    paired = small.arm_difference(found, "ridge", "segment_local", "geometric_mean")
    means = [small.mean_score(each, "geometric_mean").mean for each in (ridge, floor)]
    assert paired.mean == pytest.approx(means[0] - means[1])
    worse = [one.model_copy(update={"seed": 1, "geometric_mean": 0.0}) for one in ridge]
    twice = [*found, *worse, *(one.model_copy(update={"seed": 1}) for one in floor)]
    over_seeds = small.arm_difference(twice, "ridge", "segment_local", "geometric_mean")
    assert over_seeds.n == 2
    assert over_seeds.low < paired.low
    assert small.arm_difference(found, "ridge", "segment_local", "embedding") is None  # nobody has it


# Committed results


def committed(folder: str) -> list[Path]:
    return sorted((STUDIES / folder / "results").glob("*.json"))


@pytest.mark.parametrize("path", [*committed("smollm2"), *committed("summaries_small")], ids=lambda path: path.stem)
def test_the_tables_of_scripts_come_from_the_records_beside_them(script, path):
    name = next((each for each in ("convert", "continual") if path.stem.startswith(each)), "run")
    module = script(path.parents[1].name, name)
    found = module.Results.model_validate_json(path.read_text(encoding="utf-8"))
    rendered = module.render(found.model_dump() if name == "convert" else found)
    assert path.with_suffix(".md").read_text(encoding="utf-8") == rendered
