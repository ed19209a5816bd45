import math

import pytest

from palimpsest.report import numerals


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0"), (0.001, "<1"), (0.5, "50"), (0.999, ">99"), (1, "100"), (0.0149, "1"), (0.986, "99")],
)
def test_only_exact_shares_are_written_as_0_and_100(share: float, text: str):
    assert numerals.percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.98123, "0.9812"),
        (-0.014, "\u22120.014"),
        (1536, "1,536"),
        (0.00001, "1.00e\u221205"),
        (-math.inf, "\u2212\u221e"),
        (math.nan, "not a number"),
        (1e9, "1.00e+09"),
        (0, "0"),
    ],
)
def test_numbers_keep_four_digits_and_a_true_minus(value: float, text: str):
    assert numerals.number(value) == text


def test_units():
    assert [numerals.tokens(n) for n in (256, 1024, 3000, 131072, 1 << 20)] == ["256", "1K", "3,000", "128K", "1M"]
    assert [numerals.size(n) for n in (0, 1023, 1536, 5 << 30)] == ["0 B", "1023 B", "1.5 KiB", "5 GiB"]
    assert [numerals.duration(s) for s in (0.25, 48.2, 312, 7500)] == ["0.25 s", "48 s", "5 min 12 s", "2 h 5 min"]
    assert [numerals.magnitude(v) for v in (12, 145_000, 2.2e13)] == ["12", "145 k", "22 T"]
    assert [numerals.points(v) for v in (0.25, -0.031, 0.001)] == ["+25", "\u22123", "0"]
    assert numerals.depth(0.125) == "12.5 %"


def test_words():
    assert numerals.plural(1, "seed") == "1 seed"
    assert numerals.plural(2000, "item") == "2,000 items"
    assert [numerals.listed(list(w)) for w in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
