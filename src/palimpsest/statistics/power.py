"""How many items and seeds a claim needs, and what effect those at hand can show.

All of it is two-sided at 5 % with 80 % power unless told otherwise. Counts of items are exact where the test is;
where a formula rests on the normal approximation its docstring says so.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, stats

from palimpsest.errors import InputError
from palimpsest.statistics.intervals import check_level

_MOST = 10_000_000


def items_without_failure(value: float, *, level: float = 0.95, two_sided: bool = True) -> int:
    """Return how many items, all of them right, show "at least ``value``": 368 for 0.99, 299 one-sided.

    The lower end of the Clopper-Pearson interval of n out of n is alpha^(1 / n).

    Raises:
        InputError: a value or level that is not between 0 and 1.
    """
    check_level(level)
    _check_share(value, "value")
    return math.ceil(math.log(_alpha(level, two_sided)) / math.log(value) - 1e-12)


def items_for_at_least(value: float, truth: float, *, power: float = 0.8, level: float = 0.95) -> int:
    """Return the smallest n with which the exact interval is above ``value`` with that power, if ``truth`` is true.

    Power is that of the Clopper-Pearson interval of n items. It falls a little after each step of n, so that a few
    larger n can have slightly less.

    Raises:
        InputError: shares that are not between 0 and 1, or a truth that is not above ``value``.
    """
    check_level(level)
    _check_share(value, "value")
    _check_share(power, "power")
    if not value < truth <= 1:
        raise InputError(f"truth is {truth:g}, but it must be above value ({value:g}) and at most 1.")
    alpha = (1 - level) / 2

    def reached(n: int) -> bool:
        least = stats.binom.isf(alpha, n, value) + 1  # the fewest right answers with P(X >= them | value) <= alpha
        return bool(stats.binom.sf(least - 1, n, truth) >= power)

    n = items_without_failure(value, level=level)
    while not reached(n):
        n += 1
        _check_possible(n)
    return n


def mcnemar_power(n: int, discordance: float, difference: float, *, level: float = 0.95) -> float:
    """Return the power of the exact McNemar test with n pairs.

    Args:
        n: number of pairs.
        discordance: the share of pairs in which exactly one side is right.
        difference: the difference of the two accuracies, at most ``discordance`` either way.
        level: 1 minus the size of the two-sided test.

    Raises:
        InputError: shares out of range.
    """
    check_level(level)
    _check_share(discordance, "discordance")
    if abs(difference) > discordance:
        raise InputError(f"difference is {difference:g}, but it cannot exceed the discordance {discordance:g}.")
    discordant = np.arange(n + 1)
    lowest = stats.binom.ppf((1 - level) / 2, discordant, 0.5)
    # the largest count on one side that still rejects: P(X <= it) <= alpha / 2
    critical = np.where(stats.binom.cdf(lowest, discordant, 0.5) <= (1 - level) / 2, lowest, lowest - 1)
    first = (1 + difference / discordance) / 2
    rejects = stats.binom.cdf(critical, discordant, first) + stats.binom.cdf(critical, discordant, 1 - first)
    return float(stats.binom.pmf(discordant, n, discordance) @ np.where(critical >= 0, rejects, 0.0))


def items_for_mcnemar(discordance: float, difference: float, *, power: float = 0.8, level: float = 0.95) -> int:
    """Return the smallest number of pairs with which the exact McNemar test has that power.

    Raises:
        InputError: shares out of range, or a difference of 0.
    """
    _check_share(power, "power")
    if difference == 0:
        raise InputError("difference is 0, which no number of items shows; name the smallest that matters.")
    return _smallest(lambda n: mcnemar_power(n, discordance, difference, level=level) >= power)


def detectable_difference(n: int, variance: float, *, power: float = 0.8, level: float = 0.95) -> float:
    """Return the smallest difference that n items show, from the variance of one item's difference (normal).

    The variance of a paired difference of outcomes is about its discordance; that of an unpaired one is
    p (1 - p) + q (1 - q), 0.5 at an accuracy of one half.

    Raises:
        InputError: no items, or a variance below 0.
    """
    _check_count(n, "n")
    if variance < 0:
        raise InputError(f"variance is {variance:g}, but it cannot be below 0.")
    return _z(power, level) * math.sqrt(variance / n)


def items_for_difference(difference: float, variance: float, *, power: float = 0.8, level: float = 0.95) -> int:
    """Return how many items show a difference, from the variance of one item's difference (normal).

    Raises:
        InputError: a difference of 0.

    Source: Miller (2024, arXiv:2411.00640), section 5; ``question_variance`` gives his variance.
    """
    if difference == 0:
        raise InputError("difference is 0, which no number of items shows; name the smallest that matters.")
    return _whole(_z(power, level) ** 2 * variance / difference**2)


def question_variance(
    spread: float, noise_a: float = 0.0, noise_b: float = 0.0, *, answers_a: int = 1, answers_b: int = 1
) -> float:
    """Return the variance of one question's paired difference: w^2 + s_A^2 / K_A + s_B^2 / K_B.

    Args:
        spread: w^2 = Var(x_A) + Var(x_B) - 2 Cov(x_A, x_B) of the questions' expected scores.
        noise_a: mean variance of A's score on one question; 0 with greedy answers.
        noise_b: the same of B.
        answers_a: answers drawn from A for each question.
        answers_b: the same of B.

    Raises:
        InputError: no answers.

    Source: Miller (2024, arXiv:2411.00640), section 5.
    """
    _check_count(answers_a, "answers_a")
    _check_count(answers_b, "answers_b")
    return spread + noise_a / answers_a + noise_b / answers_b


def design_effect(cluster_size: float, correlation: float) -> float:
    """Return by how much more items are needed where clusters of that size share the correlation: 1 + (m - 1) rho.

    Raises:
        InputError: a size below 1, or a correlation outside 0 to 1.

    Source: Kish (1965), Survey Sampling, section 5.4.
    """
    if cluster_size < 1 or not 0 <= correlation <= 1:
        raise InputError(
            f"cluster_size {cluster_size:g} must be 1 or more and correlation {correlation:g} between 0 and 1."
        )
    return 1 + (cluster_size - 1) * correlation


def items_for_non_inferiority(margin: float, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Return how many pairs show "worse by less than ``margin``" where there is no difference (normal).

    n = (z_{1 - alpha} + z_{power})^2 discordance / margin^2.

    Raises:
        InputError: a margin that is not above 0, or shares out of range.
    """
    return _whole((_tail(alpha) + _tail(1 - power)) ** 2 * _per_margin(margin, discordance))


def items_for_equivalence(margin: float, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Return how many pairs show "within ``margin`` either way" where there is no difference (normal).

    n = (z_{1 - alpha} + z_{(1 + power) / 2})^2 discordance / margin^2: both one-sided tests must reject, so each may
    fail in half of the 1 - power only. The count of ``items_for_non_inferiority`` gives both of them 60 %, not 80 %.

    Raises:
        InputError: as ``items_for_non_inferiority``.
    """
    return _whole((_tail(alpha) + _tail((1 - power) / 2)) ** 2 * _per_margin(margin, discordance))


def seed_half_width(seeds: int, *, level: float = 0.95) -> float:
    """Return the half-width of the t interval over seeds in standard deviations: 2.48 for 3, 1.24 for 5.

    Raises:
        InputError: fewer than two seeds.
    """
    check_level(level)
    _check_count(seeds, "seeds", least=2)
    return float(stats.t.ppf((1 + level) / 2, seeds - 1)) / math.sqrt(seeds)


def detectable_effect(seeds: int, *, power: float = 0.8, level: float = 0.95) -> float:
    """Return the smallest effect, in standard deviations of the paired differences, that so many seeds show.

    Exact power of the two-sided paired t test by the noncentral t: 3.3 for 3 seeds, 1.7 for 5, 1.2 for 8.

    Raises:
        InputError: fewer than two seeds, or a power that is not between 1 - level and 1.
    """
    check_level(level)
    _check_count(seeds, "seeds", least=2)
    if not 1 - level < power < 1:
        raise InputError(f"power is {power:g}, but it must lie between {1 - level:g} and 1.")
    critical = stats.t.ppf((1 + level) / 2, seeds - 1)

    def missing(effect: float) -> float:
        shift = effect * math.sqrt(seeds)
        return float(stats.nct.sf(critical, seeds - 1, shift) + stats.nct.cdf(-critical, seeds - 1, shift)) - power

    top = 1.0
    while missing(top) < 0:
        top *= 2
    return float(optimize.root_scalar(missing, bracket=(0.0, top)).root)


def seeds_for_effect(effect: float, *, power: float = 0.8, level: float = 0.95) -> int:
    """Return how many seeds show an effect given in standard deviations of the paired differences.

    Raises:
        InputError: an effect that is not above 0.
    """
    if not effect > 0:
        raise InputError(f"effect is {effect:g}, but it must be above 0.")
    return _smallest(lambda seeds: detectable_effect(seeds, power=power, level=level) <= effect, first=2)


def _smallest(enough: Callable[[int], bool], first: int = 1) -> int:
    """Return a number from which on there is enough, by doubling and halving."""
    high = first
    while not enough(high):
        high *= 2
        _check_possible(high)
    low = max(first - 1, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _whole(items: float) -> int:
    """Round up, but not over a whole number that is missed by rounding."""
    return max(1, math.ceil(items - 1e-9))


def _z(power: float, level: float) -> float:
    check_level(level)
    return _tail((1 - level) / 2) + _tail(1 - power)


def _tail(share: float) -> float:
    """Return the normal quantile with that share above it."""
    _check_share(share, "a level or power")
    return float(stats.norm.isf(share))


def _alpha(level: float, two_sided: bool) -> float:
    return (1 - level) / 2 if two_sided else 1 - level


def _per_margin(margin: float, discordance: float) -> float:
    _check_share(discordance, "discordance")
    if margin <= 0:
        raise InputError(f"margin is {margin:g}, but it must be above 0.")
    return discordance / margin**2


def _check_share(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name} is {value:g}, but it must lie between 0 and 1.")


def _check_count(value: int, name: str, least: int = 1) -> None:
    if value < least:
        raise InputError(f"{name} is {value}, but there must be at least {least}.")


def _check_possible(n: int) -> None:
    if n > _MOST:
        raise InputError(f"More than {_MOST:,} would be needed: the effect is too close to what it must exceed.")
