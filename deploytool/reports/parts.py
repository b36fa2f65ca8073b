"""The bricks of the HTML page: a section, a paragraph, what scrolls by itself, names and values."""

from __future__ import annotations

from collections.abc import Sequence

from deploytool.reports.markup import Child, Markup, element


def section(name: str, title: str, *children: Child) -> Markup:
    return element("section", element("h2", title), *children, id=name)


def paragraph(words: Child, class_: str | None = None) -> Markup:
    return element("p", words, class_=class_)


def scrolled(child: Child, name: str, class_: str = "") -> Markup:
    """What may be wider than a phone scrolls by itself, by keyboard too."""
    kind = f"scroll {class_}".strip()
    return element("div", child, class_=kind, tabindex="0", role="region", aria_label=name)


def pairs(title: str, rows: Sequence[tuple[str, str]]) -> Markup:
    """Names and values, a line each."""
    lines = [
        element("tr", element("th", name, scope="row"), element("td", value)) for name, value in rows if value
    ]
    return scrolled(element("table", element("tbody", lines), class_="pairs"), title)
