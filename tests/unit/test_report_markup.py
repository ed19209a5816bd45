import html
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.report.markup import Html, code, element, escaped, joined, prose, shortened, visible

ANY_TEXT = st.text(st.characters(codec=None), max_size=40)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("abc\u202edef", "abc\\u202edef"),
        ("a\u2066b\u2069c\u200bd", "a\\u2066b\\u2069c\\u200bd"),
        ("tab\tline\n", "tab\\x09line\\x0a"),
        ("\ud800 \U000e0041 \ufeff", "\\ud800 \\U000e0041 \\ufeff"),
        ("naïve 数 \u05d0", "naïve 数 \u05d0"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text: str, shown: str):
    assert visible(text) == shown


@given(ANY_TEXT)
def test_escaped_text_is_inert_and_loses_nothing_visible(text: str):
    markup = escaped(text)
    assert not set(markup) & set("<>\"'")
    assert html.unescape(markup) == visible(text)
    assert not {unicodedata.category(c) for c in markup} & {"Cc", "Cf", "Cs", "Co", "Cn"}
    markup.encode("utf-8")


def test_markup_is_not_escaped_twice_and_strings_among_it_are():
    inner = element("b", None, "1 < 2")
    assert inner == "<b>1 &lt; 2</b>"
    assert element("p", {"title": '"&'}, inner, " & ") == '<p title="&quot;&amp;"><b>1 &lt; 2</b> &amp; </p>'
    assert joined(["<", Html("<br>")]) == "&lt;<br>"
    assert element("meta", {"charset": "utf-8"}) == '<meta charset="utf-8">'


@pytest.mark.parametrize("tag", ["b onclick=x", "b>", "", "1b"])
def test_a_tag_that_is_not_a_name_is_refused(tag: str):
    with pytest.raises(ValueError, match="not a tag"):
        element(tag)
    with pytest.raises(ValueError, match="not a tag"):
        element("b", {tag: "x"})


def test_long_text_is_cut_and_prose_is_one_line():
    assert shortened("x" * 100, 10) == "x" * 9 + "…"
    assert shortened("x" * 10, 10) == "x" * 10
    assert prose(" one\n  two\t three ") == "one two three"
    assert code("<i>" + "y" * 100, 8) == "<code><bdi>&lt;i&gt;yyyy…</bdi></code>"
