"""Exported models: the code that travels with them, the card, and the folder as a whole."""

import json
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from cli_case import run
from laws.model_cases import ATTENTION, SEGMENT, VOCABULARY, build, tokens
from palimpsest.data.tokenizer import train_tokenizer
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.models.bundle import bundle
from palimpsest.models.card import CardFacts, bytes_of_a_sequence, kinds_of_layers, model_card
from palimpsest.models.export import AUTO_MAP, bundled, code, export, flat_name
from training_case import recipe_values, text_data, write_texts

LIBRARIES = {"torch", "transformers", "huggingface_hub", "pydantic", "pydantic_core", "yaml", "safetensors"}
"""What an exported model may need."""


def small(name: str = "memory_and_full", vocab_size: int = VOCABULARY) -> PalimpsestForCausalLM:
    return build(ATTENTION[name], vocab_size=vocab_size).float()


# Making imports relative


def package(folder: Path, name: str, **modules: str) -> None:
    """Write a package; ``sub__leaf`` is the module ``leaf`` of its package ``sub``, ``sub__init`` that package."""
    for module, text in ({"init": ""} | modules).items():
        *above, leaf = module.split("__")
        file = folder.joinpath(name, *above, f"{'__init__' if leaf == 'init' else leaf}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


@pytest.fixture
def inkpot(tmp_path, monkeypatch):
    """Return a function that writes the package ``inkpot`` and bundles it from ``inkpot.main`` on."""
    monkeypatch.syspath_prepend(tmp_path / "source")

    def write(**modules: str) -> dict[str, str]:
        package(tmp_path / "source", "inkpot", **modules)
        return bundle("inkpot.main", lambda module: "_".join(module.split(".")[1:]) or module)

    yield write
    for module in [module for module in sys.modules if module.split(".")[0] == "inkpot"]:
        del sys.modules[module]


MAIN = """\
\"\"\"Wörter.\"\"\"

from typing import TYPE_CHECKING

import json, os
from inkpot.sub import (  # both by way of the package
    Blot as Stain,
    spill,
)
from inkpot.sub.paper import WIDTH  # noqa: F401

if TYPE_CHECKING:
    from inkpot.kinds import Kind


def late() -> "Kind":
    from inkpot.tools import wipe

    return wipe(Stain, spill, WIDTH, "ä")
"""


def test_every_import_is_made_relative_and_nothing_else_is_touched(inkpot):
    found = inkpot(
        main=MAIN,
        sub__init="from inkpot.sub.blot import Blot\nfrom inkpot.sub.pour import pour as spill\nimport heavy\n",
        sub__blot="class Blot: ...\n",
        sub__pour="def pour(): ...\n",
        sub__paper="WIDTH = 3\n",
        sub__unused="",
        kinds="class Kind: ...\n",
        tools="def wipe(*all): return all\n",
    )
    assert list(found) == [f"inkpot.{name}" for name in ("kinds", "main", "sub.blot", "sub.paper", "sub.pour", "tools")]
    assert found["inkpot.main"] == MAIN.replace(
        "from inkpot.sub import (  # both by way of the package\n    Blot as Stain,\n    spill,\n)",
        "from .sub_blot import Blot as Stain\nfrom .sub_pour import pour as spill",
    ).replace("inkpot.sub.paper", ".sub_paper").replace("inkpot.", ".")
    assert found["inkpot.tools"] == "def wipe(*all): return all\n"


def test_a_name_that_a_package_defines_itself_brings_its_init_along(inkpot):
    found = inkpot(main="from inkpot.sub import CAP, lid\n", sub__init="CAP: int = 1\ndef lid(): ...\n")
    assert found["inkpot.main"] == "from .sub import CAP, lid\n"
    assert list(found) == ["inkpot.main", "inkpot.sub"]


def test_long_imports_are_written_over_several_lines(inkpot):
    names = [f"name_number_{number}" for number in range(12)]
    found = inkpot(main=f"from inkpot.leaf import {', '.join(names)}\n", leaf="\n".join(f"{n} = 1" for n in names))
    assert found["inkpot.main"].splitlines() == ["from .leaf import (", *(f"    {name}," for name in names), ")"]


REFUSED = {
    "import inkpot.leaf": "names what it needs",
    "import inkpot.leaf as leaf": "names what it needs",
    "import inkpot": "names what it needs",
    "from inkpot.leaf import *": "names every name",
    "from .leaf import x": "in full",
    "from . import leaf": "in full",
    "from inkpot import leaf": "imports a module",
    "from inkpot import missing": "does not say where its name missing",
    "from inkpot.nowhere import x": "no source of the module inkpot.nowhere",
    "if True: from inkpot.leaf import x": "alone on its lines",
    "from inkpot.leaf import x; y = 1": "alone on its lines",
    "import importlib; importlib.import_module('inkpot.leaf')": "is a statement",
    "from inkpot.sub_leaf import x\nfrom inkpot.sub.leaf import x": "would both become sub_leaf.py",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_made_relative_is_refused(inkpot, line):
    with pytest.raises(ValueError, match=REFUSED[line]):
        inkpot(main=line + "\n", leaf="x = 1\n", sub_leaf="x = 1\n", sub__init="", sub__leaf="x = 1\n")


def test_the_place_of_what_is_refused_is_named(inkpot):
    with pytest.raises(ValueError, match=r"inkpot\.main, line 3: 'import inkpot\.leaf' cannot be made relative"):
        inkpot(main="\n\nimport inkpot.leaf\n", leaf="")


# The code of a model


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("code")
    for name, text in code().items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_transformers_finds_exactly_the_files_that_are_written(files):
    entry = files / "modeling_palimpsest.py"
    assert {Path(file) for file in get_relative_import_files(entry)} | {entry} == set(files.iterdir())


def test_the_files_need_no_more_than_they_may(files):
    needed = {name for file in files.iterdir() for name in get_imports(file)}
    assert needed - sys.stdlib_module_names <= LIBRARIES
    assert {"torch", "transformers", "pydantic"} <= needed


def test_only_what_a_model_reaches_is_written():
    reached = set(bundled())
    assert {"palimpsest.models.modeling", "palimpsest.models.configuration", "palimpsest.memory.base"} <= reached
    assert not reached & {"palimpsest.models", "palimpsest.attention", "palimpsest.models.export", "palimpsest.testing"}
    assert not any(module.split(".")[1] in ("cli", "data", "training", "study", "report") for module in reached)


def test_every_file_says_what_it_is_and_where_it_comes_from(files):
    for file in files.iterdir():
        license_line, origin, module, *_ = file.read_text(encoding="utf-8").splitlines()
        assert license_line == "# SPDX-License-Identifier: Apache-2.0"
        assert "palimpsest-lm 0." in origin
        assert flat_name(module.removeprefix("# ")) == file.stem


def test_names_of_files():
    assert flat_name("palimpsest.models.modeling") == "modeling_palimpsest"
    assert flat_name("palimpsest.models.configuration") == "configuration_palimpsest"
    assert flat_name("palimpsest.memory.base") == "memory_base"
    assert flat_name("palimpsest.schema") == "schema"


# The folder


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Once upon a time there was a page. " * 9], 290)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "page"
    export(small(vocab_size=len(tokenizer)), folder, tokenizer)
    return folder


def test_the_folder_holds_all_that_a_model_is(exported):
    rest = {file.name for file in exported.iterdir() if file.suffix != ".py"}
    assert rest == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {file.name for file in exported.glob("*.py")} == set(code())
    assert json.loads((exported / "config.json").read_text())["auto_map"] == AUTO_MAP
    assert [path.name for path in exported.parent.iterdir()] == ["page"]


def test_where_the_package_is_imported_its_own_classes_load_and_nobody_is_asked(exported, monkeypatch, capfd):
    def ask(prompt: str = "") -> str:
        raise AssertionError("transformers asks whether to trust")

    monkeypatch.setattr("builtins.input", ask)
    config = AutoConfig.from_pretrained(exported)
    model = AutoModelForCausalLM.from_pretrained(exported)
    assert type(config).__module__ == "palimpsest.models.configuration"
    assert type(model) is PalimpsestForCausalLM
    assert "trust" not in "".join(capfd.readouterr())
    x = tokens(2, 3 * SEGMENT + 1)
    assert torch.equal(model(x).logits, small(vocab_size=model.config.vocab_size)(x).logits)
    assert len(AutoTokenizer.from_pretrained(exported)) == model.config.vocab_size


def test_a_model_keeps_its_dtype_and_learns_of_no_files(tmp_path):
    model = small().bfloat16()
    export(model, tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert "auto_map" not in model.config.to_dict()  # the package's own model names no files


def test_an_export_saved_by_the_package_names_no_code_that_is_not_there(exported, tmp_path):
    AutoModelForCausalLM.from_pretrained(exported).save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is PalimpsestForCausalLM


def test_an_empty_directory_is_filled_and_another_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    export(small(), tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").is_file()
    with pytest.raises(InputError, match="is not empty; give a new directory"):
        export(small(), tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; give a new directory"):
        export(small(), tmp_path / "file")


def test_what_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("the disk is gone")

    monkeypatch.setattr("palimpsest.models.export.model_card", fail)
    with pytest.raises(InputError, match="out could not be written, and nothing is left of it: the disk is gone"):
        export(small(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


# The card


def test_what_stands_before_the_card_is_what_the_hub_reads(exported):
    assert ModelCard.load(exported / "README.md").data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "tags": ["palimpsest", "long-context", "memory", "full"],
    }


def test_the_card_says_what_it_was_told():
    facts = CardFacts("Vellum", "mit", "somebody/llama", (("hardware", "an abacus | two beads"),))
    card = ModelCard(model_card(small(), facts, ["torch>=2.9"]))
    assert card.data.to_dict().items() >= {"license": "mit", "base_model": "somebody/llama"}.items()
    assert card.text.strip().startswith("# Vellum\n")
    for said in ("converted from somebody/llama", "| hardware | an abacus \\| two beads |", "`torch>=2.9`"):
        assert said in card.text
    assert "Nothing is recorded of how" not in card.text


def test_the_card_counts(exported, tokenizer):
    model = small(vocab_size=len(tokenizer))
    text = (exported / "README.md").read_text(encoding="utf-8")
    assert f"{sum(weight.numel() for weight in model.parameters()):,} parameters in float32" in text
    assert "| 0 | memory (decayed_ridge) |" in text
    assert "| 1 | full |" in text
    assert "Nothing is recorded of how" in text
    assert "pydantic>=" in text


@pytest.mark.parametrize("name", ATTENTION)
def test_the_bytes_of_the_card_are_those_that_are_kept(name):
    model = small(name)
    cache, length = PalimpsestCache(model.config), 8 * SEGMENT + 1
    with torch.no_grad():
        model(tokens(1, length), past_key_values=cache)
    fixed, growing = bytes_of_a_sequence(kinds_of_layers(model))
    assert sum(cache.bytes()) == fixed + growing * length


@pytest.mark.parametrize(("name", "forgets", "grows"), [("full", False, True), ("ridge", True, False)])
def test_the_card_knows_what_forgets_and_what_grows(name, forgets, grows):
    text = model_card(small(name), CardFacts("x"), [])
    assert ("so they forget" in text, "grows with every token" in text) == (forgets, grows)


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    values = recipe_values(text_data(write_texts(folder / "texts")), steps=2, warmup_steps=1)
    (folder / "recipe.yaml").write_text(json.dumps(values))
    result = run("train", folder / "recipe.yaml", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder / "run"


def test_a_run_is_exported_with_its_history(trained, tmp_path):
    result = run("export", trained, tmp_path / "page", "--license", "mit", "--title", "Page")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"Exported: {tmp_path / 'page'}\n"
    text = (tmp_path / "page" / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in text
    assert "# Page\n" in text
    assert "| so far | 2 updates, " in text
    assert "| begun from | new weights |" in text
    assert "| data | texts, in rows of 96 tokens |" in text
    assert str(trained.parent) not in text
    provenance = json.loads((trained / "provenance.json").read_text())
    for said in (provenance["recipe_sha256"], provenance["data_fingerprint"], provenance["hardware"]):
        assert said in text
    saved = AutoModelForCausalLM.from_pretrained(trained / "checkpoints" / "step-2").state_dict()
    for name, weight in AutoModelForCausalLM.from_pretrained(tmp_path / "page").state_dict().items():
        assert torch.equal(weight, saved[name])


def test_a_checkpoint_without_a_tokenizer_is_exported_in_its_dtype(tmp_path):
    small().bfloat16().save_pretrained(tmp_path / "checkpoint")
    result = run("export", tmp_path / "checkpoint", tmp_path / "page", "--base-model", "somebody/llama")
    assert result.exit_code == 0, result.output
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "page").dtype == torch.bfloat16
    assert ModelCard.load(tmp_path / "page" / "README.md").data.get("base_model") == "somebody/llama"


def test_an_export_can_be_exported_again(exported, tmp_path):
    assert run("export", exported, tmp_path / "again").exit_code == 0
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes(), name


def test_bad_input_is_refused_in_one_sentence(exported, tmp_path):
    for words, sentence in (
        ((tmp_path / "nothing", tmp_path / "page"), "is no checkpoint: there is no config.json in it."),
        ((exported, exported), "is not empty; give a new directory for the model."),
        ((exported, exported / "README.md"), "is a file; give a new directory for the model."),
    ):
        result = run("export", *words)
        assert result.exit_code == 2
        assert result.stderr.startswith("palimpsest: ")
        assert result.stderr.endswith(f"{sentence}\n")
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "page").exists()
