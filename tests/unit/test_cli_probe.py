"""Which interventions a probe makes on a model, and what it says when there is none to make."""

from types import SimpleNamespace

import pytest

from palimpsest.cli.evaluation import possible_interventions
from palimpsest.errors import InputError


def checkpoint(*pattern: str) -> SimpleNamespace:
    config = SimpleNamespace(attention_spec=SimpleNamespace(pattern=list(pattern)))
    return SimpleNamespace(subject=SimpleNamespace(arm="tiny", model=SimpleNamespace(config=config)))


@pytest.mark.parametrize(
    ("pattern", "possible"),
    [
        (["memory"], ["swap", "zero", "gate_closed"]),
        (["full", "memorizing"], ["swap", "zero", "gate_closed"]),
        (["compressive"], ["swap", "zero"]),
        (["full", "transformer_xl"], ["swap", "zero"]),
    ],
)
def test_unless_named_they_are_all_that_change_something(pattern, possible):
    assert possible_interventions(checkpoint(*pattern), None) == possible
    assert possible_interventions(checkpoint(*pattern), possible[:1]) == possible[:1]


def test_a_model_that_cannot_be_probed_is_told_what_could():
    with pytest.raises(InputError) as refused:
        possible_interventions(checkpoint("delta_net", "full"), None)
    assert str(refused.value) == (
        "The model 'tiny' has layers of kind delta_net, full: "
        "swap acts on layers of kind transformer_xl, compressive, memorizing, memory; "
        "zero acts on layers of kind transformer_xl, compressive, memorizing, memory; "
        "gate_closed acts on layers of kind memorizing, memory."
    )


def test_one_that_would_change_nothing_is_refused_when_it_is_named():
    with pytest.raises(InputError, match="layers of kind compressive: gate_closed acts on layers of kind memorizing"):
        possible_interventions(checkpoint("compressive"), ["swap", "gate_closed"])


def test_any_expression_can_be_named_and_an_unknown_one_names_the_nearest():
    wanted = ["drop[needle]+bfloat16", "swap", "swap"]
    assert possible_interventions(checkpoint("memory"), wanted) == wanted[:2]
    with pytest.raises(InputError, match=r"Unknown intervention 'swop'\. Did you mean 'swap'\?"):
        possible_interventions(checkpoint("memory"), ["swop"])
