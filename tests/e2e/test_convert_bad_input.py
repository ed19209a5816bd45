"""``palimpsest convert``: what it writes and says, and what it refuses in one sentence with exit code 2."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from cli_case import refused, run
from llama_case import llama, tokens
from palimpsest.data import load_tokenizer, train_tokenizer
from palimpsest.models import PalimpsestForCausalLM, convert_llama

pytestmark = pytest.mark.e2e


@pytest.fixture
def source(tmp_path: Path) -> Path:
    llama("tied", torch.bfloat16).save_pretrained(tmp_path / "llama")
    train_tokenizer(["the text of a tokenizer"], 300).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_checkpoint_is_converted(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "ours"
    result = run("convert", source, out, "--segment-length", 16, "--memory", "ridge", "--pattern", "memory,full")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    kept = llama("tied")
    assert lines == [
        f"Checkpoint: {out}",
        f"kept: {len(kept.state_dict()) - 1} weights, {kept.num_parameters():,} numbers in bfloat16, bit for bit",
        "new: 8 numbers",
        "  model.layers.*.self_attn.gate.bias in 1 layer",
        "  model.layers.*.self_attn.memory.ridge in 1 layer",
        "layers: 1 memory (ridge), 1 full; segments of 16 tokens",
        "tokenizer: kept",
    ]
    assert left(out.parent) == {"ours"}
    model = PalimpsestForCausalLM.from_pretrained(out)
    block = {"segment_length": 16, "memory": {"kind": "ridge"}, "pattern": ["memory", "full"]}
    expected, x = convert_llama(source, block), tokens(40)
    assert model.config.attention_spec == expected.config.attention_spec
    with torch.no_grad():
        assert torch.equal(model(x).logits, expected(x).logits)
    assert load_tokenizer(out).get_vocab() == AutoTokenizer.from_pretrained(source).get_vocab()


def test_a_block_from_a_file_and_options_over_it(source: Path, tmp_path: Path) -> None:
    block = tmp_path / "block.yaml"
    block.write_text("{segment_length: 8, memory: {kind: ridge, ridge: 2.5}, pattern: [sliding_window, memory]}")
    result = run("convert", source, tmp_path / "one", "--attention", block, "--gate-init", -3, "--memory", "ridge")
    assert result.exit_code == 0, result.output
    spec = PalimpsestForCausalLM.from_pretrained(tmp_path / "one").config.attention_spec
    assert (spec.segment_length, spec.memory.ridge, spec.gate.init, spec.first_segment) == (8, 2.5, -3.0, "local")
    assert spec.pattern == ["sliding_window", "memory"]
    result = run("convert", source, tmp_path / "two", "--attention", block, "--memory", "delta", "--pattern", "memory")
    assert result.exit_code == 0, result.output
    spec = PalimpsestForCausalLM.from_pretrained(tmp_path / "two").config.attention_spec
    assert (spec.memory.kind, spec.pattern, spec.segment_length) == ("delta", ["memory"], 8)


def test_without_a_tokenizer(source: Path, tmp_path: Path) -> None:
    for path in source.glob("*token*"):
        path.unlink()
    (tmp_path / "out").mkdir()  # an empty directory is free
    result = run("convert", source, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "tokenizer: none was there; training needs one in OUT"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--memory", "rigde"], ["unknown value 'rigde' of 'memory.kind'", "Did you mean 'ridge'?"]),
        (["--pattern", "memory,fulll"], ["'pattern[1]'", "Did you mean 'full'?"]),
        (["--pattern", "memory,,full"], ["--pattern", "names separated by commas"]),
        (["--pattern", "memory,full,full"], ["names 3 layers", "num_hidden_layers (2)"]),
        (["--segment-length", 0], ["segment_length", "greater than or equal to 1"]),
        (["--gate-init", "inf"], ["gate.init", "finite"]),
        (["--attention", "nowhere.yaml"], ["nowhere.yaml: cannot be read"]),
    ],
)
def test_options_that_cannot_be(source: Path, tmp_path: Path, options: list, words: list[str]) -> None:
    sentence = refused("convert", source, tmp_path / "out", *options)
    assert all(word in sentence for word in words), sentence
    assert left(tmp_path) == {"llama"}


def test_a_misspelt_key_of_a_block(source: Path, tmp_path: Path) -> None:
    (tmp_path / "block.yaml").write_text("segment_length: 8\nmemroy: {kind: ridge}\n")
    sentence = refused("convert", source, tmp_path / "out", "--attention", tmp_path / "block.yaml")
    assert sentence.startswith(f"{tmp_path / 'block.yaml'}, line 2")
    assert "Did you mean 'memory'?" in sentence


def test_a_directory_that_is_not_free(source: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("keep me")
    assert "thesis is not empty; give a new directory" in refused("convert", source, tmp_path / "thesis")
    assert "thesis.txt is a file" in refused("convert", source, tmp_path / "thesis" / "thesis.txt")
    assert left(tmp_path / "thesis") == {"thesis.txt"}


def test_what_is_not_llama(source: Path, tmp_path: Path) -> None:
    assert "nowhere does not exist" in refused("convert", tmp_path / "nowhere", tmp_path / "out")
    assert run("convert", source, tmp_path / "ours").exit_code == 0
    sentence = refused("convert", tmp_path / "ours", tmp_path / "out")
    assert "is a palimpsest model (PalimpsestForCausalLM), not LLaMA" in sentence
    weights = load_file(source / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    assert "lacks the weights model.norm.weight" in refused("convert", source, tmp_path / "out")
    assert left(tmp_path) == {"llama", "ours"}


def test_a_damaged_tokenizer(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").write_text("{")
    assert "a tokenizer that transformers cannot load" in refused("convert", source, tmp_path / "out")
    assert left(tmp_path) == {"llama"}


def test_a_full_disk_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_up(self, directory):
        (directory / "config.json").write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PalimpsestForCausalLM, "save_pretrained", fill_up)
    sentence = refused("convert", source, tmp_path / "out")
    assert "out could not be written, and nothing is left of it" in sentence
    assert "No space left on device" in sentence
    assert left(tmp_path) == {"llama"}


@pytest.mark.parametrize("command", [["generate", "--prompt", "the"], ["eval", "--items", 1]])
def test_commands_refuse_a_checkpoint_whose_gates_are_missing(source: Path, tmp_path: Path, command: list) -> None:
    assert run("convert", source, tmp_path / "ours").exit_code == 0
    file = tmp_path / "ours" / "model.safetensors"
    weights = {name: weight for name, weight in load_file(file).items() if ".gate." not in name}
    save_file(weights, file, metadata={"format": "pt"})
    sentence = refused(command[0], tmp_path / "ours", *command[1:])
    names = ", ".join(f"model.layers.{layer}.self_attn.gate.bias" for layer in range(2))
    assert sentence == f"{tmp_path / 'ours'} lacks the weights {names}."
