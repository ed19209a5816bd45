"""Accuracy along an axis and on a map: what was planted is read off, and judged where it is lowest."""

import math

import numpy as np
import pytest
from answers_case import NEEDLES, loads
from rules import all_of, conditions
from synthetic_answers import SEEDS, item, measured, verdict

from palimpsest.statistics import logistic_curve
from palimpsest.study.scorecard.measures import curves

BAND = {"kind": "band_at_least", "value": 0.9, "fail_below": 0.5, "min_seeds": 5}


def along(share_at, n=300, seeds=SEEDS, rng=4):
    draws = np.random.default_rng(rng)
    places = np.linspace(64, 1000, n).astype(int).tolist()
    return [
        item(at, draws.random() < share_at(x), seed=seed, length=1024, distance=x)
        for seed in seeds
        for at, x in enumerate(places)
    ]


@pytest.mark.parametrize(
    ("share_at", "seeds", "expected"),
    [
        (lambda x: 1.0, 5, "PASS"),
        (lambda x: 0.98 if x < 400 else 0.05, 5, "FAIL"),
        (lambda x: 1.0, 3, "INCONCLUSIVE"),
    ],
)
def test_a_curve_is_judged_where_it_is_lowest(share_at, seeds, expected):
    given = {"ask": ["asked"], "arm": "ridge", "end": 1024, "knots": 3, "crossings": {"d50": 0.5}, "resamples": 200}
    found = measured("accuracy_curve", along(share_at, seeds=range(seeds)), given)
    assert verdict(BAND, found) == expected
    d50 = found.facts["d50"]
    if expected == "FAIL":
        assert 300 < d50.mean < 520
        assert found.figure.marks["d50"] == d50.mean
    else:
        assert d50.mean == math.inf, "a distance that is not reached is a bound, not the longest that was tested"
        assert d50.low == pytest.approx(1000)
        assert "d50" not in found.figure.marks
    assert found.figure.log_x


def test_capacity_is_read_off_the_curve_over_pairs():
    found = measured("accuracy_curve", loads(lambda k: 1 / (1 + (k / 32) ** 4)), NEEDLES)
    assert found.facts["k50"].low < 32 < found.facts["k50"].high
    assert found.quantities["k90"](0.95).low > 10
    assert found.facts["saturation"].low < 32 < found.facts["saturation"].high
    assert found.facts["binding errors among wrong answers"].mean == 1.0
    assert found.quantities["supported"](0.95).high < 0.2
    rule = conditions(all_of("k90 low >= 10"), all_of("two_to_one high < 0.75"), min_seeds=5)
    assert verdict(rule, found) == "PASS"
    one_only = measured("accuracy_curve", loads(lambda k: 0.95 if k == 1 else 0.2), NEEDLES)
    assert verdict(rule, one_only) == "FAIL"


def test_a_stricter_level_draws_more(monkeypatch):
    asked = []

    def drawn(x, y, *, resamples, **rest):
        asked.append(resamples)
        return logistic_curve(x, y, resamples=50, **rest)

    monkeypatch.setattr(curves, "logistic_curve", drawn)
    found = measured("accuracy_curve", loads(lambda k: 1 / (1 + (k / 32) ** 4)), NEEDLES)
    found.quantities["lowest"](0.996)
    assert asked[-1] == 10_000, "40 draws must lie outside the band"


def test_a_map_counts_the_answers_of_its_smallest_cell():
    items = [item(at, at % 2, seed=s, length=n, depth=at / 20) for n in (64, 256) for s in SEEDS for at in range(20)]
    found = measured("smallest_cell", items, {"ask": "asked", "arms": ["ridge"], "bins": 4})
    assert found.quantities["answers"](0.95).mean == 25
    assert found.quantities["items"](0.95).mean == 5
    # five seeds that answer five items alike know of five items: two or three right ones say nearly nothing
    assert found.quantities["half_width"](0.95).mean == pytest.approx(0.5)
    assert [line.name for line in found.figure.series] == ["ridge, 64 tokens", "ridge, 256 tokens"]
    assert [fact.mean for name, fact in found.facts.items() if "shown below 0.9" in name] == [8]
    right = [each.model_copy(update={"exact": True}) for each in items]
    found = measured("smallest_cell", right, {"ask": "asked", "arms": ["ridge"], "bins": 4})
    assert [fact.mean for name, fact in found.facts.items() if "shown below 0.9" in name] == [0]
