"""The HTML document that every page is: no network, no script, legible in light and dark and on a phone."""

from palimpsest.report.markup import Html, element
from palimpsest.report.stylesheet import STYLESHEET

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(title: str, *body: str, style: str = "") -> str:
    """Return a whole page.

    Args:
        title: of the window.
        body: what the page shows, usually a header, a main part and a footer.
        style: rules beside those that all pages share.
    """
    head = element(
        "head",
        None,
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("title", None, title),
        Html(f"<style>{STYLESHEET}{style}</style>"),
    )
    return "<!DOCTYPE html>\n" + element("html", {"lang": "en"}, head, element("body", None, *body)) + "\n"
