"""Laws of a model as a function of its stream, in float64, for every row of the table of attention configurations."""

import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from palimpsest.attention import MemoryAttention
from palimpsest.memory import scan
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.testing import assert_close

from .model_cases import (
    ALL_MEMORY,
    ATTENTION,
    SEGMENT,
    TABLE,
    UNUSED,
    WITH_MEMORY,
    WITHOUT_GRADIENT,
    Case,
    build,
    in_passes,
    logits,
    model_of,
    reach,
    run,
    streams,
    tokens,
)

EACH = pytest.mark.parametrize("name", TABLE)
assert settings.default is not None
FEW = settings(max_examples=settings.default.max_examples // 2)
LEFT = (run(0, 13), run(-1, 8) + run(0, 5), run(-1, 5) + run(0, 8))
RIGHT = (run(0, 5) + run(-1, 8), run(0, 13), run(0, 8) + run(-1, 5))
MIDDLE = (run(0, 3) + run(-1, 6) + run(0, 4), run(-1, 2) + run(0, 9) + run(-1, 2), run(0, 13))
STEPS = run(1, 13)


def row_alone(model: PalimpsestForCausalLM, x: Tensor, here: Tensor) -> Tensor:
    return logits(model, x[here][None])[0]


# Streams


@EACH
@FEW
@given(case=streams())
@example(case=Case(1, (run(0, 13),), STEPS))
@example(case=Case(2, (run(0, 13),) * 2, (4, 4, 5)))
@example(case=Case(3, LEFT, STEPS))
@example(case=Case(4, LEFT, (5, 7, 1)))
@example(case=Case(5, RIGHT, (6, 1, 6)))
@example(case=Case(6, MIDDLE, STEPS))
def test_any_split_of_a_padded_batch_is_every_row_alone(name: str, case: Case) -> None:
    model, x, real = model_of(name), case.tokens(), case.real()
    whole = logits(model, x, attention_mask=real.long())
    passed, cache = in_passes(model, x, case.cuts, real.long())
    assert cache.get_seq_length() == x.shape[1]
    assert whole.isfinite().all()
    assert passed.isfinite().all()
    for row, here in enumerate(real):
        if here.any():
            alone = row_alone(model, x[row], here)
            assert_close(f"row {row} in a batch", whole[row, here], alone, seed=case.seed)
            assert_close(f"row {row} in passes", passed[row, here], alone, seed=case.seed)


@EACH
def test_a_mask_after_a_cache_may_cover_the_new_columns_only(name: str) -> None:
    model, x, real = model_of(name), tokens(3, 13), Case(0, MIDDLE, ()).real().long()
    whole, _ = in_passes(model, x, (7, 6), real)
    with torch.no_grad():
        past = model(x[:, :7], attention_mask=real[:, :7], use_cache=True).past_key_values
        rest = model(x[:, 7:], attention_mask=real[:, 7:], past_key_values=past).logits
    assert torch.equal(rest, whole[:, 7:])


@EACH
def test_embeddings_in_place_of_ids(name: str) -> None:
    model, x = model_of(name), tokens(2, 11)
    with torch.no_grad():
        embedded = model(inputs_embeds=model.get_input_embeddings()(x), use_cache=False).logits
    assert torch.equal(embedded, logits(model, x))


@EACH
def test_logits_to_keep(name: str) -> None:
    model, x = model_of(name), tokens(2, 11)
    assert_close("last three", logits(model, x, logits_to_keep=3), logits(model, x)[:, -3:])


# Documents


@EACH
@FEW
@given(case=streams(documents=True))
@example(case=Case(7, (run(0, 5) + run(1, 3) + run(2, 5), run(-1, 2) + run(1, 8) + run(2, 3), run(0, 13)), ()))
def test_packed_documents_with_reset_are_each_document_alone(name: str, case: Case) -> None:
    model, x = model_of(name, documents="reset"), case.tokens()
    packed = logits(model, x, document_ids=case.ids())
    for row, ids in enumerate(case.ids()):
        real = (ids >= 0).nonzero()[:, 0]
        changes = (ids[real].diff() != 0).nonzero()[:, 0] + 1
        for document in torch.tensor_split(real, changes.tolist()):
            if len(document):
                alone = logits(model, x[row, document][None])[0]
                assert_close(f"row {row}, tokens {document.tolist()}", packed[row, document], alone)


@EACH
@FEW
@given(case=streams(documents=True))
def test_with_carry_documents_are_ignored_and_padding_is_not(name: str, case: Case) -> None:
    model, x, real = model_of(name), case.tokens(), case.real()
    packed = logits(model, x, document_ids=case.ids())
    assert torch.equal(packed, logits(model, x, attention_mask=real.long()))


@EACH
def test_positions_that_begin_anew_are_documents(name: str) -> None:
    model, x = model_of(name, documents="reset"), tokens(2, 13)
    ids = torch.tensor([run(0, 5) + run(1, 8), run(0, 13)])
    positions = torch.stack([torch.cat([torch.arange(5), torch.arange(8)]), torch.arange(3, 16)])
    assert torch.equal(logits(model, x, position_ids=positions), logits(model, x, document_ids=ids))
    plain = logits(model, x)
    assert torch.equal(logits(model, x, position_ids=torch.arange(13)[None]), plain)
    ones = torch.ones_like(x)  # with a mask the mask says what is padding, and places are counted
    assert torch.equal(logits(model, x, position_ids=positions, attention_mask=ones), plain)


@EACH
def test_hidden_states_are_those_of_every_layer(name: str) -> None:
    model, x = model_of(name), tokens(2, 9)
    caught: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: caught.append(out[0])) for block in model.model.layers]
    with torch.no_grad():
        out = model(x, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    assert out.hidden_states is not None
    first, *middle, last = out.hidden_states
    assert torch.equal(first, model.get_input_embeddings()(x))
    assert all(torch.equal(got, expected) for got, expected in zip(middle, caught, strict=False))
    assert torch.equal(last, model.model.norm(caught[-1]))
    assert model(x).hidden_states is None


@EACH
@pytest.mark.parametrize("documents", ["carry", "reset"])
def test_padding_is_what_a_mask_or_a_document_id_says(name: str, documents: str) -> None:
    model, x, ids = model_of(name, documents), tokens(3, 13), Case(0, MIDDLE, ()).ids()
    alone = logits(model, x, document_ids=ids)
    odd = torch.arange(13) % 2 == 1
    for masked in (torch.ones(13, dtype=torch.bool), odd):  # all padding is in the mask, or half of it
        mask = ((ids >= 0) | ~masked).long()
        both = logits(model, x, attention_mask=mask, document_ids=ids.where(~masked, ids.clamp_min(0)))
        assert torch.equal(both, alone)


@EACH
def test_packed_documents_take_no_cache(name: str) -> None:
    model, x = model_of(name, documents="reset"), tokens(1, 9)
    ids = torch.tensor([run(0, 3) + run(1, 6)])
    with torch.no_grad():
        out = model(x, document_ids=ids)  # use_cache is on in the configuration
        past = model(x).past_key_values
    assert out.past_key_values is None
    assert torch.equal(out.logits, logits(model, x, document_ids=ids))
    with pytest.raises(ValueError, match="document_ids"):
        model(x, document_ids=ids, use_cache=True)
    with pytest.raises(ValueError, match="document_ids"):
        model(x, document_ids=ids, past_key_values=past)


# Rows and time


@EACH
@pytest.mark.parametrize("cuts", [None, (6, 1, 6)])
def test_rows_never_touch(name: str, cuts: tuple[int, ...] | None) -> None:
    model, mask = model_of(name), Case(0, MIDDLE, ()).real().long()

    def outputs(x: Tensor, mask: Tensor) -> Tensor:
        if cuts is None:
            return logits(model, x, attention_mask=mask)
        return in_passes(model, x, cuts, mask)[0]

    x = tokens(3, 13)
    order = torch.tensor([2, 0, 1])
    before = outputs(x, mask)
    assert_close("permuted", outputs(x[order], mask[order]), before[order])
    x[1] = UNUSED
    with poisoned(model):
        after = outputs(x, mask)
    assert after[1].isnan().any()
    assert_close("beside a poisoned row", after[[0, 2]], before[[0, 2]])


class poisoned:
    """Embed one token as NaN for a while."""

    def __init__(self, model: PalimpsestForCausalLM):
        self.weight = model.get_input_embeddings().weight

    def __enter__(self) -> None:
        with torch.no_grad():
            self.kept = self.weight[UNUSED].clone()
            self.weight[UNUSED] = torch.nan

    def __exit__(self, *raised: object) -> None:
        with torch.no_grad():
            self.weight[UNUSED] = self.kept


def influence(model: PalimpsestForCausalLM, at: int, length: int = 13) -> Tensor:
    """Return ``[T]``, the largest gradient of the logits of one token with respect to every embedding."""
    embedded = model.get_input_embeddings()(tokens(2, length)).detach().requires_grad_()
    out = model(inputs_embeds=embedded, use_cache=False).logits[:, at]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=out.dtype)
    (gradient,) = torch.autograd.grad(out, embedded, weights)
    return gradient.abs().amax((0, 2))


AT = pytest.mark.parametrize("at", [0, 3, 4, 9, 12])


@EACH
@AT
def test_no_gradient_from_the_future_and_all_of_it_from_the_past(name: str, at: int) -> None:
    gradient = influence(model_of(name), at)
    assert (gradient[at + 1 :] == 0).all()
    first = reach(ATTENTION[name], at)
    if ATTENTION[name].get("pattern") in WITHOUT_GRADIENT:
        first = at // SEGMENT * SEGMENT
    assert (gradient[first : at + 1] > 0).all()
    assert (gradient[:first] == 0).all()


@EACH
@AT
def test_no_token_knows_the_future_nor_what_is_out_of_reach(name: str, at: int) -> None:
    x = tokens(1, 13)
    changed = x.repeat(13, 1)
    changed.fill_diagonal_(UNUSED)  # another token at place t in row t
    model = model_of(name)
    effect = (logits(model, changed)[:, at] - logits(model, x)[:, at]).abs().amax(1)
    first = reach(ATTENTION[name], at)
    known = torch.zeros(13, dtype=torch.bool)
    known[first : at + 1] = True
    assert (effect[~known] < 1e-13).all()
    if name == "memorizing":  # which of the closed segments' keys are looked up depends on the query
        known[: at // SEGMENT * SEGMENT] = False
        assert at < SEGMENT or (effect[: at // SEGMENT * SEGMENT] > 1e-6).any()
    assert (effect[known] > 1e-9).all()


@pytest.mark.parametrize("name", ALL_MEMORY)
def test_the_first_segment_learns_through_memory_alone(name: str) -> None:
    model = build(ATTENTION[name], num_hidden_layers=1)
    assert (influence(model, at=12)[:SEGMENT] > 0).all()
    closed(model, gate=0.0)
    assert (influence(model, at=12)[: 3 * SEGMENT] == 0).all()


# The gate


def closed(model: PalimpsestForCausalLM, gate: float | None) -> PalimpsestForCausalLM:
    for module in model.modules():
        if isinstance(module, MemoryAttention):
            module.gate_override = gate
    return model


def without_memory(model: PalimpsestForCausalLM) -> PalimpsestForCausalLM:
    """Return the same model with ``segment_local`` in place of ``memory``."""
    attention = dict(model.config.attention)
    attention["pattern"] = ["segment_local" if kind == "memory" else kind for kind in attention["pattern"]]
    del attention["memory"]
    local = build(attention)
    missing, unexpected = local.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    own = (".self_attn.gate.", ".self_attn.memory.", ".self_attn.strength.")
    assert all(any(part in key for part in own) for key in unexpected)
    return local


@pytest.mark.parametrize("name", WITH_MEMORY)
@pytest.mark.parametrize("how", ["override", "bias"])
def test_gate_closed_is_local_attention(name: str, how: str) -> None:
    model = build(ATTENTION[name])
    local, x = without_memory(model), tokens(2, 13)
    assert not torch.allclose(logits(model, x), logits(local, x))
    if how == "override":
        closed(model, gate=0.0)
    else:
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, MemoryAttention):
                    module.gate.bias.fill_(-1e9)
    expected = logits(local, x)
    assert_close("whole", logits(model, x), expected)
    assert_close("in passes", in_passes(model, x, (6, 1, 6))[0], expected)


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_one_segment_with_the_gate_closed_is_full_attention(name: str) -> None:
    model = closed(build(ATTENTION[name] | {"segment_length": 64}), gate=0.0)
    full = build({"pattern": "full"})
    full.load_state_dict(model.state_dict(), strict=False)
    x, real = tokens(3, 13), Case(0, LEFT, ()).real()
    assert_close("plain", logits(model, x), logits(full, x))
    padded = [logits(m, x, attention_mask=real.long())[real] for m in (model, full)]
    assert_close("padded", *padded)


# The definition


class Heads:
    """Inputs and output of one attention layer, head by head, caught while a model runs."""

    def __init__(self, attention: MemoryAttention):
        self.attention = attention
        self.caught: dict[str, Tensor] = {}
        for name in ("q_proj", "k_proj", "v_proj"):
            attention.get_submodule(name).register_forward_hook(
                lambda _, inputs, out, name=name: self.caught.update({name: out, "hidden": inputs[0]})
            )
        attention.o_proj.register_forward_pre_hook(lambda _, inputs: self.caught.update({"out": inputs[0]}))

    def __getitem__(self, name: str) -> Tensor:
        """Return ``[B, H, T, D]``, grouped heads repeated."""
        x = self.caught[name].unflatten(-1, (-1, self.attention.head_dim)).transpose(1, 2)
        return x.repeat_interleave(self.attention.heads // x.shape[1], 1)


def defined_local(heads: Heads, model: PalimpsestForCausalLM) -> Tensor:
    """Attend inside segments by a mask over the whole stream, with LLaMA's own rotary embedding."""
    length = heads["q_proj"].shape[2]
    place = torch.arange(length)
    cos, sin = LlamaRotaryEmbedding(config=model.config)(heads["q_proj"], place[None] % SEGMENT)
    q, k = apply_rotary_pos_emb(heads["q_proj"], heads["k_proj"], cos, sin)
    seen = (place[:, None] >= place) & (place[:, None] // SEGMENT == place // SEGMENT)
    scores = (q @ k.mT / heads.attention.head_dim**0.5).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ heads["v_proj"]


def defined_gate(heads: Heads) -> Tensor:
    """Return ``[B, H, T, 1]`` by the formulas of the three kinds."""
    attention = heads.attention
    logit = attention.gate.bias[None, None]
    if attention.spec.gate.kind == "token":
        assert attention.gate.weight is not None
        logit = logit + heads.caught["hidden"] @ attention.gate.weight.T
    hard = attention.spec.gate.kind == "hard_sigmoid"
    gate = (0.2 * logit + 0.5).clamp(0, 1) if hard else 1 / (1 + (-logit).exp())
    batch, length, _ = heads.caught["hidden"].shape
    return gate.expand(batch, length, -1).mT.unsqueeze(-1)


def defined_strength(heads: Heads) -> Tensor | None:
    """Return ``[B, H, T]``, or None where every token is written alike."""
    learned = heads.attention.strength
    if learned is None:
        return None
    logit = heads.caught["hidden"] @ learned.weight.T + learned.bias
    return (1 / (1 + (-logit).exp())).mT


@pytest.mark.parametrize("name", ALL_MEMORY)
@pytest.mark.parametrize("first_segment", ["gated", "local"])
def test_a_layer_is_its_definition(name: str, first_segment: str) -> None:
    model = build(ATTENTION[name] | {"first_segment": first_segment})
    attention = model.model.layers[1].self_attn
    assert isinstance(attention, MemoryAttention)
    heads = Heads(attention)
    logits(model, tokens(2, 13))
    with torch.no_grad():
        memory, q, k, v = attention.build_memory(), heads["q_proj"], heads["k_proj"], heads["v_proj"]
        strength = defined_strength(heads)
        read, _ = scan(memory, q, k, v, segment_length=SEGMENT, strength=strength)
        gate, local = defined_gate(heads).clone(), defined_local(heads, model)
    assert gate.std() > 0
    if first_segment == "local":
        gate[:, :, :SEGMENT] = 0
    else:
        assert (read[:, :, :SEGMENT] == 0).all()  # the gate dims local attention while the memory is empty
    assert_close("gate * memory + (1 - gate) * local", heads["out"], gate * read + (1 - gate) * local)
