"""Bugs planted on purpose, each of which a law must see; and every law must see one."""

import pytest

from . import memory_laws, number_laws, stream_laws
from . import planted_in_memories as _memories  # noqa: F401  (fills the list of bugs)
from . import planted_in_streams as _streams  # noqa: F401
from . import planted_in_sums as _sums  # noqa: F401
from .planted import BUGS, Bug, Patch
from .table import row_named


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.plant.__name__)
def test_bug_is_killed(bug: Bug, monkeypatch: Patch) -> None:
    bug.law(row_named(bug.row).build(bug.case.heads), bug.case)
    bug.plant(monkeypatch)
    with pytest.raises(AssertionError):
        bug.law(row_named(bug.row).build(bug.case.heads), bug.case)


def test_every_law_kills_a_bug() -> None:
    laws = {
        *stream_laws.STREAM_LAWS,
        stream_laws.law_strength_zero_writes_nothing,
        *number_laws.NUMBER_LAWS,
        *memory_laws.MEMORY_LAWS,
        number_laws.law_gradients_equal_finite_differences,
        number_laws.law_backward_cost_is_linear,
    }
    assert {bug.law for bug in BUGS} == laws
