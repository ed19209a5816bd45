"""Longest matches against a definition that tries everything."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.data.audit import matches
from palimpsest.data.audit.matches import MatchFinder, Span

sequences = st.lists(st.lists(st.integers(0, 2), max_size=14), max_size=4)


def longest_common_prefix(first: list[int], second: list[int]) -> int:
    length = 0
    while length < min(len(first), len(second)) and first[length] == second[length]:
        length += 1
    return length


def by_definition(evaluated: list[int], training: list[list[int]], shortest: int) -> list[int]:
    found = []
    for start in range(len(evaluated)):
        lengths = [longest_common_prefix(evaluated[start:], t[i:]) for t in training for i in range(len(t))]
        longest = max(lengths, default=0)
        found.append(longest if longest >= shortest else 0)
    return found


def array(symbols: list[int]) -> np.ndarray:
    return np.array(symbols, dtype=np.int64)


@given(sequences.filter(bool), sequences, sequences, st.integers(1, 4), st.integers(1, 20), st.integers(1, 60))
def test_every_length_is_that_of_the_definition_and_is_where_it_says(
    evaluated, training, planted, shortest, block, buffer
):
    sequence = len(planted) % len(evaluated)
    middle = len(evaluated[sequence]) // 2
    spans = [Span(sequence, number % (middle + 1), middle) for number in range(len(planted))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matches, "BLOCK", block)
        finder = MatchFinder([array(e) for e in evaluated], shortest=shortest, spans=spans, buffer=buffer)
        for number, symbols in enumerate(training):
            finder.add(number, array(symbols))
        for number, symbols in enumerate(planted):
            finder.add(number, array(symbols), group=1 + number)
        found, found_in_spans = finder.finish()
    for symbols, match in zip(evaluated, found, strict=True):
        assert match.length.tolist() == by_definition(symbols, training, shortest)
        for start, (length, document, position) in enumerate(zip(*(f.tolist() for f in match), strict=True)):
            if length:
                assert training[document][position : position + length] == symbols[start : start + length]
            else:
                assert (document, position) == (-1, -1)
    for span, own, match in zip(spans, planted, found_in_spans, strict=True):
        assert match.length.tolist() == by_definition(evaluated[sequence], [own], shortest)[span.start : span.stop]


@given(st.lists(st.integers(0, 2**16), min_size=40, max_size=200), st.integers(0, 100), st.integers(20, 90))
def test_a_long_copy_is_found_whole_among_other_text(symbols, start, length):
    copied = symbols[start : start + length]
    finder = MatchFinder([array(symbols)], shortest=8)
    finder.add(7, array([*range(100_000, 100_050), *copied, *range(200_000, 200_050)]))
    (match,) = finder.finish()[0]
    if len(copied) >= 8:
        assert match.length[start] >= len(copied)
        assert (match.document[start], match.position[start]) == (7, 50)
        assert match.length.max() == by_definition(symbols, [copied], 8)[int(match.length.argmax())]


def test_a_document_that_repeats_one_word_costs_no_more_than_its_length_times_a_logarithm():
    same = np.zeros(50_000, dtype=np.int64)
    finder = MatchFinder([same], shortest=8)
    finder.add(0, same[:-1])
    (match,) = finder.finish()[0]
    assert match.length.max() == 49_999
    assert match.length[-8:].tolist() == [8, 0, 0, 0, 0, 0, 0, 0]


def test_collisions_of_hashes_change_nothing(monkeypatch):
    """With every hash equal, everything passes the screen, and the result is the same."""
    rng = np.random.default_rng(0)
    evaluated, training = rng.integers(0, 4, 200), rng.integers(0, 4, 300)

    def lengths() -> list[int]:
        finder = MatchFinder([evaluated], shortest=3)
        finder.add(0, training)
        return finder.finish()[0][0].length.tolist()

    exact = lengths()
    monkeypatch.setattr(matches, "_BASE", np.uint64(0))
    assert lengths() == exact
    assert max(exact) >= 3


def test_matches_of_no_symbols_are_refused():
    with pytest.raises(ValueError, match="at least one symbol"):
        MatchFinder([array([1])], shortest=0)
