"""The ``attention`` block: defaults, what it builds, and one sentence for everything that is wrong with it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import softplus

from palimpsest.attention import AttentionSpec, FullAttention, MemoryAttention, SegmentLocalAttention
from palimpsest.attention.memories import (
    AssociativeSpec,
    DecayedRidgeSpec,
    DeltaSpec,
    HebbianSpec,
    LinearSpec,
    MemoryRule,
    RidgeSpec,
    TokenDeltaSpec,
)
from palimpsest.attention.spec import GateSpec
from palimpsest.errors import InputError
from palimpsest.memory import (
    FEATURE_MAPS,
    AssociativeMemory,
    DecayedRidgeMemory,
    DeltaMemory,
    HebbianMemory,
    LinearMemory,
    RidgeMemory,
    RidgeRootMemory,
    TokenDeltaMemory,
)
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.testing import assert_close

SIZES: dict = {
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
}


def config(attention: object = None, **fields: object) -> PalimpsestConfig:
    return PalimpsestConfig(**(SIZES | fields), attention=attention)


KINDS = "linear, delta, ridge, hebbian, decayed_ridge, token_delta, associative"
DIVIDES = (
    "'memory.features': should be features that are never negative, for reads divide by a sum of them; "
    "those of a name with identity or _centred can be (the memories hebbian, ridge, decayed_ridge and token_delta take "
    "them) (got '{}')."
)

WRONG = {
    "segment_lenght": ({"segment_lenght": 8}, "unknown key 'segment_lenght'. Did you mean 'segment_length'?"),
    "patern": ({"patern": ["full"]}, "unknown key 'patern'. Did you mean 'pattern'?"),
    "gates": ({"gates": {}}, "unknown key 'gates'. Did you mean 'gate'?"),
    "pattern kind": ({"pattern": ["memory", "fulll"]}, "unknown value 'fulll' of 'pattern[1]'. Did you mean 'full'?"),
    "pattern of one": ({"pattern": "ful"}, "unknown value 'ful' of 'pattern[0]'. Did you mean 'full'?"),
    "pattern empty": ({"pattern": []}, "'pattern': should have at least 1 item(s) (got [])."),
    "pattern too long": (
        {"pattern": ["memory"] * 4 + ["full"]},
        "'pattern' names 5 layers, more than num_hidden_layers (4).",
    ),
    "memory kind": ({"memory": {"kind": "detla"}}, "unknown value 'detla' of 'memory.kind'. Did you mean 'delta'?"),
    "memory kind unlike any": (
        {"memory": {"kind": "titans"}},
        f"unknown value 'titans' of 'memory.kind'. Known: {', '.join(sorted(KINDS.split(', ')))}.",
    ),
    "memory without kind": (
        {"memory": {"features": "elu1"}},
        f"missing key 'memory.kind', one of {KINDS}.",
    ),
    "memory by name": (
        {"memory": "ridge"},
        f"'memory': should be a mapping with the key 'kind' (one of {KINDS}) (got 'ridge').",
    ),
    "key of another memory": (
        {"memory": {"kind": "linear", "ridge": 1.0}},
        "unknown key 'memory.ridge' of kind 'linear'. Known: features, kind, strength.",
    ),
    "normalizer": (
        {"memory": {"kind": "delta", "normalizer": "inclusive"}},
        "unknown key 'memory.normalizer' of kind 'delta'. Did you mean 'normaliser'?",
    ),
    "normaliser": (
        {"memory": {"kind": "delta", "normaliser": "exclusiv"}},
        "unknown value 'exclusiv' of 'memory.normaliser'. Did you mean 'exclusive'?",
    ),
    "features": (
        {"memory": {"kind": "linear", "features": "relu"}},
        "unknown value 'relu' of 'memory.features'. Did you mean 'elu1'?",
    ),
    "features of two words": (
        {"memory": {"kind": "ridge", "features": "elu1_centered"}},
        "unknown value 'elu1_centered' of 'memory.features'. Did you mean 'elu1_centred'?",
    ),
    "features no text": (
        {"memory": {"kind": "ridge", "features": 1}},
        "'memory.features': should be text (got 1).",
    ),
    "features unlike any": (
        {"memory": {"kind": "hebbian", "features": "?"}},
        f"unknown value '?' of 'memory.features'. Known: {', '.join(sorted(FEATURE_MAPS))}.",
    ),
    "signed features in linear": (
        {"memory": {"kind": "linear", "features": "identity_l2"}},
        DIVIDES.format("identity_l2"),
    ),
    "signed features in delta": (
        {"memory": {"kind": "delta", "features": "elu1_centred"}},
        DIVIDES.format("elu1_centred"),
    ),
    "signed features in associative": (
        {"memory": {"kind": "associative", "features": "dpfp2_centred_l2"}},
        DIVIDES.format("dpfp2_centred_l2"),
    ),
    "strength": (
        {"memory": {"kind": "ridge", "strength": "tokens"}},
        "unknown value 'tokens' of 'memory.strength'. Did you mean 'token'?",
    ),
    "half_life": (
        {"memory": {"kind": "decayed_ridge", "half_life": 0}},
        "'memory.half_life': should be greater than or equal to 0.001 (got 0).",
    ),
    "ridge": (
        {"memory": {"kind": "ridge", "ridge": 0}},
        "'memory.ridge': should be greater than 0 (got 0).",
    ),
    "gate kind": ({"gate": {"kind": "sigmod"}}, "unknown value 'sigmod' of 'gate.kind'. Did you mean 'sigmoid'?"),
    "gate by name": (
        {"gate": "sigmoid"},
        "'gate': should be a mapping with keys among init, kind (got 'sigmoid').",
    ),
    "gate init": ({"gate": {"init": float("-inf")}}, "'gate.init': should be a finite number (got -inf)."),
    "segment_length zero": ({"segment_length": 0}, "'segment_length': should be greater than or equal to 1 (got 0)."),
    "segment_length text": ({"segment_length": "long"}, "'segment_length': should be a whole number (got 'long')."),
    "first_segment": (
        {"first_segment": "gate"},
        "unknown value 'gate' of 'first_segment'. Did you mean 'gated'?",
    ),
    "documents": ({"documents": "rest"}, "unknown value 'rest' of 'documents'. Did you mean 'reset'?"),
    "no mapping": (
        "memory",
        f"expected a mapping with keys among {', '.join(sorted(AttentionSpec.model_fields))}, got 'memory'.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_one_sentence(case: str) -> None:
    attention, sentence = WRONG[case]
    with pytest.raises(InputError) as caught:
        config(attention)
    assert str(caught.value) == f"attention: {sentence}"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"num_attention_heads": 3}, "hidden_size (8) must be a multiple of num_attention_heads (3)."),
        ({"num_attention_heads": 0}, "hidden_size (8) must be a multiple of num_attention_heads (0)."),
        ({"num_key_value_heads": 3}, "num_attention_heads (2) must be a multiple of num_key_value_heads (3)."),
        ({"head_dim": 3}, "head_dim (3) must be even: rotary embedding turns pairs."),
        ({"num_attention_heads": 8}, "head_dim (1) must be even: rotary embedding turns pairs."),
        ({"attention_dropout": 0.1}, "attention_dropout (0.1) must be 0: a memory has no weights to drop."),
        ({"atention": {}}, "unknown key 'atention'. Did you mean 'attention'?"),
        ({"segment_length": 8}, "'segment_length' belongs in the attention block: attention={'segment_length': ...}."),
    ],
)
def test_contradictory_sizes_and_misplaced_keys(fields: dict, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        config(**fields)
    assert str(caught.value) == sentence


def test_defaults_are_filled_in_and_saved() -> None:
    assert config().attention == {
        "pattern": ["memory"],
        "segment_length": 1024,
        "memory": {"kind": "linear", "features": "elu1", "strength": "one"},
        "gate": {"kind": "sigmoid", "init": 0.0},
        "first_segment": "gated",
        "documents": "carry",
    }
    assert config({"memory": {"kind": "ridge"}}).attention["memory"] == {
        "kind": "ridge",
        "features": "elu1",
        "strength": "one",
        "ridge": 1.0,
        "form": "normal",
    }


GATES = st.builds(
    GateSpec,
    kind=st.sampled_from(["sigmoid", "hard_sigmoid", "token"]),
    init=st.floats(-9, 9, allow_nan=False),
)
FEATURES = st.sampled_from(sorted(FEATURE_MAPS))
UNSIGNED = FEATURES.filter(lambda name: not FEATURE_MAPS[name].signed)
STRENGTH = st.sampled_from(["one", "token"])
MEMORIES = st.one_of(
    st.builds(LinearSpec, features=UNSIGNED, strength=STRENGTH),
    st.builds(DeltaSpec, features=UNSIGNED, normaliser=st.sampled_from(["exclusive", "inclusive"])),
    st.builds(
        RidgeSpec,
        features=FEATURES,
        ridge=st.floats(1e-3, 1e3),
        form=st.sampled_from(["normal", "square_root"]),
        strength=STRENGTH,
    ),
    st.builds(HebbianSpec, features=FEATURES, strength=STRENGTH),
    st.builds(DecayedRidgeSpec, features=FEATURES, half_life=st.floats(1e-3, 1e6)),
)
PATTERNS = st.lists(st.sampled_from(["full", "segment_local", "memory"]), min_size=1, max_size=4)
REST = st.fixed_dictionaries(
    {
        "segment_length": st.integers(1, 4096),
        "gate": GATES,
        "first_segment": st.sampled_from(["gated", "local"]),
        "documents": st.sampled_from(["carry", "reset"]),
    }
)


@given(pattern=PATTERNS, memory=MEMORIES, rest=REST)
def test_a_configuration_keeps_its_attention_block(pattern: list, memory: MemoryRule, rest: dict) -> None:
    spec = AttentionSpec(pattern=pattern, memory=memory, **rest)
    kept = config(spec.model_dump())
    assert kept.attention_spec == spec
    assert PalimpsestConfig(**kept.to_dict()).attention_spec == spec
    assert PalimpsestConfig.from_dict(kept.to_diff_dict()).attention_spec == spec


def test_the_pattern_repeats_over_the_layers() -> None:
    model = PalimpsestForCausalLM(config({"pattern": ["memory", "segment_local", "full"]}))
    kinds = [type(layer.self_attn) for layer in model.model.layers]
    assert kinds == [MemoryAttention, SegmentLocalAttention, FullAttention, MemoryAttention]


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (LinearSpec(), LinearMemory),
        (DeltaSpec(normaliser="inclusive"), DeltaMemory),
        (RidgeSpec(), RidgeMemory),
        (RidgeSpec(form="square_root"), RidgeRootMemory),
        (HebbianSpec(), HebbianMemory),
        (DecayedRidgeSpec(), DecayedRidgeMemory),
        (TokenDeltaSpec(), TokenDeltaMemory),
        (AssociativeSpec(), AssociativeMemory),
    ],
)
def test_a_spec_builds_its_memory(spec: MemoryRule, kind: type) -> None:
    learned = {name: torch.full((2,), value) for name, value in spec.learned().items()}
    memory = spec.build(learned)
    assert type(memory) is kind
    assert vars(memory)["features"] == FEATURE_MAPS[spec.features]
    if isinstance(memory, DeltaMemory):
        assert memory.normaliser == "inclusive"


@given(ridge=st.floats(1e-6, 1e6))
def test_softplus_of_the_learned_value_is_lambda(ridge: float) -> None:
    raw = RidgeSpec(ridge=ridge).learned()["ridge"]
    got = softplus(torch.tensor([raw], dtype=torch.float64))
    assert_close("lambda", got, torch.tensor([ridge], dtype=torch.float64))


@given(half_life=st.floats(1e-2, 1e9), tokens=st.floats(0.0, 1e9))
def test_half_is_forgotten_after_the_half_life(half_life: float, tokens: float) -> None:
    spec = DecayedRidgeSpec(half_life=half_life)
    learned = {name: torch.tensor([value], dtype=torch.float64) for name, value in spec.learned().items()}
    memory = spec.build(learned)
    assert isinstance(memory, DecayedRidgeMemory)
    faded = (tokens * torch.as_tensor(memory.log_decay)).exp()
    assert_close("a^tokens", faded, torch.tensor([0.5 ** (tokens / half_life)], dtype=torch.float64), magnitude=1.0)
