"""Conversion of LLaMA checkpoints: what is kept, what is new, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM
from transformers.utils.import_utils import is_accelerate_available, is_gguf_available

from llama_case import LLAMAS, SEGMENT, llama, tokens
from palimpsest import convert_llama
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestForCausalLM, PalimpsestModel, new_weights
from palimpsest.models.conversion import closed_attention

RIDGE = {"memory": {"kind": "ridge"}, "segment_length": SEGMENT}
GATES = [f"model.layers.{layer}.self_attn.gate.bias" for layer in range(2)]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    llama().save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def change_weights(directory: Path, **changed: torch.Tensor | None) -> None:
    """Replace weights of a checkpoint, or remove them (None); names have _ in place of dots."""
    file = directory / "model.safetensors"
    weights = load_file(file)
    names = {name.replace(".", "_"): name for name in weights}
    for key, value in changed.items():
        if value is None:
            del weights[names[key]]
        else:
            weights[names.get(key, key)] = value
    save_file(weights, file, metadata={"format": "pt"})


def change_config(directory: Path, **changed: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


# What a block says, and what conversion adds


def test_a_block_is_completed_and_never_overruled() -> None:
    assert closed_attention() == {"first_segment": "local", "gate": {"init": -4.0}}
    assert closed_attention({"gate": {"kind": "hard_sigmoid"}})["gate"]["init"] == -2.25
    given = {"first_segment": "gated", "gate": {"kind": "token", "init": 1.5}, "segment_length": 7}
    assert closed_attention(given) == given
    model = convert_llama(llama(), given)
    assert model.config.attention_spec.first_segment == "gated"
    assert model.state_dict()[GATES[0]].tolist() == [1.5] * 4


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"segment_lenght": 3}, "Did you mean 'segment_length'"),
        ({"memory": {"kind": "rigde"}}, "Did you mean 'ridge'"),
        ({"pattern": ["memory"] * 3}, "more than num_hidden_layers"),
        ({"gate": {"kind": "sigmiod"}}, "Did you mean 'sigmoid'"),
        ("memory", "a mapping"),
    ],
)
def test_a_block_that_cannot_be(block, words) -> None:
    with pytest.raises(InputError, match=f"attention: .*{words}"):
        convert_llama(llama(), block)


def test_new_weights_are_named() -> None:
    model = convert_llama(llama(), {**RIDGE, "pattern": ["memory", "full"]})
    assert new_weights(model.config) == (GATES[0], "model.layers.0.self_attn.memory.ridge")
    token = convert_llama(llama(), {"gate": {"kind": "token"}})
    assert set(new_weights(token.config)) == {*GATES, *(name.replace("bias", "weight") for name in GATES)}
    assert new_weights(convert_llama(llama(), {"pattern": "full"}).config) == ()


# What is kept


@pytest.mark.parametrize("kind", LLAMAS)
def test_the_configuration_is_kept(kind: str) -> None:
    reference = llama(kind)
    ours, theirs = convert_llama(reference).config.to_dict(), reference.config.to_dict()
    changed = {name for name in ours if ours[name] != theirs.get(name)}
    assert changed <= {"attention", "model_type", "architectures", "_name_or_path", "dtype"}
    assert set(theirs) <= set(ours) | {"_name_or_path"}


def test_generation_settings_and_special_tokens_are_kept(saved: Path) -> None:
    settings = {"do_sample": True, "temperature": 0.25, "top_k": 7, "eos_token_id": [2, 3], "bos_token_id": 1}
    (saved / "generation_config.json").write_text(json.dumps(settings))
    model = convert_llama(saved)
    assert {name: getattr(model.generation_config, name) for name in settings} == settings
    assert (model.config.eos_token_id, model.config.pad_token_id) == ([2, 3], 0)


def test_the_dtype_of_a_checkpoint_is_kept(tmp_path: Path) -> None:
    llama(dtype=torch.bfloat16).save_pretrained(tmp_path / "llama")
    model = convert_llama(tmp_path / "llama", RIDGE)
    assert model.dtype == torch.bfloat16
    assert not model.training
    model.save_pretrained(tmp_path / "ours")
    again = PalimpsestForCausalLM.from_pretrained(tmp_path / "ours")
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())


def test_the_original_is_left_alone() -> None:
    reference, x = llama("tied").train(), tokens(SEGMENT)
    before = {name: weight.clone() for name, weight in reference.state_dict().items()}
    model = convert_llama(reference, RIDGE)
    assert model.training
    model(x, labels=x).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(weight, before[name]) for name, weight in reference.state_dict().items())
    assert all(parameter.grad is None for parameter in reference.parameters())
    assert reference.config.model_type == "llama"


def test_conversion_is_a_pure_function() -> None:
    torch.rand(3)
    state = torch.random.get_rng_state()
    block = {"pattern": ["memory", "delta_net"]}  # whose convolutions begin at random
    one, other, seeded = (convert_llama(llama(), block, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    weights, same, drawn = one.state_dict(), other.state_dict(), seeded.state_dict()
    assert all(torch.equal(weight, same[name]) for name, weight in weights.items())
    differing = {name for name, weight in weights.items() if not torch.equal(weight, drawn[name])}
    assert differing
    assert differing < set(new_weights(one.config))


def test_a_string_is_a_path(saved: Path) -> None:
    assert torch.equal(convert_llama(str(saved)).lm_head.weight, llama().lm_head.weight)


# What is refused


def test_a_model_of_another_architecture(tmp_path: Path) -> None:
    tiny = {"vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2}
    gpt = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, **tiny))
    with pytest.raises(InputError, match="The model is a GPT2LMHeadModel, not a LlamaForCausalLM"):
        convert_llama(gpt)
    mistral = MistralConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, **tiny
    )
    for model, said in (
        (gpt, r"is a gpt2 model \(GPT2LMHeadModel\), not LLaMA"),
        (MistralForCausalLM(mistral), r"is a mistral model \(MistralForCausalLM\), not LLaMA"),
        (convert_llama(llama()), r"is a palimpsest model \(PalimpsestForCausalLM\), not LLaMA"),
    ):
        directory = tmp_path / type(model).__name__
        model.save_pretrained(directory)
        with pytest.raises(InputError, match=said):
            convert_llama(directory)


def test_a_llama_of_another_task(saved: Path) -> None:
    change_config(saved, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(InputError, match=r"is a llama model \(LlamaForSequenceClassification\), not LLaMA"):
        convert_llama(saved)


def test_a_quantised_checkpoint(saved: Path) -> None:
    change_config(saved, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(InputError, match=r"is quantised \(gptq\); dequantise it"):
        convert_llama(saved)
    model = llama()
    model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.uint8), False)
    with pytest.raises(InputError, match=r"quantised \(model.layers.1.mlp.up_proj.weight"):
        convert_llama(model)


def test_nothing_to_convert(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist; give the directory of a LLaMA checkpoint"):
        convert_llama(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"there is no config\.json in it"):
        convert_llama(tmp_path)
    (tmp_path / "model.bin").write_text("x")
    with pytest.raises(InputError, match=r"model\.bin is a file"):
        convert_llama(tmp_path / "model.bin")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        convert_llama(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="names no model_type"):
        convert_llama(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled weights are not read")
    with pytest.raises(InputError, match=r"holds no LLaMA model that can be read: .*model\.safetensors"):
        convert_llama(tmp_path)


def test_missing_weights_are_named(saved: Path) -> None:
    change_weights(saved, model_layers_1_mlp_up_proj_weight=None, model_norm_weight=None)
    with pytest.raises(InputError, match=r"lacks the weights model\.layers\.1\.mlp\.up_proj\.weight, model\.norm"):
        convert_llama(saved)


def test_weights_that_would_be_lost_are_named(saved: Path) -> None:
    change_weights(saved, **{"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)})
    with pytest.raises(
        InputError, match=r"beside those of LLaMA, the weights model\.layers\.0\.self_attn\.q_proj\.bias"
    ):
        convert_llama(saved)


def test_a_weight_of_another_shape_is_named(saved: Path) -> None:
    change_weights(saved, model_layers_0_self_attn_k_proj_weight=torch.zeros(32, 32))
    said = r"model\.layers\.0\.self_attn\.k_proj\.weight is \[32, 32\], .* should be \[16, 32\]"
    with pytest.raises(InputError, match=said):
        convert_llama(saved)


def test_truncated_weights(saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(InputError, match="holds no LLaMA model that can be read"):
        convert_llama(saved)


def test_a_gguf_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.gguf does not exist"):
        convert_llama(tmp_path / "model.gguf")


@pytest.mark.skipif(is_gguf_available() and is_accelerate_available(), reason="the packages are installed")
def test_a_gguf_file_without_the_packages(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"needs the packages gguf and accelerate; .*palimpsest-lm\[gguf\]"):
        convert_llama(tmp_path / "model.gguf")


@pytest.mark.skipif(not (is_gguf_available() and is_accelerate_available()), reason="needs the extra 'gguf'")
def test_a_gguf_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"model\.gguf holds no model that transformers can read"):
        convert_llama(tmp_path / "model.gguf")


# Checkpoints of ours


@pytest.mark.parametrize(
    "lost", [GATES, ["model.layers.1.self_attn.memory.ridge"], ["model.layers.0.mlp.up_proj.weight"]]
)
@pytest.mark.parametrize("kind", [PalimpsestForCausalLM, PalimpsestModel])
def test_a_checkpoint_of_ours_that_lacks_weights_is_refused(lost: list[str], kind, tmp_path: Path) -> None:
    convert_llama(llama(), RIDGE).save_pretrained(tmp_path)
    change_weights(tmp_path, **{name.replace(".", "_"): None for name in lost})
    prefix = "" if kind is PalimpsestForCausalLM else "model."
    with pytest.raises(InputError) as refused:
        kind.from_pretrained(tmp_path)
    assert str(refused.value) == f"{tmp_path} lacks the weights {', '.join(n.removeprefix(prefix) for n in lost)}."


def test_a_checkpoint_of_ours_that_is_whole_is_loaded(tmp_path: Path) -> None:
    model = convert_llama(llama("tied"), RIDGE)
    model.save_pretrained(tmp_path)
    again, report = PalimpsestForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
    assert isinstance(PalimpsestModel.from_pretrained(tmp_path), PalimpsestModel)


def test_a_llama_directory_is_loaded_with_new_gates(saved: Path) -> None:
    model, report = PalimpsestForCausalLM.from_pretrained(saved, attention=RIDGE, output_loading_info=True)
    assert set(report["missing_keys"]) == set(new_weights(model.config))
    assert isinstance(PalimpsestForCausalLM.from_pretrained(saved, attention=RIDGE), PalimpsestForCausalLM)
