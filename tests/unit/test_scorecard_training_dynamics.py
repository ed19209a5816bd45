"""Measures of gradients and gates while models are trained: known records, known numbers, known verdicts."""

import math

import pytest
from findings_case import UPDATES, gates, gradients, of, run
from scipy import stats
from synthetic_findings import SEEDS, measured, verdict

from palimpsest.study.scorecard.measures.base import Missing

BELOW = {"all_of": [{"estimate": "weakest", "bound": "high", "op": "<=", "value": -1.0}]}
KEPT = {"all_of": [{"estimate": "weakest", "bound": "low", "op": ">=", "value": -0.3}]}
VANISHED = {"kind": "conditions", "min_seeds": 3, "pass_when": BELOW, "fail_when": KEPT}


GIVEN = {"arm": "memory", "reference": "local"}


@pytest.mark.parametrize(("shift", "expected"), [(-2.0, "PASS"), (-0.05, "FAIL"), (-0.6, "INCONCLUSIVE")])
def test_gradients_that_vanish_against_a_reference(shift, expected):
    findings = gradients(shift)
    assert verdict(findings, "layer_gradients", GIVEN, VANISHED) == expected
    found = measured(findings, "layer_gradients", GIVEN).quantities
    per_seed = [shift + 0.05 * (i - 2) for i in range(len(SEEDS))]
    half = stats.t.ppf(0.975, 4) * stats.tstd(per_seed) / math.sqrt(5)
    if shift < -0.1:  # else another layer may be the weakest
        assert found["weakest"](0.95).mean == pytest.approx(shift)
        assert found["weakest"](0.95).high == pytest.approx(shift + half)
    assert found["first"](0.95).mean == pytest.approx(shift)
    assert found["depth"](0.95).mean == pytest.approx(shift - math.log10(2))
    assert found["loss"](0.95).mean == pytest.approx(0.5)


def test_only_the_late_updates_count():
    findings = of(local=lambda i: run((1.0, 1.0)), memory=lambda i: run((1.0, 1.0), late=3.0))
    assert measured(findings, "layer_gradients", GIVEN | {"late": 0.2}).quantities["weakest"](0.95).mean == -3.0
    whole = measured(findings, "layer_gradients", GIVEN | {"late": 1.0}).quantities["weakest"](0.95)
    assert whole.mean == pytest.approx(-3.0 * 2 / 10)


def test_a_gradient_of_zero_has_vanished():
    findings = of(local=lambda i: run((1.0, 1.0)), memory=lambda i: run((0.0, 1.0)))
    assert measured(findings, "layer_gradients", GIVEN).quantities["weakest"](0.95).mean == pytest.approx(-38.0)


def test_the_figure_of_gradients_has_every_update_of_the_layers_that_were_asked():
    figure = measured(gradients(-1.0), "layer_gradients", GIVEN | {"shown": ["memory", "local"]}).figure
    assert [line.name for line in figure.series] == [
        "memory, layer 0",
        "memory, layer -1",
        "local, layer 0",
        "local, layer -1",
    ]
    assert figure.series[0].x == tuple(10.0 * n for n in range(1, UPDATES + 1))
    assert figure.series[0].y == pytest.approx((-1.0,) * UPDATES)
    assert figure.series[3].y == pytest.approx((math.log10(2),) * UPDATES)
    with pytest.raises(Missing, match=r"Update 10 \(seed 0\) has no such number"):
        measured(gradients(-1.0), "layer_gradients", GIVEN | {"layers": [5]})


def test_arms_that_were_not_trained_or_cannot_be_compared_are_missing():
    with pytest.raises(Missing, match="no metrics of trainings of 'local'"):
        measured(of(memory=lambda i: run((1.0, 1.0))), "layer_gradients", GIVEN)
    deeper = of(local=lambda i: run((1.0, 1.0, 1.0)), memory=lambda i: run((1.0, 1.0)))
    with pytest.raises(Missing, match="one arm has 2 and the other 3"):
        measured(deeper, "layer_gradients", GIVEN)
    with pytest.raises(Missing, match="metrics of the layers of 'memory'"):
        measured(of(local=lambda i: run((1.0,)), memory=lambda i: run(())), "layer_gradients", GIVEN)


LOW = {"all_of": [{"estimate": "gate", "bound": "high", "op": "<=", "value": 0.4}]}
HALF = {"all_of": [{"estimate": "gate", "bound": "low", "op": ">=", "value": 0.45}]}


@pytest.mark.parametrize(("mean", "expected"), [(0.3, "PASS"), (0.55, "FAIL"), (0.42, "INCONCLUSIVE")])
def test_gates_that_fall(mean, expected):
    rule = {"kind": "conditions", "min_seeds": 3, "pass_when": LOW, "fail_when": HALF}
    assert verdict(gates(mean), "gate_dynamics", {"arm": "memory"}, rule) == expected
    found = measured(gates(mean), "gate_dynamics", GIVEN).quantities
    assert found["gate"](0.95).mean == pytest.approx(mean)
    assert found["gate"](0.95).n == len(SEEDS)
    assert found["difference"](0.95).mean == pytest.approx(mean - 0.5)
    assert found["spread"](0.95).mean == pytest.approx(0.25)
    assert found["farther"](0.95).mean == pytest.approx(found["distance"](0.95).mean)


def test_shut_and_open_heads_are_counted():
    findings = of(memory=lambda i: run((1.0,), gates=(0.0, 0.05, 0.5, 0.95)))
    found = measured(findings, "gate_dynamics", {"arm": "memory", "start": 0.25}).quantities
    assert found["shut"](0.95).mean == 0.5
    assert found["open"](0.95).mean == 0.25
    assert found["distance"](0.95).mean == pytest.approx((0.25 + 0.2 + 0.25 + 0.7) / 4)
    assert "difference" not in found


def test_the_figure_of_gates_shows_their_way():
    figure = measured(gates(0.3), "gate_dynamics", GIVEN).figure
    assert [line.name for line in figure.series] == ["memory", "local"]
    assert figure.series[0].y == pytest.approx(tuple(0.5 - 0.2 * n / UPDATES for n in range(1, UPDATES + 1)))
    assert figure.series[0].low[-1] < figure.series[0].y[-1] < figure.series[0].high[-1]


def test_arms_without_gates_are_missing():
    findings = of(memory=lambda i: run((1.0,)))
    with pytest.raises(Missing, match=r"no gates of 'memory' \(seed 0\)"):
        measured(findings, "gate_dynamics", {"arm": "memory"})
