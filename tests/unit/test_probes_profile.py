"""The profile of a model against its definitions, computed in float64 from what hooks catch."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from palimpsest.errors import InputError
from palimpsest.memory import FEATURE_MAPS, scan, state_bytes
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.probes import parse_intervention
from palimpsest.probes.effects import gate_effect, losses_under
from palimpsest.probes.keys import key_statistics
from palimpsest.probes.profile import Origin, effective_rank, profile
from palimpsest.probes.usage import usage
from palimpsest.report.profile import rank_correlation, thirds

SEGMENT, HEADS, SIZE, LENGTH = 8, 4, 6, 29
KINDS = {
    "linear": {"memory": {"kind": "linear"}},
    "ridge": {"memory": {"kind": "ridge"}, "gate": {"kind": "token", "init": -0.5}},
    "token_delta": {"memory": {"kind": "token_delta"}, "first_segment": "local"},
}


def build(attention, layers=2):
    config = PalimpsestConfig(
        vocab_size=40,
        hidden_size=20,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=SIZE,
        attention={"segment_length": SEGMENT} | attention,
    )
    generator = torch.Generator().manual_seed(0)
    model = PalimpsestForCausalLM(config).double().eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.4)
    return model


def tokens(rows=2, length=LENGTH, seed=1):
    return torch.randint(0, 40, (rows, length), generator=torch.Generator().manual_seed(seed))


class Oracle:
    """One layer recomputed: its mapped keys, its memory before the last segment, and both parts of what it says."""

    @torch.no_grad()
    def __init__(self, model, x, number):
        layer = model.model.layers[number].self_attn
        caught = {}
        hooks = [
            layer.q_proj.register_forward_pre_hook(lambda _, inputs: caught.__setitem__("hidden", inputs[0])),
            layer.o_proj.register_forward_pre_hook(lambda _, inputs: caught.__setitem__("out", inputs[0])),
        ]
        model(x, use_cache=False)
        for hook in hooks:
            hook.remove()
        hidden, out = caught["hidden"], caught["out"].unflatten(-1, (HEADS, SIZE)).transpose(1, 2)
        q, k, v = (
            projection(hidden).unflatten(-1, (-1, SIZE)).transpose(1, 2)
            for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
        )
        k, v = (y.repeat_interleave(HEADS // y.shape[1], 1) for y in (k, v))
        self.q, self.strength = q, None if layer.strength is None else layer.strength(hidden)
        self.memory = layer.build_memory()
        self.read, _ = scan(self.memory, q, k, v, segment_length=SEGMENT, strength=self.strength)
        self.written = (x.shape[1] - 1) // SEGMENT * SEGMENT
        cut = slice(0, self.written)
        strength = None if self.strength is None else self.strength[:, :, cut]
        _, self.state = scan(
            self.memory, q[:, :, cut], k[:, :, cut], v[:, :, cut], segment_length=SEGMENT, strength=strength
        )
        self.gate = layer.gate(hidden).expand(len(x), HEADS, x.shape[1], 1)
        told = self.gate * self.read
        weight = layer.o_proj.weight.T.unflatten(0, (HEADS, SIZE))
        later = slice(SEGMENT, None)
        self.memory_output = (told[:, :, later] @ weight).norm(dim=-1).mean(-1)
        self.local_output = ((out - told)[:, :, later] @ weight).norm(dim=-1).mean(-1)
        self.rho = self.memory_output / (self.memory_output + self.local_output)
        self.phi = FEATURE_MAPS[model.config.attention_spec.memory.features].apply(k)


@pytest.mark.parametrize(("kind", "length"), [("linear", LENGTH), ("ridge", 3 * SEGMENT), ("token_delta", LENGTH)])
def test_every_number_is_what_its_definition_says(kind, length):
    model, x = build(KINDS[kind]), tokens(length=length)
    records = profile(model, [x[:1], x[1:]], documents=["a", "b"], origin=Origin("arm", 3, "sha"))
    oracles = [Oracle(model, x, layer) for layer in range(2)]
    assert [(r.document_id, r.layer, r.head) for r in records] == [
        (name, layer, head) for name in "ab" for layer in range(2) for head in range(HEADS)
    ]
    for record in records:
        row, head, oracle = "ab".index(record.document_id), record.head, oracles[record.layer]
        assert (record.arm, record.seed, record.checkpoint, record.kind) == ("arm", 3, "sha", "memory")
        assert (record.memory, record.tokens, record.segment_length, record.layers) == (kind, length, SEGMENT, 2)
        assert record.state_bytes == state_bytes(oracle.state) / (2 * HEADS)
        matrix = oracle.memory.matrix(oracle.state)[row, head].numpy()
        singular = np.linalg.svd(matrix, compute_uv=False)
        divided = oracle.memory.denominators(oracle.state, oracle.q[:, :, oracle.written :])
        weights = np.ones(oracle.written) if oracle.strength is None else oracle.strength[row, head, : oracle.written]
        layer = model.model.layers[record.layer].self_attn
        expected = {
            "gate": oracle.gate[row, head, SEGMENT:].mean(),
            "gate_initial": 1 / (1 + math.exp(-layer.gate.spec.init)),
            "gate_shift": abs(layer.gate.bias[head] - layer.gate.spec.init),
            "memory_output": oracle.memory_output[row, head],
            "local_output": oracle.local_output[row, head],
            "rho": oracle.rho[row, head],
            "read_norm": oracle.read[row, head, SEGMENT:].norm(dim=-1).mean(),
            "write_strength": float(np.mean(np.asarray(weights))),
            "load": float(np.square(np.asarray(weights)).sum()),
            "memory_norm": np.linalg.norm(matrix),
            "effective_rank": math.exp(stats.entropy(singular)),
        }
        for name, value in expected.items():
            assert getattr(record, name) == pytest.approx(float(value), rel=1e-9), name
        least = None if divided is None else float(divided[row, head].min())
        assert record.denominator_min == (None if least is None else pytest.approx(least))
        keys = key_statistics(oracle.phi[row, head], SIZE)
        for name, value in zip(("key_dimension", "common_mode", "n50", "n50_common_mode"), keys, strict=True):
            assert getattr(record, name) == pytest.approx(float(value), rel=1e-9)
        assert record.width == oracle.phi.shape[-1]


def test_usage_is_pooled_over_rows_and_knows_layers_without_a_gate():
    model, x = build(KINDS["ridge"] | {"pattern": ["full", "memory"]}), tokens(3)
    rho = usage(model, x)
    oracle = Oracle(model, x, 1)
    expected = oracle.memory_output.mean(0) / (oracle.memory_output + oracle.local_output).mean(0)
    assert rho.shape == (2, HEADS)
    assert rho[0].isnan().all()
    torch.testing.assert_close(rho[1].double(), expected, atol=1e-6, rtol=0)
    with parse_intervention("gate_closed").apply(model):
        assert (usage(model, x)[1] == 0).all()
    with parse_intervention("gate_open[head=2]").apply(model):
        assert usage(model, x)[1, 2] == 1


def test_a_store_of_tokens_has_a_share_and_no_matrix():
    model = build({"pattern": "memorizing", "memorizing": {"capacity": 8, "top_k": 2}})
    records = profile(model, [tokens(1)])
    assert all(0 < r.rho < 1 and r.effective_rank is None and r.n50 is None and r.memory is None for r in records)
    kept = 2 * 8 * 2 * SIZE * 8 + 8  # keys and values of 8 places, 2 heads of keys, and their number, in float64
    assert {r.state_bytes for r in records} == {kept // HEADS}


def test_the_model_is_left_as_it_was():
    model = build(KINDS["token_delta"]).train()
    profile(model, [tokens()])
    assert model.training
    layer = model.model.layers[0].self_attn
    assert layer.probe is None
    assert layer.mix_probe is None
    assert not layer.k_proj._forward_hooks
    assert not layer.strength._forward_hooks


def test_what_cannot_be_profiled_is_refused():
    with pytest.raises(InputError, match="layers of kind full, segment_local, none of which mixes a memory"):
        profile(build({"pattern": ["full", "segment_local"]}), [tokens()])
    with pytest.raises(InputError, match="15 tokens, less than two segments of 8"):
        usage(build(KINDS["linear"]), tokens(length=15))
    assert usage(build(KINDS["linear"]), tokens(length=16)).isfinite().all()


# Keys


def test_moments_of_keys_are_unbiased():
    rng = np.random.default_rng(0)
    scales, mean = np.array([3.0, 2.0, 1.0, 1.0, 0.5]), np.full(5, 0.6)
    # skewed and with heavy tails: nothing here may rest on a normal distribution
    draws = (rng.exponential(size=(20_000, 12, 5)) - 1.0) * scales + mean
    phi = torch.from_numpy(draws)
    from palimpsest.probes.keys import _trace_of_square

    centred = phi - phi.mean(-2, keepdim=True)
    scatter = centred.mT @ centred / 11
    trace = scatter.diagonal(dim1=-2, dim2=-1).sum(-1)
    found = _trace_of_square(centred, scatter, trace)
    wanted = float((scales**4).sum())
    assert abs(float(found.mean()) - wanted) < 4 * float(found.std()) / math.sqrt(20_000)
    plain = scatter.square().sum((-2, -1))
    assert float(plain.mean()) > wanted + 10 * float(plain.std()) / math.sqrt(20_000)  # what it corrects


def test_statistics_of_many_keys_are_those_of_their_distribution():
    rng = np.random.default_rng(1)
    keys = torch.from_numpy(rng.standard_normal((40_000, 32)))
    phi = FEATURE_MAPS["elu1"].apply(keys)
    x = np.linspace(-12, 12, 400_001)
    density = stats.norm.pdf(x)
    value = np.where(x > 0, x + 1, np.exp(x))
    m, square = (np.trapezoid(density * value**power, x) for power in (1, 2))
    variance = square - m**2
    assert (m, variance) == (pytest.approx(1.16, abs=5e-3), pytest.approx(0.617, abs=5e-3))
    found = key_statistics(phi, 64)
    assert float(found.dimension) == pytest.approx(32, rel=0.01)
    assert float(found.common_mode) == pytest.approx(m**4 / variance**2, rel=0.02)  # 4.75
    assert float(found.n50) == pytest.approx(0.083 * 32 * 64, rel=0.01)
    assert float(found.n50_common_mode) == pytest.approx(0.083 * 64 / (m**4 / variance**2 + 1 / 32), rel=0.02)
    few = key_statistics(torch.from_numpy(rng.standard_normal((200, 64, 32))), 64)  # whose mean is zero, not their own
    assert float(few.common_mode.median()) < 5e-5 < (1 / 64) ** 2 / 4
    centred = key_statistics(keys, 64)
    assert float(centred.common_mode) < 1e-3
    assert float(centred.n50_common_mode) == pytest.approx(float(centred.n50), rel=0.02)
    line = keys[:, :1] * torch.ones(32, dtype=torch.float64)
    assert float(key_statistics(line, 64).dimension) == pytest.approx(1.0, rel=0.05)


def test_keys_that_are_all_alike_tell_nothing_apart():
    found = key_statistics(torch.ones(2, 9, 4), 16)
    assert found.dimension.tolist() == found.n50.tolist() == found.n50_common_mode.tolist() == [0.0, 0.0]
    assert found.common_mode.tolist() == [math.inf, math.inf]
    with pytest.raises(ValueError, match="at least 4"):
        key_statistics(torch.ones(3, 4), 16)


def test_the_effective_rank_counts_directions():
    assert float(effective_rank(torch.diag(torch.tensor([2.0, 2.0, 2.0, 0.0])))) == pytest.approx(3.0)
    assert float(effective_rank(torch.outer(torch.arange(1.0, 4), torch.arange(1.0, 3)))) == pytest.approx(
        1.0, abs=1e-4
    )


# Effects


def test_losses_are_those_of_the_model_when_nothing_is_done():
    model, x = build(KINDS["linear"]), tokens()
    with torch.no_grad():
        logits = model(x, use_cache=False).logits
        nll = torch.nn.functional.cross_entropy(logits[:, :-1].mT, x[:, 1:], reduction="none")
        both = losses_under(model, x, [parse_intervention("none"), parse_intervention("reset")])
        torch.testing.assert_close(both[0], nll, atol=1e-10, rtol=0)
        alone = [
            torch.nn.functional.cross_entropy(
                model(part, use_cache=False).logits.mT,
                torch.cat([x, x[:, :1]], 1)[:, at + 1 : at + 1 + part.shape[1]],
                reduction="none",
            )
            for at, part in zip(range(0, LENGTH, SEGMENT), x.split(SEGMENT, 1), strict=True)
        ]
    torch.testing.assert_close(both[1], torch.cat(alone, 1)[:, :-1], atol=1e-10, rtol=0)


@torch.no_grad()
def test_a_swap_gives_every_segment_the_memory_of_one_other_document():
    model, x = build(KINDS["ridge"]), tokens(3)
    swapped = losses_under(model, x, [parse_intervention("swap")])[0]
    for row in range(3):
        for at in range(SEGMENT, LENGTH, SEGMENT):
            other = torch.cat([x[(row + 1) % 3, :at], x[row, at : at + SEGMENT]])[None]
            logits = model(other, use_cache=False).logits[:, at:]
            following = x[row, at + 1 : at + SEGMENT + 1][None]
            nll = torch.nn.functional.cross_entropy(logits[:, : following.shape[1]].mT, following, reduction="none")
            torch.testing.assert_close(swapped[row, at : at + SEGMENT][None], nll, atol=1e-9, rtol=0)


def test_the_effect_of_a_head_is_that_of_the_intervention_there():
    model, x = build(KINDS["linear"]), tokens(3)
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[:, 2 * SIZE : 3 * SIZE] = 0.0  # a head that cannot speak
    found = gate_effect(model, x, "swap")
    assert [(each.layer, each.head) for each in found] == [(layer, head) for layer in range(2) for head in range(HEADS)]
    each = found[5]
    with torch.no_grad():
        intact, changed = losses_under(model, x, [parse_intervention(e) for e in ("none", "swap[layer=1,head=1]")])
    assert each.effect == pytest.approx((changed - intact)[:, SEGMENT:].mean(1).tolist())
    assert max(map(abs, found[6].effect)) < 1e-12
    assert all(max(map(abs, other.effect)) > 1e-6 for other in found if other is not found[6])
    rho = usage(model, x)
    assert [e.rho for e in found if e is not found[6]] == pytest.approx(
        [float(rho[e.layer, e.head]) for e in found if e is not found[6]]
    )


def test_effects_that_cannot_be_measured_are_refused():
    model = build(KINDS["linear"])
    with pytest.raises(InputError, match="needs 2 documents, got 1"):
        gate_effect(model, tokens(1), "swap")
    with pytest.raises(InputError, match="changes no single head"):
        gate_effect(model, tokens(), "none")
    with pytest.raises(InputError, match="changes no single head"):
        gate_effect(build({"pattern": "memorizing"}), tokens(), "swap")
    with pytest.raises(InputError, match="where the needles are"):
        gate_effect(model, tokens(), "drop[needle]")


# Summaries


def test_thirds_are_means_over_documents_with_their_t_interval():
    model = build(KINDS["linear"], layers=3)
    records = profile(model, [tokens(5)])
    early, middle, late = thirds(records)
    assert [third.layers for third in (early, middle, late)] == [(0,), (1,), (2,)]
    by_document = [[r.rho for r in records if r.document_id == str(d) and r.layer == 0] for d in range(5)]
    means = np.mean(by_document, 1)
    low, high = stats.t.interval(0.95, 4, means.mean(), stats.sem(means))
    assert (early.rho.mean, early.rho.low, early.rho.high) == pytest.approx((means.mean(), low, high))
    assert early.share.mean + middle.share.mean + late.share.mean == pytest.approx(1.0)
    assert early.heads == pytest.approx(1 / 3)
    hybrid = profile(build(KINDS["linear"] | {"pattern": ["memory", "full", "full", "memory"]}, layers=4), [tokens()])
    assert [(third.name, third.layers) for third in thirds(hybrid)] == [("early", (0,)), ("late", (3,))]


def test_rank_correlations_agree_with_scipy_and_cover():
    rng = np.random.default_rng(2)
    xs, ys = rng.normal(size=30), rng.normal(size=30)
    assert rank_correlation(xs, ys + xs).mean == pytest.approx(float(stats.spearmanr(xs, ys + xs)[0]))
    assert rank_correlation([1.0, 2.0, 3.0], [1.0, 2.0, 2.5]).bounded is False
    assert "does not vary" in rank_correlation([1.0] * 5, [1.0, 2, 3, 4, 5]).method
    assert rank_correlation(range(9), range(9)).low > 0.9
    true = 6 / math.pi * math.asin(0.6 / 2)  # of a normal pair with correlation 0.6
    covered = 0
    for _ in range(600):
        x = rng.normal(size=24)
        found = rank_correlation(x, 0.6 * x + 0.8 * rng.normal(size=24))
        covered += found.low <= true <= found.high
    assert 0.92 <= covered / 600 <= 0.98
