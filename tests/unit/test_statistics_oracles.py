"""The intervals and tests of every day against statsmodels."""

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from palimpsest.statistics import estimate, mcnemar


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("method", "name"), [("wilson", "wilson"), ("clopper_pearson", "beta")])
def test_proportions(method, name, level):
    for right, n in ((0, 7), (3, 7), (7, 7), (91, 100), (499, 500)):
        found = estimate([1] * right + [0] * (n - right), method=method, level=level)
        assert (found.low, found.high) == pytest.approx(
            proportion_confint(right, n, alpha=1 - level, method=name), abs=1e-9
        )


@pytest.mark.parametrize(("b", "c"), [(6, 0), (5, 0), (12, 2), (7, 7), (1, 20)])
def test_the_exact_mcnemar_test(b, c):
    a, other = [1] * (10 + b) + [0] * (c + 5), [1] * 10 + [0] * b + [1] * c + [0] * 5
    table = np.array([[10, b], [c, 5]])
    assert mcnemar(a, other) == pytest.approx(min(1.0, statsmodels_mcnemar(table, exact=True).pvalue))


def test_the_t_interval():
    values = np.random.default_rng(0).normal(size=9)
    found = estimate(values, method="t", level=0.9)
    assert (found.low, found.high) == pytest.approx(DescrStatsW(values).tconfint_mean(0.1), rel=1e-12)


@pytest.mark.parametrize("clusters", [4, 25])
def test_the_cluster_robust_t_interval(clusters):
    rng = np.random.default_rng(clusters)
    labels = rng.integers(0, clusters, 200)
    values = rng.normal(size=clusters)[labels] + rng.normal(size=200)
    model = sm.OLS(values, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": labels}, use_t=True)
    found = estimate(values, method="t", clusters=labels.tolist())
    assert (found.low, found.high) == pytest.approx(tuple(model.conf_int()[0]), rel=1e-9)
