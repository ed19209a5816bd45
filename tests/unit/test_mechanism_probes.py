"""Mechanism tests run the memories themselves: held against float64 numpy on the same numbers, and against the laws."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from palimpsest.errors import InputError
from palimpsest.memory import FEATURE_MAPS
from palimpsest.probes.mechanism import TESTS, ageing, capacity, interference, jobs, numerics, run_mechanism, theory
from palimpsest.probes.mechanism.cells import FULL, Effort, design_effect, mean_record, setting, share_record, wilson
from palimpsest.probes.mechanism.draws import (
    STANDARD,
    WIDE,
    KeyLaw,
    decoded,
    generator,
    random_keys,
    random_pairs,
    similar_keys,
)
from palimpsest.probes.mechanism.moments import moments_of
from palimpsest.probes.mechanism.subjects import KINDS, SPECS, Subject, subjects
from palimpsest.probes.mechanism.theory import Code
from palimpsest.records import MechanismRecord

SMALL = Effort(draws=4, asked=16, rows=40, loads=(0.5, 2, 6), updates=(8,), filler=(96,), segments=(16,))
Oracle = Callable[[np.ndarray, np.ndarray], np.ndarray]


def subject(name: str, features: str | None = None) -> Subject:
    found = {each.name: each for each in subjects()}[name]
    return found if features is None else found.with_features(features)


def one(records: list[MechanismRecord], **wanted: Any) -> MechanismRecord:
    (found,) = [r for r in records if all(getattr(r, name) == value for name, value in wanted.items())]
    return found


def elu1(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def linear(k: np.ndarray, v: np.ndarray) -> np.ndarray:
    overlaps = elu1(k) @ elu1(k).T
    return overlaps @ v / overlaps.sum(1, keepdims=True)


def hebbian(k: np.ndarray, v: np.ndarray) -> np.ndarray:
    return unit(k) @ unit(k).T @ v


def ridge(k: np.ndarray, v: np.ndarray) -> np.ndarray:
    phi = elu1(k)
    return phi @ np.linalg.solve(phi.T @ phi + 0.01 * np.eye(phi.shape[1]), phi.T @ v)


def token_delta(k: np.ndarray, v: np.ndarray) -> np.ndarray:
    memory = np.zeros((k.shape[1], v.shape[1]))
    for key, value in zip(unit(k), v, strict=True):
        memory += np.outer(key, value - key @ memory)
    return unit(k) @ memory


def infini_delta(k: np.ndarray, v: np.ndarray) -> np.ndarray:
    phi, memory, normaliser = elu1(k), np.zeros((k.shape[1], v.shape[1])), np.zeros(k.shape[1])
    for start in range(0, len(k), capacity.SEGMENT):
        part = phi[start : start + capacity.SEGMENT]
        known = part @ memory / (part @ normaliser)[:, None] if start else 0.0
        memory = memory + part.T @ (v[start : start + capacity.SEGMENT] - known)
        normaliser = normaliser + part.sum(0)
    return phi @ memory / (phi @ normaliser)[:, None]


ORACLES: dict[str, Oracle] = {
    "linear": linear, "delta": infini_delta, "hebbian": hebbian, "ridge": ridge, "ridge square_root": ridge,
    "token_delta": token_delta,
}  # fmt: skip


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("unit_codes", [True, False])
def test_capacity_is_that_of_float64_numpy_on_the_same_numbers(name: str, unit_codes: bool) -> None:
    code, loads = Code(64, 16, unit_codes), (8, 33, 96)
    records = list(capacity.capacity(subject(name), capacity.Curve(STANDARD, 16, code, loads), SMALL, seed=3))
    random = generator(3, "capacity", STANDARD, 16, code)
    pairs = random_pairs(random_keys(SMALL.draws, 96, 16, STANDARD, random), code, random)
    for load in loads:
        asked = np.linspace(0, load - 1, min(load, SMALL.asked)).round().astype(int)
        for decoding in ("raw", "centred"):
            means, errors = [], []
            for draw in range(SMALL.draws):
                keys = pairs.keys[draw, 0, :load].double().numpy()
                values = pairs.values[draw, 0, :load].double().numpy()
                reads = ORACLES[name](keys, values)
                shown = reads - reads.mean(0) if decoding == "centred" else reads
                answers = (shown[asked] @ pairs.book[draw].double().numpy().T).argmax(1)
                means.append((answers == pairs.written[draw, :load].numpy()[asked]).mean())
                errors.append(1 - (reads * values).sum() ** 2 / ((reads**2).sum() * (values**2).sum()))
            found = one(records, load=load, decoding=decoding, measure="accuracy")
            assert found.draws == pytest.approx(means, abs=1e-4)
            assert found.n == len(asked) * SMALL.draws
        assert one(records, load=load, measure="relative error").mean == pytest.approx(np.mean(errors), abs=1e-4)


def test_every_kind_with_every_option_is_a_subject() -> None:
    found = subjects()
    assert set(KINDS) == set(SPECS) == {each.kind for each in found}
    assert {"delta", "delta inclusive", "ridge", "ridge square_root", "associative"} <= {each.name for each in found}
    assert [each.name for each in found if each.arithmetic] == ["ridge square_root"]
    assert {each.features for each in subjects(["ridge"], list(FEATURE_MAPS))} == set(FEATURE_MAPS)
    assert all(not FEATURE_MAPS[each.features].signed for each in subjects(["linear"], ["dpfp2", "softmax"]))


def test_the_law_of_age_holds_within_sampling_error() -> None:
    records = list(ageing.age(subject("token_delta"), 16, FULL, seed=1))
    cosines = [record for record in records if record.measure == "cosine"]
    assert [record.age for record in cosines] == list(ageing.ages_of(16))
    for record in cosines:
        assert record.theory == pytest.approx((1 - 1 / 16) ** (record.age or 0))
        # below a half the length of the read, which the law takes as that of a value, varies too
        assert record.mean == pytest.approx(record.theory, abs=2.5 * (record.high - record.low) / 2 + 0.02)


@pytest.mark.parametrize("size", [16, 32])
def test_least_squares_and_hebb_leave_the_errors_of_their_laws(size: int) -> None:
    for name, law in (
        ("ridge", lambda load: max(0.0, 1 - size / load)),
        ("hebbian", lambda load: theory.hebbian_error(size, load)),
    ):
        curve = capacity.Curve(STANDARD, size, Code(256, size), (size // 2, 2 * size, 8 * size))
        for record in capacity.capacity(subject(name), curve, FULL, seed=0):
            if record.measure == "relative error":
                assert record.mean == pytest.approx(law(record.load), abs=0.03)
                assert record.theory == pytest.approx(law(record.load), abs=0.03)


def test_the_published_capacity_of_the_centred_linear_memory() -> None:
    """The table of the evaluation suite: 256 values whose lengths vary, d = 32."""
    curve = capacity.Curve(STANDARD, 32, Code(256, 32, unit=False), (64, 128))
    records = list(capacity.capacity(subject("linear"), curve, FULL, seed=0))
    for load, published in ((64, 0.60), (128, 0.31)):
        found = one(records, load=load, decoding="centred")
        assert found.low - 0.03 <= published <= found.high + 0.03
        assert found.theory is not None
        assert found.theory > found.high  # the printed law is optimistic


@pytest.mark.parametrize(("stream", "tokens"), [("passes", 15), ("with_replacement", 12)])
def test_what_was_written_last_and_before(stream: str, tokens: int) -> None:
    random = generator(0, "x")
    keys = random_keys(3, 5, 4, STANDARD, random)
    code = Code(50, 4)
    made = (
        interference.passes(keys, 3, code, random)
        if stream == "passes"
        else interference.with_replacement(keys, tokens, code, random)
    )
    for draw in range(3):
        history: dict[int, list[tuple[int, int]]] = {}
        for place in range(tokens):
            (key,) = [n for n in range(5) if torch.equal(keys[draw, 0, n], made.stream.keys[draw, 0, place])]
            history.setdefault(key, []).append((place, int(made.stream.written[draw, place])))
        for key in range(5):
            written = history.get(key, [])
            assert made.newest[draw, key] == (written[-1][1] if written else -1)
            assert sorted(x for x in made.older[draw, key].tolist() if x >= 0) == sorted(x for _, x in written[:-1])
            if written:
                assert made.age[draw, key] == tokens - 1 - written[-1][0]
    assert torch.equal(made.stream.values[0, 0, 2], made.stream.book[0, made.stream.written[0, 2]])


def test_the_normalised_delta_does_not_overwrite_and_the_unnormalised_does() -> None:
    margins = {}
    for name, features in (("linear", "elu1"), ("delta", "elu1"), ("token_delta", "elu1_l2")):
        records = list(interference.overwriting(subject(name, features), STANDARD, 64, FULL, seed=0))
        new, old = (
            one(records, segment_length=1, decoding="centred", measure=measure) for measure in ("P(new)", "P(old)")
        )
        assert new.mean + old.mean <= 1.0
        margins[name] = (new.low - old.high, new.high - old.low)
    assert margins["linear"][1] < 0.2
    assert margins["delta"][1] < 0.2
    assert margins["token_delta"][0] >= 0.5


def test_keys_have_the_cosine_that_was_asked_for() -> None:
    keys = similar_keys(20, 40, 256, 0.5, generator(0, "x"))[:, 0]
    unit_keys = torch.nn.functional.normalize(keys, dim=-1)
    overlaps = unit_keys @ unit_keys.mT
    off_diagonal = overlaps[:, ~torch.eye(40, dtype=torch.bool)]
    assert off_diagonal.mean().item() == pytest.approx(0.5, abs=0.03)


def test_bfloat16_stops_sums_and_float32_does_not() -> None:
    effort = Effort(updates=(64, 512))
    records = list(numerics.saturation(subject("linear"), 16, 8, effort, seed=0))
    kept = {(r.state, r.updates): r.mean for r in records if r.measure == "normaliser kept"}
    assert kept["bfloat16", 512] == pytest.approx(0.86, abs=0.03)  # the published share
    assert kept["bfloat16", 64] == pytest.approx(1.0, abs=0.02)
    assert kept["float32", 512] == pytest.approx(1.0, abs=1e-5)


def test_a_state_in_bfloat16_is_rounded_in_every_leaf() -> None:
    memory = subject("linear").build()
    state = memory.write(memory.init(1, 1, 4, 4), *(torch.randn(1, 1, 8, 4, generator=generator(0)) for _ in range(2)))
    rounded = numerics.kept_in(state, bfloat16=True)
    for leaf, whole in zip(rounded, state, strict=True):
        assert leaf.dtype == torch.float32
        assert torch.equal(leaf, leaf.bfloat16().float())
        assert not torch.equal(leaf, whole)
    assert numerics.kept_in(state, bfloat16=False) is state


def test_a_read_that_is_not_finite_is_no_answer() -> None:
    book = torch.eye(3)[None]
    reads = torch.tensor([[[0.0, 1.0, 0.0], [torch.nan, 0.0, 0.0], [torch.inf, 0.0, 0.0]]])
    assert decoded(reads, book).tolist() == [[1, -1, -1]]


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_of_the_formula(kind: str) -> None:
    for each in subjects([kind]):
        records = list(numerics.size_in_bytes(each, 16, seed=0))
        assert {record.mean for record in records} == {records[0].theory}
        assert [record.load for record in records] == list(numerics.BYTES_AFTER)


def test_a_formula_is_of_features_and_size() -> None:
    assert numerics.numbers_kept("F F + F d + d", 5, 3) == 25 + 15 + 3
    with pytest.raises(ValueError, match="has G, but a formula is of F and d"):
        numerics.numbers_kept("G d", 5, 3)


def test_intervals() -> None:
    expected = stats.binomtest(30, 96).proportion_ci(0.95, method="wilson")
    assert wilson(30 / 96, 96) == pytest.approx((expected.low, expected.high))
    assert wilson(0.0, 10)[0] == 0.0
    assert wilson(1.0, 10)[1] == 1.0
    assert design_effect(np.array([0.0, 1.0, 0.0, 1.0]), 16) == pytest.approx(16 * 4 / 3)
    assert design_effect(np.array([0.5, 0.5]), 16) == 1.0
    where = setting("age", subject("linear"), KeyLaw(0.0, 1.0), 8, 4, 16)
    outcomes = torch.tensor([[True, False, True, True]] * 6)
    assert share_record(where, "accuracy", outcomes).low == pytest.approx(wilson(0.75, 24)[0])
    found = mean_record(where, "cosine", [0.1, 0.2, 0.4], 3)
    low, high = stats.t.interval(0.95, 2, loc=0.7 / 3, scale=np.std([0.1, 0.2, 0.4], ddof=1) / math.sqrt(3))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_the_interval_of_correlated_outcomes_is_wider() -> None:
    where = setting("age", subject("linear"), STANDARD, 8, 4, 16)
    alike = torch.tensor([[True] * 8, [False] * 8, [True] * 8, [False] * 8])
    mixed = torch.tensor([[True, False] * 4] * 4)
    wide, narrow = (share_record(where, "accuracy", outcomes) for outcomes in (alike, mixed))
    assert wide.mean == narrow.mean
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_moments_of_a_map_are_those_of_its_distribution() -> None:
    first, second = theory.elu_moments(0.0, 4.0)
    found = moments_of("elu1", 32, WIDE)
    assert found.kappa == pytest.approx(theory.common_mode_ratio(0.0, 4.0), rel=0.05)
    assert found.own.mean() == pytest.approx(32 * second, rel=0.2)
    assert found.common.mean() == pytest.approx(32 * first**2, rel=0.1)
    assert found.effective == pytest.approx(32, rel=0.03)
    assert moments_of("identity", 32, STANDARD).kappa == pytest.approx(0.0, abs=1e-3)


def test_the_same_seed_gives_the_same_records_whatever_else_is_run() -> None:
    arguments = {"tests": ["overwriting", "bytes"], "kinds": ["linear", "token_delta"], "sizes": [8], "quick": True}
    first = run_mechanism(**arguments, seed=4)
    assert run_mechanism(**arguments, seed=4) == first
    alone = run_mechanism(**{**arguments, "kinds": ["token_delta"], "tests": ["overwriting"]}, seed=4)
    assert alone == [r for r in first if r.kind == "token_delta" and r.test != "bytes"]
    other = run_mechanism(**{**arguments, "kinds": ["token_delta"], "tests": ["overwriting"]}, seed=5)
    assert other != alone


def test_every_test_has_jobs_for_every_kind() -> None:
    for test in TESTS:
        names = " ".join(job.name for job in jobs([test], None, None, None, 0, True))
        assert all(kind in names for kind in KINDS) or test == "features"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tests": ["capacty"]}, "Unknown mechanism test 'capacty'. Did you mean 'capacity'?"),
        ({"kinds": ["lineer"]}, "Unknown kind of memory 'lineer'. Did you mean 'linear'?"),
        ({"features": ["elu"]}, "Unknown feature map 'elu'. Did you mean 'elu1'?"),
        ({"kinds": ["linear"], "features": ["identity"]}, "'identity' fit none of the memories linear"),
        ({"sizes": [1]}, "The size 1 is too small"),
        ({"sizes": []}, "No size is named"),
        ({"kinds": []}, "No kind of memory is named"),
    ],
)
def test_bad_input(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        jobs(**arguments)
    assert sentence in str(refused.value)
