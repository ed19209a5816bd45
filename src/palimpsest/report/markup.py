"""HTML that is safe by construction: a string is escaped unless it was made here.

Arm names, questions and model outputs are other people's text. Whatever enters a page goes through ``element``, which
escapes every child that is not ``Html``, and through ``visible``, which spells out what a reader could not see.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping

_HIDDEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
_VOID = frozenset({"meta", "br"})
_NAME = re.compile(r"[a-z][a-z0-9-]*", re.IGNORECASE)


class Html(str):
    """A piece of finished markup."""

    __slots__ = ()


def visible(text: str) -> str:
    r"""Return ``text`` with every invisible character spelled out, as in ``\x1b`` or ``\u202e``.

    That covers control characters, terminal escapes, bidirectional overrides, zero-width characters, lone surrogates,
    private and unassigned code points.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelled(c) if unicodedata.category(c) in _HIDDEN else c for c in text)


def prose(text: str) -> str:
    """Return ``text`` as one visible line: runs of blanks and line breaks become one space."""
    return visible(" ".join(text.split()))


def shortened(text: str, limit: int) -> str:
    """Return visible ``text``, cut to ``limit`` characters with an ellipsis where it is longer."""
    shown = visible(text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def escaped(text: str) -> Html:
    """Return ``text`` as markup: unchanged if it is ``Html``, otherwise made visible and escaped."""
    return text if isinstance(text, Html) else Html(html.escape(visible(text)))


def joined(parts: Iterable[str]) -> Html:
    """Return the parts one after the other; plain strings among them are escaped."""
    return Html("".join(escaped(part) for part in parts))


def element(tag: str, attributes: Mapping[str, str] | None = None, *children: str) -> Html:
    """Return one HTML element; attribute values and plain children are escaped.

    Raises:
        ValueError: a tag or attribute name that is not a name.
    """
    for name in (tag, *(attributes or {})):
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a tag or attribute name: {name!r}")
    given = "".join(f' {name}="{escaped(str(value))}"' for name, value in (attributes or {}).items())
    if tag in _VOID:
        return Html(f"<{tag}{given}>")
    return Html(f"<{tag}{given}>{joined(children)}</{tag}>")


def code(text: str, limit: int = 80) -> Html:
    """Return other people's text as code, cut to ``limit`` characters and isolated from the text around it."""
    return element("code", None, element("bdi", None, shortened(text, limit)))


def _spelled(character: str) -> str:
    point = ord(character)
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
