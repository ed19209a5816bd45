"""The laws of synthetic memories against closed forms, numeric integration and direct simulation in float64."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from palimpsest.probes.mechanism import theory
from palimpsest.probes.mechanism.theory import Code

SEED = 7


def codes_of(code: Code, draws: int, rng: np.random.Generator) -> np.ndarray:
    book = rng.standard_normal((draws, code.codes, code.d_v))
    return book / (np.linalg.norm(book, axis=-1, keepdims=True) if code.unit else math.sqrt(code.d_v))


def simulated_recall(own: float, noise: float, load: int, code: Code, draws: int) -> float:
    """Decode ``own v + sum_i kappa_i v_i`` among random codes, directly."""
    rng = np.random.default_rng(SEED)
    right = 0
    for _ in range(draws):
        book = codes_of(code, 1, rng)[0]
        written = rng.integers(code.codes, size=load + 1)
        read = own * book[written[0]] + noise / math.sqrt(load) * rng.standard_normal(load) @ book[written[1:]]
        right += int((book @ read).argmax() == written[0])
    return right / draws


def test_the_largest_of_normal_numbers() -> None:
    assert theory.expected_maximum(1) == pytest.approx(0.0, abs=1e-9)
    assert theory.expected_maximum(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert theory.expected_maximum(3) == pytest.approx(1.5 / math.sqrt(math.pi))
    assert [round(theory.expected_maximum(count), 2) for count in (100, 1024, 50_000)] == [2.51, 3.25, 4.23]


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-3.0, 2.0), (0.0, 4.0), (0.7, 0.3)])
def test_moments_of_elu_plus_one(mean: float, deviation: float) -> None:
    def moment(order: int) -> float:
        def integrand(x: float) -> float:
            phi = x + 1 if x > 0 else math.exp(x)
            return phi**order * stats.norm.pdf(x, mean, deviation)

        low, high = mean - 12 * deviation, mean + 12 * deviation
        return integrate.quad(integrand, low, high, points=[0.0], limit=400)[0]

    assert theory.elu_moments(mean, deviation) == pytest.approx((moment(1), moment(2)), rel=1e-8)


def test_the_common_mode_of_the_reference_distributions() -> None:
    found = [theory.common_mode_ratio(*law) for law in ((0.0, 1.0), (0.0, 4.0), (-3.0, 2.0))]
    assert found == pytest.approx([4.75, 0.48, 0.046], rel=0.02)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize(("own", "noise", "load"), [(1.0, 1.0, 64), (1.0, 1.7, 512), (0.25, 0.43, 200), (0.5, 0.0, 9)])
def test_recall_is_that_of_a_simulation(own: float, noise: float, load: int, unit: bool) -> None:
    code, draws = Code(256, 32, unit), 1500
    measured = simulated_recall(own, noise, load, code, draws)
    expected = float(theory.recall(own, noise, load, code))
    error = math.sqrt(max(expected * (1 - expected), 1 / draws) / draws)
    # the length of the noise, which the law takes at its mean, varies by an eighth at 32 dimensions
    assert measured == pytest.approx(expected, abs=4 * error + 0.02)


def test_a_value_that_many_keys_hold_is_noise_on_its_own_score() -> None:
    """Fewer codes than pairs: other keys that hold the right value move its score as much as all else does."""
    code, load, draws = Code(24, 64), 400, 3000
    expected = float(theory.recall(1.0, 2.5, load, code))
    assert simulated_recall(1.0, 2.5, load, code, draws) == pytest.approx(expected, abs=0.04)


def test_recall_falls_with_noise_to_chance() -> None:
    code = Code(256, 64)
    falling = theory.recall(np.ones(50), np.geomspace(0.1, 300, 50), 200, code)
    assert np.all(np.diff(falling) <= 1e-12)
    assert falling[0] == pytest.approx(1.0)
    assert falling[-1] < 0.02


def test_overlapping_keys_against_a_simulation_with_stored_competitors() -> None:
    """Own 2, common 1: keys whose overlaps are all alike; a stored value is the likeliest wrong answer."""
    code, load, draws = Code(64, 48), 12, 3000
    rng = np.random.default_rng(SEED)
    right = 0
    for _ in range(draws):
        book = codes_of(code, 1, rng)[0]
        written = rng.integers(code.codes, size=load)
        read = 2.0 * book[written[0]] + book[written[1:]].sum(0)
        right += int((book @ read).argmax() == written[0])
    expected = float(theory.overlapping_recall(2.0, 1.0, 0.0, (load - 1,), (1.0,), code))
    assert right / draws == pytest.approx(expected, abs=0.04)


def test_the_distribution_of_a_cosine() -> None:
    rng = np.random.default_rng(SEED)
    cosines = codes_of(Code(1, 6), 200_000, rng)[:, 0, 0]
    for at in (-0.5, 0.0, 0.3, 0.8):
        below = math.exp(float(theory.log_cosine_distribution(at, Code(1, 6))))
        assert below == pytest.approx(float((cosines <= at).mean()), abs=0.004)


def test_the_centred_law_is_the_printed_formula() -> None:
    code, d, n = Code(256, 64), 64, 256
    first, second = theory.elu_moments(0.0, 1.0)
    variance = second - first**2
    ratio = math.sqrt(variance * d / (variance * n * (1 / code.d_v + 1 / code.codes)))

    def integrand(x: float) -> float:
        return stats.norm.pdf(x) * stats.norm.cdf(x + ratio) ** (code.codes - 1)

    expected = integrate.quad(integrand, -8, 8)[0]
    found = theory.centred_recall(variance * d, variance**2 * d, n, code)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(0.74, abs=0.03)  # the published table, a mean over keys of varying length


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("segments", [(8,), (8, 8, 8, 8), (16, 4, 4), (4, 16, 3)])
def test_what_is_left_of_each_common_mode(segments: tuple[int, ...], inclusive: bool) -> None:
    """Against the recursion itself, on the sums of one number."""
    left = np.zeros(len(segments))
    seen = 0
    for i, length in enumerate(segments):
        counted = seen + length if inclusive else seen
        left *= 1 - length / counted if counted else 1.0
        left[i] = 1.0
        seen += length
    assert theory.delta_common_mode(segments, inclusive=inclusive) == pytest.approx(left)


def test_equal_segments_leave_a_rising_share() -> None:
    """The closed form of the exclusive rule: (t - 1) / (s - 1) of segment t after s."""
    assert theory.delta_common_mode([8] * 5, inclusive=False) == pytest.approx([0, 1 / 4, 2 / 4, 3 / 4, 1])


def test_the_law_of_age() -> None:
    width, count = 64, 200
    q = 1 - 1 / width
    assert theory.kept_after(width, np.arange(count)).mean() == pytest.approx((1 - q**count) / (count * (1 - q)))
    assert float(theory.kept_after(width, 64)) == pytest.approx(0.365, abs=5e-4)


@pytest.mark.parametrize("load", [16, 63, 65, 128, 512, 4096])
def test_least_squares_leaves_one_minus_d_over_n(load: int) -> None:
    d = 64
    parts = np.ones((3, d))
    fit = theory.least_squares(np.ones(d), parts, load, 1e-9)
    assert fit.error == pytest.approx(max(0.0, 1 - d / load), abs=2e-3)
    assert fit.own == pytest.approx(np.full(3, min(1.0, d / load)), abs=2e-3)


@pytest.mark.parametrize(("load", "ridge"), [(20, 5.0), (60, 5.0), (200, 5.0), (200, 50.0)])
def test_ridge_with_any_spectrum_against_a_simulation(load: int, ridge: float) -> None:
    rng = np.random.default_rng(SEED)
    spectrum = np.geomspace(4.0, 0.1, 24)
    own, error = [], []
    for _ in range(60):
        keys = rng.standard_normal((load, 24)) * np.sqrt(spectrum)
        values = rng.standard_normal((load, 8))
        hat = keys @ np.linalg.solve(keys.T @ keys + ridge * np.eye(24), keys.T)
        reads = hat @ values
        own.append(np.diag(hat).mean())
        error.append(1 - np.sum(reads * values) ** 2 / (np.sum(reads**2) * np.sum(values**2)))
    sample = rng.standard_normal((400, 24)) ** 2 * spectrum
    fit = theory.least_squares(spectrum, sample, load, ridge)
    assert fit.own.mean() == pytest.approx(np.mean(own), rel=0.04)
    assert fit.error == pytest.approx(np.mean(error), abs=0.03)


def test_hebbian_laws() -> None:
    assert theory.hebbian_error(128, 512) == pytest.approx(0.80, abs=5e-3)
    assert theory.hebbian_half_load(128, Code(1024, 128)) == pytest.approx(1553, rel=1e-3)
