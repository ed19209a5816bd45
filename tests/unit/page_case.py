"""A page of ours taken apart, what no page may do, and the tables beside it."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "br"}


class Page(HTMLParser):
    """A page taken apart: it must be well-formed, and remembers what a browser could load or run."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self.open:
            self.cells[-1] += data

    def values(self, tag: str, name: str) -> list[str]:
        return [attributes[name] for t, attributes in self.tags if t == tag and name in attributes]


def assert_harmless(page: Page) -> None:
    """Assert that nothing on a page runs, loads or leads outside."""
    assert not {"script", "iframe", "object", "embed", "link", "base", "form", "img", "image"} & {
        t for t, _ in page.tags
    }
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "xlink:href", "action")]
    for target in page.values("a", "href"):
        assert target.startswith(("#", "./", "../", "tables/"))
    assert not re.search(r"url\((?!#)|@import", "".join(a.get("style", "") for _, a in page.tags))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", page.text)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
