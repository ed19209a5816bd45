"""The public contract: names, signatures, and what importing them costs."""

import inspect
from importlib import import_module, metadata

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

import palimpsest
from palimpsest import memory
from script_case import python

CONTRACT = {
    "palimpsest": ["PalimpsestConfig", "PalimpsestForCausalLM", "__version__", "convert_llama"],
    "palimpsest.memory": ["DeltaMemory", "LinearMemory", "Memory", "RidgeMemory", "parallel", "scan", "state_bytes"],
    "palimpsest.models": [
        "PalimpsestCache",
        "PalimpsestConfig",
        "PalimpsestForCausalLM",
        "convert_llama",
        "new_weights",
    ],
    "palimpsest.attention": ["AttentionSpec", "MemoryAttention", "Probe", "Site"],
    "palimpsest.probes": ["intervene"],
    "palimpsest.statistics": ["FAIL", "INCONCLUSIVE", "PASS", "Estimate", "contrast", "decide", "estimate"],
}


@pytest.mark.parametrize("module", CONTRACT)
def test_names(module: str) -> None:
    package = import_module(module)
    assert set(CONTRACT[module]) <= set(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)


def test_importing_palimpsest_imports_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "numpy", "scipy", "pydantic", "palimpsest.models"]
    assert python(f"import sys, palimpsest; dir(palimpsest); print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_names_of_models_are_the_same_objects_from_palimpsest() -> None:
    models = import_module("palimpsest.models")
    assert palimpsest.PalimpsestConfig is models.PalimpsestConfig
    assert palimpsest.PalimpsestForCausalLM is models.PalimpsestForCausalLM
    assert palimpsest.convert_llama is models.convert_llama


def test_version() -> None:
    assert palimpsest.__version__ == metadata.version("palimpsest-lm")


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(palimpsest, "PalimpsestForChess")
    with pytest.raises(AttributeError, match="PalimpsestForChess"):
        palimpsest.PalimpsestForChess  # noqa: B018


def test_importing_models_registers_the_auto_classes() -> None:
    import_module("palimpsest.models")
    config = AutoConfig.for_model(
        "palimpsest",
        vocab_size=8,
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        bos_token_id=None,
        eos_token_id=None,
    )
    assert type(config) is palimpsest.PalimpsestConfig
    assert type(AutoModelForCausalLM.from_config(config)) is palimpsest.PalimpsestForCausalLM


SIGNATURES = {
    "init": ["batch", "heads", "d_k", "d_v", "*dtype", "*device"],
    "read": ["state", "q"],
    "write": ["state", "k", "v", "*keep", "*strength"],
    "matrix": ["state"],
    "denominators": ["state", "q"],
    "prefixes": ["state", "k", "v", "keep", "reset", "strength"],
    "scan": ["memory", "q", "k", "v", "*segment_length", "*state", "*keep", "*document_ids", "*strength"],
}


def parameters(function: object) -> list[str]:
    """Return the names of parameters, with a star before those that must be given by keyword."""
    assert callable(function)
    return [
        f"*{p.name}" if p.kind is p.KEYWORD_ONLY else p.name
        for p in inspect.signature(function).parameters.values()
        if p.name != "self"
    ]


@pytest.mark.parametrize("kind", [name for name in memory.__all__ if name.endswith("Memory") and name != "Memory"])
@pytest.mark.parametrize("method", ["init", "read", "write", "matrix", "denominators"])
def test_memories_have_the_functions_of_the_protocol(kind: str, method: str) -> None:
    assert parameters(getattr(getattr(memory, kind)(), method)) == SIGNATURES[method]


def test_all_prefixes_take_the_same() -> None:
    kinds = [getattr(memory, name) for name in memory.__all__ if hasattr(getattr(memory, name), "prefixes")]
    assert len(kinds) >= 5
    for kind in kinds:
        assert parameters(kind().prefixes) == SIGNATURES["prefixes"]


@pytest.mark.parametrize("form", ["scan", "parallel"])
def test_both_forms_take_the_same(form: str) -> None:
    assert parameters(getattr(memory, form)) == SIGNATURES["scan"]
