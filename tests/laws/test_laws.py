"""Every law, for every memory in the table."""

import sys

import pytest
from hypothesis import given, settings

from palimpsest.memory import DeltaMemory, parallel, scan
from palimpsest.testing import assert_close

from .cases import Case, cases, with_gradients
from .memory_laws import MEMORY_LAWS, transition_norm
from .number_laws import (
    NUMBER_LAWS,
    law_backward_cost_is_linear,
    law_gradients_equal_finite_differences,
)
from .stream_laws import STREAM_LAWS, assert_states_close, law_strength_zero_writes_nothing
from .table import MEMORIES, Row, row_named

EXAMPLES = settings().max_examples * 3 // 5
"""Rows share most of their code, so that all together see more cases than one memory alone would have to."""

every_memory = pytest.mark.parametrize("row", MEMORIES, ids=lambda row: row.name)


@every_memory
@pytest.mark.parametrize("law", [*STREAM_LAWS, *NUMBER_LAWS], ids=lambda law: law.__name__)
@settings(max_examples=EXAMPLES)
@given(case=cases())
def test_law(row: Row, law, case: Case) -> None:
    law(row.build(case.heads), case)


@pytest.mark.parametrize("row", [row for row in MEMORIES if not row.ages], ids=lambda row: row.name)
@given(case=cases())
def test_strength_zero_writes_nothing(row: Row, case: Case) -> None:
    law_strength_zero_writes_nothing(row.build(case.heads), case)


@pytest.mark.parametrize(
    ("law", "name"),
    [(law, name) for law, names in MEMORY_LAWS.items() for name in names],
    ids=lambda value: getattr(value, "__name__", value),
)
@given(case=cases())
def test_law_of_one_memory(law, name: str, case: Case) -> None:
    law(row_named(name).build(case.heads), case)


@pytest.mark.parametrize("name", ["token-delta", "token-delta-decay"])
@pytest.mark.parametrize("run", [scan, parallel], ids=["scan", "parallel"])
@given(case=cases())
def test_long_segments_are_written_in_chunks(name: str, run, case: Case) -> None:
    memory = row_named(name).build(case.heads)
    expected = with_gradients(run, memory, case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["palimpsest.memory.token_delta"], "CHUNK_LENGTH", 2)
        got = with_gradients(run, memory, case)
    for key, value in expected.items():
        assert_close(key, got[key], value, magnitude=1.0)


def test_exclusive_delta_is_no_contraction() -> None:
    # the reason for the inclusive normaliser: 20 tokens against a memory of 3 are subtracted several times over
    case = Case(seed=0, heads=1, segment_length=20, d_k=3, d_v=2, document_ids=((0,) * 20,))
    assert transition_norm(DeltaMemory(normaliser="exclusive"), case).item() > 2.0


@pytest.mark.parametrize("run", [scan, parallel], ids=["scan", "parallel"])
@every_memory
def test_empty_stream_changes_nothing(row: Row, run) -> None:
    case = Case(seed=0, heads=2, segment_length=3, d_k=3, d_v=2, document_ids=((),) * 2)
    memory = row.build(case.heads)
    state = case.written_state(memory)
    for ids in (None, case.ids().long()):
        out, after = run(memory, *case.stream(), segment_length=3, state=state, document_ids=ids)
        assert out.shape == (2, 2, 0, 2)
        assert_states_close("state", after, state)


@every_memory
@settings(max_examples=4)
@given(case=cases(max_length=5))
def test_gradients_equal_finite_differences(row: Row, case: Case) -> None:
    law_gradients_equal_finite_differences(row.build(case.heads), case)


@every_memory
def test_backward_cost_is_linear(row: Row) -> None:
    case = Case(seed=0, heads=1, segment_length=4, d_k=3, d_v=2, document_ids=((0,),) * 2)
    law_backward_cost_is_linear(row.build(case.heads), case)
