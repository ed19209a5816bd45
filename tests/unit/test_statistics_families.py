"""Adjusted p-values against statsmodels and by simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from palimpsest.errors import InputError
from palimpsest.statistics import benjamini_hochberg, holm


def test_adjusted_p_values_are_those_of_statsmodels():
    for m in (1, 2, 12, 126):
        values = np.round(np.random.default_rng(m).random(m) ** 3, 2)  # with ties
        assert benjamini_hochberg(values) == pytest.approx(multipletests(values, method="fdr_bh")[1], abs=1e-12)
        assert holm(values) == pytest.approx(multipletests(values, method="holm")[1], abs=1e-12)


def test_benjamini_hochberg_equals_r():
    # R: p.adjust(c(.01, .04, .03, .005), "BH")
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.02, 0.04, 0.04, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=15))
@settings(deadline=None, max_examples=30)
def test_the_rate_is_never_stricter_than_the_family(values):
    assert np.all(benjamini_hochberg(values) <= holm(values) + 1e-12)


def test_the_share_of_false_cells_stays_below_the_rate():
    """126 cells, 40 of them real: at 10 % at most a tenth of the cells pointed out are false on average."""
    rng = np.random.default_rng(0)
    shares, alarms = [], 0
    for _ in range(400):
        values = np.concatenate([rng.random(86), rng.random(40) ** 6])
        found = np.flatnonzero(benjamini_hochberg(values) <= 0.10)
        shares.append(np.mean(found < 86) if len(found) else 0.0)
        alarms += bool(np.any(holm(values)[:86] <= 0.05))
    assert 0.04 < np.mean(shares) < 0.085  # 0.1 * 86 / 126 = 0.068
    assert alarms / 400 < 0.07


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_bad_input_is_named(adjust):
    for values, says in (([], "empty"), ([0.1, 1.2], r"item 1 is 1\.2"), ([0.1, np.nan], "item 1 is nan")):
        with pytest.raises(InputError, match=says):
            adjust(values)
